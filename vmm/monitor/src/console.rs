//! Standard input as the guest's keyboard: raw mode on a terminal, with an escape.
//!
//! One rule: the terminal is put back as it was before the process ends, whatever ends it; and it is touched only while
//! this process is in its foreground, for otherwise it is somebody else's, a shell's most of all.

use std::io::IsTerminal;
use std::io::Read;
use std::sync::Mutex;
use std::time::Duration;

use host_os::sync::lock;
use machine::Controls;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::termios;
use nix::sys::termios::SetArg;
use nix::sys::termios::Termios;
use nix::unistd::getpgrp;
use nix::unistd::tcgetpgrp;

/// Ctrl-A.
const ESCAPE: u8 = 1;
/// How often a process in the background looks whether it has been brought to the foreground, of which there is no signal
/// if it was not stopped.
const LOOK: Duration = Duration::from_millis(250);

/// The terminal's settings to go back to, while it is in raw mode.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Keeps a terminal from stopping this process when it is in the background: then reads and changes of the terminal fail,
/// and output comes through, instead of a stop of the whole VM. Call before any thread starts.
pub(crate) fn survive_background() -> nix::Result<()> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTTIN);
    set.add(Signal::SIGTTOU);
    set.thread_block()
}

/// A terminal that the guest has; dropping it restores the terminal.
pub(crate) struct RawTerminal;

impl RawTerminal {
    /// Puts standard input into raw mode if it is a terminal and ours.
    pub(crate) fn enter() -> Self {
        take();
        Self
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether the terminal on standard input is this process's to read and to change. One that is not the process's
/// controlling terminal knows no foreground.
fn foreground() -> bool {
    tcgetpgrp(std::io::stdin()).is_ok_and(|group| group == getpgrp())
        || tcgetpgrp(std::io::stdin()) == Err(nix::errno::Errno::ENOTTY)
}

/// Puts the terminal into raw mode, again if a shell has changed it meanwhile; one in whose background we are stays as it
/// is.
pub(crate) fn take() {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() || !foreground() {
        return;
    }
    let mut before = lock(&BEFORE);
    let Ok(now) = termios::tcgetattr(&stdin) else {
        return;
    };
    let mut raw = now.clone();
    termios::cfmakeraw(&mut raw);
    before.get_or_insert(now);
    let _ = termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw);
}

/// Takes the terminal out of raw mode, if it is in it and still ours. For ends of the process that drop nothing, and for
/// signal handlers: it allocates nothing, and waits for nobody.
pub(crate) fn restore() {
    let Ok(mut before) = BEFORE.try_lock() else {
        return;
    };
    if let Some(before) = before.take()
        && foreground()
    {
        let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &before);
    }
}

/// Starts the thread that feeds standard input to the serial port until it ends.
pub(crate) fn feed(controls: Controls) -> std::io::Result<()> {
    let mut keys = Keys {
        terminal: std::io::stdin().is_terminal(),
        escaped: false,
    };
    let pump = move || {
        let mut buffer = [0; 256];
        loop {
            if keys.terminal && !foreground() {
                std::thread::sleep(LOOK);
                // Only when it has become ours.
                take();
                continue;
            }
            let count = match std::io::stdin().lock().read(&mut buffer) {
                Ok(count @ 1..) => count,
                // Sent to the background while it read.
                Err(_) if keys.terminal && !foreground() => continue,
                _ => return,
            };
            let typed = buffer.get(..count).unwrap_or_default();
            let (passed, end) = keys.filter(typed);
            controls.serial_input(&passed);
            if end {
                controls.stop();
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("console".into())
        .spawn(pump)?;
    Ok(())
}

struct Keys {
    terminal: bool,
    escaped: bool,
}

impl Keys {
    /// What of the typed bytes goes to the guest, and whether the user asked for the end.
    fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        if !self.terminal {
            return (typed.to_vec(), false);
        }
        let mut passed = Vec::with_capacity(typed.len());
        for key in typed {
            match (self.escaped, *key) {
                (false, ESCAPE) => self.escaped = true,
                (false, other) => passed.push(other),
                (true, b'x' | b'X') => return (passed, true),
                (true, other) => {
                    self.escaped = false;
                    passed.push(other);
                }
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_works_across_reads_and_only_on_a_terminal() {
        let mut keys = Keys {
            terminal: true,
            escaped: false,
        };
        assert_eq!(keys.filter(b"ab\x01"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"\x01c"), (b"\x01c".to_vec(), false));
        assert_eq!(keys.filter(b"d\x01x!"), (b"d".to_vec(), true));
        let mut pipe = Keys {
            terminal: false,
            escaped: false,
        };
        assert_eq!(pipe.filter(b"\x01x"), (b"\x01x".to_vec(), false));
    }
}
