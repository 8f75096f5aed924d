//! PCI by the configuration ports 0xcf8 and 0xcfc, BARs, and MSI-X.
//!
//! Rule: this is the shell's part of the work: BARs are sized and message tables filled before a driver sees the function.
#![expect(unsafe_code, reason = "device registers")]
use alloc::vec::Vec;
use core::ptr::read_volatile;
use core::ptr::with_exposed_provenance;
use core::ptr::with_exposed_provenance_mut;
use core::ptr::write_volatile;
use core::sync::atomic::Ordering;
use core::sync::atomic::fence;

use driver_platform::Interrupts;
use driver_platform::Mmio;
use driver_platform::PciFunction;

use crate::apic;
use crate::cpu;
use crate::paging;

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;
const COMMAND: u16 = 0x04;
const COMMAND_DECODE: u16 = 0x03;
const COMMAND_MEMORY: u16 = 0x02;
const HEADER_TYPE: u16 = 0x0e;
const FIRST_BAR: u16 = 0x10;
const CAPABILITIES: u16 = 0x34;
const MSIX: u8 = 0x11;
const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_MASK_ALL: u16 = 1 << 14;
const MSIX_ENTRY: u64 = 16;
const MSIX_ADDRESS: u64 = 0;
const MSIX_DATA: u64 = 8;
const MSIX_CONTROL: u64 = 12;
const MSIX_MASKED: u32 = 1;
/// First vector for messages; the one below is the alarm.
const FIRST_MESSAGE_VECTOR: u8 = cpu::FIRST_VECTOR + 1;
const MESSAGES_MAX: u16 = 17;

/// A function's place on bus 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) device: u8,
    pub(crate) function: u8,
}

/// All functions of bus 0.
pub(crate) fn list() -> Vec<Place> {
    let mut places = Vec::new();
    for device in 0..32 {
        let first = Place {
            device,
            function: 0,
        };
        if first.read_u16(0) == 0xffff {
            continue;
        }
        places.push(first);
        if first.read_u8(HEADER_TYPE) & 0x80 != 0 {
            let others = (1..8).map(|function| Place { device, function });
            places.extend(others.filter(|place| place.read_u16(0) != 0xffff));
        }
    }
    places
}

impl Place {
    fn select(self, offset: u16) {
        let place = u32::from(self.device) << 11 | u32::from(self.function) << 8;
        cpu::out_u32(ADDRESS_PORT, ENABLE | place | u32::from(offset & 0xfc));
    }

    pub(crate) fn read_u8(self, offset: u16) -> u8 {
        self.select(offset);
        cpu::in_u8(DATA_PORT + offset % 4)
    }

    pub(crate) fn read_u16(self, offset: u16) -> u16 {
        self.select(offset);
        cpu::in_u16(DATA_PORT + offset % 4)
    }

    pub(crate) fn read_u32(self, offset: u16) -> u32 {
        self.select(offset);
        cpu::in_u32(DATA_PORT)
    }

    fn write_u16(self, offset: u16, value: u16) {
        self.select(offset);
        cpu::out_u16(DATA_PORT + offset % 4, value);
    }

    fn write_u32(self, offset: u16, value: u32) {
        self.select(offset);
        cpu::out_u32(DATA_PORT, value);
    }
}

/// A function with its BARs.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    place: Place,
    bars: [Option<Bar>; 6],
}

impl Function {
    /// Sizes the BARs and lets the function decode memory.
    pub(crate) fn open(place: Place) -> Self {
        let command = place.read_u16(COMMAND);
        place.write_u16(COMMAND, command & !COMMAND_DECODE);
        let mut bars = [const { None }; 6];
        let mut index = 0;
        while index < 6 {
            let (bar, width) = size_bar(place, index);
            if let Some(slot) = bars.get_mut(usize::from(index)) {
                *slot = bar;
            }
            index += width;
        }
        place.write_u16(COMMAND, command | COMMAND_MEMORY);
        for bar in bars
            .iter()
            .flatten()
            .filter(|bar| bar.base + bar.len > 1 << 32)
        {
            paging::map(bar.base, bar.len);
        }
        Self { place, bars }
    }

    /// Fills the MSI-X table with vectors that count, and switches it on.
    pub(crate) fn enable_messages(&self) -> Messages {
        let Some(capability) = self.capability(MSIX) else {
            return Messages::none();
        };
        let control = self.place.read_u16(capability + 2);
        let table = self.place.read_u32(capability + 4);
        let count = ((control & 0x7ff) + 1).min(MESSAGES_MAX);
        let Some(bar) = self.bar((table & 7) as u8) else {
            return Messages::none();
        };
        let messages = Messages {
            count,
            table: Some((bar, u64::from(table & !7))),
        };
        for index in 0..count {
            let address = apic::message_address();
            messages.write(index, MSIX_ADDRESS, (address & 0xffff_ffff) as u32);
            messages.write(index, MSIX_ADDRESS + 4, (address >> 32) as u32);
            messages.write(index, MSIX_DATA, u32::from(message_vector(index)));
            messages.unmask(index);
        }
        self.place
            .write_u16(capability + 2, control & !MSIX_MASK_ALL | MSIX_ENABLE);
        messages
    }

    fn capability(&self, id: u8) -> Option<u16> {
        let mut at = u16::from(self.place.read_u8(CAPABILITIES) & 0xfc);
        for _ in 0..48 {
            if at < 0x40 {
                return None;
            }
            if self.place.read_u8(at) == id {
                return Some(at);
            }
            at = u16::from(self.place.read_u8(at + 1) & 0xfc);
        }
        None
    }
}

/// The vector that a message raises.
pub(crate) fn message_vector(index: u16) -> u8 {
    FIRST_MESSAGE_VECTOR + (index % MESSAGES_MAX) as u8
}

/// Finds out where and how large a BAR is; also how many registers it takes.
fn size_bar(place: Place, index: u8) -> (Option<Bar>, u8) {
    let register = FIRST_BAR + u16::from(index) * 4;
    let low = place.read_u32(register);
    if low & 1 == 1 {
        return (None, 1);
    }
    let wide = low & 6 == 4 && index < 5;
    let high = if wide {
        place.read_u32(register + 4)
    } else {
        0
    };
    place.write_u32(register, u32::MAX);
    let low_mask = place.read_u32(register) & !0xf;
    place.write_u32(register, low);
    let mut mask = u64::from(low_mask) | 0xffff_ffff << 32;
    if wide {
        place.write_u32(register + 4, u32::MAX);
        mask = u64::from(low_mask) | u64::from(place.read_u32(register + 4)) << 32;
        place.write_u32(register + 4, high);
    }
    let base = u64::from(low & !0xf) | u64::from(high) << 32;
    let len = mask.wrapping_neg();
    let bar = (low_mask != 0 && base != 0 && len != 0).then_some(Bar { base, len });
    (bar, if wide { 2 } else { 1 })
}

impl PciFunction for Function {
    type Bar = Bar;

    fn config_read_u8(&self, offset: u16) -> u8 {
        self.place.read_u8(offset)
    }

    fn config_read_u16(&self, offset: u16) -> u16 {
        self.place.read_u16(offset)
    }

    fn config_read_u32(&self, offset: u16) -> u32 {
        self.place.read_u32(offset)
    }

    fn config_write_u16(&self, offset: u16, value: u16) {
        self.place.write_u16(offset, value);
    }

    fn bar(&self, index: u8) -> Option<Bar> {
        self.bars.get(usize::from(index))?.clone()
    }
}

/// MSI-X messages that are switched on.
#[derive(Clone, Debug)]
pub(crate) struct Messages {
    count: u16,
    /// Where the table is.
    table: Option<(Bar, u64)>,
}

impl Messages {
    fn none() -> Self {
        Self {
            count: 0,
            table: None,
        }
    }

    /// Writes a field of a message's entry.
    fn write(&self, message: u16, field: u64, value: u32) {
        if let Some((bar, base)) = &self.table {
            bar.write_u32(base + u64::from(message) * MSIX_ENTRY + field, value);
        }
    }
}

impl Interrupts for Messages {
    fn messages(&self) -> u16 {
        self.count
    }

    fn mask(&self, message: u16) {
        self.write(message, MSIX_CONTROL, MSIX_MASKED);
    }

    fn unmask(&self, message: u16) {
        self.write(message, MSIX_CONTROL, 0);
    }

    fn set_target(&self, _: u16, processor: u32) -> bool {
        // There is one processor, and all messages go to it.
        processor == 0
    }
}

/// A memory BAR, identity-mapped.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    base: u64,
    len: u64,
}

impl Bar {
    fn locate(&self, offset: u64, width: u64) -> Option<usize> {
        let inside = offset.checked_add(width)? <= self.len && offset.is_multiple_of(width);
        if inside {
            usize::try_from(self.base + offset).ok()
        } else {
            None
        }
    }
}

macro_rules! access {
    ($read:ident, $write:ident, $int:ty) => {
        fn $read(&self, offset: u64) -> $int {
            let Some(address) = self.locate(offset, size_of::<$int>() as u64) else {
                return <$int>::MAX;
            };
            // SAFETY: inside a BAR of the function, identity-mapped and aligned.
            unsafe { read_volatile(with_exposed_provenance(address)) }
        }
        fn $write(&self, offset: u64, value: $int) {
            let Some(address) = self.locate(offset, size_of::<$int>() as u64) else {
                return;
            };
            fence(Ordering::Release);
            // SAFETY: as for reading; what the device then does to memory is bounded by the rings it was given.
            unsafe { write_volatile(with_exposed_provenance_mut(address), value) };
        }
    };
}

impl Mmio for Bar {
    fn len(&self) -> u64 {
        self.len
    }

    access!(read_u8, write_u8, u8);
    access!(read_u16, write_u16, u16);
    access!(read_u32, write_u32, u32);
}
