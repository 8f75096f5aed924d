//! A driver that lacks memory at its start, at each allocation in turn.
//!
//! Rule: a start that fails hands everything back, and the next one works. A test names its driver by two functions: one that
//! starts it, and one that takes what came of that apart again and returns the error, if it was one.

use std::fmt::Debug;

use crate::FakeFunction;
use crate::FakePlatform;
use crate::heap::refusing;

/// Starts with each allocation of the heap refused, until none is left; returns how many there were. The test program's heap is
/// a [`crate::heap::TestHeap`].
///
/// # Panics
/// A start fails by another error than `expected`, loses memory, or does not work the next time.
pub fn refuse_heap<S, E: Debug + PartialEq>(
    device: impl Fn() -> FakeFunction,
    start: impl Fn(&FakePlatform, FakeFunction) -> S,
    stop: impl Fn(&FakePlatform, S) -> Option<E>,
    expected: &E,
) -> u64 {
    let mut nth = 0;
    loop {
        let platform = FakePlatform::new(1);
        let function = device();
        let same = function.clone();
        let (started, refused) = refusing(nth, || start(&platform, same));
        match (stopped(&platform, started, &stop), refused) {
            (None, false) => return nth,
            (error, refused) => {
                assert_eq!((error.as_ref(), refused), (Some(expected), true), "{nth}")
            }
        }
        let again = start(&platform, function);
        assert_eq!(stopped(&platform, again, &stop), None);
        nth += 1;
    }
}

/// Starts with each piece of DMA memory refused, until none is left; returns how many there were.
///
/// # Panics
/// As for [`refuse_heap`].
pub fn refuse_dma<S, E: Debug + PartialEq>(
    device: impl Fn() -> FakeFunction,
    start: impl Fn(&FakePlatform, FakeFunction) -> S,
    stop: impl Fn(&FakePlatform, S) -> Option<E>,
    expected: &E,
) -> u64 {
    let mut nth = 0;
    loop {
        let mut platform = FakePlatform::new(1);
        platform.refused_allocation = Some(nth);
        let function = device();
        let started = start(&platform, function.clone());
        match stopped(&platform, started, &stop) {
            None => return nth,
            error => assert_eq!(error.as_ref(), Some(expected)),
        }
        platform.refused_allocation = None;
        let again = start(&platform, function);
        assert_eq!(stopped(&platform, again, &stop), None);
        nth += 1;
    }
}

/// The error of a start, if it was one; nothing is left of either.
fn stopped<S, E>(
    platform: &FakePlatform,
    started: S,
    stop: &impl Fn(&FakePlatform, S) -> Option<E>,
) -> Option<E> {
    let error = stop(platform, started);
    assert_eq!(platform.arena().live(), 0, "memory was lost");
    error
}
