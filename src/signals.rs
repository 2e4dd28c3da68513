//! Signals: what would end the program without a word, and how a user stops it.
//!
//! ^C and the termination signal end the program at once, and what it was writing goes away. A verb
//! that has something to save takes the first of them as a request ([`Stop`]).

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use indicatif::ProgressBar;

/// The verb that the first signal is a request to.
static LISTENER: Mutex<Option<Listener>> = Mutex::new(None);

struct Listener {
    stop: Stop,
    bar: ProgressBar,
    what: &'static str,
}

/// Takes over signals, from here on to the end of the program.
///
/// # Errors
/// What the system refuses.
pub fn prepare() -> Result<()> {
    #[cfg(unix)]
    {
        use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
        // A write beyond a limit on the size of files fails like any other then, so that it is an
        // error with a message; without this the program would be ended by a signal.
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
        let listen = move || signals.forever().for_each(|_| stop());
        let thread = std::thread::Builder::new().name("signals".into());
        thread.spawn(listen)?;
    }
    Ok(())
}

/// Passes the first signal on to a verb that listens, or else ends the program.
#[cfg(unix)]
fn stop() {
    let listener = LISTENER.lock().unwrap_or_else(PoisonError::into_inner);
    match &*listener {
        Some(l) if !l.stop.0.swap(true, Ordering::AcqRel) => {
            let what = l.what;
            l.bar
                .suspend(|| say(&format!("{what}; once more stops at once")));
        }
        _ => {
            let unwritten = rabitc_files::abandon();
            // Progress bars leave their line unfinished.
            if std::io::stderr().is_terminal() {
                let _ = writeln!(std::io::stderr());
            }
            let unwritten = unwritten.iter().map(|path| path.display().to_string());
            match unwritten.collect::<Vec<_>>().join(", ") {
                names if names.is_empty() => say("stopped"),
                names => say(&format!("stopped: {names} was not written")),
            }
            // No destructor, here or in a library, may wait for a thread that is at work.
            signal_hook::low_level::exit(STOPPED.into());
        }
    }
}

/// Says it to who still listens: standard error may be closed.
#[cfg(unix)]
fn say(what: &str) {
    let _ = writeln!(std::io::stderr(), "rabitc: {what}");
}

/// Whether the user, or the system, has asked the program to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From here on the first signal is a request, upon which `what` is said above `bar`; the second
    /// ends the program at once.
    pub fn first(bar: &ProgressBar, what: &'static str) -> Stop {
        let stop = Stop::default();
        let listener = Listener {
            stop: stop.clone(),
            bar: bar.clone(),
            what,
        };
        *LISTENER.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener);
        stop
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

/// The exit status of a program that ^C, or a termination signal, has ended.
pub const STOPPED: u8 = 130;
