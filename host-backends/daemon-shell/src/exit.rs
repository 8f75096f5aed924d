//! How a daemon ends: which error has which exit code.
//!
//! Rule: 0 is a clean end (SIGTERM, SIGINT, or the last connection of a one-shot).

use std::path::Path;

pub use host_os::error_chain as chain;
pub use host_os::exit::Exit;

use crate::Error;

/// The table for `--help`.
pub const HELP: &str = "\
Exit codes:
  0  ended by SIGTERM or SIGINT, everything in flight was finished
  1  failed while running, or only a new process can serve a device
  2  the command line or the config file is wrong
  3  a device cannot be opened
  4  a socket cannot be had
  5  the sandbox cannot be set up, or the user not be changed";

impl From<&Error> for Exit {
    fn from(error: &Error) -> Self {
        match error {
            Error::Log { .. } | Error::Config(_) | Error::Spec { .. } | Error::Socket { .. } => {
                Self::Usage
            }
            Error::Listen(_) => Self::Socket,
            Error::Identity(error) if error.is_usage() => Self::Usage,
            Error::Identity(_) | Error::Sandbox { .. } => Self::Sandbox,
            Error::Device { .. } => Self::Device,
            Error::Signals(_)
            | Error::Thread { .. }
            | Error::Serve { .. }
            | Error::Panic { .. } => Self::Failed,
        }
    }
}

/// Prints `error` with all its causes, one line, and says how to end.
pub fn report(error: &Error) -> Exit {
    host_os::tell!("error: {}", chain(error));
    Exit::from(error)
}

/// Prints what was asked for, with a newline. A reader that has read enough is no failure.
pub fn print(text: &str) -> Exit {
    match host_os::exit::print("error", &format!("{text}\n")) {
        Ok(()) => Exit::Ok,
        Err(_) => Exit::Failed,
    }
}

/// What came of writing the manual page into `folder`.
pub fn man_pages(folder: &Path, written: std::io::Result<()>) -> Exit {
    match written {
        Ok(()) => Exit::Ok,
        Err(error) => {
            let folder = folder.display();
            host_os::tell!("error: Cannot write the manual page into {folder}: {error}");
            Exit::Failed
        }
    }
}
