//! The modern virtio-pci transport (virtio 1.4 sec. 4.1), driver side: discovery, initialization, configuration, queue set-up.
//!
//! Rule: whatever the device says is checked before it is used, and no wait is without end: a device that lies, freezes or contradicts
//! itself costs an [`Error`], never a fault or a hang. Nothing here blocks, except [`Transport::reset_and_wait`] for use at start-up.
#![no_std]
#![forbid(unsafe_code)]

mod capability;
mod doorbell;
mod error;
mod queue;
mod transport;
mod window;

pub use capability::MAX_CAPABILITIES;
pub use doorbell::Doorbell;
pub use error::Error;
pub use queue::QueueAddresses;
pub use queue::QueueSetup;
pub use transport::CONFIG_RETRIES;
pub use transport::RESET_TIMEOUT_US;
pub use transport::ResetState;
pub use transport::Transport;
