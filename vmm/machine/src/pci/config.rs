//! A type-0 configuration space: header, BARs with sizing, a capability list with write masks.
//!
//! One rule: a guest write changes exactly the bits that the write mask allows; every offset and length is legal.

use super::BarRegion;
use crate::Error;
use crate::Result;

/// Bytes of a PCI Express configuration space.
const SIZE: usize = 4096;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
/// Capabilities live between the header and the end of the conventional 256 bytes.
const FIRST_CAPABILITY: usize = 0x40;
const CONVENTIONAL_END: usize = 0x100;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// Who a function says it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision id.
    pub revision: u8,
    /// Class code, 24 bits: class, subclass, programming interface.
    pub class: u32,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
}

/// What a BAR decodes. Port BARs are not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarKind {
    /// 32-bit memory.
    Memory32,
    /// 64-bit memory; takes two BAR registers.
    Memory64,
    /// 64-bit prefetchable memory; takes two BAR registers.
    Prefetchable64,
}

#[derive(Debug, Clone, Copy)]
struct Bar {
    index: u8,
    kind: BarKind,
    size: u64,
}

/// The configuration space of one function.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: Box<[u8; SIZE]>,
    writable: Box<[u8; SIZE]>,
    /// The bytes as they were when the function was finished: what a reset restores.
    initial: Box<[u8; SIZE]>,
    bars: Vec<Bar>,
    next_capability: usize,
    last_pointer: usize,
}

impl ConfigSpace {
    /// A space with a type-0 header, no BARs and no capabilities.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: Box::new([0; SIZE]),
            writable: Box::new([0; SIZE]),
            initial: Box::new([0; SIZE]),
            bars: Vec::new(),
            next_capability: FIRST_CAPABILITY,
            last_pointer: CAPABILITIES,
        };
        space.set(0x00, &identity.vendor.to_le_bytes());
        space.set(0x02, &identity.device.to_le_bytes());
        let class = (identity.class << 8) | u32::from(identity.revision);
        space.set(0x08, &class.to_le_bytes());
        space.set(0x2c, &identity.subsystem_vendor.to_le_bytes());
        space.set(0x2e, &identity.subsystem.to_le_bytes());
        let command = COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_DISABLE;
        space.allow(COMMAND, &command.to_le_bytes());
        // Cache line size and interrupt line are scratch for the guest.
        space.allow(0x0c, &[0xff]);
        space.allow(0x3c, &[0xff]);
        space
    }

    /// Adds a BAR of `size` bytes (a power of two, 4 KiB at least).
    pub fn add_bar(&mut self, index: u8, kind: BarKind, size: u64) -> Result<()> {
        let wide = kind != BarKind::Memory32;
        let last = index.saturating_add(u8::from(wide));
        let taken = self.bars.iter().any(|bar| {
            let bar_last = bar.index + u8::from(bar.kind != BarKind::Memory32);
            index <= bar_last && bar.index <= last
        });
        let limit = if wide { 1 << 34 } else { 1 << 28 };
        if last > 5 || taken || !size.is_power_of_two() || !(0x1000..=limit).contains(&size) {
            return Err(Error::ConfigSpace("that BAR"));
        }
        let at = BAR0 + 4 * usize::from(index);
        let mask = !(size - 1);
        let flags: u32 = match kind {
            BarKind::Memory32 => 0,
            BarKind::Memory64 => 0x4,
            BarKind::Prefetchable64 => 0xc,
        };
        self.set(at, &flags.to_le_bytes());
        let bytes = mask.to_le_bytes();
        self.allow(
            at,
            bytes.get(..if wide { 8 } else { 4 }).unwrap_or_default(),
        );
        self.bars.push(Bar { index, kind, size });
        Ok(())
    }

    /// Appends a capability: `body` follows the id and next bytes; `writable` masks the bits of `body` that the guest
    /// may change (shorter than `body` means zeroes). Returns the capability's offset (its id byte).
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<u16> {
        let at = self.next_capability;
        let end = at + 2 + body.len();
        if end > CONVENTIONAL_END || writable.len() > body.len() {
            return Err(Error::ConfigSpace("another capability"));
        }
        self.set(at, &[id, 0]);
        self.set(at + 2, body);
        self.allow(at + 2, writable);
        let pointer = self.last_pointer;
        let offset = u8::try_from(at).map_err(|_| Error::ConfigSpace("another capability"))?;
        self.set(pointer, &[offset]);
        let status = self.u16_at(STATUS) | STATUS_CAPABILITIES;
        self.set(STATUS, &status.to_le_bytes());
        self.last_pointer = at + 1;
        self.next_capability = end.next_multiple_of(4);
        Ok(u16::from(offset))
    }

    /// Reads; past the end everything is zero.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = self
                .bytes
                .get(usize::from(offset) + i)
                .copied()
                .unwrap_or(0);
        }
    }

    /// A guest's write: writable bits change, all else is ignored.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        for (i, value) in data.iter().enumerate() {
            let at = usize::from(offset) + i;
            let (Some(byte), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) else {
                return;
            };
            *byte = (*byte & !mask) | (value & mask);
        }
    }

    /// The function's own write, past all masks (for read-only fields that change).
    pub fn set(&mut self, offset: usize, data: &[u8]) {
        copy_into(&mut *self.bytes, offset, data);
        copy_into(&mut *self.initial, offset, data);
    }

    /// The 16-bit value at `offset`; zero past the end.
    pub fn u16_at(&self, offset: usize) -> u16 {
        let mut raw = [0; 2];
        self.read(u16::try_from(offset).unwrap_or(u16::MAX), &mut raw);
        u16::from_le_bytes(raw)
    }

    /// The 32-bit value at `offset`; zero past the end.
    pub fn u32_at(&self, offset: usize) -> u32 {
        let mut raw = [0; 4];
        self.read(u16::try_from(offset).unwrap_or(u16::MAX), &mut raw);
        u32::from_le_bytes(raw)
    }

    /// True while the guest lets the function decode memory.
    pub fn memory_enabled(&self) -> bool {
        self.u16_at(COMMAND) & COMMAND_MEMORY != 0
    }

    /// Every BAR with the address in its registers, whether it decodes or not.
    pub fn bars(&self) -> Vec<BarRegion> {
        let region = |bar: &Bar| BarRegion {
            bar: bar.index,
            address: self.bar_address(bar),
            size: bar.size,
        };
        self.bars.iter().map(region).collect()
    }

    /// Writes a BAR's address registers, as firmware would.
    pub fn place_bar(&mut self, index: u8, address: u64) {
        let Some(bar) = self.bars.iter().find(|bar| bar.index == index).copied() else {
            return;
        };
        let at = BAR0 + 4 * usize::from(index);
        let flags = u64::from(self.u32_at(at) & 0xf);
        let value = (address & !(bar.size - 1)) | flags;
        let len = if bar.kind == BarKind::Memory32 { 4 } else { 8 };
        let bytes = value.to_le_bytes();
        copy_into(&mut *self.bytes, at, bytes.get(..len).unwrap_or_default());
    }

    /// Everything the guest wrote is forgotten; BARs are unplaced and decode nothing.
    pub fn reset(&mut self) {
        self.bytes.copy_from_slice(&*self.initial);
    }

    fn bar_address(&self, bar: &Bar) -> u64 {
        let at = BAR0 + 4 * usize::from(bar.index);
        let low = u64::from(self.u32_at(at) & !0xf);
        match bar.kind {
            BarKind::Memory32 => low,
            BarKind::Memory64 | BarKind::Prefetchable64 => {
                low | (u64::from(self.u32_at(at + 4)) << 32)
            }
        }
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        copy_into(&mut *self.writable, offset, mask);
    }
}

fn copy_into(to: &mut [u8], offset: usize, data: &[u8]) {
    let slots = to.get_mut(offset..).unwrap_or_default();
    for (slot, value) in slots.iter_mut().zip(data) {
        *slot = *value;
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
