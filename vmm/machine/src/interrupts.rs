//! Interrupt lines that a device signals through an eventfd, so that no interrupt passes through the VMM.
//!
//! One rule: a line's event descriptor stays the same for the line's life; routing and masking happen behind it.

use crate::EventFd;
use crate::Result;

/// Address and data of a message-signalled interrupt, as the guest wrote them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// 64-bit message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
}

/// Where a PCI function gets its interrupt lines.
pub trait Interrupts: Send + Sync {
    /// Allocates a line, masked and without a message. Dropping the line frees it.
    fn allocate(&self) -> Result<Box<dyn InterruptLine>>;
}

/// One message-signalled interrupt. Called by the function's owner under its lock, from vCPU threads.
pub trait InterruptLine: Send + Sync {
    /// Write 1 to raise the interrupt: from any thread or process. Writes while masked stay pending in the descriptor.
    fn event(&self) -> &EventFd;
    /// Delivers events to the guest as `message` from now on; pending ones at once. Idempotent.
    fn unmask(&self, message: MsiMessage) -> Result<()>;
    /// Stops delivery; events collect in the descriptor. Idempotent.
    fn mask(&self) -> Result<()>;
}
