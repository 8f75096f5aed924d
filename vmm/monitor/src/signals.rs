//! SIGTERM, SIGINT and SIGHUP: the power button first, the end when it does not help, and the end of the process when
//! even that does not (a backend or a reader of the serial output that holds a vCPU's thread up).
//!
//! SIGTSTP and SIGCONT: the terminal is the shell's while the VM is stopped, and the guest's again when it goes on.
//!
//! One rule: the signals are blocked in every thread and waited for in one, so no handler runs anywhere.

use std::time::Duration;

use host_os::exit::sysexits as exit;
use host_os::signals::Signals;
use machine::Controls;
use nix::sys::signal::Signal;
use nix::sys::signal::raise;

use crate::console;
use crate::status::Event;
use crate::status::Status;

/// How long the vCPUs may take to stop.
const STOP_MOST: Duration = Duration::from_secs(5);

/// What asks for the end.
const ENDS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// Blocks the signals; call before any thread starts.
pub(crate) fn block() -> Result<Signals, host_os::Error> {
    let [term, int, hup] = ENDS;
    Signals::block(&[term, int, hup, Signal::SIGTSTP, Signal::SIGCONT])
}

/// Starts the thread that waits for the signals.
pub(crate) fn watch(
    signals: Signals,
    controls: Controls,
    patience: Duration,
    status: Status,
    terminal: bool,
) -> std::io::Result<()> {
    let wait = move || {
        if wait_for_end(&signals, terminal).is_err() {
            return;
        }
        let heard = controls.press_power_button();
        status.report(&Event::PowerButton { heard });
        if heard {
            end_later(controls.clone(), patience, status);
            // A second signal ends the wait.
            let _ = wait_for_end(&signals, terminal);
        }
        stop(&controls, status);
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(wait)?;
    Ok(())
}

/// Waits for a signal that asks for the end, and hands the terminal over and takes it back meanwhile.
fn wait_for_end(signals: &Signals, terminal: bool) -> Result<(), host_os::Error> {
    loop {
        match signals.wait()? {
            Signal::SIGTSTP => {
                console::restore();
                // Stops the process, as SIGTSTP would have; on goes it by SIGCONT.
                let _ = raise(Signal::SIGSTOP);
            }
            Signal::SIGCONT if terminal => console::take(),
            Signal::SIGCONT => {}
            _ => return Ok(()),
        }
    }
}

/// Stops the VM, which ends the process; if it does not, ends the process under the threads that do not end.
pub(crate) fn stop(controls: &Controls, status: Status) {
    controls.stop();
    std::thread::sleep(STOP_MOST);
    console::restore();
    status.report(&Event::Error {
        message: "The vCPUs do not stop: something that they wait for does not answer",
        exit_code: exit::FAILED,
    });
    std::process::exit(i32::from(exit::FAILED));
}

fn end_later(controls: Controls, patience: Duration, status: Status) {
    let end = move || {
        std::thread::sleep(patience);
        stop(&controls, status);
    };
    // Without a thread for it, a second signal still ends the VM.
    let _ = std::thread::Builder::new()
        .name("timeout".into())
        .spawn(end);
}
