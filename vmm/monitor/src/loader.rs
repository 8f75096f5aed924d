//! Loads the kernel, the initrd and the tables into the machine's RAM.
//!
//! One rule: files are read anew for each start, so that a restart boots what is on disk then.

use std::path::Path;

use boot::BootPlan;
use boot::MemoryKind;
use boot::MemoryRange;
use boot::Sink;
use boot::acpi::Platform;
use machine::Entry;
use machine::Ram;
use machine::layout;

use crate::vm_config::VmConfig;

/// End of the RAM below 640 KiB that the memory map offers.
const BASE_MEMORY_END: u64 = 0x9_fc00;
const MIB: u64 = 1 << 20;

/// Why the VM cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("Cannot read {path}: {source}")]
    File {
        path: String,
        source: std::io::Error,
    },
    #[error(transparent)]
    Boot(#[from] boot::Error),
}

struct RamSink<'a>(&'a Ram);

impl Sink for RamSink<'_> {
    fn write(&mut self, address: u64, data: &[u8]) -> bool {
        self.0.write(address, data).is_ok()
    }

    fn zero(&mut self, address: u64, len: u64) -> bool {
        self.0.zero(address, len).is_ok()
    }
}

/// Opens the files once, so that a wrong path is reported before anything else is done.
pub(crate) fn check(config: &VmConfig) -> Result<(), Error> {
    for path in [Some(&config.kernel), config.initrd.as_ref()]
        .into_iter()
        .flatten()
    {
        std::fs::File::open(path).map_err(|source| unreadable(path, source))?;
    }
    Ok(())
}

/// Fills `ram`; returns where the first vCPU starts.
pub(crate) fn load(config: &VmConfig, ram: &Ram) -> Result<Entry, Error> {
    let mut sink = RamSink(ram);
    let kernel = boot::load_kernel(&read(&config.kernel)?, &mut sink)?;
    let low_end = ram.regions().first().map_or(0, |region| region.size);
    let initrd = match &config.initrd {
        Some(path) => {
            let image = read(path)?;
            let at = boot::load_initrd(&image, kernel.end, low_end, &mut sink)?;
            Some((at, image.len() as u64))
        }
        None => None,
    };
    let rsdp = boot::acpi::write_tables(&platform(config, ram), &mut sink)?;
    let plan = BootPlan {
        command_line: &config.cmdline,
        initrd,
        rsdp,
        memory_map: &memory_map(ram),
    };
    boot::write_start_info(&plan, &mut sink)?;
    Ok(Entry {
        address: kernel.entry,
        start_info: boot::START_INFO,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| unreadable(path, source))
}

fn unreadable(path: &Path, source: std::io::Error) -> Error {
    Error::File {
        path: path.display().to_string(),
        source,
    }
}

fn platform(config: &VmConfig, ram: &Ram) -> Platform {
    Platform {
        cpus: config.cpus,
        local_apic: layout::LOCAL_APIC as u32,
        io_apic: layout::IOAPIC as u32,
        ecam: layout::ECAM,
        pci_mmio: layout::PCI_MMIO,
        pci_mmio64: layout::pci_mmio64(ram.end()),
        pm_base: layout::PM_BASE,
        sci: layout::SCI,
        reset: (layout::RESET_PORT, layout::RESET_VALUE),
        power_off_type: layout::POWER_OFF_TYPE,
        serial: (config.serial != crate::options::Serial::Off)
            .then_some((layout::SERIAL_PORT, layout::SERIAL_IRQ)),
    }
}

/// RAM as the guest may use it: without the hole below 1 MiB, with the tables in it named.
fn memory_map(ram: &Ram) -> Vec<MemoryRange> {
    let range = |address: u64, end: u64, kind| MemoryRange {
        address,
        len: end - address,
        kind,
    };
    let tables = boot::acpi::table_area();
    let mut map = vec![
        range(0, BASE_MEMORY_END, MemoryKind::Ram),
        range(BASE_MEMORY_END, tables.start, MemoryKind::Reserved),
        range(tables.start, tables.end, MemoryKind::AcpiTables),
    ];
    for region in ram.regions() {
        let start = region.guest_addr.max(MIB);
        map.push(range(
            start,
            region.guest_addr + region.size,
            MemoryKind::Ram,
        ));
    }
    map.push(range(
        layout::ECAM.start,
        layout::ECAM.end,
        MemoryKind::Reserved,
    ));
    map.sort_by_key(|range| range.address);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_map_ascends_without_overlaps_and_holds_all_ram() {
        for size in [2 << 20, 512 << 20, 3 << 30, 6 << 30u64] {
            let map = memory_map(&Ram::new(size).unwrap());
            for pair in map.windows(2) {
                assert!(pair[0].address + pair[0].len <= pair[1].address, "{pair:?}");
            }
            let usable: u64 = map
                .iter()
                .filter(|range| range.kind == MemoryKind::Ram)
                .map(|range| range.len)
                .sum();
            assert_eq!(usable, size - (MIB - BASE_MEMORY_END));
        }
    }
}
