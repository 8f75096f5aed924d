//! Why a kernel cannot be booted. One rule: the text tells the user what to change.

/// An error of the loaders.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not an ELF file for x86-64.
    #[error(
        "Kernel is not a 64-bit x86 ELF file (a bzImage must be unpacked to its vmlinux first)"
    )]
    NotElf,
    /// The ELF file contradicts itself.
    #[error("Kernel ELF file is damaged: {0}")]
    BadElf(&'static str),
    /// No PVH entry point.
    #[error("Kernel has no PVH entry point (ELF note 18 of owner Xen; Linux needs CONFIG_PVH)")]
    NoPvhEntry,
    /// A segment does not fit RAM.
    #[error("Kernel needs RAM at {address:#x}+{len:#x}, which the machine does not have")]
    KernelOutsideRam {
        /// Guest physical address.
        address: u64,
        /// Bytes.
        len: u64,
    },
    /// A segment lies on the boot data or the firmware tables.
    #[error("Kernel segment at {address:#x}+{len:#x} lies below 1 MiB on the boot data")]
    KernelOnBootData {
        /// Guest physical address.
        address: u64,
        /// Bytes.
        len: u64,
    },
    /// The initrd does not fit.
    #[error("Initrd of {len} bytes does not fit between the kernel and the end of low RAM")]
    InitrdTooBig {
        /// Bytes.
        len: u64,
    },
    /// The command line is too long or has a zero byte.
    #[error("Kernel command line of {len} bytes is longer than {most} or has a zero byte in it")]
    CommandLine {
        /// Bytes.
        len: usize,
        /// The most there may be.
        most: usize,
    },
    /// Boot data could not be stored.
    #[error("Machine has no RAM for boot data at {0:#x}")]
    NoRoom(u64),
}
