//! What has a temporary name at this moment.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Temporary names, and what is to become of them. Held while one is created, renamed or removed,
/// so that each is either here or not on the disk.
static PENDING: Mutex<BTreeMap<PathBuf, Target>> = Mutex::new(BTreeMap::new());

/// The name that something is to have; none if it goes away in any case.
pub(crate) type Target = Option<PathBuf>;

fn lock() -> MutexGuard<'static, BTreeMap<PathBuf, Target>> {
    PENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file or folder under a temporary name. It is removed when this is dropped.
pub(crate) struct Pending(PathBuf);

impl Pending {
    /// Creates one by `make`, which gives its temporary name too.
    pub fn create<T>(
        target: Target,
        make: impl FnOnce() -> io::Result<(T, PathBuf)>,
    ) -> io::Result<(T, Pending)> {
        let mut pending = lock();
        let (made, path) = make()?;
        pending.insert(path.clone(), target);
        Ok((made, Pending(path)))
    }

    /// Its temporary name.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Gives it another name by `rename`. If that fails it is removed.
    pub fn finish(self, rename: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        // The lock goes before `self` does, which takes it once more if the renaming failed.
        let mut pending = lock();
        let renamed = rename(&self.0);
        if renamed.is_ok() {
            pending.remove(&self.0);
        }
        drop(pending);
        renamed
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let mut pending = lock();
        if pending.remove(&self.0).is_some() {
            remove(&self.0);
        }
    }
}

/// Nothing can be done about what cannot be removed.
fn remove(path: &Path) {
    let _ = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
}

/// Removes all that has a temporary name, for a program that is about to end, and gives the names
/// that it would have had. From now on no file or folder of this crate is created or finished:
/// threads that try wait for the end.
pub fn abandon() -> Vec<PathBuf> {
    let pending = lock();
    // What is in a folder comes after it.
    pending.keys().rev().for_each(|path| remove(path));
    let inside = |path: &Path| path.ancestors().skip(1).any(|a| pending.contains_key(a));
    let whole = pending.iter().filter(|(path, _)| !inside(path));
    let targets = whole.filter_map(|(_, target)| target.clone()).collect();
    std::mem::forget(pending);
    targets
}
