//! Opens the disk's bytes: an image file, a block device, or memory.
//!
//! Rule: the content is never looked at; what the bytes mean is the guest's affair.

use std::fs::File;
use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::fcntl;
use nix::sys::statfs::HUGETLBFS_MAGIC;
use nix::sys::statfs::TMPFS_MAGIC;
use nix::sys::statfs::fstatfs;
use nix::sys::uio::pread;
use nix::unistd::Whence;
use nix::unistd::lseek;

use crate::BlockSpec;
use crate::CacheMode;
use crate::Error;
use crate::engine::sys;
use crate::engine::work::Bounce;
use crate::lock;
use crate::lock::Lock;

/// What kind of thing holds the bytes; it decides how ranges are discarded and zeroed and which engine pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file on a disk file system.
    File,
    /// A file whose pages are memory (tmpfs, or a memory disk).
    MemoryFile,
    /// A file of huge pages, which the kernel lets nobody write() to.
    HugeFile,
    /// A block device.
    Device,
}

/// Alignment that O_DIRECT asks for, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirectAlign {
    /// Of buffers in memory.
    pub memory: usize,
    /// Of offsets and lengths.
    pub offset: u32,
}

/// An open image; its size may change while it is open.
#[derive(Debug)]
pub(crate) struct Image {
    pub file: File,
    pub kind: Kind,
    pub path: PathBuf,
    /// Set when the file was opened past the page cache.
    direct: Option<DirectAlign>,
    /// The page cache is used after all.
    cached: AtomicBool,
    /// Bytes per page of the file, the granule in which it is allocated.
    pub granule: u64,
    /// Bytes that a discard or zeroing must begin and end on: a device's logical sector.
    pub sector: u64,
    /// Bytes, whole logical blocks.
    size: AtomicU64,
    /// Bytes that there were when the size was read last.
    end: AtomicU64,
    block_size: u64,
    lock: Lock,
}

impl Image {
    /// Opens what `spec` names; it is locked when the first queue starts.
    pub fn open(spec: &BlockSpec) -> Result<Self, Error> {
        let (file, path) = match (&spec.path, spec.memory_disk) {
            (Some(path), None) => (open_file(path, spec)?, path.clone()),
            (None, Some(size)) => (memory(size.0)?, PathBuf::from("memory disk")),
            _ => return Err(Error::Spec(vec!["give `path` or `memory-disk`".to_owned()])),
        };
        let fail = |source| Error::Open {
            path: path.clone(),
            source,
        };
        let meta = file.metadata().map_err(fail)?;
        let fs = fstatfs(file.as_fd()).map_err(|errno| fail(errno.into()))?;
        let kind = if meta.file_type().is_block_device() {
            Kind::Device
        } else if !meta.file_type().is_file() {
            return Err(Error::NotADisk { path });
        } else if fs.filesystem_type() == HUGETLBFS_MAGIC {
            Kind::HugeFile
        } else if fs.filesystem_type() == TMPFS_MAGIC {
            Kind::MemoryFile
        } else {
            Kind::File
        };
        let lock = Lock::new(spec);
        lock.try_out(&file, &path)?;
        let device = kind == Kind::Device;
        if device && !spec.readonly && sys::is_readonly(&file) {
            return Err(Error::ReadOnlyDevice { path });
        }
        let past_cache = spec.cache == CacheMode::None && matches!(kind, Kind::File | Kind::Device);
        let direct = past_cache.then(|| sys::direct_align(&file, device));
        let granule = u64::try_from(fs.block_size()).unwrap_or(4096).max(4096);
        let image = Self {
            block_size: u64::from(spec.block_size),
            size: AtomicU64::new(0),
            end: AtomicU64::new(0),
            cached: AtomicBool::new(false),
            sector: if device { sys::sector_size(&file) } else { 1 },
            direct: direct.map(|align| DirectAlign {
                offset: align.offset.min(spec.block_size),
                ..align
            }),
            file,
            kind,
            path,
            granule,
            lock,
        };
        image.refresh_size()?;
        if let Some(align) = direct.filter(|align| align.offset > spec.block_size) {
            image.try_direct(align.offset);
        }
        Ok(image)
    }

    /// Locks the image for `queue`; whether no queue had it locked before.
    pub fn hold(&self, queue: u16) -> Result<bool, Error> {
        self.lock.hold(&self.file, &self.path, queue)
    }

    /// `queue` has ended, or all have: with the last one the image is unlocked.
    pub fn let_go(&self, queue: Option<u16>) {
        self.lock.let_go(&self.file, queue);
    }

    /// The image stays locked as long as this process lives.
    pub fn keep_locked(&self) {
        self.lock.keep();
    }

    /// Bytes that the disk offers now.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Bytes that there were when the size was read last; a last block that is cut off makes the size more.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Reads the size anew; returns it in bytes, in whole blocks.
    ///
    /// A file that ends within a block has it whole: what is not there reads as zero, and the file grows when the guest
    /// writes it. A device cannot grow: what does not fill a block is left out.
    pub fn refresh_size(&self) -> Result<u64, Error> {
        let end = self.length().map_err(|errno| Error::Open {
            path: self.path.clone(),
            source: errno.into(),
        })?;
        let size = match self.kind {
            Kind::Device => end - end % self.block_size,
            _ => end.next_multiple_of(self.block_size),
        };
        if size < end {
            tracing::warn!(path = %self.path.display(), bytes = end - size,
                "the device does not end on a block border, its last bytes are left out");
        } else if size > end {
            tracing::info!(path = %self.path.display(), bytes = size - end,
                "the image does not end on a block border: its last block is filled up with zeroes, and the file grows \
                 when the guest writes there");
        }
        self.end.store(end, Ordering::Release);
        self.size.store(size, Ordering::Release);
        Ok(size)
    }

    /// What the size would be if it were read now.
    pub fn size_now(&self) -> u64 {
        let end = self.length().unwrap_or(0);
        end.next_multiple_of(self.block_size)
    }

    fn length(&self) -> Result<u64, Errno> {
        let end = lseek(&self.file, 0, Whence::SeekEnd)?;
        Ok(u64::try_from(end).unwrap_or_default())
    }

    /// Whether `position`, where a read found the end of the file, lies in the last block's missing part. An image that
    /// was truncated under us has no such part.
    pub fn is_padding(&self, position: u64) -> bool {
        let missing = self.end()..self.size();
        missing.contains(&position) && self.length().is_ok_and(|length| length <= position)
    }

    /// What O_DIRECT asks of requests, while the page cache is passed by.
    #[inline]
    pub fn direct(&self) -> Option<DirectAlign> {
        self.direct.filter(|_| !self.cached.load(Ordering::Relaxed))
    }

    /// Asks whether direct I/O works in blocks of the disk, though the file system names larger ones: a file of which
    /// `cp --reflink` made a snapshot has such on XFS, which takes the smaller ones all the same.
    fn try_direct(&self, named: u32) {
        let len = usize::try_from(self.block_size).unwrap_or(0);
        let mut bytes = Bounce::new(len);
        let at = i64::try_from(self.block_size).unwrap_or(0);
        match pread(&self.file, bytes.slice(len), at) {
            Err(Errno::EINVAL) => self.leave_direct(),
            _ => tracing::info!(path = %self.path.display(),
                "the file system has direct I/O in units of {named} bytes; it may be slow in smaller ones"),
        }
    }

    /// Goes through the page cache from now on, because direct I/O was refused; a flush makes writes durable as before.
    /// What is refused may change while the image is open: by a snapshot, by a device's new sector size.
    #[cold]
    pub fn leave_direct(&self) {
        if self.cached.swap(true, Ordering::Relaxed) {
            return;
        }
        // All engines and queues share the open file description, and so this flag of it.
        let flags = FcntlArg::F_SETFL(OFlag::empty());
        let failed = fcntl(&self.file, flags).err();
        tracing::warn!(path = %self.path.display(), ?failed,
            "no direct I/O in blocks of {} bytes here: the page cache is used, as with --cache writeback. A new disk \
             goes past it with --block-size 4096; the partition table of an existing one would be unreadable with that",
            self.block_size);
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        lock::unlock(&self.file);
    }
}

fn open_file(path: &Path, spec: &BlockSpec) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.read(true).write(!spec.readonly);
    // A FIFO or a tty in place of an image must not hold the daemon up.
    let mut flags = libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
    if spec.cache == CacheMode::None && !on_memory(path) {
        flags |= libc::O_DIRECT;
    }
    let file = options
        .custom_flags(flags)
        .open(path)
        .map_err(|source| Error::Open {
            path: path.to_owned(),
            source,
        })?;
    // io_uring would answer EAGAIN instead of waiting.
    let keep = OFlag::from_bits_truncate(flags) & OFlag::O_DIRECT;
    let _ = fcntl(&file, FcntlArg::F_SETFL(keep));
    Ok(file)
}

/// Whether the file system of `path` keeps its files in memory, where O_DIRECT has nothing to bypass.
fn on_memory(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|fs| {
        let kind = fs.filesystem_type();
        (kind == TMPFS_MAGIC || kind == HUGETLBFS_MAGIC) && path.is_file()
    })
}

fn memory(bytes: u64) -> Result<File, Error> {
    let made = host_os::memfd::create("memory disk", bytes);
    made.map(File::from).map_err(|error| Error::Open {
        path: PathBuf::from("memory disk"),
        source: error.into(),
    })
}
