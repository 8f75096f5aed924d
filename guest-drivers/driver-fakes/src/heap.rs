//! A heap that counts, and refuses the allocation that a test names.
//!
//! Rule: each thread counts its own; what the fakes themselves need is exempt. A test program uses it with
//! `#[global_allocator] static HEAP: TestHeap = TestHeap;`.
#![expect(unsafe_code, reason = "an allocator is an unsafe trait")]
use std::alloc::GlobalAlloc;
use std::alloc::Layout;
use std::alloc::System;
use std::cell::Cell;

/// The system's heap, watched.
#[derive(Clone, Copy, Debug)]
pub struct TestHeap;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Allocations until the one that is refused.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
    static EXEMPT: Cell<bool> = const { Cell::new(false) };
}

/// Counts one allocation; `true` when it is the one to refuse.
fn refuses() -> bool {
    if EXEMPT.get() {
        return false;
    }
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
    let left = LEFT.get();
    LEFT.set(left.and_then(|left| left.checked_sub(1)));
    left == Some(0)
}

// SAFETY: all calls go to the system's allocator as they are, except for those that are refused, as any may be.
unsafe impl GlobalAlloc for TestHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if refuses() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's duties are the trait's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's duties are the trait's.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// What `work` returns, and how often it allocates.
pub fn allocations<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = ALLOCATIONS.get();
    let result = work();
    (result, ALLOCATIONS.get() - before)
}

/// Runs `work` with its allocation number `nth` refused, counting from 0. Also whether there was one.
pub fn refusing<T>(nth: u64, work: impl FnOnce() -> T) -> (T, bool) {
    LEFT.set(Some(nth));
    let result = work();
    (result, LEFT.take().is_none())
}

/// Runs `work` without counting or refusing.
pub fn exempt<T>(work: impl FnOnce() -> T) -> T {
    let before = EXEMPT.replace(true);
    let result = work();
    EXEMPT.set(before);
    result
}
