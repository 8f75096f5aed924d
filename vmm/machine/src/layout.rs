//! The guest-physical memory map and the port map. One rule: every fixed address of the machine stands here.

/// End of the low RAM region at most; RAM beyond it continues at [`HIGH_RAM`].
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// Where RAM above the 32-bit hole starts.
pub const HIGH_RAM: u64 = 0x1_0000_0000;
/// The 32-bit window for PCI BARs; the machine places every BAR here.
pub const PCI_MMIO: core::ops::Range<u64> = 0xc000_0000..0xe000_0000;
/// PCI configuration space (ECAM), one MiB for bus 0.
pub const ECAM: core::ops::Range<u64> = 0xe000_0000..0xe010_0000;
/// The I/O APIC's registers.
pub const IOAPIC: u64 = 0xfec0_0000;
/// The local APICs' registers.
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// One page for KVM's identity map (used on processors without unrestricted guest mode).
pub const IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages for KVM's task state segment (same use).
pub const TSS: u64 = 0xfffb_d000;
/// The most RAM a machine may have, in bytes.
pub const MAX_RAM: u64 = 1 << 40;
/// Size of the 64-bit window for PCI BARs that the guest wants above RAM.
pub const PCI_MMIO64_SIZE: u64 = 1 << 34;
/// First port of the ACPI fixed hardware (12 ports).
pub const PM_BASE: u16 = 0x600;
/// Interrupt of the ACPI fixed hardware.
pub const SCI: u8 = 9;
/// Sleep type that means soft-off.
pub const POWER_OFF_TYPE: u8 = 5;
/// Reset control: a byte with bit 2 set resets the machine.
pub const RESET_PORT: u16 = 0xcf9;
/// What the firmware tables tell the guest to write to [`RESET_PORT`].
pub const RESET_VALUE: u8 = 6;
/// First port of the serial port (8 ports).
pub const SERIAL_PORT: u16 = 0x3f8;
/// Interrupt of the serial port.
pub const SERIAL_IRQ: u8 = 4;
/// The debug exit port.
pub const DEBUG_EXIT_PORT: u16 = 0xf4;
/// Interrupt lines of the I/O APIC; message-signalled ones are numbered from here.
pub const IOAPIC_LINES: u32 = 24;

/// The 64-bit window for PCI BARs, above the end of RAM.
pub fn pci_mmio64(ram_end: u64) -> core::ops::Range<u64> {
    let start = ram_end.max(HIGH_RAM).next_multiple_of(PCI_MMIO64_SIZE);
    start..start + PCI_MMIO64_SIZE
}
