//! One run at a time in a folder.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::error::TrainError;

/// Keeps a folder to one run for as long as it lives. The system lets go of it when the process
/// ends, however it ends.
pub struct Lock {
    _folder: File,
}

impl Lock {
    /// Takes `dir`; gives `None` if it does not exist or the system cannot lock folders.
    ///
    /// # Errors
    /// Another run has it.
    pub fn take(dir: &Path) -> Result<Option<Lock>, TrainError> {
        let Ok(folder) = File::open(dir) else {
            return Ok(None);
        };
        match folder.try_lock() {
            Err(TryLockError::WouldBlock) => Err(TrainError::file(
                dir,
                "another run is at work in this folder",
            )),
            Err(TryLockError::Error(_)) => Ok(None),
            Ok(()) => Ok(Some(Lock { _folder: folder })),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::Lock;

    #[test]
    fn a_folder_has_one_run_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path()).unwrap().unwrap();
        let message = Lock::take(dir.path()).err().unwrap().to_string();
        assert!(message.ends_with("another run is at work in this folder"));
        drop(first);
        assert!(Lock::take(dir.path()).unwrap().is_some());
        assert!(Lock::take(&dir.path().join("none")).unwrap().is_none());
    }
}
