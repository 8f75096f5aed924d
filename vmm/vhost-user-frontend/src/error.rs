//! Errors of the crate. Rule: a message names the request or the thing that failed, never guest data.

use std::io;
use std::path::PathBuf;

use vhost_user_protocol::Request;

/// Why a request to a backend, or a device over it, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Cannot connect to the socket
    #[error("Cannot connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The backend closed the connection
    #[error("The backend closed the connection")]
    Disconnected,
    /// The backend did not take or answer a request in time
    #[error("The backend did not answer within {0:?}")]
    Timeout(std::time::Duration),
    /// Socket I/O failed
    #[error("Socket I/O failed")]
    Socket(#[source] io::Error),
    /// The message is malformed
    #[error("Malformed message from the backend")]
    Protocol(#[from] vhost_user_protocol::Error),
    /// The reply is not the one to this request
    #[error("The backend answered {request:?} with {what}")]
    BadReply {
        /// What was asked.
        request: Request,
        /// What is wrong with the answer.
        what: &'static str,
    },
    /// The backend refused the request
    #[error("The backend refused {0:?}")]
    Refused(Request),
    /// The backend lacks something that this device needs
    #[error("The backend does not offer {0}")]
    Missing(&'static str),
    /// After a reconnect the backend is not the device that the guest knows
    #[error("The backend came back changed: {0}")]
    Incompatible(String),
    /// The in-flight state of a queue is lost
    #[error("Queue {0} cannot be recovered: the backend kept no valid in-flight record")]
    Unrecoverable(u16),
    /// The backend found a ring to be malformed
    #[error("The backend found a ring to be malformed")]
    BrokenRing,
    /// The memory regions are not usable
    #[error("Bad guest memory layout: {0}")]
    Memory(&'static str),
    /// The guest set up a queue badly
    #[error("Queue {index}: {what}")]
    Queue {
        /// The queue.
        index: u16,
        /// What is wrong.
        what: &'static str,
    },
    /// The operating system refused a resource
    #[error("Cannot create {what}")]
    Resource {
        /// What was to be created.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The backend takes no queues of this size
    #[error("The backend takes no queues of {0} entries")]
    QueueSize(u16),
    /// The device settings are not usable
    #[error("Bad device settings: {0}")]
    Spec(&'static str),
    /// The machine refused a resource
    #[error("The machine refused {what}: {reason}")]
    Machine {
        /// What was asked of the machine.
        what: &'static str,
        /// Its answer.
        reason: String,
    },
    /// The backend is away; the change takes effect when it is back
    #[error("The backend is not connected")]
    Away,
}

impl Error {
    /// Whether the connection is of no more use after this error. A refusal leaves the two ends in step.
    pub(crate) fn breaks_connection(&self) -> bool {
        matches!(
            self,
            Self::Disconnected
                | Self::Timeout(_)
                | Self::Socket(_)
                | Self::Protocol(_)
                | Self::BadReply { .. }
        )
    }
}

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;
