//! Files that commands write: they have their names only when they are complete.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use tempfile::NamedTempFile;

/// A file beside `path` that is to take its place, by `persist`. It goes away if it does not.
///
/// # Errors
/// A folder that is not there or cannot be written to, or a `path` at which something else than a
/// file is: a device must not be replaced by a file.
pub fn beside(path: &Path) -> Result<NamedTempFile> {
    let name = || path.display().to_string();
    if path.exists() && !path.is_file() {
        return Err(anyhow!("is no regular file")).with_context(name);
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(anyhow!("there is no folder {}", folder.display())).with_context(name);
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(".rabitc-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As for any new file: what the user's mask leaves of this.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder
        .tempfile_in(folder)
        .map_err(plain)
        .with_context(name)
}

/// Writes `bytes` to `path`: under a temporary name that is changed when all is written, or
/// straight to what is no file, such as `/dev/stdout`.
///
/// # Errors
/// What the system refuses; a file that was there before is as it was.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = || path.display().to_string();
    if path.exists() && !path.is_file() {
        return std::fs::write(path, bytes).with_context(name);
    }
    let mut file = beside(path)?;
    file.write_all(bytes).map_err(plain).with_context(name)?;
    let placed = file.persist(path).map_err(|e| e.error);
    placed.map(drop).with_context(name)
}

/// An error without the temporary name that the library puts into it.
fn plain(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(_) => error,
        None => io::Error::from(error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(path: &Path) -> String {
        format!("{:#}", write(path, b"new").unwrap_err())
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(&path, b"old").unwrap();
        drop(beside(&path).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        write(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let absent = dir.path().join("absent").join("file");
        let message = message(&absent);
        assert!(message.contains("there is no folder"), "{message}");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        assert!(message(dir.path()).contains("directory"));
        let (mut reader, writer) = std::io::pipe().unwrap();
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let path = Path::new(&path);
        if path.exists() {
            write(path, b"new").unwrap();
            let error = format!("{:#}", beside(path).unwrap_err());
            assert!(error.ends_with("is no regular file"), "{error}");
            drop(writer);
            let mut found = String::new();
            std::io::Read::read_to_string(&mut reader, &mut found).unwrap();
            assert_eq!(found, "new");
        }
    }
}
