//! What can go wrong in the machine. One rule: a guest's mistake is never an error here; these are the host's.

/// An error of the machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM said no.
    #[error(transparent)]
    Kvm(#[from] kvm::Error),
    /// Guest memory of a size that the memory map cannot hold.
    #[error("Guest memory of {0:#x} bytes is not a positive multiple of 2 MiB below 1 TiB")]
    MemorySize(u64),
    /// An address that is not guest RAM.
    #[error("Guest range {address:#x}+{len:#x} is not RAM")]
    NotRam {
        /// First guest physical address.
        address: u64,
        /// Bytes.
        len: u64,
    },
    /// No interrupt line is left.
    #[error("All interrupt lines are in use")]
    NoInterrupt,
    /// A PCI function asked for something that config space cannot hold.
    #[error("PCI config space cannot hold {0}")]
    ConfigSpace(&'static str),
    /// The PCI bus is full.
    #[error("PCI bus has no room for {0}")]
    PciFull(&'static str),
    /// An event descriptor could not be made.
    #[error("Cannot make an event descriptor: {0}")]
    EventFd(host_os::Error),
    /// A thread could not be started.
    #[error("Cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The number of vCPUs is not supported.
    #[error("{asked} vCPUs are not possible: this host allows 1 to {most}")]
    Cpus {
        /// What the user asked for.
        asked: u32,
        /// What the host allows.
        most: u32,
    },
}
