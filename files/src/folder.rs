//! Folders.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::pending::Pending;
use crate::{builder, folder_of, plain};

/// A folder under a temporary name, which is removed with all that is in it unless
/// [`AtomicFolder::finish`] puts it in place.
pub struct AtomicFolder {
    target: PathBuf,
    /// Whether it stands inside of `target`, which was there before.
    inside: bool,
    pending: Pending,
}

impl AtomicFolder {
    /// A new folder for what will be in `target`: beside it if it is absent, or else, since what is
    /// there may be the current folder, a link or a mounted one, inside of it.
    ///
    /// # Errors
    /// A `target` that holds something or is no folder, or what the system refuses.
    pub fn create(target: &Path) -> io::Result<AtomicFolder> {
        let inside = match fs::read_dir(target) {
            Ok(mut entries) => match entries.next() {
                Some(_) => return Err(io::Error::other("the folder is not empty")),
                None => true,
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(e),
        };
        let parent = match inside {
            true => target,
            false => folder_of(target)?,
        };
        let make = || {
            let folder = builder(0o777).tempdir_in(parent).map_err(plain)?;
            Ok(((), folder.keep()))
        };
        let ((), pending) = Pending::create(Some(target.to_path_buf()), make)?;
        Ok(AtomicFolder {
            target: target.to_path_buf(),
            inside,
            pending,
        })
    }

    /// Where its files are to be written.
    pub fn path(&self) -> &Path {
        self.pending.path()
    }

    /// Creates a file in it. [`crate::abandon`] removes a folder safely only if its files are
    /// created here, or are [`crate::AtomicFile`]s.
    ///
    /// # Errors
    /// What the system refuses, a file that is there included.
    pub fn file(&self, name: &str) -> io::Result<fs::File> {
        let path = self.path().join(name);
        let make = || Ok((fs::File::create_new(&path)?, path.clone()));
        let (file, pending) = Pending::create(None, make)?;
        pending.finish(|_| Ok(()))?;
        Ok(file)
    }

    /// `path` as it will be called: where a user looks for it.
    pub fn in_place(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(self.path()) {
            Ok(rest) if rest.as_os_str().is_empty() => self.target.clone(),
            Ok(rest) => self.target.join(rest),
            Err(_) => path.to_path_buf(),
        }
    }

    /// Gives the folder, or what is in it, its name.
    ///
    /// # Errors
    /// What the system refuses; some files may be in a folder that was there before, then.
    pub fn finish(self) -> io::Result<()> {
        let (target, inside) = (self.target, self.inside);
        self.pending.finish(|path| match inside {
            false => fs::rename(path, &target),
            true => {
                for entry in fs::read_dir(path)? {
                    let entry = entry?;
                    fs::rename(entry.path(), target.join(entry.file_name()))?;
                }
                fs::remove_dir(path)
            }
        })
    }
}
