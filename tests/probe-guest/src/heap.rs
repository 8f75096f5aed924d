//! The heap: takes from the front, gives back only what was taken last.
//!
//! Rule: one processor and no interrupt handler in Rust, so nobody allocates at the same time; still a compare-and-swap decides.
#![expect(unsafe_code, reason = "a global allocator")]
use core::alloc::GlobalAlloc;
use core::alloc::Layout;
use core::ptr::null_mut;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering;

/// The guest's heap.
#[cfg_attr(freestanding, global_allocator)]
pub(crate) static HEAP: Heap = Heap::new();

/// Runs `work` and then forgets all that it allocated: nothing of it outlives the call, because only a number comes back.
pub(crate) fn scope(work: impl FnOnce() -> u8) -> u8 {
    let mark = HEAP.next.load(Ordering::Relaxed);
    let verdict = work();
    HEAP.next.store(mark, Ordering::Relaxed);
    verdict
}

/// A bump allocator over memory given once.
pub(crate) struct Heap {
    next: AtomicUsize,
    end: AtomicUsize,
}

impl Heap {
    pub(crate) const fn new() -> Self {
        Self {
            next: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
        }
    }

    /// Gives the heap its memory: identity-mapped RAM that nobody else uses.
    pub(crate) fn give(&self, range: core::ops::Range<usize>) {
        self.end.store(range.end, Ordering::Relaxed);
        self.next.store(range.start, Ordering::Relaxed);
    }
}

// SAFETY: areas are disjoint because `next` only moves forward, or back over the area that was taken last and is given back.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut next = self.next.load(Ordering::Relaxed);
        loop {
            let start = next.next_multiple_of(layout.align());
            let Some(end) = start.checked_add(layout.size()) else {
                return null_mut();
            };
            if end > self.end.load(Ordering::Relaxed) {
                return null_mut();
            }
            match self
                .next
                .compare_exchange(next, end, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return core::ptr::with_exposed_provenance_mut(start),
                Err(other) => next = other,
            }
        }
    }

    unsafe fn dealloc(&self, area: *mut u8, layout: Layout) {
        let start = area.addr();
        let end = start + layout.size();
        let _ = self
            .next
            .compare_exchange(end, start, Ordering::Relaxed, Ordering::Relaxed);
    }
}
