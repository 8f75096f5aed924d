//! Frames into a guest's receive queue (virtio 1.4 sec. 5.1.6.4).
//!
//! Rule: a buffer is used only with a whole frame in it or in it and its followers; what does not fit, or what nobody
//! wants, leaves the buffers as they were, to be given back.

use std::sync::Arc;
use std::sync::MutexGuard;

use device_model::Queue;
use guest_memory::Cursor;
use guest_memory::GuestMemory;
use host_os::EventFd;
use virtio_spec::net::gso;
use virtqueue::Chain;
use virtqueue::ChainBatch;
use virtqueue::Segment;

use crate::conditions::Conditions;
use crate::path::header::fits;
use crate::path::inlet::Pending;
use crate::path::inlet::Slot;
use crate::path::policy::Policy;
use crate::path::room::Search;
use crate::path::tally::ReceiveTally;
use crate::path::transmit::BURST;
use crate::path::transmit::Departing;
use crate::path::view::View;

/// Buffers whose first bytes are on their way to the CPU's cache while one is written.
const AHEAD: usize = 8;
/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The guest has it, or it was dropped and counted.
    Done,
    /// The guest has no buffers for it now.
    Starved,
    /// The guest cannot take it as it is: its checksum is to be completed, or it is to be cut.
    Unfit,
}

/// The receive queue in the hands of somebody with frames.
pub(crate) struct Receiving<'a> {
    pub(super) slot: MutexGuard<'a, Slot>,
    memory: Option<Arc<GuestMemory>>,
    pub(super) tally: &'a ReceiveTally,
    policy: &'a Policy,
    conditions: &'a Conditions,
    /// The policy wants to see frames.
    screens: bool,
    alarm: &'a EventFd,
    frames: u64,
    bytes: u64,
}

impl<'a> Receiving<'a> {
    #[inline]
    pub fn new(
        slot: MutexGuard<'a, Slot>,
        tally: &'a ReceiveTally,
        policy: &'a Policy,
        conditions: &'a Conditions,
        alarm: &'a EventFd,
    ) -> Self {
        let usable = slot.queue.as_ref().filter(|_| slot.failed.is_none());
        let memory = usable.map(|queue| Arc::clone(queue.memory()));
        Self {
            slot,
            memory,
            tally,
            policy,
            conditions,
            screens: policy.screens_received(),
            alarm,
            frames: 0,
            bytes: 0,
        }
    }

    /// Puts one frame into the queue.
    #[inline]
    pub fn deliver(&mut self, frame: &mut Departing<'_>) -> Outcome {
        let Slot {
            queue,
            batch,
            next,
            view,
            failed,
            ..
        } = &mut *self.slot;
        let (Some(queue), Some(memory)) = (queue.as_mut(), self.memory.as_deref()) else {
            self.tally.link_down.add(1);
            return Outcome::Done;
        };
        if !view.admits(frame.head(), self.tally) {
            return Outcome::Done;
        }
        if !fits(view.offloads(), &frame.header) {
            return Outcome::Unfit;
        }
        if frame.len > view.max_frame() && frame.header.gso_type == gso::NONE {
            self.tally.too_long.add(1);
            return Outcome::Done;
        }
        if *next == batch.len() {
            batch.clear();
            *next = 0;
            if !take(queue, failed, batch) {
                return Outcome::Starved;
            }
            for at in 0..AHEAD {
                prefetch(memory, batch, at);
            }
        }
        // Last, for a frame that has to wait comes here again.
        if self.screens && !self.policy.admits(frame, self.tally) {
            return Outcome::Done;
        }
        prefetch(memory, batch, *next + AHEAD);
        let len = view.header_size() + frame.len;
        if frame.rest.is_none()
            && let Some(chain) = batch.get(*next)
            && let [only] = chain.writable
            && only.len as usize >= len
        {
            let hash = view.hash(frame.head());
            let bytes = frame.with_header(view.header_size(), 1, hash);
            let written = memory.write(only.addr, bytes).is_ok();
            if !written {
                self.tally.bad_chains.add(1);
            }
            let used = if written { len as u32 } else { 0 };
            *next += 1;
            self.frames += u64::from(written);
            self.bytes += if written { frame.len as u64 } else { 0 };
            if let Err(error) = queue.complete(chain.token, used) {
                *failed = Some(error);
            }
            return Outcome::Done;
        }
        self.deliver_scattered(frame)
    }

    /// The general case: any number of descriptors in any number of chains.
    fn deliver_scattered(&mut self, frame: &mut Departing<'_>) -> Outcome {
        let Some(memory) = self.memory.clone() else {
            return Outcome::Done;
        };
        let len = self.slot.view.header_size() + frame.len;
        let room = self.find_room(len);
        match room.ended {
            Search::Enough => {}
            Search::Starved => return Outcome::Starved,
            Search::Limit => {
                self.tally.too_small.add(1);
                return Outcome::Done;
            }
        }
        let count = room.chains;
        let view = &self.slot.view;
        let hash = view.hash(frame.head());
        let chains = self.slot.next..self.slot.next + count;
        let buffers = u16::try_from(count).unwrap_or(u16::MAX);
        let rest = frame.rest.take();
        let first = frame.with_header(view.header_size(), buffers, hash);
        if scatter(&memory, &self.slot.batch, chains, len, first, rest) {
            self.frames += 1;
            self.bytes += frame.len as u64;
            self.use_chains(count, len);
        } else if self.is_bad(&memory, count) {
            self.tally.bad_chains.add(1);
            self.use_chains(count, 0);
        } else {
            // The sender's memory has a hole there: these buffers hold scraps, but nobody is told.
            self.tally.bad_sources.add(1);
        }
        Outcome::Done
    }

    /// Whether a part of the next `count` chains is no memory.
    fn is_bad(&self, memory: &GuestMemory, count: usize) -> bool {
        self.taken(count)
            .flat_map(|chain| chain.writable)
            .any(|part| {
                memory
                    .for_each_span(part.addr, u64::from(part.len), |_| {})
                    .is_err()
            })
    }

    /// Completes the next `count` chains, `len` bytes in them from the first on.
    pub fn use_chains(&mut self, count: usize, len: usize) {
        let Slot {
            queue,
            failed,
            batch,
            next,
            ..
        } = &mut *self.slot;
        let Some(queue) = queue else {
            return;
        };
        let mut left = len as u64;
        for at in *next..*next + count {
            let Some(chain) = batch.get(at) else {
                break;
            };
            let part = writable_bytes(&chain).min(left);
            left -= part;
            if let Err(error) = queue.complete(chain.token, part as u32) {
                *failed = Some(error);
            }
        }
        *next += count;
    }

    /// The next chain's only part, if it has room for `bytes`; the one after it is on its way to the CPU's cache then.
    #[inline]
    pub fn single(&self, memory: &GuestMemory, bytes: usize) -> Option<Segment> {
        let chain = self.slot.batch.get(self.slot.next)?;
        let [only] = chain.writable else {
            return None;
        };
        prefetch(memory, &self.slot.batch, self.slot.next + 2);
        (only.len as usize >= bytes).then_some(*only)
    }

    /// Completes the next chain, a frame of `len` bytes in `total` bytes of it.
    #[inline]
    pub fn use_single(&mut self, total: usize, len: usize) {
        let slot = &mut *self.slot;
        if let Some(chain) = slot.batch.get(slot.next)
            && let Some(queue) = &mut slot.queue
            && let Err(error) = queue.complete(chain.token, total as u32)
        {
            slot.failed = Some(error);
        }
        slot.next += 1;
        self.delivered(len);
    }

    /// Whether a sender should wait a moment for buffers; not again after it was in vain.
    pub fn is_worth_waiting(&self) -> bool {
        self.memory.is_some() && self.slot.failed.is_none() && !self.slot.starved
    }

    /// Notes that `frames` could not be delivered for want of buffers.
    pub fn starve(&mut self, frames: u64) {
        self.slot.starved = true;
        self.tally.starved.add(frames);
    }

    /// The state of the port.
    #[inline]
    pub fn view(&self) -> &View {
        &self.slot.view
    }

    /// The counters.
    #[inline]
    pub fn tally(&self) -> &'a ReceiveTally {
        self.tally
    }

    /// The policy, if it wants to see frames.
    pub fn policy(&self) -> Option<&'a Policy> {
        self.screens.then_some(self.policy)
    }

    /// The queue's memory, if there is a queue that can be used.
    pub fn memory(&self) -> Option<&Arc<GuestMemory>> {
        self.memory.as_ref().filter(|_| self.slot.failed.is_none())
    }

    /// The next `count` chains.
    pub fn taken(&self, count: usize) -> impl Iterator<Item = Chain<'_>> {
        let next = self.slot.next;
        (next..next + count).filter_map(move |at| self.slot.batch.get(at))
    }

    /// How many of the next chains `len` bytes fill, if they do.
    pub fn chains_for(&self, len: usize) -> Option<usize> {
        let mut room = 0;
        for (at, chain) in self.taken(self.slot.held()).enumerate() {
            room += writable_bytes(&chain);
            if room >= len as u64 {
                return Some(at + 1);
            }
        }
        None
    }

    /// The frame that waits for more buffers.
    pub fn pending(&self) -> Option<Pending> {
        self.slot.pending
    }

    /// The frame that waits for more buffers is lost.
    pub fn give_up(&mut self) {
        self.slot.pending = None;
        self.tally.starved.add(1);
    }

    /// Keeps a frame until there are more buffers, or forgets it.
    pub fn set_pending(&mut self, pending: Option<Pending>) {
        self.slot.pending = pending;
    }

    /// A frame of `len` bytes is in the guest's buffers.
    #[inline]
    pub fn delivered(&mut self, len: usize) {
        self.frames += 1;
        self.bytes += len as u64;
    }
}

impl Drop for Receiving<'_> {
    #[inline]
    fn drop(&mut self) {
        let slot = &mut *self.slot;
        let mut poisoned = false;
        if let Some(queue) = &mut slot.queue {
            queue.publish();
            poisoned = queue.ground().poisoned();
        }
        if self.frames != 0 {
            slot.starved = false;
            self.tally.frames.add(self.frames);
            self.tally.bytes.add(self.bytes);
        }
        let state = slot.view.state();
        let streak = &mut slot.streak;
        streak.settle(self.frames, self.tally, state, self.conditions);
        if slot.failed.is_some() || poisoned {
            self.alarm.notify();
        }
    }
}

/// Takes chains; `false` when there are none.
#[inline]
pub(super) fn take(
    queue: &mut Queue,
    failed: &mut Option<device_model::Error>,
    batch: &mut ChainBatch,
) -> bool {
    if failed.is_some() {
        return false;
    }
    match queue.take(batch, BURST) {
        Ok(taken) => taken != 0,
        Err(error) => {
            *failed = Some(error);
            false
        }
    }
}

#[inline]
fn prefetch(memory: &GuestMemory, batch: &ChainBatch, at: usize) {
    if let Some(chain) = batch.get(at)
        && let Some(segment) = chain.writable.first()
        && let Some(span) = memory.host_slice(segment.addr, 1)
    {
        span.prefetch_to_write();
    }
}

pub(super) fn writable_bytes(chain: &Chain<'_>) -> u64 {
    chain.writable.iter().map(|part| u64::from(part.len)).sum()
}

/// Writes `first` and then `rest`, `len` bytes in all, into the chains at `chains`.
fn scatter(
    memory: &GuestMemory,
    batch: &ChainBatch,
    chains: std::ops::Range<usize>,
    len: usize,
    mut first: &[u8],
    mut rest: Option<Cursor<'_>>,
) -> bool {
    let mut left = len;
    for chain in chains.filter_map(|at| batch.get(at)) {
        let mut to = Cursor::new(memory, chain.writable);
        let room = usize::try_from(writable_bytes(&chain)).unwrap_or(usize::MAX);
        let part = room.min(left);
        let (now, later) = first.split_at(first.len().min(part));
        if to.write(now).ok() != Some(now.len()) {
            return false;
        }
        first = later;
        let behind = part - now.len();
        if behind != 0 {
            let copied = rest.as_mut().map(|rest| to.copy_from(rest, behind));
            if !matches!(copied, Some(Ok(copied)) if copied == behind) {
                return false;
            }
        }
        left -= part;
    }
    left == 0
}
