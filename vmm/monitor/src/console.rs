//! Standard input as the guest's keyboard: raw mode on a terminal, with an escape.
//!
//! One rule: the terminal is put back as it was before the process ends, whatever ends it.

use std::io::IsTerminal;
use std::io::Read;
use std::sync::Mutex;
use std::sync::PoisonError;

use machine::Controls;
use nix::sys::termios;
use nix::sys::termios::SetArg;
use nix::sys::termios::Termios;

/// Ctrl-A.
const ESCAPE: u8 = 1;

/// The terminal's settings to go back to.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// A terminal in raw mode; dropping it restores the terminal.
pub(crate) struct RawTerminal;

impl RawTerminal {
    /// Puts standard input into raw mode if it is a terminal.
    pub(crate) fn enter() -> Self {
        let stdin = std::io::stdin();
        if stdin.is_terminal()
            && let Ok(before) = termios::tcgetattr(&stdin)
        {
            let mut raw = before.clone();
            termios::cfmakeraw(&mut raw);
            *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
            let _ = termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw);
        }
        Self
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Takes the terminal out of raw mode, if it is in it. For ends of the process that drop nothing.
pub(crate) fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
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
        while let Ok(count @ 1..) = std::io::stdin().lock().read(&mut buffer) {
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
