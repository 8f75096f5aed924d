//! The discard of a block device: nothing but its own request asks for one (`fallocate` makes zeroes).
#![expect(unsafe_code, reason = "an ioctl")]

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

nix::ioctl_write_ptr_bad!(blkdiscard, 0x1277, [u64; 2]);

/// Discards `length` bytes at `offset`.
pub(super) fn discard(disk: &File, offset: u64, length: u64) -> Result<(), Errno> {
    let range = [offset, length];
    // SAFETY: the kernel reads the two numbers, which live until the call returns.
    unsafe { blkdiscard(disk.as_raw_fd(), &raw const range) }.map(drop)
}
