//! Small errors: of a submission, of a command, and why a received frame was dropped. That of the device is [`virtio_core::Error`].
//!
//! Rule: all are `Copy`, so that they can be returned at any interrupt level.
use core::error::Error as StdError;
use core::fmt;

/// Why a frame, a buffer or a command was not taken. Nothing of it reached the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The ring or the mapping space is full now; try again after a completion.
    Busy,
    /// A buffer is too small: for a frame, or for what the device may write.
    TooSmall,
    /// A frame is larger than the device takes, or in too many pieces.
    TooLarge,
    /// The offload does not fit the frame: checksum or headers are outside, a segment size is 0, a checksum is missing.
    BadOffload,
    /// The device does not offer this.
    Unsupported,
    /// A command's value is out of its range.
    OutOfRange,
    /// The buffer cannot be mapped.
    BadBuffer,
    /// The queue's pair is not in use: [`crate::Command::Pairs`] says which are.
    Inactive,
    /// The queue is broken or being reset.
    Broken,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "The queue is full",
            Self::TooSmall => "The buffer is too small",
            Self::TooLarge => "The frame is too large or too scattered",
            Self::BadOffload => "The offload does not fit the frame",
            Self::Unsupported => "The device does not offer the operation",
            Self::OutOfRange => "A value is out of its range",
            Self::BadBuffer => "The buffer cannot be mapped for the device",
            Self::Inactive => "The queue pair is not in use",
            Self::Broken => "The queue has to be reset",
        })
    }
}

impl StdError for Refusal {}

impl From<virtio_core::Refusal> for Refusal {
    fn from(refusal: virtio_core::Refusal) -> Self {
        match refusal {
            virtio_core::Refusal::Busy => Self::Busy,
            virtio_core::Refusal::Broken => Self::Broken,
            virtio_core::Refusal::TooLarge => Self::TooLarge,
            virtio_core::Refusal::BadBuffer => Self::BadBuffer,
        }
    }
}

/// How a command that reached the device failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// The device refused it.
    Refused,
    /// The device answered with what the specification does not know, or with nothing.
    BadAnswer(u8),
    /// The device was reset before it answered.
    Reset,
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("The device refused the command"),
            Self::BadAnswer(ack) => write!(f, "Unknown answer {ack:#04x} from the device"),
            Self::Reset => f.write_str("The device was reset before it answered"),
        }
    }
}

impl StdError for CommandError {}

/// Why received buffers come back without a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// The device wrote less than a header and an Ethernet header.
    TooShort,
    /// More bytes than any frame has.
    TooLong,
    /// The number of buffers is 0.
    NoBuffers,
    /// The device did not use as many buffers as it said.
    MissingBuffers,
    /// A buffer in the middle of a frame has no bytes of it.
    EmptyBuffer,
    /// The header asks for what was not negotiated, or for what does not fit the frame.
    BadHeader,
    /// The device was reset; the buffer was never used.
    Reset,
}

impl fmt::Display for Discard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooShort => "The frame is too short",
            Self::TooLong => "The frame is too long",
            Self::NoBuffers => "The frame is in no buffer",
            Self::MissingBuffers => "Buffers of the frame are missing",
            Self::EmptyBuffer => "A buffer of the frame is empty",
            Self::BadHeader => "The frame's header is wrong",
            Self::Reset => "The device was reset",
        })
    }
}

impl StdError for Discard {}
