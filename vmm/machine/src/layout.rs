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
