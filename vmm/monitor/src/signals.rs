//! SIGTERM, SIGINT and SIGHUP: the power button first, the end when it does not help.
//!
//! One rule: the signals are blocked in every thread and waited for in one, so no handler runs anywhere.

use std::time::Duration;

use machine::Controls;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;

use crate::status::Event;
use crate::status::Status;

/// Blocks the signals; call before any thread starts.
pub(crate) fn block() -> nix::Result<SigSet> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(set)
}

/// Starts the thread that waits for the signals.
pub(crate) fn watch(
    set: SigSet,
    controls: Controls,
    patience: Duration,
    status: Status,
) -> std::io::Result<()> {
    let wait = move || {
        if set.wait().is_err() {
            return;
        }
        let heard = controls.press_power_button();
        status.report(&Event::PowerButton { heard });
        if heard {
            end_later(controls.clone(), patience);
            // A second signal ends the wait.
            let _ = set.wait();
        }
        controls.stop();
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(wait)?;
    Ok(())
}

fn end_later(controls: Controls, patience: Duration) {
    let end = move || {
        std::thread::sleep(patience);
        controls.stop();
    };
    // Without a thread for it, a second signal still ends the VM.
    let _ = std::thread::Builder::new()
        .name("timeout".into())
        .spawn(end);
}
