//! ACPI tables: RSDP, XSDT, FADT, FACS, MADT, MCFG, DSDT.
//!
//! One rule: the tables describe exactly the [`Platform`] given; nothing about the machine is written down twice.

mod dsdt;

use core::ops::Range;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::FADTBuilder;
use acpi_tables::fadt::Flags;
use acpi_tables::gas::AccessSize;
use acpi_tables::gas::AddressSpace;
use acpi_tables::gas::GAS;
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use crate::Error;
use crate::Result;
use crate::Sink;

const OEM: [u8; 6] = *b"PARAVN";
const TABLE: [u8; 8] = *b"PARAVANE";
const REVISION: u32 = 1;
/// Where the tables lie, root pointer first.
const TABLES: Range<u64> = 0xe_0000..0x10_0000;
/// Fixed-hardware registers: event block, control block, timer, at these offsets from the port base.
const PM_CONTROL: u16 = 4;
const PM_TIMER: u16 = 8;

/// What the tables describe.
#[derive(Debug, Clone)]
pub struct Platform {
    /// Number of vCPUs; their APIC ids are 0, 1, ...
    pub cpus: u32,
    /// Address of the local APICs.
    pub local_apic: u32,
    /// Address of the I/O APIC.
    pub io_apic: u32,
    /// Configuration space of bus 0.
    pub ecam: Range<u64>,
    /// Window for 32-bit BARs.
    pub pci_mmio: Range<u64>,
    /// Window for 64-bit BARs.
    pub pci_mmio64: Range<u64>,
    /// First port of the fixed-hardware block: PM1 event (+0), PM1 control (+4), PM timer (+8).
    pub pm_base: u16,
    /// The interrupt of the fixed-hardware events.
    pub sci: u8,
    /// The port and value that reset the machine.
    pub reset: (u16, u8),
    /// Sleep type that powers off.
    pub power_off_type: u8,
    /// First port and interrupt of the serial port, if there is one.
    pub serial: Option<(u16, u8)>,
}

/// Writes all tables; returns the address of the root pointer.
pub fn write_tables(platform: &Platform, memory: &mut dyn Sink) -> Result<u64> {
    let mut area = Area {
        memory,
        next: TABLES.start + 64,
    };
    let dsdt = area.put(&dsdt::build(platform))?;
    let facs = area.put(&bytes(&FACS::new()))?;
    let tables = [
        area.put(&fadt(platform, dsdt, facs))?,
        area.put(&madt(platform))?,
        area.put(&mcfg(platform))?,
    ];
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    tables.into_iter().for_each(|table| xsdt.add_entry(table));
    let xsdt = area.put(&bytes(&xsdt))?;
    let rsdp = bytes(&Rsdp::new(OEM, xsdt));
    if !area.memory.write(TABLES.start, &rsdp) {
        return Err(Error::NoRoom(TABLES.start));
    }
    Ok(TABLES.start)
}

/// The memory that the tables take.
pub fn table_area() -> Range<u64> {
    TABLES
}

struct Area<'a> {
    memory: &'a mut dyn Sink,
    next: u64,
}

impl Area<'_> {
    fn put(&mut self, table: &[u8]) -> Result<u64> {
        let at = self.next.next_multiple_of(64);
        let end = at + table.len() as u64;
        if end > TABLES.end || !self.memory.write(at, table) {
            return Err(Error::NoRoom(at));
        }
        self.next = end;
        Ok(at)
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut out = Vec::new();
    table.to_aml_bytes(&mut out);
    out
}

fn fadt(platform: &Platform, dsdt: u64, facs: u64) -> Vec<u8> {
    let port = |offset: u16, bits: u8, size: AccessSize| {
        let address = u64::from(platform.pm_base + offset);
        GAS::new(AddressSpace::SystemIo, bits, 0, size, address)
    };
    let mut table = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .firmware_ctrl_32(facs as u32)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    table.dsdt = (dsdt as u32).into();
    table.sci_int = u16::from(platform.sci).into();
    table.pm1a_evt_blk = u32::from(platform.pm_base).into();
    table.pm1a_cnt_blk = u32::from(platform.pm_base + PM_CONTROL).into();
    table.pm_tmr_blk = u32::from(platform.pm_base + PM_TIMER).into();
    (table.pm1_evt_len, table.pm1_cnt_len, table.pm_tmr_len) = (4, 2, 4);
    table.x_pm1a_evt_blk = port(0, 32, AccessSize::WordAccess);
    table.x_pm1a_cnt_blk = port(PM_CONTROL, 16, AccessSize::WordAccess);
    table.x_pm_tmr_blk = port(PM_TIMER, 32, AccessSize::DwordAccess);
    // Latencies that say: no C2, no C3.
    table.p_lvl2_lat = 0xffff.into();
    table.p_lvl3_lat = 0xffff.into();
    // Legacy devices on the bus; no VGA; no keyboard controller to probe.
    table.iapc_boot_arch = 0b101.into();
    let (reset_port, reset_value) = platform.reset;
    table.reset_reg = GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        u64::from(reset_port),
    );
    table.reset_value = reset_value;
    bytes(&table.finalize())
}

fn madt(platform: &Platform) -> Vec<u8> {
    let mut table = Sdt::new(*b"APIC", 36, 5, OEM, TABLE, REVISION);
    table.append_slice(&platform.local_apic.to_le_bytes());
    // The 8259s are there.
    table.append_slice(&1u32.to_le_bytes());
    for cpu in 0..platform.cpus.min(255) {
        let id = (cpu & 0xff) as u8;
        table.append_slice(&[0, 8, id, id, 1, 0, 0, 0]);
    }
    // The I/O APIC has id 0 in KVM; its lines start at 0.
    let mut io_apic = vec![1, 12, 0, 0];
    io_apic.extend_from_slice(&platform.io_apic.to_le_bytes());
    io_apic.extend_from_slice(&[0; 4]);
    table.append_slice(&io_apic);
    // The timer is on line 2; the SCI is level-triggered and active high.
    table.append_slice(&[2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    table.append_slice(&[2, 10, 0, platform.sci, platform.sci, 0, 0, 0, 0x0d, 0]);
    // NMI on LINT1 of every processor.
    table.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    table.as_slice().to_vec()
}

fn mcfg(platform: &Platform) -> Vec<u8> {
    let mut table = MCFG::new(OEM, TABLE, REVISION);
    table.add_ecam(platform.ecam.start, 0, 0, 0);
    bytes(&table)
}

#[cfg(test)]
mod tests;
