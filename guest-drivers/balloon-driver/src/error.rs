//! Why the device cannot be used, or not any more.
//!
//! Rule: small and `Copy`, so that it can be returned at any interrupt level.
use core::error::Error as StdError;
use core::fmt;

use driver_platform::DmaError;
use virtqueue::ConfigError;
use virtqueue::RingError;

/// Why the device cannot be used, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The transport failed.
    Transport(virtio_pci::Error),
    /// The function is no balloon.
    NotBalloon,
    /// The device lacks a queue that a negotiated feature needs.
    NoQueue,
    /// No DMA memory for rings and messages.
    Memory(DmaError),
    /// The ring's own rules were broken by this driver or the platform's memory is not as promised.
    Layout(ConfigError),
    /// The device broke the rules of the ring; it has to be reset.
    Ring(RingError),
    /// The device completed something that was not outstanding; it has to be reset.
    Broken,
    /// After a reset the device is not the one that it was.
    Changed,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transport(error) => return error.fmt(f),
            Self::NotBalloon => "Not a memory balloon",
            Self::NoQueue => "The device lacks a queue that it should have",
            Self::Memory(error) => return error.fmt(f),
            Self::Layout(error) => return error.fmt(f),
            Self::Ring(error) => return error.fmt(f),
            Self::Broken => "The device completed something that was not outstanding",
            Self::Changed => "After the reset the device is a different one",
        })
    }
}

impl StdError for Error {}

impl From<virtio_pci::Error> for Error {
    fn from(error: virtio_pci::Error) -> Self {
        Self::Transport(error)
    }
}

impl From<DmaError> for Error {
    fn from(error: DmaError) -> Self {
        Self::Memory(error)
    }
}

impl From<RingError> for Error {
    fn from(error: RingError) -> Self {
        match error {
            RingError::Config(error) => Self::Layout(error),
            other => Self::Ring(other),
        }
    }
}
