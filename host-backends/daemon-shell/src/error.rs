//! What can go wrong around a daemon, each with its mend.

use thiserror::Error;

/// Why a daemon cannot start or go on.
#[derive(Debug, Error)]
pub enum Error {
    /// The log filter is malformed.
    #[error(
        "{directives:?} is no log filter: write a level such as info, or warn,block_backend=debug"
    )]
    Log {
        /// What was given.
        directives: String,
        /// Why it is none.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The config file cannot be read, or is wrong.
    #[error(transparent)]
    Config(#[from] config_file::Error),
    /// A device, or what stands beside the devices, is asked to be what it cannot be.
    #[error("{name}: {message}")]
    Spec {
        /// Its name.
        name: String,
        /// What is wrong, and the mend.
        message: String,
    },
    /// A device has no socket, or two.
    #[error("Device {device}: {message}")]
    Socket {
        /// Its name.
        device: String,
        /// What is wrong, and the mend.
        message: String,
    },
    /// Cannot listen, or not there.
    #[error(transparent)]
    Listen(#[from] control_protocol::Error),
    /// The process cannot become another user.
    #[error(transparent)]
    Identity(#[from] host_os::Error),
    /// The sandbox cannot be set up.
    #[error("Cannot set up the sandbox ({what}): pass --sandbox off to do without")]
    Sandbox {
        /// Which part.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Signals cannot be received.
    #[error("Cannot receive signals")]
    Signals(#[source] host_os::Error),
    /// A thread cannot be started.
    #[error("Cannot start the thread {name}")]
    Thread {
        /// Its name.
        name: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The session layer refuses.
    #[error("Cannot serve device {device}")]
    Serve {
        /// Its name.
        device: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A device's thread panicked.
    #[error("The thread that serves device {device} panicked")]
    Panic {
        /// Its name.
        device: String,
    },
    /// A device cannot be opened.
    #[error("Cannot open device {device}")]
    Device {
        /// Its name.
        device: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
