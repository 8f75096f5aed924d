//! A small shared area read and written by fields (in-flight record, dirty log). One rule: every access is
//! bounds-checked, aligned and atomic, because a peer may write the same bytes at any time.
#![expect(unsafe_code, reason = "atomics on mapped memory")]

use crate::Access;
use crate::Error;
use crate::Mapping;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// A mapped shared area.
#[derive(Debug)]
pub struct SharedMemory {
    mapping: Mapping,
}

macro_rules! accessors {
    ($($load:ident $store:ident $atomic:ident $value:ident)*) => {$(
        /// Loads the field at `offset`; zero if it is out of bounds or unaligned.
        #[inline]
        pub fn $load(&self, offset: usize, order: Ordering) -> $value {
            self.at::<$atomic>(offset).map_or(0, |field| field.load(order))
        }

        /// Stores the field at `offset`; nothing happens if it is out of bounds or unaligned.
        #[inline]
        pub fn $store(&self, offset: usize, value: $value, order: Ordering) {
            if let Some(field) = self.at::<$atomic>(offset) {
                field.store(value, order);
            }
        }
    )*};
}

impl SharedMemory {
    /// Maps `len` bytes at `offset` of a peer's file.
    pub fn from_fd(fd: BorrowedFd<'_>, offset: u64, len: u64) -> Result<Self, Error> {
        Ok(Self {
            mapping: Mapping::new(fd, offset, len, Access::ReadWrite)?,
        })
    }

    /// Makes a zeroed memfd of `len` bytes, sealed against resizing, and maps it.
    pub fn create(name: &str, len: u64) -> Result<(Self, OwnedFd), Error> {
        let fd = host_os::memfd::create_sealed(name, len)?;
        let memory = Self::from_fd(fd.as_fd(), 0, len)?;
        Ok((memory, fd))
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// Whether there are no bytes; never true.
    pub fn is_empty(&self) -> bool {
        self.mapping.is_empty()
    }

    /// Whether the peer truncated the file under us.
    pub fn poisoned(&self) -> bool {
        self.mapping.poisoned()
    }

    accessors! {
        load_u8 store_u8 AtomicU8 u8
        load_u16 store_u16 AtomicU16 u16
        load_u32 store_u32 AtomicU32 u32
        load_u64 store_u64 AtomicU64 u64
    }

    /// Sets `bits` in the byte at `offset`; skips the write when all are set already.
    #[inline]
    pub fn set_bits_u8(&self, offset: usize, bits: u8) {
        if let Some(byte) = self.at::<AtomicU8>(offset)
            && byte.load(Ordering::Relaxed) & bits != bits
        {
            byte.fetch_or(bits, Ordering::Release);
        }
    }

    #[inline]
    fn at<T>(&self, offset: usize) -> Option<&T> {
        let ptr = self.mapping.span(offset, size_of::<T>())?.cast::<T>();
        if !ptr.is_aligned() {
            return None;
        }
        // SAFETY: in bounds, aligned, mapped as long as self; T is one of the atomics above, for which any bytes
        // are valid and which tolerate writers elsewhere.
        Some(unsafe { ptr.as_ref() })
    }
}
