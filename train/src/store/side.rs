//! The small files that a checkpoint has beside its tensors.

use std::path::Path;

use super::atomic::write_text;
use crate::error::TrainError;

/// All that a reader of checkpoints looks for.
pub(super) const SIDE_FILES: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "added_tokens.json",
];

/// Copies the side files that `from` has to the folder `to`.
///
/// # Errors
/// A side file that cannot be read, or a folder that cannot be written to.
pub fn copy_side_files(from: &Path, to: &Path) -> Result<(), TrainError> {
    for name in SIDE_FILES {
        let path = from.join(name);
        if path.exists() {
            let text = std::fs::read_to_string(&path).map_err(TrainError::io(&path))?;
            write_text(&to.join(name), &text)?;
        }
    }
    Ok(())
}
