//! How a program ends: the exit codes of all of them.
//!
//! Rule: every code other than 0 names whose turn it is. Services use the low ones ([`Exit`]). A program that hands on the
//! code of what it ran keeps clear of those and takes the ones of sysexits.h ([`sysexits`]).

use std::process::ExitCode;

/// Why a service ended, as its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// SIGTERM, SIGINT, or the last connection of a one-shot; everything in flight was finished.
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

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Codes of sysexits.h (64 and up).
pub mod sysexits {
    /// All went well (EX_OK).
    pub const SUCCESS: u8 = 0;
    /// The command line or a description is wrong (EX_USAGE).
    pub const USAGE: u8 = 64;
    /// A file cannot be read, or is not what it should be (EX_NOINPUT).
    pub const NO_INPUT: u8 = 66;
    /// Something that is needed is not there (EX_UNAVAILABLE).
    pub const UNAVAILABLE: u8 = 69;
    /// The program itself failed (EX_SOFTWARE).
    pub const FAILED: u8 = 70;
    /// Output cannot be written (EX_IOERR).
    pub const OUTPUT: u8 = 74;
}

/// Prints what was asked for to standard output, at once. A reader that has read enough is no failure; any other failure is
/// told by `program`, and returned.
///
/// # Errors
/// Standard output does not take it.
pub fn print(program: &str, text: &str) -> std::io::Result<()> {
    match crate::output::print(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            crate::tell!("{program}: Cannot write to standard output: {error}");
            Err(error)
        }
        _ => Ok(()),
    }
}
