//! Signals: what would end the program without a word, and how a user stops it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use indicatif::ProgressBar;

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
    /// Listens from here on: the first ^C, or termination signal, is a request, upon which `what`
    /// is said above `bar`; the second ends the program at once.
    #[cfg(unix)]
    pub fn listen(bar: &ProgressBar, what: &'static str) -> Result<Stop> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
        let stop = Stop::default();
        let (asked, bar) = (stop.0.clone(), bar.clone());
        let listen = move || {
            for signal in signals.forever() {
                if asked.swap(true, Ordering::AcqRel) {
                    signal_hook::low_level::exit(128 + signal);
                }
                bar.suspend(|| eprintln!("rabitc: {what}; once more stops at once"));
            }
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(listen)?;
        Ok(stop)
    }

    /// Without signals, nothing asks: ^C ends the program at once.
    #[cfg(not(unix))]
    pub fn listen(_bar: &ProgressBar, _what: &'static str) -> Result<Stop> {
        Ok(Stop::default())
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
