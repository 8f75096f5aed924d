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
    slots: Vec<Slot<T>>,
    free: Vec<u16>,
    over: Vec<(u16, Result<usize, Errno>)>,
    memory: Option<Arc<GuestMemory>>,
    /// Memory that pending steps may still point into.
    older: Vec<Arc<GuestMemory>>,
}

struct Slot<T> {
    work: Work,
    context: T,
}

impl<T: Default> Runner<T> {
    /// Room for `depth` requests at a time.
    pub fn new(engine: Box<dyn Engine>, image: Arc<Image>, depth: u16) -> Self {
        Self {
            engine,
            image,
            slots: std::iter::repeat_with(|| Slot {
                work: Work::default(),
                context: T::default(),
            })
            .take(usize::from(depth))
            .collect(),
            free: (0..depth).rev().collect(),
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

    pub fn sleeping(&mut self, asleep: bool) {
        self.engine.sleeping(asleep);
    }

    pub fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        self.engine.completion_fd()
    }

    /// A slot for a new request; give it back by [`Runner::release`].
    #[inline]
    pub fn claim(&mut self) -> Option<u16> {
        self.free.pop()
    }

    /// Gives a slot back whose request is over or was never begun.
    #[inline]
    pub fn release(&mut self, slot: u16) {
        self.free.push(slot);
    }

    #[inline]
    pub fn context(&mut self, slot: u16) -> Option<&mut T> {
        Some(&mut self.slots.get_mut(usize::from(slot))?.context)
    }

    /// A transfer at `offset` will begin soon.
    #[inline]
    pub fn prefetch(&self, offset: u64) {
        self.engine.prefetch(offset);
    }

    /// Begins a transfer between the image and the guest's `segments`, which `of` picks from the slot's context.
    /// `None`: it is pending; otherwise it is over.
    #[inline]
    pub fn transfer(
        &mut self,
        slot: u16,
        task: Task,
        (offset, len): (u64, u64),
        durable: bool,
        of: impl Fn(&T) -> &[Segment],
    ) -> Option<Result<(), Errno>> {
        let (Some(entry), Some(memory)) = (self.slots.get_mut(usize::from(slot)), &self.memory)
        else {
            return Some(Err(Errno::EINVAL));
        };
        entry.work.buffers.clear();
        if memory
            .iovecs(of(&entry.context), &mut entry.work.buffers)
            .is_err()
        {
            return Some(Err(Errno::EFAULT));
        }
        entry.work.transfer(task, offset, len, durable, &self.image);
        self.drive(slot)
    }

    /// Begins a discard or zeroing; the answer is as for [`Runner::transfer`].
    pub fn ranges(
        &mut self,
        slot: u16,
        task: Task,
        durable: bool,
        of: impl Fn(&T) -> &[Range],
    ) -> Option<Result<(), Errno>> {
        let Some(entry) = self.slots.get_mut(usize::from(slot)) else {
            return Some(Err(Errno::EINVAL));
        };
        entry.work.ranges(task, of(&entry.context), durable);
        self.drive(slot)
    }

    /// Begins a flush; the answer is as for [`Runner::transfer`].
    pub fn flush(&mut self, slot: u16) -> Option<Result<(), Errno>> {
        self.slots.get_mut(usize::from(slot))?.work.flush();
        self.drive(slot)
    }

    /// Bytes that the request in `slot` has moved.
    #[inline]
    pub fn moved(&self, slot: u16) -> u64 {
        self.slots
            .get(usize::from(slot))
            .map_or(0, |entry| entry.work.moved())
    }

    /// Whether the last step of the request in `slot` was a sync.
    pub fn synced(&self, slot: u16) -> bool {
        let entry = self.slots.get(usize::from(slot));
        entry.is_some_and(|entry| entry.work.is_synced())
    }

    /// Hands what was begun to the kernel; call it once per batch.
    #[inline]
    pub fn submit(&mut self) -> Result<(), Errno> {
        self.engine.submit()
    }

    /// Goes on with requests whose step is over; returns one that is over as a whole.
    pub fn next_over(&mut self) -> Option<(u16, Result<(), Errno>)> {
        if self.over.is_empty() {
            if self.engine.pending() == 0 {
                return None;
            }
            self.engine.reap(&mut self.over);
        }
        while let Some((slot, result)) = self.over.pop() {
            if let Some(result) = self.advance(slot, result) {
                return Some((slot, result));
            }
        }
        None
    }

    /// Blocks until a pending step is over.
    pub fn wait(&mut self) -> Result<(), Errno> {
        self.engine.wait()
    }

    fn advance(&mut self, slot: u16, result: Result<usize, Errno>) -> Option<Result<(), Errno>> {
        let work = &mut self.slots.get_mut(usize::from(slot))?.work;
        match work.advance(&self.image, result) {
            Next::Over(result) => Some(result),
            Next::Again => self.drive(slot),
        }
    }

    /// Starts steps until one is pending (`None`) or the request is over.
    #[inline]
    fn drive(&mut self, slot: u16) -> Option<Result<(), Errno>> {
        let entry = self.slots.get_mut(usize::from(slot))?;
        loop {
            if entry.work.is_outgrown(&self.image) {
                return Some(Err(Errno::EIO));
            }
            let Some(step) = entry.work.step(&self.image) else {
                return Some(Ok(()));
            };
            // SAFETY: buffers are spans of `self.memory`, which is kept (here or in `older`) while anything is pending, or
            // of the slot's own bounce buffer; neither they nor their list are touched until `reap` names the slot.
            let outcome = unsafe { self.engine.start(slot, step) };
            let Outcome::Done(result) = outcome else {
                return None;
            };
            if let Next::Over(result) = entry.work.advance(&self.image, result) {
                return Some(result);
            }
        }
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
                std::mem::forget(std::mem::take(&mut self.slots));
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
