//! The dirty log (the vhost-user document, "Migration"). One rule: a bit is set after the data it stands for and
//! before the driver can see the buffer as used; marking too much is allowed, too little never.

use crate::Error;
use crate::SharedMemory;
use std::os::fd::BorrowedFd;

/// Bytes that one bit stands for (`VHOST_LOG_PAGE`).
pub const LOG_PAGE: u64 = 4096;

/// A bitmap shared with the front-end: bit n is guest page n.
#[derive(Debug)]
pub struct DirtyLog {
    bits: SharedMemory,
}

impl DirtyLog {
    /// Maps the log from `SET_LOG_BASE`; `size` and `offset` in bytes.
    pub fn new(fd: BorrowedFd<'_>, offset: u64, size: u64) -> Result<Self, Error> {
        Ok(Self {
            bits: SharedMemory::from_fd(fd, offset, size)?,
        })
    }

    /// First guest address that the log does not cover.
    pub fn covered(&self) -> u64 {
        (self.bits.len() as u64).saturating_mul(8 * LOG_PAGE)
    }

    /// Whether the front-end truncated the log under us.
    pub fn poisoned(&self) -> bool {
        self.bits.poisoned()
    }

    /// Marks every page that `len` bytes at `addr` touch. Pages beyond the log are skipped: the session refuses a
    /// log that does not cover memory, so only a used-ring address (free to lie anywhere) can get there.
    pub fn mark(&self, addr: u64, len: u64) {
        if len == 0 {
            return;
        }
        let first = addr / LOG_PAGE;
        let end = addr
            .saturating_add(len - 1)
            .min(self.covered().saturating_sub(1));
        let last = end / LOG_PAGE;
        let mut page = first;
        while page <= last {
            let byte = page / 8;
            let from = page % 8;
            let to = (last - byte * 8).min(7);
            let mask = (0xff_u8 << from) & (0xff_u8 >> (7 - to));
            self.bits.set_bits_u8(byte as usize, mask);
            page = (byte + 1) * 8;
        }
    }

    /// Whether the page at `addr` is marked; for tests and statistics.
    pub fn is_marked(&self, addr: u64) -> bool {
        let page = addr / LOG_PAGE;
        let order = std::sync::atomic::Ordering::Acquire;
        usize::try_from(page / 8)
            .is_ok_and(|byte| self.bits.load_u8(byte, order) & (1 << (page % 8)) != 0)
    }
}
