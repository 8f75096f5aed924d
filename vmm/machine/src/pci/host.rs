//! The PCI host: slots of bus 0, both ways to configuration space, placement and decoding of BARs.
//!
//! One rule: a BAR decodes only where it lies whole in a PCI window and on no other decoded BAR; anything else that
//! the guest writes into it (an address in RAM, on the I/O APIC, nowhere) is kept in the register and decodes nothing.

use core::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::RwLock;
use std::sync::mpsc::Sender;

use host_os::sync::lock;
use host_os::sync::read;
use host_os::sync::write;

use super::BarRegion;
use super::ConfigSpace;
use super::Identity;
use super::PciFunction;
use crate::Error;
use crate::Result;
use crate::Stop;
use crate::bus::PortDevice;
use crate::layout;

/// Devices on a bus.
const SLOTS: usize = 32;
/// Red Hat's generic PCI Express host bridge.
const HOST_BRIDGE: Identity = Identity {
    vendor: 0x1b36,
    device: 0x0008,
    revision: 0,
    class: 0x06_0000,
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};

type Slot = Mutex<Box<dyn PciFunction>>;

#[derive(Clone, Copy, PartialEq, Eq)]
struct Decoded {
    slot: usize,
    region: BarRegion,
}

/// Bus 0 and its host bridge.
pub(crate) struct PciHost {
    slots: RwLock<Vec<Arc<Slot>>>,
    decoded: RwLock<Vec<Decoded>>,
    windows: [Range<u64>; 2],
    /// The address register of the port mechanism.
    address: Mutex<u32>,
}

impl PciHost {
    /// A bus with a host bridge in slot 0. `high` is the window for BARs above RAM.
    pub(crate) fn new(high: Range<u64>) -> Self {
        let bridge: Box<dyn PciFunction> = Box::new(Bridge(ConfigSpace::new(HOST_BRIDGE)));
        Self {
            slots: RwLock::new(vec![Arc::new(Mutex::new(bridge))]),
            decoded: RwLock::new(Vec::new()),
            windows: [layout::PCI_MMIO, high],
            address: Mutex::new(0),
        }
    }

    /// Puts a function into the next free slot; returns the slot's number.
    pub(crate) fn add(&self, function: Box<dyn PciFunction>) -> Result<usize> {
        let mut slots = write(&self.slots);
        if slots.len() >= SLOTS {
            return Err(Error::PciFull("another function"));
        }
        slots.push(Arc::new(Mutex::new(function)));
        Ok(slots.len() - 1)
    }

    /// Brings the bus to the state that firmware would leave: everything reset, BARs placed, nothing decoding.
    pub(crate) fn reset(&self) -> Result<()> {
        *lock(&self.address) = 0;
        let mut wanted = Vec::new();
        for (slot, function) in self.functions().iter().enumerate() {
            let mut function = lock(function);
            function.reset();
            function.config_mut().reset();
            self.follow_bars(slot, &mut **function);
            for bar in function.config().bars() {
                wanted.push((slot, bar));
            }
        }
        // Largest first, so that each lies on a multiple of its size without gaps.
        wanted.sort_by_key(|(_, bar)| core::cmp::Reverse(bar.size));
        let mut next = layout::PCI_MMIO.start;
        for (slot, bar) in wanted {
            let address = next.next_multiple_of(bar.size);
            next = address.saturating_add(bar.size);
            if next > layout::PCI_MMIO.end {
                return Err(Error::PciFull("another BAR"));
            }
            if let Some(function) = self.function(slot) {
                lock(&function).config_mut().place_bar(bar.bar, address);
            }
        }
        Ok(())
    }

    /// A guest read of a PCI window or of the configuration space in memory. False if it is neither.
    pub(crate) fn memory_read(&self, address: u64, data: &mut [u8]) -> bool {
        if let Some((slot, offset)) = ecam(address) {
            self.config_read(slot, offset, data);
            return true;
        }
        let Some((function, bar, offset)) = self.find(address, data.len()) else {
            return false;
        };
        lock(&function).bar_read(bar, offset, data);
        true
    }

    /// A guest write to a PCI window or to the configuration space in memory. False if it is neither.
    pub(crate) fn memory_write(&self, address: u64, data: &[u8]) -> bool {
        if let Some((slot, offset)) = ecam(address) {
            self.config_write(slot, offset, data);
            return true;
        }
        let Some((function, bar, offset)) = self.find(address, data.len()) else {
            return false;
        };
        lock(&function).bar_write(bar, offset, data);
        true
    }

    fn config_read(&self, slot: Option<usize>, offset: u16, data: &mut [u8]) {
        match slot.and_then(|slot| self.function(slot)) {
            Some(function) => lock(&function).config_read(offset, data),
            None => data.fill(0xff),
        }
    }

    fn config_write(&self, slot: Option<usize>, offset: u16, data: &[u8]) {
        let Some(slot) = slot else {
            return;
        };
        if let Some(function) = self.function(slot) {
            let mut function = lock(&function);
            function.config_write(offset, data);
            self.follow_bars(slot, &mut **function);
        }
    }

    /// Brings the decoding into line with the function's BARs.
    fn follow_bars(&self, slot: usize, function: &mut dyn PciFunction) {
        let config = function.config();
        let wanted = if config.memory_enabled() {
            config.bars()
        } else {
            Vec::new()
        };
        let mut decoded = write(&self.decoded);
        let others = |d: &&Decoded| d.slot != slot;
        let mut granted: Vec<BarRegion> = Vec::new();
        for region in wanted {
            let mut taken = decoded
                .iter()
                .filter(others)
                .map(|d| d.region)
                .chain(granted.clone());
            if self.in_window(&region) && !taken.any(|other| overlap(&region, &other)) {
                granted.push(region);
            }
        }
        let before: Vec<BarRegion> = decoded
            .iter()
            .filter(|d| d.slot == slot)
            .map(|d| d.region)
            .collect();
        if before == granted {
            return;
        }
        decoded.retain(|d| d.slot != slot);
        decoded.extend(granted.iter().map(|region| Decoded {
            slot,
            region: *region,
        }));
        drop(decoded);
        function.bars_decoded(&granted);
    }

    fn in_window(&self, region: &BarRegion) -> bool {
        let end = region.address.checked_add(region.size);
        self.windows.iter().any(|window| {
            region.address >= window.start && end.is_some_and(|end| end <= window.end)
        })
    }

    fn find(&self, address: u64, len: usize) -> Option<(Arc<Slot>, u8, u64)> {
        let decoded = read(&self.decoded);
        let hit = decoded.iter().find_map(|d| {
            let offset = address.checked_sub(d.region.address)?;
            let inside = offset.checked_add(len as u64)? <= d.region.size;
            inside.then_some((d.slot, d.region.bar, offset))
        });
        drop(decoded);
        let (slot, bar, offset) = hit?;
        Some((self.function(slot)?, bar, offset))
    }

    fn function(&self, slot: usize) -> Option<Arc<Slot>> {
        let slots = read(&self.slots);
        slots.get(slot).cloned()
    }

    fn functions(&self) -> Vec<Arc<Slot>> {
        read(&self.slots).clone()
    }
}

fn overlap(a: &BarRegion, b: &BarRegion) -> bool {
    a.address < b.address.saturating_add(b.size) && b.address < a.address.saturating_add(a.size)
}

/// Slot (None: no such function) and register of an address in the memory-mapped configuration space.
fn ecam(address: u64) -> Option<(Option<usize>, u16)> {
    if !layout::ECAM.contains(&address) {
        return None;
    }
    let offset = address - layout::ECAM.start;
    let slot = (offset >> 15) as usize;
    let function = (offset >> 12) & 7;
    Some(((function == 0).then_some(slot), (offset & 0xfff) as u16))
}

/// The configuration ports 0xcf8 to 0xcff, and the reset control among them.
pub(crate) struct ConfigPorts {
    pub(crate) host: Arc<PciHost>,
    pub(crate) events: Sender<Stop>,
}

impl ConfigPorts {
    /// Slot and register that the address register names, for a data access at `offset` (4 to 7).
    fn target(&self, offset: u16) -> (Option<usize>, u16) {
        let address = *lock(&self.host.address);
        let enabled = address & (1 << 31) != 0;
        let bus_and_function = address & 0x00ff_0700;
        let slot = ((address >> 11) & 0x1f) as usize;
        let register = (address & 0xfc) as u16 + (offset & 3);
        ((enabled && bus_and_function == 0).then_some(slot), register)
    }
}

impl PortDevice for ConfigPorts {
    fn read(&self, offset: u16, data: &mut [u8]) {
        if offset >= 4 {
            let (slot, register) = self.target(offset);
            self.host.config_read(slot, register, data);
        } else if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&lock(&self.host.address).to_le_bytes());
        }
    }

    fn write(&self, offset: u16, data: &[u8]) {
        match (offset, data) {
            (0, [a, b, c, d]) => *lock(&self.host.address) = u32::from_le_bytes([*a, *b, *c, *d]),
            (1, [value]) if value & 4 != 0 => {
                let _ = self.events.send(Stop::Reset("reset control port"));
            }
            (4.., _) => {
                let (slot, register) = self.target(offset);
                self.host.config_write(slot, register, data);
            }
            _ => {}
        }
    }
}

/// The host bridge itself: an identity and no registers.
struct Bridge(ConfigSpace);

impl PciFunction for Bridge {
    fn config(&self) -> &ConfigSpace {
        &self.0
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.0
    }

    fn bars_decoded(&mut self, _: &[BarRegion]) {}

    fn bar_read(&mut self, _: u8, _: u64, _: &mut [u8]) {}

    fn bar_write(&mut self, _: u8, _: u64, _: &[u8]) {}

    fn reset(&mut self) {}
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
