//! Tests of the ACPI tables. One rule: they are read back as an operating system reads them.

use super::*;
use crate::testing::Memory;

fn platform(cpus: u32) -> Platform {
    Platform {
        cpus,
        local_apic: 0xfee0_0000,
        io_apic: 0xfec0_0000,
        ecam: 0xe000_0000..0xe010_0000,
        pci_mmio: 0xc000_0000..0xe000_0000,
        pci_mmio64: 0x1_0000_0000..0x5_0000_0000,
        pm_base: 0x600,
        sci: 9,
        reset: (0xcf9, 6),
        power_off_type: 5,
        serial: Some((0x3f8, 4)),
    }
}

fn table(memory: &Memory, at: u64) -> &[u8] {
    let table = memory.at(at, memory.u32_at(at + 4) as usize);
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    assert_eq!(sum, 0, "checksum of {:?}", &table[..4]);
    table
}

#[test]
fn every_table_is_reached_from_the_root_with_a_good_checksum() {
    let mut memory = Memory::new(1 << 20);
    let root = write_tables(&platform(4), &mut memory).unwrap();
    assert_eq!(memory.at(root, 8), b"RSD PTR ");
    let sum = memory
        .at(root, 36)
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    assert_eq!(sum, 0);
    let xsdt = table(&memory, memory.u64_at(root + 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    let entries: Vec<u64> = xsdt[36..]
        .chunks_exact(8)
        .map(|raw| u64::from_le_bytes(raw.try_into().unwrap()))
        .collect();
    let names: Vec<&[u8]> = entries.iter().map(|at| &table(&memory, *at)[..4]).collect();
    assert_eq!(names, [b"FACP", b"APIC", b"MCFG"]);
    let dsdt = memory.u64_at(entries[0] + 140);
    assert_eq!(&table(&memory, dsdt)[..4], b"DSDT");
    let facs = u64::from(memory.u32_at(entries[0] + 36));
    assert_eq!(memory.at(facs, 4), b"FACS");
    assert_eq!(facs % 64, 0);
}

#[test]
fn the_madt_lists_every_processor() {
    let madt = madt(&platform(7));
    let mut at = 44;
    let mut processors = Vec::new();
    while at < madt.len() {
        if madt[at] == 0 {
            processors.push(madt[at + 3]);
        }
        at += usize::from(madt[at + 1]);
    }
    assert_eq!(at, madt.len());
    assert_eq!(processors, [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn as_many_processors_as_the_madt_can_name_fit_the_area() {
    let mut memory = Memory::new(1 << 20);
    assert!(write_tables(&platform(254), &mut memory).is_ok());
}

#[test]
fn a_machine_without_memory_for_tables_is_an_error() {
    let mut memory = Memory::new(0xe_0000);
    assert!(write_tables(&platform(1), &mut memory).is_err());
}
