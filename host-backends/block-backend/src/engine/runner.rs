//! Requests in flight on one queue: their slots, the engine that moves them, the guest memory they point into.
//!
//! Rule: this is where the engines' contract is kept. Buffers come only from guest memory that the runner holds, and it
//! lets go of that memory only when nothing is pending; dropping it waits for that.
#![expect(
    unsafe_code,
    reason = "starts engine steps, whose contract is kept here"
)]

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use guest_memory::GuestMemory;
use nix::errno::Errno;
use virtqueue::Segment;

use crate::engine::Engine;
use crate::engine::Outcome;
use crate::engine::work::Next;
use crate::engine::work::Task;
use crate::engine::work::Work;
use crate::image::Image;
use crate::request::Range;

/// The slots of one queue; `T` is what the queue keeps with each request.
pub(crate) struct Runner<T> {
    engine: Box<dyn Engine>,
    image: Arc<Image>,
    free: Vec<Box<Slot<T>>>,
    /// By number, the slots whose step is pending.
    pending: Vec<Option<Box<Slot<T>>>>,
    over: Vec<(u16, Result<usize, Errno>)>,
    memory: Option<Arc<GuestMemory>>,
    /// Memory that pending steps may still point into.
    older: Vec<Arc<GuestMemory>>,
}

/// The place of one request. [`Runner::claim`] alone gives one out; it is with the queue, or with the runner while a step of
/// it is pending, and never with both.
pub(crate) struct Slot<T> {
    number: u16,
    work: Work,
    /// What the queue keeps with the request.
    pub context: T,
}

impl<T> Slot<T> {
    /// Bytes that the request has moved.
    #[inline]
    pub fn moved(&self) -> u64 {
        self.work.moved()
    }

    /// Whether the last step of the request was a sync.
    pub fn synced(&self) -> bool {
        self.work.is_synced()
    }
}

/// A request that is over, and what came of it.
pub(crate) type Over<T> = (Box<Slot<T>>, Result<(), Errno>);

/// Where a request stands that was begun.
#[must_use = "a request that is over is to be answered"]
pub(crate) enum Begun<T> {
    /// The runner has its slot until [`Runner::next_over`] returns it.
    Pending,
    /// It is over.
    Over(Box<Slot<T>>, Result<(), Errno>),
}

impl<T: Default> Runner<T> {
    /// Room for `depth` requests at a time.
    pub fn new(engine: Box<dyn Engine>, image: Arc<Image>, depth: u16) -> Self {
        let slot = |number| {
            Box::new(Slot {
                number,
                work: Work::default(),
                context: T::default(),
            })
        };
        Self {
            engine,
            image,
            free: (0..depth).rev().map(slot).collect(),
            pending: (0..depth).map(|_| None).collect(),
            over: Vec::with_capacity(usize::from(depth)),
            memory: None,
            older: Vec::new(),
        }
    }

    /// Makes `memory` the one that later requests point into.
    #[inline]
    pub fn hold(&mut self, memory: &Arc<GuestMemory>) {
        let same = self
            .memory
            .as_ref()
            .is_some_and(|held| Arc::ptr_eq(held, memory));
        if !same {
            let before = self.memory.replace(Arc::clone(memory));
            self.older.extend(before);
        }
        if !self.older.is_empty() && self.engine.pending() == 0 {
            self.older.clear();
        }
    }

    /// Requests that may still be begun.
    #[inline]
    pub fn room(&self) -> usize {
        self.free.len()
    }

    /// Requests that wait for the kernel.
    pub fn pending(&self) -> usize {
        self.engine.pending()
    }

    pub fn before_sleep(&mut self) {
        self.engine.before_sleep();
    }

    pub fn after_sleep(&mut self, completed: bool) {
        self.engine.after_sleep(completed);
    }

    pub fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        self.engine.completion_fd()
    }

    /// A slot for a new request; give it back by [`Runner::release`].
    #[inline]
    pub fn claim(&mut self) -> Option<Box<Slot<T>>> {
        self.free.pop()
    }

    /// Gives a slot back whose request is over or was never begun.
    #[inline]
    pub fn release(&mut self, slot: Box<Slot<T>>) {
        self.free.push(slot);
    }

    /// A transfer at `offset` will begin soon.
    #[inline]
    pub fn prefetch(&self, offset: u64) {
        self.engine.prefetch(offset);
    }

    /// Begins a transfer between the image and the guest's `segments`, which `of` picks from the slot's context.
    #[inline]
    pub fn transfer(
        &mut self,
        mut slot: Box<Slot<T>>,
        task: Task,
        (offset, len): (u64, u64),
        durable: bool,
        of: impl Fn(&T) -> &[Segment],
    ) -> Begun<T> {
        let Some(memory) = &self.memory else {
            return Begun::Over(slot, Err(Errno::EINVAL));
        };
        let Slot { work, context, .. } = &mut *slot;
        work.buffers.clear();
        if memory.iovecs(of(context), &mut work.buffers).is_err() {
            return Begun::Over(slot, Err(Errno::EFAULT));
        }
        work.transfer(task, offset, len, durable, &self.image);
        self.drive(slot)
    }

    /// Begins a discard or zeroing.
    pub fn ranges(
        &mut self,
        mut slot: Box<Slot<T>>,
        task: Task,
        durable: bool,
        of: impl Fn(&T) -> &[Range],
    ) -> Begun<T> {
        let Slot { work, context, .. } = &mut *slot;
        work.ranges(task, of(context), durable);
        self.drive(slot)
    }

    /// Begins a flush.
    pub fn flush(&mut self, mut slot: Box<Slot<T>>) -> Begun<T> {
        slot.work.flush();
        self.drive(slot)
    }

    /// Hands what was begun to the kernel; call it once per batch.
    #[inline]
    pub fn submit(&mut self) -> Result<(), Errno> {
        self.engine.submit()
    }

    /// Goes on with requests whose step is over; returns one that is over as a whole.
    pub fn next_over(&mut self) -> Option<Over<T>> {
        if self.over.is_empty() {
            if self.engine.pending() == 0 {
                return None;
            }
            self.engine.reap(&mut self.over);
        }
        while let Some((number, result)) = self.over.pop() {
            let slot = self.pending.get_mut(usize::from(number));
            let Some(mut slot) = slot.and_then(Option::take) else {
                debug_assert!(
                    false,
                    "the engine names slot {number}, which is not pending"
                );
                continue;
            };
            match slot.work.advance(&self.image, result) {
                Next::Over(result) => return Some((slot, result)),
                Next::Again => {
                    if let Begun::Over(slot, result) = self.drive(slot) {
                        return Some((slot, result));
                    }
                }
            }
        }
        None
    }

    /// Blocks until a pending step is over.
    pub fn wait(&mut self) -> Result<(), Errno> {
        self.engine.wait()
    }

    /// Starts steps until one is pending or the request is over.
    #[inline]
    fn drive(&mut self, mut slot: Box<Slot<T>>) -> Begun<T> {
        let result = loop {
            if slot.work.is_outgrown(&self.image) {
                break Err(Errno::EIO);
            }
            let Some(step) = slot.work.step(&self.image) else {
                break Ok(());
            };
            // SAFETY: buffers are spans of `self.memory`, which is kept (here or in `older`) while anything is pending, or
            // of the slot's own bounce buffer; neither they nor their list, which stay where they are in the slot's box,
            // are touched until `reap` names the slot.
            let outcome = unsafe { self.engine.start(slot.number, step) };
            let Outcome::Done(result) = outcome else {
                match self.pending.get_mut(usize::from(slot.number)) {
                    Some(place) => *place = Some(slot),
                    None => debug_assert!(false, "a slot that this runner did not make"),
                }
                return Begun::Pending;
            };
            if let Next::Over(result) = slot.work.advance(&self.image, result) {
                break result;
            }
        };
        Begun::Over(slot, result)
    }
}

impl<T> Drop for Runner<T> {
    fn drop(&mut self) {
        while self.engine.pending() != 0 {
            if self.engine.wait().is_err() {
                // What the kernel may still work with is given up rather than given back: guest memory, and the image, whose
                // lock must keep others away until the last write of ours is over.
                tracing::error!(
                    image = %self.image.path.display(),
                    "The kernel cannot be asked for the end of its transfers: their memory and the image stay in use"
                );
                self.image.keep_locked();
                std::mem::forget(Arc::clone(&self.image));
                std::mem::forget(self.memory.take());
                std::mem::forget(std::mem::take(&mut self.older));
                std::mem::forget(std::mem::take(&mut self.pending));
                return;
            }
            self.over.clear();
            self.engine.reap(&mut self.over);
        }
    }
}

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
