//! Access to memory shared with the peer.
//!
//! One rule: all `unsafe` of this crate is here; every access is bounds-checked and atomic (by
//! bytes where the peer chose an address that is not aligned), and no reference into shared memory
//! is ever made.
#![expect(
    unsafe_code,
    reason = "rings are memory shared with a peer: raw pointers and atomics"
)]

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU8;
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

// SAFETY: the span is not owned and has no thread affinity; all accesses are atomic.
unsafe impl Send for RingMemory {}
// SAFETY: as for Send.
unsafe impl Sync for RingMemory {}

impl RingMemory {
    /// A span of `len` bytes at `ptr`.
    ///
    /// # Safety
    /// The bytes must stay mapped, readable and writable, for as long as the value, a copy of it,
    /// or a queue built on one of them is used; and no Rust reference to them may exist meanwhile.
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

    /// Copies the bytes from `offset` on into `out`; `false`, and nothing copied, when they are not
    /// all inside. What the peer writes meanwhile may be seen in part.
    #[inline]
    pub fn read(&self, offset: usize, out: &mut [u8]) -> bool {
        if self.locate(offset, out.len()).is_none() {
            return false;
        }
        let mut at = offset;
        for part in out.chunks_mut(8) {
            match (
                Cell::<u64>::new(self, at),
                <&mut [u8; 8]>::try_from(&mut *part),
            ) {
                (Some(cell), Ok(word)) => *word = cell.load(Ordering::Relaxed).to_le_bytes(),
                _ => {
                    for (nth, byte) in part.iter_mut().enumerate() {
                        *byte = self
                            .byte(at + nth)
                            .map_or(0, |cell| cell.load(Ordering::Relaxed));
                    }
                }
            }
            at += part.len();
        }
        true
    }

    /// Copies `data` to `offset`; `false`, and nothing copied, when it does not fit. The peer may
    /// see it in part until it is published.
    #[inline]
    pub fn write(&self, offset: usize, data: &[u8]) -> bool {
        if self.locate(offset, data.len()).is_none() {
            return false;
        }
        let mut at = offset;
        for part in data.chunks(8) {
            match (Cell::<u64>::new(self, at), <[u8; 8]>::try_from(part)) {
                (Some(cell), Ok(word)) => cell.store(u64::from_le_bytes(word), Ordering::Relaxed),
                _ => {
                    for (nth, byte) in part.iter().enumerate() {
                        if let Some(cell) = self.byte(at + nth) {
                            cell.store(*byte, Ordering::Relaxed);
                        }
                    }
                }
            }
            at += part.len();
        }
        true
    }

    #[inline]
    fn byte(&self, offset: usize) -> Option<Cell<u8>> {
        Cell::new(self, offset)
    }

    /// Two words of 8 bytes at `offset`, read once, at any alignment.
    #[inline]
    pub(crate) fn load_pair(&self, offset: usize) -> Option<(u64, u64)> {
        let low = Cell::<u64>::new(self, offset);
        let high = Cell::<u64>::new(self, offset.checked_add(8)?);
        if let (Some(low), Some(high)) = (low, high) {
            return Some((low.load(Ordering::Relaxed), high.load(Ordering::Relaxed)));
        }
        let mut bytes = [0_u8; 16];
        if !self.read(offset, &mut bytes) {
            return None;
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
            if let Some(cell) = self.byte(at) {
                cell.store(0, Ordering::Relaxed);
            }
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
word!(u8, AtomicU8);
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
