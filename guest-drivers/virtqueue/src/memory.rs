//! Access to memory shared with the peer.
//!
//! One rule: all `unsafe` of this crate is here; every access is bounds-checked and atomic (or
//! volatile where the peer chose an address that is not aligned), and no reference into shared
//! memory is ever made.
#![expect(
    unsafe_code,
    reason = "rings are memory shared with a peer: raw pointers and atomics"
)]

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU16;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

use crate::config::Area;
use crate::config::QueueConfig;
use crate::error::ConfigError;

/// A span of memory shared with the peer.
///
/// A plain pointer and length: whoever made it vouches that it stays mapped while it, a copy or a
/// queue built on it is used.
#[derive(Clone, Copy, Debug)]
pub struct RingMemory {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the span is not owned and has no thread affinity; all accesses are atomic or volatile.
unsafe impl Send for RingMemory {}
// SAFETY: as for Send.
unsafe impl Sync for RingMemory {}

impl RingMemory {
    /// A span of `len` bytes at `ptr`.
    ///
    /// # Safety
    /// The bytes must stay mapped, readable and writable, for as long as the value, a copy of it,
    /// or a queue built on one of them is used; and nobody in this process may access them other
    /// than atomically, volatile or through raw copies meanwhile.
    pub const unsafe fn new(ptr: NonNull<u8>, len: usize) -> Self {
        Self { ptr, len }
    }

    /// Length in bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the span has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address in this process.
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// The `len` bytes from `offset` on, if they are inside.
    pub fn subspan(&self, offset: usize, len: usize) -> Option<Self> {
        let ptr = self.locate(offset, len)?;
        Some(Self { ptr, len })
    }

    #[inline]
    fn locate(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: `offset` is inside the span, checked above.
        Some(unsafe { self.ptr.add(offset) })
    }

    /// The little-endian value at `offset`; `None` outside or when the address is not aligned.
    #[inline]
    pub fn load_u16(&self, offset: usize) -> Option<u16> {
        Some(Cell::<u16>::new(self, offset)?.load(Ordering::Acquire))
    }

    /// Copies the bytes from `offset` on into `out`; `false`, and nothing copied, when they are not all inside.
    ///
    /// For what the ring's own order protects: a request's status after the device gave the request back.
    #[inline]
    pub fn read(&self, offset: usize, out: &mut [u8]) -> bool {
        let Some(source) = self.locate(offset, out.len()) else {
            return false;
        };
        // SAFETY: the source is mapped (contract of `new`) and inside the span; `out` is a private slice, so they do not overlap.
        unsafe {
            source
                .as_ptr()
                .copy_to_nonoverlapping(out.as_mut_ptr(), out.len())
        };
        true
    }

    /// Copies `data` to `offset`; `false`, and nothing copied, when it does not fit.
    ///
    /// For what the ring's own order protects: a request's header before the device is told of the request.
    #[inline]
    pub fn write(&self, offset: usize, data: &[u8]) -> bool {
        let Some(target) = self.locate(offset, data.len()) else {
            return false;
        };
        // SAFETY: the target is mapped (contract of `new`) and inside the span; `data` is a private slice, so they do not overlap.
        unsafe {
            target
                .as_ptr()
                .copy_from_nonoverlapping(data.as_ptr(), data.len())
        };
        true
    }

    /// Two words of 8 bytes at `offset`, read once, at any alignment.
    #[inline]
    pub(crate) fn load_pair(&self, offset: usize) -> Option<(u64, u64)> {
        let ptr = self.locate(offset, 16)?.cast::<u64>();
        if ptr.is_aligned() {
            let first = Cell { ptr }.load(Ordering::Relaxed);
            // SAFETY: the second word is inside the 16 bytes located above.
            let ptr = unsafe { ptr.add(1) };
            return Some((first, Cell { ptr }.load(Ordering::Relaxed)));
        }
        let mut bytes = [0_u8; 16];
        for (at, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: `at` is below 16 and the 16 bytes are inside the span.
            let source = unsafe { ptr.cast::<u8>().add(at) };
            // SAFETY: the byte is mapped (contract of `new`), and u8 has no alignment.
            *byte = unsafe { source.read_volatile() };
        }
        let value = u128::from_le_bytes(bytes);
        Some((value as u64, (value >> 64) as u64))
    }

    /// Writes two words of 8 bytes at `offset`; `false` outside or when not aligned to 8.
    #[inline]
    pub(crate) fn store_pair(&self, offset: usize, first: u64, second: u64) -> bool {
        let low = Cell::<u64>::new(self, offset);
        let high = offset
            .checked_add(8)
            .and_then(|offset| Cell::<u64>::new(self, offset));
        let (Some(low), Some(high)) = (low, high) else {
            return false;
        };
        low.store(first, Ordering::Relaxed);
        high.store(second, Ordering::Relaxed);
        true
    }

    /// Sets every byte to 0.
    pub(crate) fn zero(&self) {
        for at in 0..self.len {
            // SAFETY: `at` is inside the span.
            let byte = unsafe { self.ptr.add(at) };
            // SAFETY: the byte is mapped (contract of `new`), and u8 has no alignment.
            unsafe { byte.write_volatile(0) };
        }
    }
}

/// Finds what indirect descriptors refer to, in the peer's memory.
pub trait PeerMemory {
    /// The span of `len` bytes at `addr`, if all of it is mapped and contiguous here. Called with
    /// addresses the peer chose. The span is used only until the call that asked for it returns.
    fn span(&self, addr: u64, len: usize) -> Option<RingMemory>;
}

/// The three areas of a ring.
#[derive(Clone, Copy, Debug)]
pub struct Rings {
    /// Descriptor table (split) or descriptor ring (packed).
    pub descriptors: RingMemory,
    /// Available ring, or driver event suppression.
    pub driver: RingMemory,
    /// Used ring, or device event suppression.
    pub device: RingMemory,
}

impl Rings {
    /// Whether the areas are as long and aligned as `config` asks.
    pub(crate) fn check(&self, config: &QueueConfig) -> Result<(), ConfigError> {
        config.check()?;
        let layout = config.layout();
        let fits = |memory: &RingMemory, area: &Area| {
            if memory.len < area.size {
                Err(ConfigError::AreaTooSmall)
            } else if !(memory.ptr.as_ptr() as usize).is_multiple_of(area.align) {
                Err(ConfigError::AreaMisaligned)
            } else {
                Ok(())
            }
        };
        fits(&self.descriptors, &layout.descriptors)?;
        fits(&self.driver, &layout.driver)?;
        fits(&self.device, &layout.device)
    }
}

/// An integer that a [`Cell`] can hold.
pub(crate) trait Word: Copy + Default {
    /// # Safety
    /// `ptr` is aligned and mapped.
    unsafe fn load(ptr: *mut Self, order: Ordering) -> Self;
    /// # Safety
    /// `ptr` is aligned and mapped.
    unsafe fn store(ptr: *mut Self, value: Self, order: Ordering);
}

macro_rules! word {
    ($int:ty, $atomic:ty) => {
        impl Word for $int {
            #[inline]
            unsafe fn load(ptr: *mut Self, order: Ordering) -> Self {
                // SAFETY: aligned and mapped (contract), and only accessed atomically.
                let cell = unsafe { <$atomic>::from_ptr(ptr) };
                Self::from_le(cell.load(order))
            }
            #[inline]
            unsafe fn store(ptr: *mut Self, value: Self, order: Ordering) {
                // SAFETY: aligned and mapped (contract), and only accessed atomically.
                let cell = unsafe { <$atomic>::from_ptr(ptr) };
                cell.store(value.to_le(), order);
            }
        }
    };
}
word!(u16, AtomicU16);
word!(u32, AtomicU32);
word!(u64, AtomicU64);

/// One little-endian integer in shared memory; its place was checked when it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell<T> {
    ptr: NonNull<T>,
}

// SAFETY: like RingMemory, a place that is only accessed atomically.
unsafe impl<T: Word> Send for Cell<T> {}

impl<T: Word> Cell<T> {
    /// The cell at `offset`, if it is inside and aligned.
    #[inline]
    pub(crate) fn new(memory: &RingMemory, offset: usize) -> Option<Self> {
        let ptr = memory.locate(offset, size_of::<T>())?.cast::<T>();
        ptr.is_aligned().then_some(Self { ptr })
    }

    #[inline]
    pub(crate) fn load(&self, order: Ordering) -> T {
        // SAFETY: checked in `new` or `Cells::cell`; mapped by the contract of RingMemory.
        unsafe { T::load(self.ptr.as_ptr(), order) }
    }

    #[inline]
    pub(crate) fn store(&self, value: T, order: Ordering) {
        // SAFETY: checked in `new` or `Cells::cell`; mapped by the contract of RingMemory.
        unsafe { T::store(self.ptr.as_ptr(), value, order) }
    }
}

/// An array of little-endian integers in shared memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cells<T> {
    ptr: NonNull<T>,
    len: usize,
    marker: PhantomData<T>,
}

// SAFETY: like RingMemory, a place that is only accessed atomically.
unsafe impl<T: Word> Send for Cells<T> {}

impl<T: Word> Cells<T> {
    /// `len` cells from `offset` on, if they are inside and aligned.
    pub(crate) fn new(memory: &RingMemory, offset: usize, len: usize) -> Option<Self> {
        let ptr = memory
            .locate(offset, len.checked_mul(size_of::<T>())?)?
            .cast::<T>();
        ptr.is_aligned().then_some(Self {
            ptr,
            len,
            marker: PhantomData,
        })
    }

    /// The cell at `index`.
    #[inline]
    pub(crate) fn cell(&self, index: usize) -> Option<Cell<T>> {
        if index >= self.len {
            return None;
        }
        // SAFETY: below `len`, checked above.
        let ptr = unsafe { self.ptr.add(index) };
        Some(Cell { ptr })
    }

    /// The value at `index`; 0 outside, which callers exclude beforehand.
    #[inline]
    pub(crate) fn load(&self, index: usize, order: Ordering) -> T {
        self.cell(index)
            .map_or_else(T::default, |cell| cell.load(order))
    }

    /// Sets the value at `index`; does nothing outside, which callers exclude beforehand.
    #[inline]
    pub(crate) fn store(&self, index: usize, value: T, order: Ordering) {
        if let Some(cell) = self.cell(index) {
            cell.store(value, order);
        }
    }
}
