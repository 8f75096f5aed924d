//! Why a device cannot be used, and why a queue did not take something.
//!
//! Rule: all are `Copy`, so that they can be returned at any interrupt level.
use core::error::Error as StdError;
use core::fmt;

use driver_platform::DmaError;
use fallible_alloc::OutOfMemory;
use virtqueue::ConfigError;
use virtqueue::RingError;

/// Why the device cannot be used, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The transport failed.
    Transport(virtio_pci::Error),
    /// The function is a device of another type.
    OtherType,
    /// The configuration contradicts itself or the specification.
    BadConfig,
    /// The device lacks a queue that it should have, or the queue is too small.
    NoQueue,
    /// No DMA memory for rings and slots.
    Memory(DmaError),
    /// No memory on the heap for what the driver keeps about its queues.
    OutOfMemory,
    /// The ring's own rules were broken by this driver or the platform's memory is not as promised.
    Layout(ConfigError),
    /// The device broke the rules of the ring; it has to be reset.
    Ring(RingError),
    /// The device completed something that was not outstanding, or the queue is being reset.
    Broken,
    /// After a reset the device is not the one that it was.
    Changed,
    /// The proof is of another device, of an earlier epoch or of another queue; nothing was done.
    NotQuiesced,
    /// Something is outstanding on the queue: take it back first.
    Outstanding,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transport(error) => return error.fmt(f),
            Self::OtherType => "A virtio device of another type",
            Self::BadConfig => "The device configuration is not usable",
            Self::NoQueue => "The device lacks a queue or it is too small",
            Self::Memory(error) => return error.fmt(f),
            Self::OutOfMemory => return OutOfMemory.fmt(f),
            Self::Layout(error) => return error.fmt(f),
            Self::Ring(error) => return error.fmt(f),
            Self::Broken => "The device completed something that was not outstanding",
            Self::Changed => "After the reset the device is a different one",
            Self::NotQuiesced => "The proof of quiescence does not belong to this queue",
            Self::Outstanding => "Something is outstanding on the queue",
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

impl From<OutOfMemory> for Error {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<RingError> for Error {
    fn from(error: RingError) -> Self {
        match error {
            RingError::Config(error) => Self::Layout(error),
            RingError::OutOfMemory => Self::OutOfMemory,
            other => Self::Ring(other),
        }
    }
}

/// Why a queue did not take a chain. A driver makes its own refusal of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No slot, no descriptor or no mapping is free now; try again after a completion.
    Busy,
    /// The queue is broken or being reset.
    Broken,
    /// The chain is longer than any that fits.
    TooLarge,
    /// The buffer cannot be mapped, is empty, or its pieces do not add up to its length.
    BadBuffer,
}

impl From<DmaError> for Refusal {
    fn from(error: DmaError) -> Self {
        match error {
            DmaError::Exhausted => Self::Busy,
            DmaError::Unmappable => Self::BadBuffer,
        }
    }
}
