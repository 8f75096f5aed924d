//! Why the device cannot be used.
//!
//! Rule: small and `Copy`, so that it can be returned at any interrupt level.
use core::error::Error as StdError;
use core::fmt;

/// Why an operation on the transport failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Not a modern virtio-pci function.
    NotVirtio,
    /// A virtio structure is missing or its BAR, offset or length is wrong (sec. 4.1.4).
    BadCapability,
    /// The device did not finish a reset in time (sec. 4.1.4.3.1).
    ResetTimeout,
    /// The device refused the features, or lacks one that the driver cannot do without (sec. 3.1.1).
    FeaturesRefused,
    /// The configuration kept changing while it was read (sec. 2.5.1).
    ConfigUnstable,
    /// The device has no configuration there.
    ConfigOutOfRange,
    /// The device has no such queue, or its size is 0 or otherwise unusable (sec. 4.1.5.1.3).
    NoQueue,
    /// The queue does not let itself be enabled or its doorbell lies outside the notification structure.
    BadQueue,
    /// The device could not provide an interrupt vector (sec. 4.1.5.1.2).
    NoVector,
    /// The device asks to be reset (sec. 2.1.2).
    NeedsReset,
    /// A feature that this call needs was not negotiated.
    NotNegotiated,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotVirtio => "Not a modern virtio-pci function",
            Self::BadCapability => "A virtio structure is missing or misplaced",
            Self::ResetTimeout => "The device did not finish its reset in time",
            Self::FeaturesRefused => "The device refused the features",
            Self::ConfigUnstable => "The device configuration kept changing",
            Self::ConfigOutOfRange => "The device configuration is too short",
            Self::NoQueue => "The device has no such queue",
            Self::BadQueue => "The device did not enable the queue",
            Self::NoVector => "The device has no interrupt vector left",
            Self::NeedsReset => "The device asks to be reset",
            Self::NotNegotiated => "A needed feature was not negotiated",
        })
    }
}

impl StdError for Error {}
