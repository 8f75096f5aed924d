//! How a daemon ends: one table of exit codes for all of them.
//!
//! Rule: 0 is a clean end (SIGTERM, SIGINT, or the last connection of a one-shot); every other code names whose turn it
//! is.

use std::path::Path;
use std::process::ExitCode;

use crate::Error;

/// Why the process ended, as its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything in flight was finished.
    Ok = 0,
    /// Something failed while running.
    Failed = 1,
    /// The command line or the config file is wrong.
    Usage = 2,
    /// A device (its image, say) cannot be opened.
    Device = 3,
    /// A socket cannot be had.
    Socket = 4,
    /// The sandbox cannot be set up, or the process not become another user.
    Sandbox = 5,
}

/// The table for `--help`.
pub const HELP: &str = "\
Exit codes:
  0  ended by SIGTERM or SIGINT, everything in flight was finished
  1  failed while running, or only a new process can serve a device
  2  the command line or the config file is wrong
  3  a device cannot be opened
  4  a socket cannot be had
  5  the sandbox cannot be set up, or the user not be changed";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<&Error> for Exit {
    fn from(error: &Error) -> Self {
        match error {
            Error::Log { .. }
            | Error::ConfigRead { .. }
            | Error::Config { .. }
            | Error::ConfigDevice { .. }
            | Error::Socket { .. } => Self::Usage,
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
    match host_os::output::print(&format!("{text}\n")) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            host_os::tell!("error: Cannot write to standard output: {error}");
            Exit::Failed
        }
        _ => Exit::Ok,
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

/// An error and its causes, joined by colons.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(error.to_string().trim_end());
        cause = error.source();
    }
    text
}
