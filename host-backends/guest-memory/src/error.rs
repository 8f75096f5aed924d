//! The crate's error. One rule: each variant names the address or number at fault, so that a log line suffices.

use std::io;

/// Why memory could not be set up or reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The region is empty
    #[error("The region at guest address {0:#x} is empty")]
    EmptyRegion(u64),
    /// An address plus the size passes the end of the address space
    #[error("The region at guest address {0:#x} passes the end of an address space")]
    RegionOverflow(u64),
    /// An address or offset is not a multiple of 4096
    #[error("The region at guest address {0:#x} is not page-aligned")]
    Unaligned(u64),
    /// Two regions share guest or user addresses
    #[error("The region at guest address {0:#x} overlaps another")]
    Overlap(u64),
    /// More regions than slots
    #[error("More than {0} regions")]
    TooManyRegions(usize),
    /// No such region
    #[error("No region at guest address {0:#x} with that size and user address")]
    NoSuchRegion(u64),
    /// The descriptor is not a regular file (memfd, tmpfs, hugetlbfs)
    #[error("The descriptor is not a file that can be mapped")]
    NotMappable,
    /// The file is on a file system of another process (FUSE), a network or an overlay
    #[error(
        "The file's pages may be held back by another process or machine (FUSE, a network file system, an overlay): share \
         memory from a memfd, tmpfs, hugetlbfs or a disk's file system"
    )]
    ForeignPages,
    /// The file ends before the region does
    #[error("The file has {size} bytes, but {needed} are needed")]
    FileTooSmall {
        /// Bytes in the file.
        size: u64,
        /// Bytes the region needs.
        needed: u64,
    },
    /// No room in the table of guarded mappings
    #[error("Too many mappings are guarded")]
    TooManyMappings,
    /// The range is not inside one region, or inside any
    #[error("{len} bytes at {addr:#x} are not guest memory")]
    Hole {
        /// Guest or user address.
        addr: u64,
        /// Bytes.
        len: u64,
    },
    /// The dirty log does not cover all guest memory
    #[error("The dirty log covers addresses below {covered:#x}, memory ends at {end:#x}")]
    LogTooSmall {
        /// First address that the log does not cover.
        covered: u64,
        /// End of guest memory.
        end: u64,
    },
    /// What the operating system refuses
    #[error(transparent)]
    Os(#[from] host_os::Error),
    /// A system call failed
    #[error("{call} failed")]
    System {
        /// Which call.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn last(call: &'static str) -> Self {
        Self::System {
            call,
            source: io::Error::last_os_error(),
        }
    }

    pub(crate) fn nix(call: &'static str) -> impl FnOnce(nix::Error) -> Self {
        move |errno| Self::System {
            call,
            source: io::Error::from(errno),
        }
    }
}
