//! What the VMM tells a PVH guest: command line and memory map (`hvm_start_info`).
//!
//! Rule: read once before anything is allocated, because the heap may later cover it.
#![expect(unsafe_code, reason = "reads physical memory")]
use core::ops::Range;
use core::ptr::read_volatile;
use core::ptr::with_exposed_provenance;

const MAGIC: u32 = 0x336e_c578;
const COMMAND_LINE: u64 = 24;
const MEMORY_MAP: u64 = 40;
const MEMORY_MAP_ENTRIES: u64 = 48;
const ENTRY: u64 = 24;
const TYPE_RAM: u32 = 1;
/// Memory that is assumed when there is no map.
const DEFAULT_END: u64 = 64 << 20;
/// Above this there are devices.
const LOW_END: u64 = 0xc000_0000;
const COMMAND_LINE_MAX: usize = 2048;

// SAFETY: `boot.s` and the linker script define these symbols as declared.
unsafe extern "C" {
    static image_end: u8;
}

/// A copy of what matters.
pub(crate) struct StartInfo {
    command_line: [u8; COMMAND_LINE_MAX],
    len: usize,
    ram_end: u64,
}

impl StartInfo {
    /// Reads the structure at a physical address.
    pub(crate) fn read(address: u64) -> Self {
        let mut info = Self {
            command_line: [0; COMMAND_LINE_MAX],
            len: 0,
            ram_end: DEFAULT_END,
        };
        if read_u32(address) != MAGIC {
            return info;
        }
        let source = read_u64(address + COMMAND_LINE);
        if source != 0 {
            for (index, byte) in info.command_line.iter_mut().enumerate() {
                *byte = read_u8(source + index as u64);
                if *byte == 0 {
                    break;
                }
                info.len = index + 1;
            }
        }
        if read_u32(address + 4) >= 1 {
            info.read_memory_map(
                read_u64(address + MEMORY_MAP),
                read_u32(address + MEMORY_MAP_ENTRIES),
            );
        }
        info
    }

    fn read_memory_map(&mut self, map: u64, entries: u32) {
        let image = heap_start();
        for entry in 0..u64::from(entries.min(128)) {
            let at = map + entry * ENTRY;
            let (start, size) = (read_u64(at), read_u64(at + 8));
            let end = start.saturating_add(size).min(LOW_END);
            if read_u32(at + 16) == TYPE_RAM && start <= image && image < end {
                self.ram_end = end;
            }
        }
    }

    /// The command line.
    pub(crate) fn command_line(&self) -> &str {
        let bytes = self.command_line.get(..self.len).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    /// RAM after the image.
    pub(crate) fn heap(&self) -> Range<usize> {
        heap_start() as usize..self.ram_end as usize
    }
}

fn heap_start() -> u64 {
    (&raw const image_end).addr() as u64
}

fn read_u8(address: u64) -> u8 {
    // SAFETY: low memory is identity-mapped, and the VMM put the structures into RAM.
    unsafe { read_volatile(with_exposed_provenance(address as usize)) }
}

fn read_u32(address: u64) -> u32 {
    u32::from_le_bytes([
        read_u8(address),
        read_u8(address + 1),
        read_u8(address + 2),
        read_u8(address + 3),
    ])
}

fn read_u64(address: u64) -> u64 {
    u64::from(read_u32(address)) | u64::from(read_u32(address + 4)) << 32
}
