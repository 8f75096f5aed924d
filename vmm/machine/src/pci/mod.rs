//! PCI: functions, their config space, MSI-X, and the host bridge that finds them.
//!
//! One rule: a function sees its own registers only; where its BARs are decoded is decided by the host bridge.

mod config;
pub(crate) mod host;
mod msix;

pub use config::BarKind;
pub use config::ConfigSpace;
pub use config::Identity;
pub use msix::Msix;
pub use msix::MsixLayout;

/// A BAR that decodes guest addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarRegion {
    /// Index of the BAR, 0 to 5.
    pub bar: u8,
    /// First guest physical address.
    pub address: u64,
    /// Bytes, a power of two.
    pub size: u64,
}

/// One PCI function. The host bridge calls it under its lock, from whichever vCPU thread made the access; no call
/// may block on the guest. Every argument that carries guest data may be anything: any offset, any length from 0 to 8.
pub trait PciFunction: Send {
    /// The config space, through which the bridge places and follows BARs.
    fn config(&self) -> &ConfigSpace;
    /// The config space, for the bridge's own writes (BAR placement).
    fn config_mut(&mut self) -> &mut ConfigSpace;

    /// A guest read of config space (4096 bytes; what is not there reads as zeroes).
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.config().read(offset, data);
    }
    /// A guest write of config space. An implementor with MSI-X calls [`Msix::config_written`] after this.
    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.config_mut().write(offset, data);
    }

    /// The bridge says which BARs decode and where, after each change and once more with none before the function
    /// goes away. Doorbells belong to these addresses: move them here.
    fn bars_decoded(&mut self, regions: &[BarRegion]);

    /// A guest read in a BAR; `offset + data.len()` lies inside it.
    fn bar_read(&mut self, bar: u8, offset: u64, data: &mut [u8]);
    /// A guest write in a BAR; `offset + data.len()` lies inside it.
    fn bar_write(&mut self, bar: u8, offset: u64, data: &[u8]);

    /// Brings the function to its power-on state (the vCPUs are stopped). The bridge resets [`PciFunction::config`]
    /// through [`ConfigSpace::reset`] and places the BARs again afterwards.
    fn reset(&mut self);
}

#[cfg(test)]
mod random_tests;
