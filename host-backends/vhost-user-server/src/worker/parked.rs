//! The worker of a queue that others use: it hands the queue to a shelf and sleeps. One rule: whatever it does to the
//! queue, it first takes it back, so that nobody else holds it meanwhile.

use super::Command;
use super::Failure;
use super::Job;
use super::Remains;
use super::Shared;
use super::Sources;
use super::Stop;
use super::conclude;
use device_model::Error;
use device_model::Moderator;
use device_model::Queue;
use device_model::QueueHandler;
use device_model::QueueMemory;
use device_model::Shelf;
use guest_memory::GuestMemory;
use host_os::EventFd;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Parks until the end; returns what is left, and whether the end was asked for.
pub(super) fn run(job: Job, shelf: Arc<dyn Shelf>, shared: &Shared) -> (Remains, bool) {
    let mut queue = job.queue;
    queue.disarm();
    let mut parked = Parked {
        memory: queue.memory().clone(),
        ground: queue.ground().clone(),
        moderator: job.handler.moderator(),
        call: job.call,
        queue: Some(queue),
        handler: job.handler,
        kick: job.kick,
        err: job.err,
        shelf,
        shared,
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| parked.serve()));
    let _ = catch_unwind(AssertUnwindSafe(|| parked.recall()));
    let Parked {
        queue,
        handler,
        err,
        ..
    } = parked;
    match queue {
        Some(queue) => conclude(outcome.ok(), queue, handler, err.as_deref()),
        None => (Remains::lost(), false),
    }
}

struct Parked<'a> {
    /// `None` while it is on the shelf.
    queue: Option<Queue>,
    handler: Box<dyn QueueHandler>,
    kick: Option<Arc<EventFd>>,
    /// For interrupts that were held back, whose time comes while others have the queue.
    call: Option<Arc<EventFd>>,
    moderator: Option<Arc<Moderator>>,
    err: Option<Arc<EventFd>>,
    shelf: Arc<dyn Shelf>,
    memory: Arc<GuestMemory>,
    /// What may be truncated while others have the queue.
    ground: QueueMemory,
    shared: &'a Shared,
}

impl Parked<'_> {
    fn serve(&mut self) -> Result<(), Failure> {
        loop {
            if self.shared.pending.load(Ordering::Acquire)
                && let Some(how) = self.obey()
            {
                return self.finish(how);
            }
            if let Some(queue) = self.queue.take() {
                self.shelf.put(queue);
            }
            let sources = Sources {
                shared: self.shared,
                kick: self.kick.as_deref(),
                handler: &*self.handler,
                moderator: self.moderator.as_deref(),
            };
            let woken = sources.wait();
            if self.ground.poisoned() {
                return Err(Failure::Poisoned);
            }
            if woken.rang {
                self.interrupt_if_late();
            }
            if woken.completed {
                self.look()?;
            }
            if woken.kicked {
                self.shelf.kicked();
            }
        }
    }

    fn interrupt_if_late(&self) {
        let late = self.moderator.as_ref().is_some_and(|held| held.take_late());
        if let Some(call) = self.call.as_ref().filter(|_| late) {
            call.notify();
        }
    }

    /// Takes the queue from the shelf, if it is there.
    fn recall(&mut self) {
        if self.queue.is_none() {
            self.queue = self.shelf.take();
        }
    }

    /// Lets the handler look at its queue.
    fn look(&mut self) -> Result<(), Failure> {
        self.recall();
        let Some(queue) = &mut self.queue else {
            return Ok(());
        };
        let Err(error) = self.handler.run(queue, &self.memory) else {
            return Ok(());
        };
        let _ = self.handler.drain(queue, &self.memory);
        queue.publish();
        Err(self.failure(error))
    }

    /// Carries out the waiting commands; returns the stop if there is one.
    fn obey(&mut self) -> Option<Stop> {
        self.recall();
        let mut stop = None;
        for command in self.shared.take_commands() {
            match command {
                Command::SetCall(call) => {
                    self.call.clone_from(&call);
                    if let Some(queue) = &mut self.queue {
                        queue.set_call(call);
                    }
                }
                Command::SetErr(err) => self.err = err,
                Command::SetKick(kick) => self.kick = kick,
                Command::Stop(how) => stop = Some(how),
            }
        }
        stop
    }

    fn finish(&mut self, how: Stop) -> Result<(), Failure> {
        let Some(queue) = &mut self.queue else {
            return Ok(());
        };
        let drained = match how {
            Stop::Drain => self.handler.drain(queue, &self.memory),
            Stop::Suspend => self.handler.suspend(queue, &self.memory),
        };
        queue.publish();
        if self.ground.poisoned() {
            return Err(Failure::Poisoned);
        }
        drained.map_err(Failure::Queue)
    }

    fn failure(&self, error: Error) -> Failure {
        if self.ground.poisoned() {
            Failure::Poisoned
        } else {
            Failure::Queue(error)
        }
    }
}
