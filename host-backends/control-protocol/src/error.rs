//! What can go wrong at either end of a control socket. Rule: each message names the socket.

use std::path::PathBuf;

/// Why a socket cannot be served or asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Cannot listen.
    #[error("Cannot listen on {}", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Someone listens there.
    #[error("Another process listens on {}: stop it, or choose another path", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The path is taken by something that is no socket.
    #[error("{} exists and is no socket: move it away, or choose another path", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The serving thread cannot be started.
    #[error("Cannot start the control thread")]
    Thread(#[source] std::io::Error),
    /// Nobody listens, or may not be asked.
    #[error("Cannot connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The conversation broke.
    #[error("Cannot talk to {}", path.display())]
    Talk {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The answer is none of this protocol.
    #[error("{} gave no answer that can be understood", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
    },
}
