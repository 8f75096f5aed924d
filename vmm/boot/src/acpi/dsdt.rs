//! The DSDT: processors, PCI host bridge, motherboard resources, serial port, clock, and the soft-off state.
//!
//! One rule: no methods, only names, so that there is no code for a guest to interpret wrongly.

use acpi_tables::Aml;
use acpi_tables::AmlSink;
use acpi_tables::aml::AddressSpace;
use acpi_tables::aml::AddressSpaceCacheable;
use acpi_tables::aml::Device;
use acpi_tables::aml::EISAName;
use acpi_tables::aml::IO;
use acpi_tables::aml::Interrupt;
use acpi_tables::aml::Memory32Fixed;
use acpi_tables::aml::Name;
use acpi_tables::aml::Package;
use acpi_tables::aml::ResourceTemplate;
use acpi_tables::aml::ZERO;
use acpi_tables::sdt::Sdt;

use super::OEM;
use super::Platform;
use super::REVISION;
use super::TABLE;

/// Builds the table.
pub(super) fn build(platform: &Platform) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", 36, 6, OEM, TABLE, REVISION);
    for cpu in 0..platform.cpus {
        table.append_slice(&processor(cpu));
    }
    table.append_slice(&host_bridge(platform));
    table.append_slice(&motherboard(platform));
    table.append_slice(&clock());
    if let Some((port, irq)) = platform.serial {
        table.append_slice(&serial(port, irq));
    }
    let off = &platform.power_off_type;
    let soft_off = Package::new(vec![off, off, &ZERO, &ZERO]);
    table.append_slice(&bytes(&Name::new("_S5_".into(), &soft_off)));
    table.as_slice().to_vec()
}

fn bytes(item: &dyn Aml) -> Vec<u8> {
    let mut out = Vec::new();
    item.to_aml_bytes(&mut out);
    out
}

/// Encoded AML.
struct Encoded(Vec<u8>);

impl Aml for Encoded {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

fn resources(items: Vec<&dyn Aml>) -> Encoded {
    Encoded(bytes(&ResourceTemplate::new(items)))
}

fn processor(cpu: u32) -> Vec<u8> {
    let path = format!("_SB_.C{cpu:03X}");
    bytes(&Device::new(
        path.as_str().into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0007"),
            &Name::new("_UID".into(), &cpu),
        ],
    ))
}

fn host_bridge(platform: &Platform) -> Vec<u8> {
    let cacheable = AddressSpaceCacheable::NotCacheable;
    let low = &platform.pci_mmio;
    let high = &platform.pci_mmio64;
    let resources = resources(vec![
        &AddressSpace::new_bus_number(0u16, 0u16),
        &IO::new(0xcf8, 0xcf8, 1, 8),
        &AddressSpace::new_io(0u16, 0xcf7u16, None),
        &AddressSpace::new_io(0xd00u16, 0xffffu16, None),
        &AddressSpace::new_memory(
            cacheable,
            true,
            low.start as u32,
            (low.end - 1) as u32,
            None,
        ),
        &AddressSpace::new_memory(cacheable, true, high.start, high.end - 1, None),
    ]);
    bytes(&Device::new(
        "_SB_.PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_ADR".into(), &ZERO),
            &Name::new("_SEG".into(), &ZERO),
            &Name::new("_BBN".into(), &ZERO),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &resources),
        ],
    ))
}

/// Claims the configuration space and the fixed-hardware ports, or the guest does not trust them.
fn motherboard(platform: &Platform) -> Vec<u8> {
    let ecam = &platform.ecam;
    let resources = resources(vec![
        &Memory32Fixed::new(true, ecam.start as u32, (ecam.end - ecam.start) as u32),
        &IO::new(platform.pm_base, platform.pm_base, 1, 12),
    ]);
    bytes(&Device::new(
        "_SB_.MBRD".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0C02")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &resources),
        ],
    ))
}

fn clock() -> Vec<u8> {
    let resources = resources(vec![&IO::new(0x70, 0x70, 1, 2)]);
    bytes(&Device::new(
        "_SB_.RTC0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0B00")),
            &Name::new("_CRS".into(), &resources),
        ],
    ))
}

fn serial(port: u16, irq: u8) -> Vec<u8> {
    let resources = resources(vec![
        &Interrupt::new(true, true, false, false, u32::from(irq)),
        &IO::new(port, port, 1, 8),
    ]);
    bytes(&Device::new(
        "_SB_.COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &resources),
        ],
    ))
}
