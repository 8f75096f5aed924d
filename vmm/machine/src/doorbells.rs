//! Doorbells: guest writes that become an eventfd signal in the kernel, without an exit to the VMM.
//!
//! One rule: who registered a doorbell removes it, with the same arguments, before the address means something else.

use std::sync::Arc;

use host_os::EventFd;
use kvm::DoorbellAddress;
use kvm::DoorbellValue;
use kvm::Vm;

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

/// The doorbells of one VM.
pub(crate) struct KvmDoorbells(pub(crate) Arc<Vm>);

impl Doorbells for KvmDoorbells {
    fn register(&self, guest_addr: u64, rule: DoorbellMatch, fd: &EventFd) -> Result<()> {
        Ok(self
            .0
            .add_doorbell(DoorbellAddress::Mmio(guest_addr), rule.into(), fd)?)
    }

    fn unregister(&self, guest_addr: u64, rule: DoorbellMatch, fd: &EventFd) -> Result<()> {
        Ok(self
            .0
            .remove_doorbell(DoorbellAddress::Mmio(guest_addr), rule.into(), fd)?)
    }
}

impl From<DoorbellMatch> for DoorbellValue {
    fn from(rule: DoorbellMatch) -> Self {
        match rule {
            DoorbellMatch::Any => Self::Any,
            DoorbellMatch::Value(word) => Self::Word(word),
        }
    }
}
