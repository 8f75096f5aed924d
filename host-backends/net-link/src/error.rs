//! What can go wrong with a link, apart from single frames.
//!
//! Rule: an error of opening names the command that mends it, where there is one.

use std::io;

use nix::errno::Errno;

/// Why a link cannot be opened or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The description of a link is wrong
    #[error("{0}")]
    Spec(String),
    /// The link cannot be opened
    #[error("Cannot open the link {link}")]
    Open {
        /// As the user wrote it.
        link: String,
        /// Why.
        source: io::Error,
    },
    /// The link has fewer queue pairs than asked for
    #[error("The link {link} has {max} queue pairs at most, {asked} are asked for")]
    Pairs {
        /// As the user wrote it.
        link: String,
        /// What it has.
        max: u16,
        /// What was asked for.
        asked: u16,
    },
    /// A system call failed
    #[error("{call} failed")]
    System {
        /// Which call.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn system(call: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::System {
            call,
            source: io::Error::from(errno),
        }
    }
}
