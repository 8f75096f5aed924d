//! Copies between a mapping of the image and guest memory, with no system call; for images whose pages are memory.
//!
//! Rule: the mapping is touched only where the image is known to have pages. Holes go through system calls, so that a
//! sparse image stays sparse when read, and a full file system answers a write with ENOSPC, not with a signal. If a page
//! goes away all the same (someone truncated the image), the mapping's guard says so and the engine uses system calls
//! from then on, beginning with the request that met it.
#![expect(
    unsafe_code,
    reason = "copies between two mappings that peers may change at any time"
)]

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::RwLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use guest_memory::Access;
use guest_memory::Mapping;
use guest_memory::volatile;
use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use nix::fcntl::fallocate;
use nix::unistd::Whence;
use nix::unistd::lseek;

use crate::Error;
use crate::engine::Engine;
use crate::engine::Outcome;
use crate::engine::Step;
use crate::engine::sync;
use crate::image::Image;
use crate::image::Kind;

/// Cache lines that are fetched ahead of the next copy.
#[cfg(target_arch = "x86_64")]
const LINES: usize = 4;

/// Page table entries are made in pieces of this size: 2 MiB, a page table's worth.
const CHUNK_SHIFT: u32 = 21;

/// The mapping that all queues of a disk use, replaced when the disk changes size.
#[derive(Debug)]
pub(crate) struct Shared {
    current: RwLock<Arc<View>>,
    /// Counts the replacements, so that a queue sees one with a single load.
    generation: AtomicU32,
    readonly: bool,
}

/// One mapping of the image with what is known about its pages.
#[derive(Debug)]
struct View {
    mapping: Option<Mapping>,
    pages: Pages,
    /// One bit per [`CHUNK_SHIFT`] bytes: set when their page table entries were made, or tried.
    mapped: Bits,
}

/// One bit per page of the image: set when the page exists.
#[derive(Debug)]
struct Pages {
    bits: Bits,
    shift: u32,
}

/// Bits that all queues share.
#[derive(Debug)]
struct Bits(Vec<AtomicU64>);

impl Bits {
    fn new(count: u64) -> Self {
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(0);
        Self(
            std::iter::repeat_with(AtomicU64::default)
                .take(words)
                .collect(),
        )
    }

    #[inline]
    fn word(&self, bit: u64) -> Option<(&AtomicU64, u64)> {
        let word = self.0.get(usize::try_from(bit / 64).ok()?)?;
        Some((word, 1 << (bit % 64)))
    }

    #[inline]
    fn has(&self, bit: u64) -> bool {
        self.word(bit)
            .is_some_and(|(word, mask)| word.load(Ordering::Relaxed) & mask != 0)
    }

    fn set(&self, bit: u64) {
        if let Some((word, mask)) = self.word(bit) {
            word.fetch_or(mask, Ordering::Relaxed);
        }
    }

    fn clear(&self, bit: u64) {
        if let Some((word, mask)) = self.word(bit) {
            word.fetch_and(!mask, Ordering::Relaxed);
        }
    }
}

impl Shared {
    pub fn new(image: &Image, readonly: bool) -> Result<Self, Error> {
        Ok(Self {
            current: RwLock::new(Arc::new(View::new(image, readonly)?)),
            generation: AtomicU32::new(0),
            readonly,
        })
    }

    /// Maps the image anew after it changed size.
    pub fn remap(&self, image: &Image) -> Result<(), Error> {
        let view = Arc::new(View::new(image, self.readonly)?);
        *self
            .current
            .write()
            .unwrap_or_else(|broken| broken.into_inner()) = view;
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn view(&self) -> (u32, Arc<View>) {
        let generation = self.generation.load(Ordering::Acquire);
        let view = self
            .current
            .read()
            .unwrap_or_else(|broken| broken.into_inner());
        (generation, Arc::clone(&view))
    }
}

impl View {
    fn new(image: &Image, readonly: bool) -> Result<Self, Error> {
        // A last block that is cut off goes through system calls, which make the file longer where need be.
        let size = image.end();
        let access = if readonly {
            Access::Read
        } else {
            Access::ReadWrite
        };
        let mapping = if size == 0 {
            None
        } else {
            let mapping =
                Mapping::new(image.file.as_fd(), 0, size, access).map_err(|source| Error::Map {
                    path: image.path.clone(),
                    source,
                })?;
            Some(mapping)
        };
        let pages = Pages::new(size, image.granule);
        pages.learn(image, size);
        let mapped = Bits::new(size.div_ceil(1 << CHUNK_SHIFT));
        Ok(Self {
            mapping,
            pages,
            mapped,
        })
    }

    /// The address of `len` bytes at `offset`, when the image is known to have all of their pages.
    #[inline]
    fn at(&self, offset: u64, len: usize) -> Option<*mut u8> {
        let mapping = self.mapping.as_ref()?;
        if mapping.poisoned() || !self.pages.has(offset, len as u64) {
            return None;
        }
        let first = offset >> CHUNK_SHIFT;
        let last = (offset + (len as u64).max(1) - 1) >> CHUNK_SHIFT;
        for chunk in first..=last {
            if !self.mapped.has(chunk) {
                self.map_chunk(mapping, chunk);
            }
        }
        let span = mapping.span(usize::try_from(offset).ok()?, len)?;
        Some(span.as_ptr())
    }

    /// Makes the page table entries of a chunk in one call, where a fault each would cost more
    /// than the copy. Only where all of its pages exist: a hole would be filled by that.
    #[cold]
    fn map_chunk(&self, mapping: &Mapping, chunk: u64) {
        self.mapped.set(chunk);
        let start = chunk << CHUNK_SHIFT;
        let len = (mapping.len() as u64)
            .saturating_sub(start)
            .min(1 << CHUNK_SHIFT);
        if self.pages.has(start, len)
            && let (Ok(start), Ok(len)) = (usize::try_from(start), usize::try_from(len))
        {
            mapping.populate(start, len);
        }
    }

    fn poisoned(&self) -> bool {
        self.mapping.as_ref().is_none_or(Mapping::poisoned)
    }
}

impl Pages {
    fn new(size: u64, granule: u64) -> Self {
        let shift = granule.max(4096).next_power_of_two().ilog2();
        Self {
            bits: Bits::new(size.div_ceil(1 << shift)),
            shift,
        }
    }

    /// Marks what the image holds now.
    fn learn(&self, image: &Image, size: u64) {
        if image.kind == Kind::HugeFile {
            // It cannot tell holes from data; only when it has all its pages is that known.
            let allocated = image.file.metadata().map_or(0, |meta| meta.blocks() * 512);
            if allocated >= size && size != 0 {
                self.set(0, size);
            }
            return;
        }
        let mut from = 0;
        while let Ok(data) = lseek(&image.file, from, Whence::SeekData) {
            let end = lseek(&image.file, data, Whence::SeekHole).unwrap_or(data);
            let (Ok(start), Ok(stop)) = (u64::try_from(data), u64::try_from(end)) else {
                return;
            };
            if stop <= start || start >= size {
                return;
            }
            self.set(start, stop.min(size) - start);
            from = end;
        }
    }

    fn span(&self, offset: u64, len: u64) -> std::ops::RangeInclusive<u64> {
        let last = offset.saturating_add(len.max(1) - 1);
        (offset >> self.shift)..=(last >> self.shift)
    }

    #[inline]
    fn has(&self, offset: u64, len: u64) -> bool {
        self.span(offset, len).all(|page| self.bits.has(page))
    }

    fn set(&self, offset: u64, len: u64) {
        self.span(offset, len).for_each(|page| self.bits.set(page));
    }

    fn clear(&self, offset: u64, len: u64) {
        self.span(offset, len)
            .for_each(|page| self.bits.clear(page));
    }
}

/// The engine of one queue.
#[derive(Debug)]
pub(crate) struct MapEngine {
    image: Arc<Image>,
    shared: Arc<Shared>,
    view: Arc<View>,
    generation: u32,
    lost: bool,
}

impl MapEngine {
    pub fn new(image: Arc<Image>, shared: Arc<Shared>) -> Self {
        let (generation, view) = shared.view();
        Self {
            image,
            shared,
            view,
            generation,
            lost: false,
        }
    }

    #[inline]
    fn refresh(&mut self) {
        if self.shared.generation.load(Ordering::Acquire) != self.generation {
            (self.generation, self.view) = self.shared.view();
            self.lost = false;
        }
    }

    /// Copies at once; `None` when that is not possible or a page went away under it.
    ///
    /// # Safety
    /// As [`Engine::start`], until the call returns.
    #[inline]
    unsafe fn copy(&mut self, step: Step<'_>) -> Option<usize> {
        let (offset, buffers, store) = match step {
            Step::Read { offset, buffers } => (offset, buffers, false),
            Step::Write {
                offset, buffers, ..
            } => (offset, buffers, true),
            _ => return None,
        };
        let len = buffers.iter().map(|buffer| buffer.iov_len).sum();
        let mut image = self.view.at(offset, len)?;
        for buffer in buffers {
            let guest: *mut u8 = buffer.iov_base.cast();
            let (from, to) = if store {
                (guest.cast_const(), image)
            } else {
                (image.cast_const(), guest)
            };
            // SAFETY: `at` vouches for `len` mapped bytes of the image from its start, the caller for the buffer; they are
            // different mappings. Both may change meanwhile: the bytes are the guest's, nothing here depends on them.
            unsafe { volatile::copy(from, to, buffer.iov_len) };
            image = image.wrapping_add(buffer.iov_len);
        }
        if self.view.poisoned() {
            self.give_up();
            return None;
        }
        Some(len)
    }

    fn give_up(&mut self) {
        if !self.lost {
            self.lost = true;
            tracing::warn!(path = %self.image.path.display(),
                "image lost pages under its mapping (truncated?), using system calls from now on");
        }
    }

    /// What system calls do, with the page table kept true.
    ///
    /// # Safety
    /// As [`Engine::start`], until the call returns.
    unsafe fn call(&mut self, step: Step<'_>) -> Result<usize, Errno> {
        if self.is_beyond_the_end(step) {
            return Err(Errno::EIO);
        }
        match step {
            Step::Write {
                offset, buffers, ..
            } if self.image.kind == Kind::HugeFile && !self.lost => {
                // Huge pages cannot be written to by a call: they are made, then copied to.
                let len: usize = buffers.iter().map(|buffer| buffer.iov_len).sum();
                self.make_pages(offset, len as u64)?;
                // SAFETY: the caller's promise, passed on.
                return unsafe { self.copy(step) }.ok_or(Errno::EIO);
            }
            Step::Allocate { mode, offset, len } if mode & libc::FALLOC_FL_PUNCH_HOLE != 0 => {
                self.view.pages.clear(offset, len);
            }
            _ => {}
        }
        // SAFETY: the caller's promise, passed on.
        let done = unsafe { sync::perform(&self.image, step) };
        if let (Step::Write { offset, .. }, Ok(bytes)) = (step, done)
            && bytes != 0
        {
            self.view.pages.set(offset, bytes as u64);
        }
        done
    }

    /// Whether a write reaches past the end that the image has now: someone truncated it, and must not see it grow again.
    fn is_beyond_the_end(&self, step: Step<'_>) -> bool {
        let Step::Write {
            offset, buffers, ..
        } = step
        else {
            return false;
        };
        let len: usize = buffers.iter().map(|buffer| buffer.iov_len).sum();
        offset + len as u64 > self.image.size_now()
    }

    fn make_pages(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let start = offset - offset % self.image.granule;
        let end = (offset + len).next_multiple_of(self.image.granule);
        let from = i64::try_from(start).map_err(|_| Errno::EFBIG)?;
        let bytes = i64::try_from(end - start).map_err(|_| Errno::EFBIG)?;
        fallocate(
            &self.image.file,
            FallocateFlags::FALLOC_FL_KEEP_SIZE,
            from,
            bytes,
        )?;
        self.view.pages.set(offset, len);
        Ok(())
    }
}

impl Engine for MapEngine {
    /// Brings the first lines in (and the address translation); the CPU fetches the others by itself once it sees a stream.
    #[inline]
    fn prefetch(&self, offset: u64) {
        #[cfg(target_arch = "x86_64")]
        if let Some(image) = self.view.at(offset, 1) {
            for line in 0..LINES {
                let line = image.wrapping_add(line * 64).cast_const().cast();
                // SAFETY: a prefetch neither faults nor changes anything, whatever the address.
                unsafe {
                    std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line)
                };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = offset;
    }

    #[inline]
    unsafe fn start(&mut self, _slot: u16, step: Step<'_>) -> Outcome {
        self.refresh();
        // SAFETY: the caller's promise, passed on.
        if let Some(bytes) = unsafe { self.copy(step) } {
            return Outcome::Done(Ok(bytes));
        }
        // SAFETY: the caller's promise, passed on.
        Outcome::Done(unsafe { self.call(step) })
    }
}
