//! The shelf of one receive queue: where its parked worker leaves it, and whoever has frames for the guest uses it.
//!
//! Rule: nobody holds the lock of two inlets, and nobody waits while holding one.

use std::sync::Arc;
use std::sync::Mutex;

use device_model::Queue;
use device_model::Shelf;
use guest_memory::EventFd;

use crate::Error;
use crate::path::tally::PairTally;
use crate::published::lock;

/// One receive queue, or its absence.
#[derive(Debug)]
pub(crate) struct Inlet {
    slot: Mutex<Slot>,
    tally: Arc<PairTally>,
    /// Readable: the queue's own worker is to look at it.
    alarm: EventFd,
    /// Readable: the worker of the pair is to look for frames, buffers and state.
    wake: EventFd,
}

/// What is behind the lock.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    queue: Option<Queue>,
    /// Why the queue cannot be used any more.
    failed: Option<device_model::Error>,
}

impl Inlet {
    pub fn new(tally: Arc<PairTally>) -> Result<Self, Error> {
        Ok(Self {
            slot: Mutex::default(),
            tally,
            alarm: EventFd::new()?,
            wake: EventFd::new()?,
        })
    }

    /// Wakes the worker of the pair.
    pub fn wake(&self) {
        self.wake.notify();
    }
}

impl Shelf for Inlet {
    fn put(&self, queue: Queue) {
        lock(&self.slot).queue = Some(queue);
        self.wake();
    }

    fn take(&self) -> Option<Queue> {
        lock(&self.slot).queue.take()
    }

    fn kicked(&self) {
        self.wake();
    }
}
