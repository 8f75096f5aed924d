//! An allocator that counts, for the tests of a program that has this module.
//!
//! Rule: each thread counts its own.
#![allow(dead_code, reason = "each test file uses its own part")]
#![expect(unsafe_code, reason = "an allocator is an unsafe trait")]

use std::alloc::GlobalAlloc;
use std::alloc::Layout;
use std::alloc::System;
use std::cell::Cell;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: all calls go to the system's allocator as they are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's duties are the trait's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's duties are the trait's.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `work` returns, and how often it allocates.
pub fn allocations<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = ALLOCATIONS.with(Cell::get);
    let result = work();
    (result, ALLOCATIONS.with(Cell::get) - before)
}

/// Runs `work` without counting.
pub fn uncounted<T>(work: impl FnOnce() -> T) -> T {
    let before = ALLOCATIONS.with(Cell::get);
    let result = work();
    ALLOCATIONS.with(|count| count.set(before));
    result
}
