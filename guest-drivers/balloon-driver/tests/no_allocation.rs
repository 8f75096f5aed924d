//! The balloon driver with an allocator that counts.
//!
//! Rule: after the start, the driver allocates nothing, whatever it does; what the guest's own allocator needs does not count.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod rig;

use balloon_driver::Block;
use balloon_driver::Pages;
use balloon_driver::Statistics;
use driver_fakes::FakePages;
use driver_fakes::heap::TestHeap;
use driver_fakes::heap::allocations;
use driver_fakes::heap::exempt;
use rig::ALL;
use rig::rig;
use virtio_spec::feature;

#[global_allocator]
static HEAP: TestHeap = TestHeap;

/// The guest's allocator, which does not count.
struct Uncounted<'a>(&'a mut FakePages);

impl Pages for Uncounted<'_> {
    fn grab(&mut self, into: &mut [u32]) -> usize {
        exempt(|| self.0.grab(into))
    }
    fn ballooned(&mut self, pfns: &[u32]) {
        exempt(|| self.0.ballooned(pfns));
    }
    fn pick(&mut self, into: &mut [u32]) -> usize {
        exempt(|| self.0.pick(into))
    }
    fn release(&mut self, pfns: &[u32], poison: Option<u32>) {
        exempt(|| self.0.release(pfns, poison));
    }
    fn statistics(&mut self, statistics: &mut Statistics) {
        exempt(|| self.0.statistics(statistics));
    }
    fn isolate(&mut self, into: &mut [Block], poison: Option<u32>) -> usize {
        exempt(|| self.0.isolate(into, poison))
    }
    fn reported(&mut self, blocks: &[Block], reported: bool) {
        exempt(|| self.0.reported(blocks, reported));
    }
    fn hint(&mut self) -> Option<Block> {
        exempt(|| self.0.hint())
    }
    fn release_hints(&mut self) {
        exempt(|| self.0.release_hints());
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
                let ((), counted) = allocations(|| {
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
