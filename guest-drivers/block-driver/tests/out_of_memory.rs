//! A disk out of memory, at each allocation in turn.
//!
//! Rule: a start that lacks memory is an error that hands everything back; the next start works.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod rig;

use block_driver::BlockDriver;
use block_driver::BlockQueue;
use block_driver::Error;
use block_driver::ResetProgress;
use block_driver::StartFailure;
use driver_fakes::FakeBar;
use driver_fakes::FakeFunction;
use driver_fakes::FakeInterrupts;
use driver_fakes::FakePlatform;
use driver_fakes::heap::TestHeap;
use driver_fakes::out_of_memory::refuse_dma;
use driver_fakes::out_of_memory::refuse_heap;
use driver_platform::DmaError;
use rig::*;
use virtio_spec::feature;

#[global_allocator]
static HEAP: TestHeap = TestHeap;

const RINGS: [u64; 3] = [
    0,
    feature::RING_INDIRECT_DESC | feature::IN_ORDER,
    feature::RING_PACKED | feature::RING_INDIRECT_DESC,
];

type Started = (
    BlockDriver<FakeFunction>,
    Vec<BlockQueue<FakePlatform, FakeBar>>,
);
type Attempt = Result<Started, StartFailure>;

fn start(platform: &FakePlatform, function: FakeFunction) -> Attempt {
    BlockDriver::start(platform, function, &FakeInterrupts(3), options())
}

/// Takes the driver apart again, or what is left of it.
fn stop(platform: &FakePlatform, started: Attempt) -> Option<Error> {
    match started {
        Ok((mut driver, queues)) => {
            driver.begin_reset(platform);
            let ResetProgress::Done(proof) = driver.poll_reset(platform) else {
                panic!("pending")
            };
            for queue in queues {
                platform.release_all(queue.into_memory(&proof).unwrap());
            }
            None
        }
        Err(failure) => {
            platform.release_all(failure.memory);
            Some(failure.error)
        }
    }
}

#[test]
fn whichever_allocation_the_heap_refuses_the_start_fails_and_loses_nothing() {
    for ring in RINGS {
        let device = || function(registers(ring, config()));
        let count = refuse_heap(device, start, stop, &Error::OutOfMemory);
        assert!(count > 10, "only {count} allocations");
    }
}

#[test]
fn whichever_dma_memory_is_refused_the_start_fails_and_loses_nothing() {
    for ring in RINGS {
        let device = || function(registers(ring, config()));
        let count = refuse_dma(device, start, stop, &Error::Memory(DmaError::Exhausted));
        assert!(count > 5, "only {count} areas");
    }
}
