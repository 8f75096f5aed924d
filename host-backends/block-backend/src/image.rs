//! Opens the disk's bytes: an image file, a block device, or memory.
//!
//! Rule: the content is never looked at; what the bytes mean is the guest's affair.

use std::fs::File;
use std::fs::OpenOptions;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::fcntl;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::sys::statfs::HUGETLBFS_MAGIC;
use nix::sys::statfs::TMPFS_MAGIC;
use nix::sys::statfs::fstatfs;
use nix::unistd::Whence;
use nix::unistd::lseek;

use crate::BlockSpec;
use crate::CacheMode;
use crate::Error;
use crate::LockChoice;
use crate::engine::sys;
use crate::lock;

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
    /// Set when the file is open past the page cache.
    pub direct: Option<DirectAlign>,
    /// Bytes per page of the file, the granule in which it is allocated.
    pub granule: u64,
    /// Bytes, rounded down to whole logical blocks.
    size: AtomicU64,
    block_size: u64,
    identity: String,
}

impl Image {
    /// Opens and locks what `spec` names.
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
        if spec.path.is_some() && spec.lock == LockChoice::On {
            let patience = Duration::from_millis(u64::from(spec.lock_wait_ms));
            lock::lock(&file, &path, spec.readonly, patience)?;
        }
        let direct = direct_align(&file, kind, spec, &path)?;
        let granule = u64::try_from(fs.block_size()).unwrap_or(4096).max(4096);
        let image = Self {
            identity: format!("{:x}-{:x}", meta.dev(), meta.ino()),
            block_size: u64::from(spec.block_size),
            size: AtomicU64::new(0),
            file,
            kind,
            path,
            direct,
            granule,
        };
        image.refresh_size()?;
        Ok(image)
    }

    /// Bytes that the disk offers now.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Reads the size anew; returns it in bytes, rounded down to whole blocks.
    pub fn refresh_size(&self) -> Result<u64, Error> {
        let end = lseek(&self.file, 0, Whence::SeekEnd).map_err(|errno| Error::Open {
            path: self.path.clone(),
            source: errno.into(),
        })?;
        let end = u64::try_from(end).unwrap_or_default();
        let size = end - end % self.block_size;
        if size != end {
            tracing::warn!(path = %self.path.display(), bytes = end - size,
                "image does not end on a block border, its last bytes are left out");
        }
        self.size.store(size, Ordering::Release);
        Ok(size)
    }

    /// A name for the disk that stays the same as long as the image does.
    pub fn identity(&self) -> &str {
        &self.identity
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
    let make = || -> Result<File, nix::Error> {
        let fd = memfd_create(c"memory disk", MFdFlags::MFD_CLOEXEC)?;
        let bytes = i64::try_from(bytes).map_err(|_| nix::Error::EFBIG)?;
        nix::unistd::ftruncate(&fd, bytes)?;
        Ok(fd.into())
    };
    make().map_err(|errno| Error::Open {
        path: PathBuf::from("memory disk"),
        source: errno.into(),
    })
}

fn direct_align(
    file: &File,
    kind: Kind,
    spec: &BlockSpec,
    path: &Path,
) -> Result<Option<DirectAlign>, Error> {
    if spec.cache != CacheMode::None || !matches!(kind, Kind::File | Kind::Device) {
        return Ok(None);
    }
    let align = sys::direct_align(file, kind == Kind::Device);
    if align.offset > spec.block_size {
        return Err(Error::DirectBlockSize {
            path: path.to_owned(),
            needed: align.offset,
            given: spec.block_size,
        });
    }
    Ok(Some(align))
}
