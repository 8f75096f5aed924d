//! The file behind a region: what its pages are and how they go back to the host. One rule: a page is given back by
//! punching a hole into the file, for memory that processes share is freed by nothing else (`MADV_DONTNEED` drops one
//! process's view of it and no page).

use crate::Error;
use crate::mapping::page_size_of_file;
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use nix::fcntl::fallocate;
use nix::sys::stat::fstat;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

/// How often an interrupted call is repeated.
const RETRIES: usize = 16;

/// An open file whose pages are guest memory. Regions of one file share it.
#[derive(Debug)]
pub(crate) struct Backing {
    file: OwnedFd,
    inode: (libc::dev_t, libc::ino_t),
    /// Bytes of the smallest piece that can be given back.
    pub(crate) page: u64,
    /// The file refused once, for a reason that stays: its file system cannot punch holes, or it is sealed.
    refuses: AtomicBool,
}

impl Backing {
    pub(crate) fn new(fd: BorrowedFd<'_>) -> Result<Self, Error> {
        let page = page_size_of_file(fd)?;
        let stat = fstat(fd).map_err(Error::nix("fstat"))?;
        let file = fd.try_clone_to_owned().map_err(|source| Error::System {
            call: "dup",
            source,
        })?;
        Ok(Self {
            file,
            inode: (stat.st_dev, stat.st_ino),
            page,
            refuses: AtomicBool::new(false),
        })
    }

    /// Whether `fd` is the same file.
    pub(crate) fn is(&self, fd: BorrowedFd<'_>) -> bool {
        fstat(fd).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.inode)
    }

    /// Whether pages cannot be given back.
    pub(crate) fn refuses(&self) -> bool {
        self.refuses.load(Ordering::Relaxed)
    }

    /// Gives whole pages back; `false` when the file keeps them.
    pub(crate) fn punch(&self, offset: u64, len: u64) -> bool {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if self.refuses() {
            return false;
        }
        match self.allocate(flags, offset, len) {
            Ok(()) => true,
            Err(errno) => {
                // EPERM: sealed against writing since it was mapped.
                if matches!(errno, Errno::EOPNOTSUPP | Errno::EPERM | Errno::ENODEV) {
                    self.refuses.store(true, Ordering::Relaxed);
                }
                false
            }
        }
    }

    /// Takes pages from the host before they are touched; `false` when it has none.
    pub(crate) fn reserve(&self, offset: u64, len: u64) -> bool {
        self.allocate(FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, len)
            .is_ok()
    }

    fn allocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> Result<(), Errno> {
        let number = |value: u64| i64::try_from(value).map_err(|_| Errno::EOVERFLOW);
        let (offset, len) = (number(offset)?, number(len)?);
        let mut result = Err(Errno::EINTR);
        for _ in 0..RETRIES {
            result = fallocate(&self.file, flags, offset, len);
            if result != Err(Errno::EINTR) {
                break;
            }
        }
        result
    }

    /// Bytes of host memory that the file has now.
    pub(crate) fn resident(&self) -> u64 {
        let blocks = fstat(&self.file).map_or(0, |stat| stat.st_blocks);
        // st_blocks counts 512 bytes on every Linux file system (stat(2)).
        u64::try_from(blocks).unwrap_or(0).saturating_mul(512)
    }
}
