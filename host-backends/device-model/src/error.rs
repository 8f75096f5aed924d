//! The crate's error. One rule: an error that a guest can cause ends its queue at most, so each says which kind it is.

use virtqueue::ConfigError;
use virtqueue::RingError;

/// Why a device or one of its queues could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver broke the rules of the ring; the queue stops and the device needs a reset
    #[error("The ring is malformed")]
    Ring(#[source] RingError),
    /// The queue's parameters do not fit together
    #[error("The queue cannot be built")]
    Queue(#[source] ConfigError),
    /// Memory could not be reached
    #[error("Guest memory cannot be used")]
    Memory(#[from] guest_memory::Error),
    /// No timer is to be had
    #[error("No timer is to be had")]
    Os(#[from] host_os::Error),
    /// A ring area is not inside one memory region
    #[error(
        "The {0} area is not inside one region of the memory that the front-end shared; is all of the guest's memory \
         shared (QEMU: share=on)?"
    )]
    RingArea(&'static str),
    /// The in-flight record contradicts itself or the ring
    #[error("The in-flight record is damaged: {0}")]
    Record(&'static str),
    /// The driver may not write this part of the configuration space, or not this value
    #[error("Configuration bytes {offset}+{len} cannot be written so")]
    Config {
        /// First byte.
        offset: u32,
        /// Bytes.
        len: usize,
    },
    /// The device state does not fit this device
    #[error("The device state cannot be loaded: {0}")]
    State(&'static str),
    /// The device does not do this
    #[error("The device does not support this")]
    Unsupported,
    /// A system call failed
    #[error("{what} failed")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl From<RingError> for Error {
    fn from(error: RingError) -> Self {
        Self::Ring(error)
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::Queue(error)
    }
}
