//! What a serving daemon may still do, in case a guest finds a hole in it.
//!
//! Rule: it is entered by the main thread after everything is open and before any other thread starts, so that every
//! thread is inside; it needs no privilege.

mod files;
mod syscalls;

use std::path::PathBuf;

use clap::ValueEnum;
use serde::Deserialize;
use serde::Serialize;

use crate::Error;

/// Whether the daemon confines itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// A seccomp filter, Landlock as far as the kernel has it, and no new privileges.
    #[default]
    On,
    /// Nothing: for debuggers and tracers.
    Off,
}

/// What a daemon needs after its start, beyond what every daemon does.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Directories in which it removes its own socket files at the end.
    pub socket_directories: Vec<PathBuf>,
    /// Files, or directories with all in them, that it opens for reading.
    pub readable: Vec<PathBuf>,
    /// Directories in which it makes, writes and removes regular files.
    pub writable: Vec<PathBuf>,
    /// It connects to Unix sockets, as a client that comes back does.
    pub connects: bool,
    /// System calls with any arguments, such as `libc::SYS_sendmmsg`.
    pub syscalls: Vec<i64>,
    /// Codes of ioctl(2), such as TUNSETOFFLOAD.
    pub ioctls: Vec<u64>,
}

impl Needs {
    /// Takes `other`'s needs too.
    pub fn add(&mut self, other: Self) {
        self.socket_directories.extend(other.socket_directories);
        self.readable.extend(other.readable);
        self.writable.extend(other.writable);
        self.connects |= other.connects;
        self.syscalls.extend(other.syscalls);
        self.ioctls.extend(other.ioctls);
    }
}

impl Sandbox {
    /// Confines this thread and all that it starts from now on.
    ///
    /// # Errors
    /// The kernel has no seccomp, or refuses.
    pub fn enter(self, needs: &Needs) -> Result<(), Error> {
        if self == Self::Off {
            tracing::warn!("the sandbox is off");
            return Ok(());
        }
        files::confine(needs)?;
        syscalls::confine(needs)
    }
}

#[cfg(test)]
mod tests;
