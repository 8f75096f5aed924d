//! What can be wrong with a queue.
//!
//! One rule: errors are small and `Copy`, without strings, for they also serve guest kernels.

use core::error::Error;
use core::fmt;

use fallible_alloc::OutOfMemory;

/// A queue cannot have these parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConfigError {
    /// Queue size is 0
    SizeZero,
    /// Queue size is above 32768
    SizeTooLarge,
    /// Size of a split queue is not a power of two
    SizeNotPowerOfTwo,
    /// Area of the ring is shorter than its layout asks
    AreaTooSmall,
    /// Area of the ring is not aligned
    AreaMisaligned,
    /// Queue state has an index or position that this queue cannot have
    State,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SizeZero => "Queue size is 0",
            Self::SizeTooLarge => "Queue size is above 32768",
            Self::SizeNotPowerOfTwo => "Size of a split queue is not a power of two",
            Self::AreaTooSmall => "Area of the ring is shorter than its layout asks",
            Self::AreaMisaligned => "Area of the ring is not aligned",
            Self::State => "Queue state has an index or position that this queue cannot have",
        })
    }
}

impl Error for ConfigError {}

/// The peer broke the rules of the ring, or the caller broke those of this crate.
///
/// After an error that names the peer the queue is broken: every later call that reads the ring
/// returns the same error, until the queue is built anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RingError {
    /// Queue cannot be built
    Config(ConfigError),
    /// Available index moved backwards or by more than the queue holds
    AvailIndex,
    /// Descriptor index is outside the table
    DescriptorIndex,
    /// Chain has more descriptors than allowed, or a loop
    ChainTooLong,
    /// Chain has more than 2^32 bytes
    ChainTooLarge,
    /// Descriptor has length 0
    ZeroLength,
    /// Device-readable descriptor follows a device-writable one
    ReadAfterWrite,
    /// Indirect descriptor without the feature
    IndirectNotNegotiated,
    /// Indirect descriptor inside an indirect table
    IndirectNested,
    /// Indirect descriptor that also has the next flag
    IndirectWithNext,
    /// Indirect table has no length that is a multiple of 16
    IndirectLength,
    /// Indirect table is not in the peer's memory
    IndirectAddress,
    /// Buffer is made available that is in flight
    DuplicateId,
    /// Buffer id is outside the queue
    IdOutOfRange,
    /// Buffer is used that is not in flight
    NotInFlight,
    /// Used index moved backwards or by more than is in flight
    UsedIndex,
    /// Chain to be replayed is not one the queue waits for
    UnexpectedReplay,
    /// Chains in flight before the restart have to be replayed first
    ReplayOutstanding,
    /// No memory is left for what is private about a queue or a chain
    OutOfMemory,
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config(error) => return error.fmt(f),
            Self::AvailIndex => "Available index moved backwards or by more than the queue holds",
            Self::DescriptorIndex => "Descriptor index is outside the table",
            Self::ChainTooLong => "Chain has more descriptors than allowed, or a loop",
            Self::ChainTooLarge => "Chain has more than 2^32 bytes",
            Self::ZeroLength => "Descriptor has length 0",
            Self::ReadAfterWrite => "Device-readable descriptor follows a device-writable one",
            Self::IndirectNotNegotiated => "Indirect descriptor without the feature",
            Self::IndirectNested => "Indirect descriptor inside an indirect table",
            Self::IndirectWithNext => "Indirect descriptor that also has the next flag",
            Self::IndirectLength => "Indirect table has no length that is a multiple of 16",
            Self::IndirectAddress => "Indirect table is not in the peer's memory",
            Self::DuplicateId => "Buffer is made available that is in flight",
            Self::IdOutOfRange => "Buffer id is outside the queue",
            Self::NotInFlight => "Buffer is used that is not in flight",
            Self::UsedIndex => "Used index moved backwards or by more than is in flight",
            Self::UnexpectedReplay => "Chain to be replayed is not one the queue waits for",
            Self::ReplayOutstanding => {
                "Chains in flight before the restart have to be replayed first"
            }
            Self::OutOfMemory => "No memory is left for the queue",
        })
    }
}

impl Error for RingError {}

impl From<OutOfMemory> for RingError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

impl From<ConfigError> for RingError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

/// A chain cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddError {
    /// Not enough free descriptors; try again after a pop
    Full,
    /// Chain has more descriptors than the queue
    TooLong,
    /// Chain has no segment
    Empty,
    /// Segment has length 0
    ZeroLength,
    /// Chain has more than 2^32 bytes
    TooLarge,
    /// Indirect table given without the feature
    IndirectNotNegotiated,
    /// Indirect table is too small for the chain
    TableTooSmall,
    /// Queue is broken by the device
    Broken,
}

impl fmt::Display for AddError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "Not enough free descriptors; try again after a pop",
            Self::TooLong => "Chain has more descriptors than the queue",
            Self::Empty => "Chain has no segment",
            Self::ZeroLength => "Segment has length 0",
            Self::TooLarge => "Chain has more than 2^32 bytes",
            Self::IndirectNotNegotiated => "Indirect table given without the feature",
            Self::TableTooSmall => "Indirect table is too small for the chain",
            Self::Broken => "Queue is broken by the device",
        })
    }
}

impl Error for AddError {}
