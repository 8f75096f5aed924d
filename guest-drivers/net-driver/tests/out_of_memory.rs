//! A network device out of memory, at each allocation in turn.
//!
//! Rule: a start that lacks memory is an error that hands everything back; the next start works.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod rig;

use driver_fakes::FakeFunction;
use driver_fakes::FakeInterrupts;
use driver_fakes::FakePlatform;
use driver_fakes::heap::TestHeap;
use driver_fakes::out_of_memory::refuse_dma;
use driver_fakes::out_of_memory::refuse_heap;
use driver_platform::DmaError;
use net_driver::Error;
use net_driver::NetDriver;
use net_driver::ResetProgress;
use net_driver::StartFailure;
use rig::*;
use virtio_spec::feature;

#[global_allocator]
static HEAP: TestHeap = TestHeap;

const RINGS: [u64; 3] = [
    0,
    feature::RING_INDIRECT_DESC | feature::IN_ORDER,
    feature::RING_PACKED | feature::RING_INDIRECT_DESC,
];

type Attempt = Result<net_driver::Started<FakePlatform, FakeFunction>, StartFailure>;

fn start(platform: &FakePlatform, function: FakeFunction) -> Attempt {
    NetDriver::start(platform, function, &FakeInterrupts(3), options())
}

/// Takes the driver apart again, or what is left of it.
fn stop(platform: &FakePlatform, started: Attempt) -> Option<Error> {
    match started {
        Ok(started) => {
            let mut driver = started.driver;
            driver.begin_reset(platform);
            let ResetProgress::Done(proof) = driver.poll_reset(platform) else {
                panic!("pending")
            };
            for queue in started.receive {
                platform.release_all(queue.into_memory(&proof).unwrap());
            }
            for queue in started.transmit {
                platform.release_all(queue.into_memory(&proof).unwrap());
            }
            if let Some(queue) = started.control {
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
        let device = || function(registers(NET_FEATURES | ring, config()));
        let count = refuse_heap(device, start, stop, &Error::OutOfMemory);
        assert!(count > 10, "only {count} allocations");
    }
}

#[test]
fn whichever_dma_memory_is_refused_the_start_fails_and_loses_nothing() {
    for ring in RINGS {
        let device = || function(registers(NET_FEATURES | ring, config()));
        let count = refuse_dma(device, start, stop, &Error::Memory(DmaError::Exhausted));
        assert!(count > 5, "only {count} areas");
    }
}
