//! The system calls that need raw pointers, as safe functions where that can be.
//!
//! Rule: nothing here decides anything; one call, its result, its errno.
#![expect(unsafe_code, reason = "system calls that take raw pointers")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::image::DirectAlign;

/// Most buffers that one vectored call takes (IOV_MAX).
pub(crate) const IOV_MAX: usize = 1024;

nix::ioctl_write_ptr_bad!(blkdiscard, 0x1277, [u64; 2]);
nix::ioctl_read_bad!(blksszget, 0x1268, libc::c_int);
nix::ioctl_read_bad!(blkroget, 0x125e, libc::c_int);

/// Reads into `buffers` at `offset`; returns the bytes read, which may be fewer than asked.
///
/// # Safety
/// Every buffer must be mapped memory that nothing in this process holds a Rust reference to, until the call returns.
pub(crate) unsafe fn read(
    fd: RawFd,
    buffers: &[libc::iovec],
    offset: u64,
    flags: i32,
) -> Result<usize, Errno> {
    let count = buffers.len().min(IOV_MAX);
    let (Ok(count), Ok(offset)) = (libc::c_int::try_from(count), i64::try_from(offset)) else {
        return Err(Errno::EINVAL);
    };
    // SAFETY: the pointer and count come from one slice; the caller vouches for the buffers.
    let got = unsafe { libc::preadv2(fd, buffers.as_ptr(), count, offset, flags) };
    usize::try_from(got).map_err(|_| Errno::last())
}

/// Writes `buffers` at `offset`; returns the bytes written, which may be fewer than asked.
///
/// # Safety
/// Every buffer must be mapped memory until the call returns.
pub(crate) unsafe fn write(
    fd: RawFd,
    buffers: &[libc::iovec],
    offset: u64,
    flags: i32,
) -> Result<usize, Errno> {
    let count = buffers.len().min(IOV_MAX);
    let (Ok(count), Ok(offset)) = (libc::c_int::try_from(count), i64::try_from(offset)) else {
        return Err(Errno::EINVAL);
    };
    // SAFETY: the pointer and count come from one slice; the caller vouches for the buffers.
    let put = unsafe { libc::pwritev2(fd, buffers.as_ptr(), count, offset, flags) };
    usize::try_from(put).map_err(|_| Errno::last())
}

/// Asks whether a write-back of the image failed since the last question to this open file description; waits for none.
pub(crate) fn write_back_error(file: &File) -> Result<(), Errno> {
    /// Where no image has a page to wait for.
    const NOWHERE: i64 = i64::MAX & !0xffff;
    // SAFETY: the call takes no pointer.
    let answer = unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            NOWHERE,
            1,
            libc::SYNC_FILE_RANGE_WAIT_BEFORE,
        )
    };
    Errno::result(answer).map(drop)
}

/// Gives a range of a block device back to it (BLKDISCARD).
pub(crate) fn discard_device(fd: RawFd, offset: u64, len: u64) -> Result<(), Errno> {
    // SAFETY: the ioctl reads two u64 from the array, which lives across the call.
    unsafe { blkdiscard(fd, &[offset, len]) }.map(drop)
}

/// What O_DIRECT on `file` asks for; where the kernel does not say, the strictest that is usual.
pub(crate) fn direct_align(file: &File, device: bool) -> DirectAlign {
    if let Some(align) = direct_align_statx(file) {
        return align;
    }
    let sector = if device { sector_size(file) } else { 512 };
    DirectAlign {
        memory: 4096,
        offset: u32::try_from(sector).unwrap_or(512),
    }
}

/// Bytes of a block device's logical sector (BLKSSZGET); 512 where it does not say.
pub(crate) fn sector_size(device: &File) -> u64 {
    let mut sector = 0;
    // SAFETY: the ioctl writes one int to the variable, which lives across the call.
    let _ = unsafe { blksszget(device.as_raw_fd(), &raw mut sector) };
    u64::try_from(sector).unwrap_or(0).max(512)
}

/// Whether a block device refuses writes (BLKROGET), which an open for writing does not tell.
pub(crate) fn is_readonly(device: &File) -> bool {
    let mut readonly = 0;
    // SAFETY: the ioctl writes one int to the variable, which lives across the call.
    let asked = unsafe { blkroget(device.as_raw_fd(), &raw mut readonly) };
    asked.is_ok() && readonly != 0
}

fn direct_align_statx(file: &File) -> Option<DirectAlign> {
    let mut out = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the empty path with AT_EMPTY_PATH names the descriptor; `out` has room for one struct statx.
    let failed = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            out.as_mut_ptr(),
        )
    };
    // SAFETY: a struct of plain integers, zeroed above and filled by the kernel.
    let stat = unsafe { out.assume_init() };
    if failed != 0 || stat.stx_mask & libc::STATX_DIOALIGN == 0 || stat.stx_dio_offset_align == 0 {
        return None;
    }
    Some(DirectAlign {
        memory: usize::try_from(stat.stx_dio_mem_align).ok()?.max(1),
        offset: stat.stx_dio_offset_align,
    })
}
