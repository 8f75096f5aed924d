//! Two small errors: of a submission, of a finished request. That of the device is [`virtio_core::Error`].
//!
//! Rule: both are `Copy`, so that they can be returned at any interrupt level.
use core::error::Error as StdError;
use core::fmt;

/// Why a request was not taken. Nothing of it reached the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The ring or the mapping space is full now; try again after a completion.
    Busy,
    /// The range is not inside the disk.
    OutOfRange,
    /// Start or length is no multiple of the block size, or the length is 0.
    Unaligned,
    /// More than one request can carry (see [`crate::DiskInfo::max_transfer`]), or in too many pieces.
    TooLarge,
    /// The disk is read-only.
    ReadOnly,
    /// The device does not offer this operation.
    Unsupported,
    /// A buffer is missing, or there is one where none belongs.
    BadBuffer,
    /// The queue is broken or being reset.
    Broken,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "The queue is full",
            Self::OutOfRange => "The range is not inside the disk",
            Self::Unaligned => "Start or length is no multiple of the block size",
            Self::TooLarge => "The request is too large or too scattered",
            Self::ReadOnly => "The disk is read-only",
            Self::Unsupported => "The device does not offer the operation",
            Self::BadBuffer => "The buffer does not fit the operation",
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

/// How a request that reached the device failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The device reports an I/O error.
    Io,
    /// The device does not know the operation.
    Unsupported,
    /// The device answered with a status that the specification does not know, or with none.
    BadStatus(u8),
    /// The device was reset before it answered: the request may or may not have been carried out and is to be issued again.
    Reset,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io => f.write_str("I/O error"),
            Self::Unsupported => f.write_str("Operation not supported by the device"),
            Self::BadStatus(status) => write!(f, "Unknown status {status:#04x} from the device"),
            Self::Reset => f.write_str("The device was reset before it answered"),
        }
    }
}

impl StdError for RequestError {}
