//! What can go wrong around a daemon, each with its mend.

use std::path::PathBuf;

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
    /// The config file cannot be read.
    #[error("Cannot read the config file {}", path.display())]
    ConfigRead {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The config file is malformed.
    #[error("The config file {} is wrong", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: toml::de::Error,
    },
    /// One device of the config file is wrong.
    #[error("The config file {}, device {device}: {message}", path.display())]
    ConfigDevice {
        /// The file.
        path: PathBuf,
        /// Its name, or its number counted from 1.
        device: String,
        /// What is wrong.
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
    Listen(#[from] control_lines::Error),
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
