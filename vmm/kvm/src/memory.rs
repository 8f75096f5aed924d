//! Guest memory as a sealed memfd, mapped shared, so that a backend process can map it too.
//!
//! Its one rule: the host reads and writes it with `pread`/`pwrite`, never through a reference, because the guest
//! and the backends change it at any time; the mapping exists for KVM alone.
#![expect(unsafe_code, reason = "mmap and munmap of guest memory")]

use core::ffi::c_void;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use nix::sys::mman::MapFlags;
use nix::sys::mman::MmapAdvise;
use nix::sys::mman::ProtFlags;

use crate::Error;
use crate::Result;

/// A shared, sealed, zero-filled memory object, mapped for as long as this value lives.
#[derive(Debug)]
pub struct GuestRam {
    fd: OwnedFd,
    address: NonNull<c_void>,
    len: usize,
}

// SAFETY: the address is a number handed to KVM and to backends; this type never dereferences it.
unsafe impl Send for GuestRam {}
// SAFETY: as for Send: all methods are system calls on the descriptor, which the kernel serialises.
unsafe impl Sync for GuestRam {}

impl GuestRam {
    /// Makes `len` bytes (a multiple of the page size) of zeroes. The object can neither shrink nor grow later, so
    /// that no holder of the descriptor can pull the memory from under the others.
    pub fn new(name: &str, len: u64) -> Result<Self> {
        let size = usize::try_from(len)
            .ok()
            .and_then(NonZeroUsize::new)
            .ok_or(Error::OutOfRange { offset: 0, len })?;
        let fd = host_os::memfd::create_sealed(name, len).map_err(Error::Memory)?;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let address = unsafe {
            nix::sys::mman::mmap(
                None,
                size,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE,
                &fd,
                0,
            )
        }
        .map_err(Error::memory("mmap"))?;
        // Huge pages are a wish: kernels without them for shared memory say no, and the VM runs all the same.
        // SAFETY: the range is the mapping just made, and the advice does not change its content.
        let _ = unsafe { nix::sys::mman::madvise(address, size.get(), MmapAdvise::MADV_HUGEPAGE) };
        Ok(Self {
            fd,
            address,
            len: size.get(),
        })
    }

    /// The length in bytes.
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// Never true: a memory has at least one byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where this process sees the first byte: what vhost-user calls the user address.
    pub fn host_address(&self) -> u64 {
        self.address.addr().get() as u64
    }

    /// The memfd, for a backend to map.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Reads bytes at `offset`.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut at = self.check(offset, out.len())?;
        let mut rest = out;
        while !rest.is_empty() {
            match nix::sys::uio::pread(&self.fd, rest, at) {
                Ok(0) => return Err(self.outside(offset, rest.len())),
                Ok(done) => {
                    at = at.saturating_add_unsigned(done as u64);
                    rest = rest.get_mut(done..).unwrap_or_default();
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::memory("pread")(errno)),
            }
        }
        Ok(())
    }

    /// Writes bytes at `offset`.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut at = self.check(offset, data.len())?;
        let mut rest = data;
        while !rest.is_empty() {
            match nix::sys::uio::pwrite(&self.fd, rest, at) {
                Ok(0) => return Err(self.outside(offset, rest.len())),
                Ok(done) => {
                    at = at.saturating_add_unsigned(done as u64);
                    rest = rest.get(done..).unwrap_or_default();
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::memory("pwrite")(errno)),
            }
        }
        Ok(())
    }

    /// Fills a range with zeroes and gives its pages back to the host.
    pub fn zero(&self, offset: u64, len: u64) -> Result<()> {
        let outside = Error::OutOfRange { offset, len };
        let Ok(size) = usize::try_from(len) else {
            return Err(outside);
        };
        let at = self.check(offset, size)?;
        let Ok(len) = i64::try_from(len) else {
            return Err(outside);
        };
        if len == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        nix::fcntl::fallocate(&self.fd, flags, at, len).map_err(Error::memory("fallocate"))
    }

    /// The file offset of a range that lies inside the memory.
    fn check(&self, offset: u64, len: usize) -> Result<i64> {
        let inside = offset
            .checked_add(len as u64)
            .is_some_and(|end| end <= self.len());
        match i64::try_from(offset) {
            Ok(at) if inside => Ok(at),
            _ => Err(self.outside(offset, len)),
        }
    }

    fn outside(&self, offset: u64, len: usize) -> Error {
        Error::OutOfRange {
            offset,
            len: len as u64,
        }
    }
}

impl Drop for GuestRam {
    fn drop(&mut self) {
        // SAFETY: the range is our own mapping; memory slots hold an Arc of this value, so no VM uses it any more.
        let _ = unsafe { nix::sys::mman::munmap(self.address, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_zeroing_clears_it() {
        let memory = GuestRam::new("test", 0x4000).unwrap();
        memory.write(0xffe, &[1, 2, 3, 4]).unwrap();
        let mut out = [0; 4];
        memory.read(0xffe, &mut out).unwrap();
        assert_eq!(out, [1, 2, 3, 4]);
        memory.zero(0xfff, 2).unwrap();
        memory.read(0xffe, &mut out).unwrap();
        assert_eq!(out, [1, 0, 0, 4]);
    }

    #[test]
    fn accesses_outside_are_refused() {
        let memory = GuestRam::new("test", 0x1000).unwrap();
        assert!(memory.write(0xfff, &[0, 0]).is_err());
        assert!(memory.read(u64::MAX, &mut [0]).is_err());
        assert!(memory.zero(0, 0x1001).is_err());
        assert!(memory.read(0x1000, &mut []).is_ok());
    }

    #[test]
    fn nobody_can_shrink_the_memory() {
        let memory = GuestRam::new("test", 0x2000).unwrap();
        assert_eq!(nix::unistd::ftruncate(memory.fd(), 0), Err(Errno::EPERM));
    }
}
