//! Signals: what would end the program without a word, and how a user stops it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

/// Lets a write beyond a limit on the size of files fail like any other, so that it is an error
/// with a message; without this the program would be ended by a signal.
pub fn survive_file_limits() -> Result<()> {
    #[cfg(unix)]
    {
        let caught = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGXFSZ, caught)?;
    }
    Ok(())
}

/// Whether the user, or the system, has asked the program to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens from here on: the first ^C, or termination signal, is a request, which is `said`;
    /// the second ends the program at once.
    pub fn listen(said: impl FnOnce() + Send + 'static) -> Result<Stop> {
        let stop = Stop::default();
        #[cfg(unix)]
        {
            use signal_hook::consts::{SIGINT, SIGTERM};
            let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
            let (asked, mut said) = (stop.0.clone(), Some(said));
            std::thread::Builder::new()
                .name("signals".into())
                .spawn(move || {
                    for signal in signals.forever() {
                        match said.take() {
                            Some(said) => {
                                asked.store(true, Ordering::Release);
                                said();
                            }
                            None => signal_hook::low_level::exit(128 + signal),
                        }
                    }
                })?;
        }
        #[cfg(not(unix))]
        drop(said);
        Ok(stop)
    }

    /// Whether it was asked for.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What was asked to stop has stopped, and can go on: no failure, but not done either.
#[derive(Debug)]
pub struct Stopped(pub String);

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Stopped {}

/// The exit status of a program that ^C has ended.
pub const STOPPED: u8 = 130;
