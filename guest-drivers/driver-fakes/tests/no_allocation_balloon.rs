//! The balloon driver with an allocator that counts.
//!
//! Rule: after the start, the driver allocates nothing, whatever it does; what the guest's own allocator needs does not count.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![expect(unsafe_code, reason = "an allocator is an unsafe trait")]
mod balloon_rig;

use std::alloc::GlobalAlloc;
use std::alloc::Layout;
use std::alloc::System;
use std::cell::Cell;

use balloon_driver::Block;
use balloon_driver::Pages;
use balloon_driver::Statistics;
use balloon_rig::ALL;
use balloon_rig::rig;
use driver_fakes::FakePages;
use virtio_spec::feature;

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

/// How often `work` allocates.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

/// Runs `work` without counting.
fn uncounted<T>(work: impl FnOnce() -> T) -> T {
    let before = ALLOCATIONS.with(Cell::get);
    let result = work();
    ALLOCATIONS.with(|count| count.set(before));
    result
}

/// The guest's allocator, which does not count.
struct Uncounted<'a>(&'a mut FakePages);

impl Pages for Uncounted<'_> {
    fn grab(&mut self, into: &mut [u32]) -> usize {
        uncounted(|| self.0.grab(into))
    }
    fn ballooned(&mut self, pfns: &[u32]) {
        uncounted(|| self.0.ballooned(pfns));
    }
    fn pick(&mut self, into: &mut [u32]) -> usize {
        uncounted(|| self.0.pick(into))
    }
    fn release(&mut self, pfns: &[u32], poison: Option<u32>) {
        uncounted(|| self.0.release(pfns, poison));
    }
    fn statistics(&mut self, statistics: &mut Statistics) {
        uncounted(|| self.0.statistics(statistics));
    }
    fn isolate(&mut self, into: &mut [Block], poison: Option<u32>) -> usize {
        uncounted(|| self.0.isolate(into, poison))
    }
    fn reported(&mut self, blocks: &[Block], reported: bool) {
        uncounted(|| self.0.reported(blocks, reported));
    }
    fn hint(&mut self) -> Option<Block> {
        uncounted(|| self.0.hint())
    }
    fn release_hints(&mut self) {
        uncounted(|| self.0.release_hints());
    }
}

#[test]
fn a_balloon_moves_without_an_allocation() {
    for ring in [0, feature::RING_PACKED] {
        let mut rig = rig(1, ring | ALL);
        for (round, target) in [2000, 100, 3000, 0].into_iter().enumerate() {
            rig.want(target);
            rig.balloon.command(2 + round as u32);
            rig.driver.config_changed(&rig.platform).unwrap();
            for step in 0..40 {
                let counted = allocations(|| {
                    let pages = &mut Uncounted(&mut rig.pages);
                    let _ = rig.driver.work(pages).unwrap();
                    let _ = rig.driver.report(pages).unwrap();
                    let _ = rig.driver.relieve(1, pages).unwrap();
                    rig.driver.resume();
                    let _ = rig.driver.arm();
                });
                assert_eq!(counted, 0, "round {round}, step {step}");
                rig.balloon.serve();
                rig.balloon.ask_statistics();
                if step == 20 {
                    rig.balloon.command(1);
                    rig.driver.config_changed(&rig.platform).unwrap();
                }
            }
        }
        let counters = rig.driver.counters();
        assert!(counters.inflated_pages > 0 && counters.deflated_pages > 0);
        assert!(counters.report_blocks > 0 && counters.hint_blocks > 0);
        assert!(counters.statistics > 100);
        rig.finish();
    }
}
