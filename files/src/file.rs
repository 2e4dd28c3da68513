//! Files.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::pending::Pending;
use crate::{builder, folder_of, plain};

/// A file under a temporary name, which is removed unless [`AtomicFile::finish`] renames it.
pub struct AtomicFile {
    // Closed before it is removed: not every system removes open files.
    writer: BufWriter<File>,
    target: PathBuf,
    pending: Pending,
}

impl AtomicFile {
    /// Begins to write what will be `target`, in the same folder.
    ///
    /// # Errors
    /// A folder that is not there or cannot be written to, or a `target` at which something else
    /// than a file is: a device must not be replaced by a file.
    pub fn create(target: &Path) -> io::Result<AtomicFile> {
        let folder = folder(target)?;
        AtomicFile::make(target, || {
            let file = builder(0o666).tempfile_in(folder).map_err(plain)?;
            file.keep().map_err(|e| e.error)
        })
    }

    /// The same under a temporary name that is known beforehand, so that what a kill has left there
    /// is recognised: whoever calls this sees to it that nobody else does.
    ///
    /// # Errors
    /// As [`AtomicFile::create`].
    pub fn create_as(target: &Path, temporary: &Path) -> io::Result<AtomicFile> {
        folder(target)?;
        AtomicFile::make(target, || {
            Ok((File::create(temporary)?, temporary.to_path_buf()))
        })
    }

    fn make(
        target: &Path,
        make: impl FnOnce() -> io::Result<(File, PathBuf)>,
    ) -> io::Result<AtomicFile> {
        let (file, pending) = Pending::create(Some(target.to_path_buf()), make)?;
        Ok(AtomicFile {
            writer: BufWriter::with_capacity(1 << 20, file),
            target: target.to_path_buf(),
            pending,
        })
    }

    /// The name that it will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Gives the file its name, in place of a file that has it: its content is on the disk before
    /// that.
    ///
    /// # Errors
    /// What the system refuses; a file that was there before is as it was.
    pub fn finish(self) -> io::Result<()> {
        let file = self.writer.into_inner().map_err(|e| e.into_error())?;
        file.sync_all()?;
        drop(file);
        let target = &self.target;
        self.pending.finish(|path| fs::rename(path, target))?;
        sync_folder(target)
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.writer.seek(to)
    }
}

/// The folder of a file that is to be written.
fn folder(target: &Path) -> io::Result<&Path> {
    match target.exists() && !target.is_file() {
        true => Err(io::Error::other("is no regular file")),
        false => folder_of(target),
    }
}

/// Makes the names in the folder of `path` last.
fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(folder_of(path)?)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

/// Writes `bytes` to `path`: under a temporary name that is changed when all is written, or
/// straight to what is no file, such as `/dev/stdout`.
///
/// # Errors
/// What the system refuses; a file that was there before is as it was.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.exists() && !path.is_file() {
        return fs::write(path, bytes);
    }
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes)?;
    file.finish()
}

/// A file for another program to read, in the system's folder of temporary files. It is removed when
/// this is dropped.
pub struct Scratch(Pending);

impl Scratch {
    /// A file that holds `bytes`.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn new(bytes: &[u8]) -> io::Result<Scratch> {
        let make = || builder(0o600).tempfile()?.keep().map_err(|e| e.error);
        let (mut file, pending) = Pending::create(None, make)?;
        file.write_all(bytes)?;
        Ok(Scratch(pending))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}
