//! What serves one queue. One rule: all calls come from the queue's worker thread, the drop included, and none waits for
//! new work. A handler never meets a second thread, so it may hold what is bound to one.

use crate::Error;
use crate::Moderator;
use crate::Queue;
use guest_memory::GuestMemory;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// What one call of [`QueueHandler::run`] did; both zero means "idle".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Chains taken.
    pub taken: u32,
    /// Chains completed.
    pub completed: u32,
}

impl Progress {
    /// Whether anything happened.
    pub fn any(self) -> bool {
        self.taken != 0 || self.completed != 0
    }
}

/// Where a parked worker leaves its queue for others: the worker of a partner queue, or the senders of a switch.
///
/// One rule: between two users the queue is as a handler leaves it after `run`: completions published.
pub trait Shelf: Send + Sync {
    /// The queue is there to be used.
    fn put(&self, queue: Queue);

    /// The worker needs its queue, to stop it or to obey a command. Waits for the present user, who keeps it for a
    /// bounded time. `None` if it is not there: a mistake of the device.
    fn take(&self) -> Option<Queue>;

    /// The driver notified, which it does after a user armed the queue: chains are available.
    fn kicked(&self);
}

/// Serves one queue of a device.
pub trait QueueHandler: Send {
    /// Takes what is available, starts or does it, completes and publishes what is done. Does not wait. Called
    /// again when the ring or [`Self::completion_fd`] has something, and repeatedly while the worker polls.
    ///
    /// `memory` is the same snapshot for the life of the handler.
    ///
    /// # Errors
    /// Any error stops this queue (only), after what is in flight was drained.
    fn run(&mut self, queue: &mut Queue, memory: &Arc<GuestMemory>) -> Result<Progress, Error>;

    /// A descriptor that is readable while completions of asynchronous work wait; the worker sleeps on it. It must
    /// stay the same for the life of the handler. `run` has to take the readiness away.
    fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Called before the worker sleeps, so that a handler can turn completion events on.
    fn before_sleep(&mut self) {}

    /// Called when the worker woke, so that a handler can turn completion events off; `completed`: the descriptor was readable.
    fn after_sleep(&mut self, _completed: bool) {}

    /// A place where others use the queue while it runs; the worker then parks. Asked once, at the start.
    ///
    /// Such a worker calls `run` only when [`Self::completion_fd`] is readable, with the queue taken back for the
    /// call: the place to report an error that a user of the queue met.
    fn shelf(&self) -> Option<Arc<dyn Shelf>> {
        None
    }

    /// What holds interrupts of the queue back, if the driver may ask for that. Asked once, at the start of a worker,
    /// which then also sleeps on it.
    fn moderator(&self) -> Option<Arc<Moderator>> {
        None
    }

    /// Chains taken and not yet completed.
    fn in_flight(&self) -> usize;

    /// Waits for everything in flight, completes and publishes it; takes nothing new. Called before a queue stops
    /// or its memory changes. Bounded by the I/O in flight.
    ///
    /// # Errors
    /// When requests had to be left behind; they stay in the in-flight record.
    fn drain(&mut self, queue: &mut Queue, memory: &Arc<GuestMemory>) -> Result<(), Error>;

    /// Like `drain`, but may cancel instead of waiting: what is neither completed nor published stays in the
    /// in-flight record for the next owner (`GET_VRING_BASE_INFLIGHT`). No I/O touches memory afterwards.
    ///
    /// # Errors
    /// As for `drain`.
    fn suspend(&mut self, queue: &mut Queue, memory: &Arc<GuestMemory>) -> Result<(), Error> {
        self.drain(queue, memory)
    }
}
