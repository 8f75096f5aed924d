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

/// What a daemon needs after its start.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Directories in which it removes its own socket files at the end.
    pub socket_directories: Vec<PathBuf>,
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
        syscalls::confine()
    }
}

#[cfg(test)]
mod tests;
