//! A guarded shared mapping of a file. One rule: a range that the file does not back today is refused, and one
//! that it stops backing tomorrow is poisoned.
#![expect(unsafe_code, reason = "mmap")]

use crate::Error;
use crate::sigbus::Guard;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::statfs::FsType;
use nix::sys::statfs::HUGETLBFS_MAGIC;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// Magic numbers of the file systems whose pages this host's kernel has or reads from its own disks: tmpfs (memfd too),
/// hugetlbfs, ramfs, ext2 to ext4, XFS, Btrfs, F2FS, bcachefs, ZFS. Behind any other (FUSE, a network, an overlay that hides
/// one) another process may leave a page fault unanswered, and with it the worker of a neighbour that copies a frame.
const PROMPT: &[FsType] = &[
    FsType(0x0102_1994),
    HUGETLBFS_MAGIC,
    FsType(0x8584_58f6),
    FsType(0xef53),
    FsType(0x5846_5342),
    FsType(0x9123_683e),
    FsType(0xf2f5_2010),
    FsType(0xca45_1a4e),
    FsType(0x2fc1_2fc1),
];

/// What a mapping may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads only.
    Read,
    /// Reads and writes.
    ReadWrite,
}

/// Bytes of a file, mapped shared, guarded against truncation. Unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<libc::c_void>,
    mapped: usize,
    start: NonNull<u8>,
    len: usize,
    guard: Option<Guard>,
}

// SAFETY: the mapping is plain memory owned by this value; every access goes through raw pointers or atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above; shared access is what the memory is for.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of the regular file `fd` from `offset` (any alignment).
    pub fn new(fd: BorrowedFd<'_>, offset: u64, len: u64, access: Access) -> Result<Self, Error> {
        let page = page_size_of_file(fd)?;
        let needed = offset
            .checked_add(len)
            .ok_or(Error::RegionOverflow(offset))?;
        check_size(fd, needed)?;
        let slack = offset % page;
        let mapped = (slack + len).next_multiple_of(page);
        let too_big = |_| Error::RegionOverflow(offset);
        let mapped = usize::try_from(mapped).map_err(too_big)?;
        let length = NonZeroUsize::new(mapped).ok_or(Error::EmptyRegion(offset))?;
        let prot = match access {
            Access::Read => ProtFlags::PROT_READ,
            Access::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        let at = i64::try_from(offset - slack).map_err(too_big)?;
        // SAFETY: a new mapping at an address of the kernel's choice disturbs no existing memory.
        let base = unsafe { nix::sys::mman::mmap(None, length, prot, flags, fd, at) }
            .map_err(Error::nix("mmap"))?;
        // SAFETY: slack is below one page, and at least one page is mapped.
        let start = unsafe { base.cast::<u8>().add(slack as usize) };
        let mut mapping = Self {
            base,
            mapped,
            start,
            len: len as usize,
            guard: None,
        };
        // SAFETY: this value owns the whole mapping until it is dropped, and its users expect poisoning.
        let guard = unsafe { Guard::new(base.as_ptr() as usize, mapped, page as usize) }?;
        mapping.guard = Some(guard);
        Ok(mapping)
    }

    /// First byte. The memory stays mapped as long as this value lives; the peer may change it at any time.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes from [`Self::as_ptr`].
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the mapping has no bytes; never true, an empty one is refused.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether a page was lost to truncation; its content is then void.
    pub fn poisoned(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::poisoned)
    }

    /// The address `offset` bytes in, if `len` bytes follow inside the mapping.
    pub fn span(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: offset was just checked against the mapping's length.
        Some(unsafe { self.start.add(offset) })
    }

    /// Makes the page table entries of `len` bytes from `offset` on in one call, instead of a fault each. A hint:
    /// what cannot be made now faults later. Holes in the range are filled, as a read of them would.
    pub fn populate(&self, offset: usize, len: usize) {
        let Some(start) = self.span(offset, len) else {
            return;
        };
        let start = start.cast();
        // SAFETY: the range lies inside the mapping; populating it changes no byte. A kernel before 5.14 refuses.
        let _ = unsafe { libc::madvise(start.as_ptr(), len, libc::MADV_POPULATE_READ) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // The guard goes first: after munmap the range may belong to someone else.
        self.guard = None;
        // SAFETY: base and mapped are what mmap returned, and no borrow of the memory outlives this value.
        let _ = unsafe { nix::sys::mman::munmap(self.base, self.mapped) };
    }
}

/// Page size of the file's mappings: the huge page's for hugetlbfs, whose lengths must be multiples of it.
pub(crate) fn page_size_of_file(fd: BorrowedFd<'_>) -> Result<u64, Error> {
    let stat = nix::sys::stat::fstat(fd).map_err(Error::nix("fstat"))?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Error::NotMappable);
    }
    let fs = nix::sys::statfs::fstatfs(fd).map_err(Error::nix("fstatfs"))?;
    if !PROMPT.contains(&fs.filesystem_type()) {
        return Err(Error::ForeignPages);
    }
    if fs.filesystem_type() != HUGETLBFS_MAGIC {
        return Ok(4096);
    }
    let page = u64::try_from(fs.block_size()).unwrap_or(0);
    if page.is_power_of_two() {
        Ok(page)
    } else {
        Err(Error::NotMappable)
    }
}

fn check_size(fd: BorrowedFd<'_>, needed: u64) -> Result<(), Error> {
    let stat = nix::sys::stat::fstat(fd).map_err(Error::nix("fstat"))?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size < needed {
        return Err(Error::FileTooSmall { size, needed });
    }
    Ok(())
}
