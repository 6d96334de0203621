//! Ctrl-C, and being told to end (SIGTERM, SIGHUP): the first asks a run to save its state and stop, the
//! second ends the process.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

use crate::console;
use crate::exit::INTERRUPTED;

static STOP: AtomicBool = AtomicBool::new(false);

/// Installs the handler and returns the flag that it sets. For work that saves its state; without it
/// Ctrl-C ends the process at once, and since files are put in place whole none is left half-written.
pub(crate) fn stop_flag() -> anyhow::Result<&'static AtomicBool> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        // Beside the handler: where nobody reads what is said, the second Ctrl-C is heard all the same.
        std::thread::spawn(|| {
            console::line("stopping: the state is being saved (once more to stop at once)");
        });
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(&STOP)
}

/// Whether Ctrl-C asked to stop.
pub(crate) fn asked() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// Makes Ctrl-C end the process with code 130, for work without a state of its own.
pub(crate) fn exit_at_once() -> anyhow::Result<()> {
    ctrlc::set_handler(|| std::process::exit(i32::from(INTERRUPTED)))
        .context("cannot listen for Ctrl-C")
}
