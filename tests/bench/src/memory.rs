//! A shared memory area: what stands in for guest RAM.
#![expect(unsafe_code, reason = "raw mapping shared with another process")]

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::ptr::NonNull;

use anyhow::Context;
use anyhow::Result;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::mmap;
use nix::sys::mman::munmap;

/// A memfd, mapped and populated.
pub struct SharedMemory {
    fd: OwnedFd,
    start: NonNull<c_void>,
    len: usize,
}

impl SharedMemory {
    /// Maps `len` bytes of fresh shared memory.
    pub fn new(len: usize) -> Result<Self> {
        let fd = host_os::memfd::create("bench-ram", len as u64)?;
        let size = NonZeroUsize::new(len).context("memory of no bytes")?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe { mmap(None, size, prot, flags, &fd, 0) }?;
        Ok(Self { fd, start, len })
    }

    /// Address of byte `offset`; the caller stays within the length it asked for.
    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len, "offset inside the area");
        self.start.as_ptr().cast::<u8>().wrapping_add(offset)
    }

    /// Address of the first byte.
    pub fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The memfd.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`, unused from here on.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}
