//! Doorbells: guest writes that become an eventfd signal in the kernel, without an exit to the VMM.
//!
//! One rule: who registered a doorbell removes it, with the same arguments, before the address means something else.

use crate::EventFd;
use crate::Result;

/// Which writes ring a doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DoorbellMatch {
    /// Any write to the address, of any length and value (covers VIRTIO_F_NOTIFICATION_DATA).
    Any,
    /// Two-byte writes of this value only (several queues behind one address).
    Value(u16),
}

/// Where a PCI function registers its doorbells.
pub trait Doorbells: Send + Sync {
    /// From now on a guest write to MMIO address `guest_addr` that matches signals `fd`.
    fn register(&self, guest_addr: u64, rule: DoorbellMatch, fd: &EventFd) -> Result<()>;
    /// Undoes [`Doorbells::register`] with the same arguments.
    fn unregister(&self, guest_addr: u64, rule: DoorbellMatch, fd: &EventFd) -> Result<()>;
}
