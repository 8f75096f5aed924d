//! Why the operating system did not do what was asked, and how errors are told.

use std::io;

use landlock::RulesetError;
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
    Identity {
        /// The system call.
        call: &'static str,
        /// Why.
        source: Errno,
    },
    /// The rules for files make no rule set, or the kernel refuses it.
    #[error("Cannot confine files")]
    Files(#[from] RulesetError),
    /// A descriptor that a peer gave as an eventfd is none.
    #[error("The descriptor is not an eventfd")]
    NotEventFd,
    /// A system call failed.
    #[error("{call} failed")]
    System {
        /// Which.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It could be undone.
    #[error("The process could become root again")]
    NotForGood,
}

impl Error {
    pub(crate) fn nix(call: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::System {
            call,
            source: errno.into(),
        }
    }

    /// Whether another command line or config file would mend it.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Unknown { .. } | Self::GroupAlone | Self::Root | Self::NotRoot { .. }
        )
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::System { source, .. } => source,
            other => Self::other(other),
        }
    }
}

/// An error and its causes in one line, joined by colons. A message that ends in its cause already is not followed by it.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        let more = more.trim_end();
        if !text.ends_with(more) {
            text.push_str(": ");
            text.push_str(more);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Told {
        #[error("Cannot open the disk")]
        Short(#[source] io::Error),
        #[error("Cannot open the disk: {0}")]
        Long(#[source] io::Error),
    }

    #[test]
    fn an_error_is_told_with_its_causes_each_once() {
        let cause = || io::Error::other("no such file");
        let whole = "Cannot open the disk: no such file";
        assert_eq!(error_chain(&Told::Short(cause())), whole);
        assert_eq!(error_chain(&Told::Long(cause())), whole);
    }
}
