//! What can go wrong with a disk, apart from a guest's requests, which fail with a status instead.

use std::path::PathBuf;

use nix::errno::Errno;
use thiserror::Error;

/// Why a disk could not be opened or changed.
#[derive(Debug, Error)]
pub enum Error {
    /// The specification is wrong; every fault with its mend.
    #[error("Disk specification is wrong: {}", .0.join("; "))]
    Spec(Vec<String>),
    /// Cannot open the image.
    #[error("Cannot open the image {}{}", path.display(), hint(source))]
    Open {
        /// The image.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not an image.
    #[error("{} is neither a regular file nor a block device", path.display())]
    NotADisk {
        /// What was named.
        path: PathBuf,
    },
    /// The image is in use.
    #[error(
        "The image {} is in use by {held}: stop that, open it read-only on both sides, or pass --lock off if you are \
         sure that nobody writes to it", path.display()
    )]
    Locked {
        /// The image.
        path: PathBuf,
        /// By whom.
        held: String,
    },
    /// The file system knows no locks.
    #[error("Cannot lock the image {}: pass --lock off to do without", path.display())]
    Lock {
        /// The image.
        path: PathBuf,
        /// Why.
        source: Errno,
    },
    /// A device that refuses writes.
    #[error(
        "The device {} is read-only: pass --readonly, or make it writable (blockdev --setrw)", path.display()
    )]
    ReadOnlyDevice {
        /// The device.
        path: PathBuf,
    },
    /// The image cannot be mapped.
    #[error("Cannot map the image {}: pass --engine uring or --engine sync", path.display())]
    Map {
        /// The image.
        path: PathBuf,
        /// Why.
        source: guest_memory::Error,
    },
    /// The map engine is for memory file systems.
    #[error(
        "The map engine serves only images on tmpfs or hugetlbfs, where a page is never waited for; {} is not: pass \
         --engine auto", path.display()
    )]
    MapEngine {
        /// The image.
        path: PathBuf,
    },
    /// No io_uring here.
    #[error(
        "Cannot set up io_uring: allow it (sysctl kernel.io_uring_disabled, the container's seccomp profile, the memory \
         lock limit), or pass --engine sync"
    )]
    Uring(#[source] Errno),
    /// Only a memory disk takes a new size from us.
    #[error("Only a memory disk can be given a size; change the size of {} itself, then resize without one", path.display())]
    ResizeImage {
        /// The image.
        path: PathBuf,
    },
    /// The new size is no good.
    #[error("{bytes} bytes is no size for this disk: give a multiple of {block_size}, not 0")]
    ResizeTo {
        /// Asked for.
        bytes: u64,
        /// Logical block size.
        block_size: u32,
    },
}

fn hint(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::NotFound => ": make it first, for example by truncate -s 10G IMAGE",
        std::io::ErrorKind::PermissionDenied => {
            ": give this user read and write access (chmod, chattr -i), or pass --readonly if it may only read"
        }
        std::io::ErrorKind::ReadOnlyFilesystem => ": pass --readonly",
        std::io::ErrorKind::ExecutableFileBusy => ": it is in use as swap space",
        std::io::ErrorKind::InvalidInput => {
            ": the file system may not support direct I/O, then pass --cache writeback"
        }
        _ => "",
    }
}
