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
use driver_fakes::heap::refusing;
use driver_platform::DmaError;
use net_driver::Error;
use net_driver::NetDriver;
use net_driver::ResetProgress;
use rig::*;
use virtio_spec::feature;

#[global_allocator]
static HEAP: TestHeap = TestHeap;

const RINGS: [u64; 3] = [
    0,
    feature::RING_INDIRECT_DESC | feature::IN_ORDER,
    feature::RING_PACKED | feature::RING_INDIRECT_DESC,
];

/// Starts, and takes the driver apart again; nothing may be left behind.
fn attempt(
    platform: &FakePlatform,
    function: FakeFunction,
    nth: Option<u64>,
) -> (Option<Error>, bool) {
    let interrupts = FakeInterrupts(3);
    let start = || NetDriver::start(platform, function, &interrupts, options());
    let (started, refused) = match nth {
        Some(nth) => refusing(nth, start),
        None => (start(), false),
    };
    let error = match started {
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
    };
    assert_eq!(platform.arena().live(), 0, "memory was lost");
    (error, refused)
}

#[test]
fn whichever_allocation_the_heap_refuses_the_start_fails_and_loses_nothing() {
    for ring in RINGS {
        let mut nth = 0;
        loop {
            let platform = FakePlatform::new(1);
            let function = function(registers(NET_FEATURES | ring, config()));
            match attempt(&platform, function.clone(), Some(nth)) {
                (None, false) => break,
                outcome => assert_eq!(outcome, (Some(Error::OutOfMemory), true), "{nth}"),
            }
            assert_eq!(attempt(&platform, function, None), (None, false));
            nth += 1;
        }
        assert!(nth > 10, "only {nth} allocations");
    }
}

#[test]
fn whichever_dma_memory_is_refused_the_start_fails_and_loses_nothing() {
    for ring in RINGS {
        let mut nth = 0;
        loop {
            let mut platform = FakePlatform::new(1);
            platform.refused_allocation = Some(nth);
            let function = function(registers(NET_FEATURES | ring, config()));
            match attempt(&platform, function.clone(), None) {
                (None, _) => break,
                (error, _) => assert_eq!(error, Some(Error::Memory(DmaError::Exhausted))),
            }
            platform.refused_allocation = None;
            assert_eq!(attempt(&platform, function, None), (None, false));
            nth += 1;
        }
        assert!(nth > 5, "only {nth} areas");
    }
}
