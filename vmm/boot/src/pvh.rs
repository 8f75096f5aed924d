//! The PVH boot protocol: `hvm_start_info` version 1, memory map, command line, initrd.
//!
//! One rule: all of it lies below 1 MiB at the fixed addresses here; layouts follow Xen's
//! `arch-x86/hvm/start_info.h`.

use crate::Error;
use crate::Result;
use crate::Sink;

/// Where the start info lies: what the kernel gets in EBX.
pub const START_INFO: u32 = 0x6000;
const MODULES: u64 = 0x6100;
const MEMORY_MAP: u64 = 0x7000;
const MEMORY_MAP_MOST: usize = 128;
const COMMAND_LINE: u64 = 0x2_0000;
/// Bytes of a command line, without its zero. Linux itself keeps 2047.
const COMMAND_LINE_MOST: usize = 0xfff;
/// No kernel segment may start below this address.
pub(crate) const BOOT_DATA_END: u64 = 0x10_0000;
const MAGIC: u32 = 0x336e_c578;
const PAGE: u64 = 0x1000;

/// What a range of guest addresses is; values as in the memory map (ACPI's E820 types).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryKind {
    /// Usable RAM.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
    /// ACPI tables, usable once read.
    AcpiTables = 3,
}

/// One entry of the memory map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryRange {
    /// First guest physical address.
    pub address: u64,
    /// Bytes.
    pub len: u64,
    /// What is there.
    pub kind: MemoryKind,
}

/// Everything that the start info tells the kernel.
#[derive(Debug, Clone, Copy)]
pub struct BootPlan<'a> {
    /// The kernel command line.
    pub command_line: &'a str,
    /// Address and length of the initrd.
    pub initrd: Option<(u64, u64)>,
    /// Address of the ACPI root pointer.
    pub rsdp: u64,
    /// The memory map, ascending.
    pub memory_map: &'a [MemoryRange],
}

/// Stores the initrd as high as possible below `low_ram_end` and above `kernel_end`; returns its address.
pub fn load_initrd(
    initrd: &[u8],
    kernel_end: u64,
    low_ram_end: u64,
    memory: &mut dyn Sink,
) -> Result<u64> {
    let len = initrd.len() as u64;
    let too_big = Error::InitrdTooBig { len };
    let address = low_ram_end.checked_sub(len).ok_or(too_big.clone())? & !(PAGE - 1);
    if address < kernel_end.max(BOOT_DATA_END) || !memory.write(address, initrd) {
        return Err(too_big);
    }
    Ok(address)
}

/// Writes the start info and what it points to.
pub fn write_start_info(plan: &BootPlan<'_>, memory: &mut dyn Sink) -> Result<()> {
    let line = plan.command_line.as_bytes();
    if line.len() > COMMAND_LINE_MOST || line.contains(&0) {
        return Err(Error::CommandLine {
            len: line.len(),
            most: COMMAND_LINE_MOST,
        });
    }
    let mut put = |address: u64, data: &[u8]| {
        memory
            .write(address, data)
            .then_some(())
            .ok_or(Error::NoRoom(address))
    };
    put(COMMAND_LINE, &[line, &[0]].concat())?;
    let ranges = plan
        .memory_map
        .get(..MEMORY_MAP_MOST)
        .unwrap_or(plan.memory_map);
    let map: Vec<u8> = ranges.iter().flat_map(encode_range).collect();
    put(MEMORY_MAP, &map)?;
    if let Some((address, len)) = plan.initrd {
        put(MODULES, &words(&[address, len, 0, 0]))?;
    }
    let mut info = Vec::with_capacity(56);
    for word in [MAGIC, 1, 0, u32::from(plan.initrd.is_some())] {
        info.extend_from_slice(&word.to_le_bytes());
    }
    info.extend(words(&[MODULES, COMMAND_LINE, plan.rsdp, MEMORY_MAP]));
    info.extend_from_slice(&(ranges.len() as u32).to_le_bytes());
    info.extend_from_slice(&[0; 4]);
    put(u64::from(START_INFO), &info)
}

fn words(values: &[u64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn encode_range(range: &MemoryRange) -> Vec<u8> {
    let kind = u64::from(range.kind as u32);
    words(&[range.address, range.len, kind])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Memory;

    fn plan(command_line: &str) -> BootPlan<'_> {
        BootPlan {
            command_line,
            initrd: Some((0x20_0000, 77)),
            rsdp: 0xe_0000,
            memory_map: &[MemoryRange {
                address: 0,
                len: 0x9_fc00,
                kind: MemoryKind::Ram,
            }],
        }
    }

    #[test]
    fn start_info_points_to_everything() {
        let mut memory = Memory::new(1 << 20);
        write_start_info(&plan("console=ttyS0"), &mut memory).unwrap();
        let at = u64::from(START_INFO);
        assert_eq!(memory.u32_at(at), MAGIC);
        assert_eq!(memory.u32_at(at + 4), 1);
        assert_eq!(memory.u32_at(at + 12), 1);
        let modules = memory.u64_at(at + 16);
        assert_eq!(memory.u64_at(modules), 0x20_0000);
        assert_eq!(memory.u64_at(modules + 8), 77);
        assert_eq!(memory.at(memory.u64_at(at + 24), 14), b"console=ttyS0\0");
        assert_eq!(memory.u64_at(at + 32), 0xe_0000);
        let map = memory.u64_at(at + 40);
        assert_eq!(memory.u32_at(at + 48), 1);
        assert_eq!(memory.u64_at(map + 8), 0x9_fc00);
        assert_eq!(memory.u32_at(map + 16), 1);
    }

    #[test]
    fn overlong_command_lines_are_refused() {
        let mut memory = Memory::new(1 << 20);
        let longest = "x".repeat(COMMAND_LINE_MOST);
        assert!(write_start_info(&plan(&longest), &mut memory).is_ok());
        let longer = "x".repeat(COMMAND_LINE_MOST + 1);
        assert!(write_start_info(&plan(&longer), &mut memory).is_err());
        assert!(write_start_info(&plan("a\0b"), &mut memory).is_err());
    }

    #[test]
    fn the_initrd_lies_page_aligned_at_the_top_of_low_ram() {
        let mut memory = Memory::new(4 << 20);
        let at = load_initrd(&[7; 0x1001], 0x20_0000, 4 << 20, &mut memory).unwrap();
        assert_eq!(at, (4 << 20) - 0x2000);
        assert_eq!(memory.at(at, 2), [7, 7]);
        let error = load_initrd(&[7; 0x1001], (4 << 20) - 0x1000, 4 << 20, &mut memory);
        assert_eq!(error, Err(Error::InitrdTooBig { len: 0x1001 }));
        assert!(load_initrd(&[7; 64], 0, 63, &mut memory).is_err());
    }
}
