//! Where a port or MMIO access goes.
//!
//! One rule: what nobody claims reads as all ones and ignores writes; an access of any length is legal.

use core::ops::Range;
use std::sync::Arc;

/// A device behind I/O ports. Called from any vCPU thread; a device locks itself.
pub(crate) trait PortDevice: Send + Sync {
    /// Reads at `offset` from the device's first port. `data` is all ones beforehand.
    fn read(&self, offset: u16, data: &mut [u8]);
    /// Writes at `offset` from the device's first port.
    fn write(&self, offset: u16, data: &[u8]);
}

/// The I/O ports.
#[derive(Default)]
pub(crate) struct Ports {
    devices: Vec<(Range<u16>, Arc<dyn PortDevice>)>,
}

impl Ports {
    /// Gives `ports` to `device`. The first owner of a port keeps it.
    pub(crate) fn add(&mut self, ports: Range<u16>, device: Arc<dyn PortDevice>) {
        self.devices.push((ports, device));
    }

    pub(crate) fn read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((offset, device)) = self.find(port) {
            device.read(offset, data);
        }
    }

    pub(crate) fn write(&self, port: u16, data: &[u8]) {
        if let Some((offset, device)) = self.find(port) {
            device.write(offset, data);
        }
    }

    fn find(&self, port: u16) -> Option<(u16, &dyn PortDevice)> {
        self.devices
            .iter()
            .find(|(ports, _)| ports.contains(&port))
            .map(|(ports, device)| (port - ports.start, &**device))
    }
}
