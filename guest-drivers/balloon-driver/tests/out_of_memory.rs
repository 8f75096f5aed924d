//! A balloon out of memory, at each allocation in turn.
//!
//! Rule: a start that lacks memory is an error that hands everything back; the next start works.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod rig;

use balloon_driver::BalloonDriver;
use balloon_driver::Error;
use balloon_driver::ResetProgress;
use balloon_driver::StartFailure;
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

const RINGS: [u64; 3] = [0, feature::IN_ORDER, feature::RING_PACKED];

type Attempt = Result<BalloonDriver<FakeFunction>, StartFailure>;

fn start(platform: &FakePlatform, function: FakeFunction) -> Attempt {
    BalloonDriver::start(platform, function, &FakeInterrupts(3), options())
}

/// Takes the driver apart again, or what is left of it.
fn stop(platform: &FakePlatform, started: Attempt) -> Option<Error> {
    match started {
        Ok(mut driver) => {
            driver.begin_reset(platform);
            let ResetProgress::Done(proof) = driver.poll_reset(platform) else {
                panic!("pending")
            };
            platform.release_all(driver.into_memory(&proof).unwrap());
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
        let device = || function(registers(ALL | ring));
        let count = refuse_heap(device, start, stop, &Error::OutOfMemory);
        assert!(count > 10, "only {count} allocations");
    }
}

#[test]
fn whichever_dma_memory_is_refused_the_start_fails_and_loses_nothing() {
    for ring in RINGS {
        let device = || function(registers(ALL | ring));
        let count = refuse_dma(device, start, stop, &Error::Memory(DmaError::Exhausted));
        assert!(count > 5, "only {count} areas");
    }
}
