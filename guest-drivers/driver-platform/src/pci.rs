//! A PCI function: configuration space and BAR access.
//!
//! Rule: accesses out of range are the shell's to refuse, as hardware does: reads give all ones, writes are dropped, nothing faults.

/// Registers of one BAR, or of a window of it. Accesses are naturally aligned, of exactly the named width, and never merged,
/// repeated or reordered with each other; values are little-endian on the bus and native here.
///
/// A handle is cheap to clone, and clones may be used from several processors at once.
pub trait Mmio: Clone + core::fmt::Debug {
    /// Length of the window in bytes.
    fn len(&self) -> u64;
    /// Whether the window is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads one byte.
    fn read_u8(&self, offset: u64) -> u8;
    /// Reads two bytes.
    fn read_u16(&self, offset: u64) -> u16;
    /// Reads four bytes.
    fn read_u32(&self, offset: u64) -> u32;
    /// Writes one byte.
    fn write_u8(&self, offset: u64, value: u8);
    /// Writes two bytes. Orders every earlier write to DMA memory before itself, as a doorbell needs.
    fn write_u16(&self, offset: u64, value: u16);
    /// Writes four bytes. Orders every earlier write to DMA memory before itself, as a doorbell needs.
    fn write_u32(&self, offset: u64, value: u32);
}

/// One PCI function that the operating system has given to the driver: BARs assigned and sized, memory decoding on.
pub trait PciFunction {
    /// Access to a BAR.
    type Bar: Mmio;

    /// Reads one byte of configuration space.
    fn config_read_u8(&self, offset: u16) -> u8;
    /// Reads two bytes of configuration space.
    fn config_read_u16(&self, offset: u16) -> u16;
    /// Reads four bytes of configuration space.
    fn config_read_u32(&self, offset: u16) -> u32;
    /// Writes two bytes of configuration space.
    fn config_write_u16(&self, offset: u16, value: u16);
    /// Maps a memory BAR (0 to 5) in its full length; `None` when it does not exist, is an I/O BAR or was not assigned.
    fn bar(&self, index: u8) -> Option<Self::Bar>;
}
