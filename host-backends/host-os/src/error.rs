//! Why a process does not become what it should.

use nix::errno::Errno;
use seccompiler::BackendError;

/// Each names its mend, where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rules of a filter make no program.
    #[error("The system call filter is malformed")]
    Build(#[from] BackendError),
    /// The kernel refuses a filter.
    #[error("The kernel does not take the system call filter")]
    Apply(#[from] seccompiler::Error),
    /// Nobody has that name.
    #[error("There is no {what} {name:?} here")]
    Unknown {
        /// "user" or "group".
        what: &'static str,
        /// What was given.
        name: String,
    },
    /// A group without a user.
    #[error("A group without a user leaves root what it is: give a user too")]
    GroupAlone,
    /// root is what is to be left.
    #[error("To become root is no way to be less: name another user")]
    Root,
    /// Only root can.
    #[error("Only root can become user {uid}: start it as root or as that user")]
    NotRoot {
        /// The user.
        uid: u32,
    },
    /// The kernel refuses, or the lookup.
    #[error("Cannot become another user ({call})")]
    System {
        /// The system call.
        call: &'static str,
        /// Why.
        source: Errno,
    },
    /// It could be undone.
    #[error("The process could become root again")]
    NotForGood,
}

impl Error {
    /// Whether another command line or config file would mend it.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Unknown { .. } | Self::GroupAlone | Self::Root | Self::NotRoot { .. }
        )
    }
}
