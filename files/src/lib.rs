//! Files and folders that have their names only when they are complete.
//!
//! Whatever is written goes under a temporary name beside the one that it is to have. If the writing
//! fails, the drop of [`AtomicFile`] or [`AtomicFolder`] removes it; if a signal ends the program,
//! [`abandon`] removes all that there is at that moment. Only a kill leaves a temporary name behind.

mod file;
mod folder;
mod pending;
#[cfg(test)]
mod tests;

pub use file::{AtomicFile, Scratch, write};
pub use folder::AtomicFolder;
pub use pending::abandon;

use std::io;
use std::path::Path;

/// The folder that `path` is in, which must be there.
fn folder_of(path: &Path) -> io::Result<&Path> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match folder.is_dir() {
        true => Ok(folder),
        false => {
            let reason = format!("there is no folder {}", folder.display());
            Err(io::Error::new(io::ErrorKind::NotFound, reason))
        }
    }
}

/// What temporary names begin with, and the permissions of an ordinary file or folder, `mode` less
/// the user's mask: by default the library's are private to their owner.
fn builder(mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".rabitc-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(mode));
    }
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

/// An error without the temporary name that the library puts into it.
fn plain(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(_) => error,
        None => io::Error::from(error.kind()),
    }
}
