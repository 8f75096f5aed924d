//! The shelf of one receive queue: where its parked worker leaves it, and whoever has frames for the guest uses it.
//!
//! Rule: nobody holds the lock of two inlets, and nobody waits while holding one.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::Mutex;

use device_model::Progress;
use device_model::Queue;
use device_model::QueueHandler;
use device_model::Shelf;
use guest_memory::GuestMemory;
use host_os::EventFd;
use host_os::sync::lock;
use virtqueue::ChainBatch;

use crate::Error;
use crate::conditions::Conditions;
use crate::path::policy::Policy;
use crate::path::receive::Receiving;
use crate::path::streak::ReceiveStreak;
use crate::path::tally::PairTally;
use crate::path::transmit::BURST;
use crate::path::view::View;
use crate::port::PortState;
use crate::published::Published;

/// One receive queue, or its absence.
#[derive(Debug)]
pub(crate) struct Inlet {
    slot: Mutex<Slot>,
    state: Arc<Published<PortState>>,
    policy: Arc<Policy>,
    tally: Arc<PairTally>,
    conditions: Arc<Conditions>,
    /// Readable: the queue's own worker is to look at it.
    alarm: EventFd,
    /// Readable: the worker of the pair is to look for frames, buffers and state.
    wake: EventFd,
}

/// What is behind the lock.
#[derive(Debug)]
pub(crate) struct Slot {
    /// The queue, while its worker is parked.
    pub queue: Option<Queue>,
    /// Why the queue cannot be used any more.
    pub failed: Option<device_model::Error>,
    /// Chains that were taken.
    pub batch: ChainBatch,
    /// The first of them that is not used. The rest is kept from one call to the next, for the frames that come then.
    pub next: usize,
    /// A frame that waits for more buffers.
    pub pending: Option<Pending>,
    /// The port's state, and what follows from it.
    pub view: View,
    /// Somebody waited for buffers in vain, and none have come since.
    pub starved: bool,
    /// The driver was asked to tell when it adds buffers.
    pub armed: bool,
    /// Frames of which none got through.
    pub streak: ReceiveStreak,
}

/// A frame from a link of which the first bytes are in the next chains, and the rest behind them, with the link's owner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    /// Bytes of the frame, with the link's header.
    pub bytes: usize,
    /// Bytes of it in chains.
    pub inside: usize,
}

impl Slot {
    /// Chains that were taken and not used.
    pub fn held(&self) -> usize {
        self.batch.len().saturating_sub(self.next)
    }

    /// Gives the chains that were not used back to the ring; what waited for more of them is lost.
    pub fn give_back(&mut self) {
        self.pending = None;
        let unused = self.held();
        if let Some(queue) = &mut self.queue
            && unused != 0
            && let Err(error) = queue.give_back(&mut self.batch, unused)
        {
            self.failed = Some(error);
        }
        self.batch.clear();
        self.next = 0;
    }
}

impl Inlet {
    pub fn new(
        state: Arc<Published<PortState>>,
        policy: Arc<Policy>,
        tally: Arc<PairTally>,
        conditions: Arc<Conditions>,
    ) -> Result<Self, Error> {
        let slot = Slot {
            queue: None,
            failed: None,
            batch: ChainBatch::with_capacity(BURST, 2 * BURST),
            next: 0,
            pending: None,
            view: View::new(state.follow()),
            starved: false,
            armed: false,
            streak: ReceiveStreak::new(&tally.receive),
        };
        Ok(Self {
            slot: Mutex::new(slot),
            state,
            policy,
            tally,
            conditions,
            alarm: EventFd::new()?,
            wake: EventFd::new()?,
        })
    }

    /// Wakes the worker of the pair.
    pub fn wake(&self) {
        self.wake.notify();
    }

    /// Readable after [`Self::wake`] until drained.
    pub fn wake_fd(&self) -> &EventFd {
        &self.wake
    }

    /// The receive queue, to put frames into it; published when the result is dropped.
    #[inline]
    pub fn open(&self) -> Receiving<'_> {
        let mut slot = lock(&self.slot);
        slot.view.refresh(&self.state);
        Receiving::new(
            slot,
            &self.tally.receive,
            &self.policy,
            &self.conditions,
            &self.alarm,
        )
    }

    /// Forgets the frame that waits for buffers.
    pub fn forget_pending(&self) {
        self.lose_pending(&mut lock(&self.slot));
    }

    fn lose_pending(&self, slot: &mut Slot) {
        if slot.pending.take().is_some() {
            self.tally.receive.starved.add(1);
        }
    }

    /// Whether frames could be put into the queue. If not, the driver is asked to tell when it adds buffers, and
    /// [`Self::wake`] follows when it does, or when a queue is there.
    pub fn has_room_or_arms(&self) -> bool {
        let mut slot = lock(&self.slot);
        let held = slot.held() != 0 && slot.pending.is_none();
        let Slot {
            queue,
            failed,
            armed,
            ..
        } = &mut *slot;
        let Some(queue) = queue.as_mut().filter(|_| failed.is_none()) else {
            return false;
        };
        if held || queue.has_work() {
            return true;
        }
        *armed = true;
        queue.arm()
    }

    /// The driver need not tell.
    pub fn disarm(&self) {
        let mut slot = lock(&self.slot);
        let slot = &mut *slot;
        if let Some(queue) = slot.queue.as_mut().filter(|_| slot.armed) {
            queue.disarm();
        }
        slot.armed = false;
    }
}

impl Shelf for Inlet {
    fn put(&self, mut queue: Queue) {
        queue.disarm();
        let mut slot = lock(&self.slot);
        slot.batch.clear();
        slot.next = 0;
        slot.pending = None;
        slot.starved = false;
        slot.armed = false;
        slot.queue = Some(queue);
        drop(slot);
        self.wake();
    }

    fn take(&self) -> Option<Queue> {
        let mut slot = lock(&self.slot);
        self.lose_pending(&mut slot);
        slot.give_back();
        slot.queue.take()
    }

    fn kicked(&self) {
        self.wake();
    }
}

/// The handler of a receive queue: its worker only parks it.
pub(crate) struct ReceiveQueue {
    inlet: Arc<Inlet>,
}

impl ReceiveQueue {
    pub fn new(inlet: Arc<Inlet>) -> Self {
        lock(&inlet.slot).failed = None;
        Self { inlet }
    }
}

impl QueueHandler for ReceiveQueue {
    fn run(
        &mut self,
        _queue: &mut Queue,
        _memory: &Arc<GuestMemory>,
    ) -> Result<Progress, device_model::Error> {
        self.inlet.alarm.drain();
        match lock(&self.inlet.slot).failed.take() {
            Some(error) => Err(error),
            None => Ok(Progress::default()),
        }
    }

    fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.inlet.alarm.as_fd())
    }

    fn shelf(&self) -> Option<Arc<dyn Shelf>> {
        Some(Arc::clone(&self.inlet) as Arc<dyn Shelf>)
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn drain(
        &mut self,
        _queue: &mut Queue,
        _memory: &Arc<GuestMemory>,
    ) -> Result<(), device_model::Error> {
        Ok(())
    }
}
