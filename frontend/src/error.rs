//! The errors of the frontend. Every message names the file and, where there is one, the tensor
//! or the configuration key, and says what was expected and what was found.

use std::io;
use std::path::{Path, PathBuf};

use rabitc_ir::GraphError;

use crate::config::ConfigError;

/// Why a checkpoint could not be read, lowered or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not what its name or its neighbours say.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// One tensor of a file cannot be used.
    #[error("{}: tensor `{tensor}`: {reason}", path.display())]
    Tensor {
        /// The file the tensor stands in.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// The model needs a tensor that no file of the checkpoint holds.
    #[error("{}: tensor `{tensor}` is missing; the configuration calls for shape {}", path.display(), shape(expected))]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// A tensor's shape is not what the configuration calls for.
    #[error("{}: tensor `{tensor}` has shape {}; the configuration calls for {}", path.display(), shape(found), shape(expected))]
    WrongShape {
        /// The file the tensor stands in.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape it should have.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// Tensors that no part of the model reads.
    #[error("{}: {}", path.display(), extra(names))]
    ExtraTensors {
        /// The checkpoint.
        path: PathBuf,
        /// The tensors, sorted.
        names: Vec<String>,
    },
    /// The model configuration cannot be used.
    #[error("{}: {source}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// An option of the caller cannot be met.
    #[error("{0}")]
    Option(String),
    /// The graph refused a node: a defect of the frontend, not of its input.
    #[error("lowering to the graph failed: {0}")]
    Graph(#[from] GraphError),
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
        move |source| Error::Io {
            path: path.to_path_buf(),
            source,
        }
    }

    pub(crate) fn file(path: &Path, reason: impl Into<String>) -> Error {
        Error::File {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }

    pub(crate) fn tensor(path: &Path, tensor: &str, reason: impl Into<String>) -> Error {
        Error::Tensor {
            path: path.to_path_buf(),
            tensor: tensor.to_string(),
            reason: reason.into(),
        }
    }

    pub(crate) fn config(path: &Path) -> impl FnOnce(ConfigError) -> Error + '_ {
        move |source| Error::Config {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// `[2, 3]`, the form every message uses for shapes.
pub(crate) fn shape(dims: &[usize]) -> String {
    format!("{dims:?}")
}

fn extra(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let listed: Vec<_> = names.iter().take(SHOWN).map(|n| format!("`{n}`")).collect();
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let (noun, verb) = if names.len() == 1 {
        ("tensor", "is")
    } else {
        ("tensors", "are")
    };
    format!(
        "{noun} {}{more} {verb} not part of the model that config.json describes",
        listed.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_of_extra_tensors_are_cut() {
        let names: Vec<_> = (0..7).map(|i| format!("t{i}")).collect();
        let text = extra(&names);
        assert!(text.contains("`t4` and 2 more"), "{text}");
        assert!(extra(&names[..1]).starts_with("tensor `t0` is not"));
    }
}
