//! The device half of a queue, of either format.
//!
//! One rule: this file only chooses the format; the rules of the rings are in `split` and
//! `packed`.

use virtio_spec::ring::PackedDescriptor;

use crate::chain::ChainBatch;
use crate::chain::Token;
use crate::config::Format;
use crate::config::QueueConfig;
use crate::config::QueueState;
use crate::error::RingError;
use crate::footprint::Footprint;
use crate::memory::PeerMemory;
use crate::memory::Rings;
use crate::packed::PackedDevice;
use crate::split::SplitDevice;

/// The device half of a queue: takes chains the driver made available, and uses them.
///
/// Not `Sync`: one thread drives a queue. After an error that names the driver the queue is
/// broken and every call that reads the ring returns the same error; chains already taken can
/// still be completed and published.
#[derive(Debug)]
pub struct DeviceQueue {
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Split(SplitDevice),
    Packed(PackedDevice),
}

/// A chain that was in flight when the queue stopped, as an in-flight record keeps it.
#[derive(Clone, Copy, Debug)]
pub enum Replay<'a> {
    /// Split: the head; its descriptors still stand in the table.
    Head(u16),
    /// Packed: copies of the ring descriptors ([`ChainBatch::raw`]), for those in the ring may be
    /// overwritten. Only the last one's `id` counts.
    Descriptors(&'a [PackedDescriptor]),
}

macro_rules! dispatch {
    ($self:ident, $queue:ident => $call:expr) => {
        match &$self.inner {
            Inner::Split($queue) => $call,
            Inner::Packed($queue) => $call,
        }
    };
    (mut $self:ident, $queue:ident => $call:expr) => {
        match &mut $self.inner {
            Inner::Split($queue) => $call,
            Inner::Packed($queue) => $call,
        }
    };
}

impl DeviceQueue {
    /// A queue on `rings`, going on from `state` ([`QueueState::fresh`] after a reset).
    ///
    /// When `state` has chains in flight they must be replayed ([`DeviceQueue::replay`]).
    ///
    /// # Errors
    /// When the parameters, the areas or the state do not fit each other.
    pub fn new(config: QueueConfig, rings: Rings, state: QueueState) -> Result<Self, RingError> {
        let inner = match config.format {
            Format::Split => Inner::Split(SplitDevice::new(config, &rings, state)?),
            Format::Packed => Inner::Packed(PackedDevice::new(config, &rings, state)?),
        };
        Ok(Self { inner })
    }

    /// Takes up to `max` chains and appends them to `batch`; returns how many.
    ///
    /// When a chain is malformed the chains before it are returned first, and the error comes
    /// with the next call and all later ones.
    ///
    /// # Errors
    /// The driver broke the rules of the ring; the queue is broken.
    #[inline]
    pub fn take(
        &mut self,
        memory: &impl PeerMemory,
        batch: &mut ChainBatch,
        max: usize,
    ) -> Result<usize, RingError> {
        dispatch!(mut self, queue => queue.take(memory, batch, max))
    }

    /// Takes again a chain that was in flight before the restart and appends it to `batch`.
    ///
    /// With `IN_ORDER` chains must be replayed in the order in which they were taken first, before
    /// anything new is taken.
    ///
    /// # Errors
    /// [`RingError::UnexpectedReplay`] when the state given to [`DeviceQueue::new`] leaves no room
    /// for it; otherwise the chain is malformed. The queue is not broken by either.
    pub fn replay(
        &mut self,
        memory: &impl PeerMemory,
        batch: &mut ChainBatch,
        chain: Replay<'_>,
    ) -> Result<(), RingError> {
        match (&mut self.inner, chain) {
            (Inner::Split(queue), Replay::Head(head)) => queue.replay(memory, batch, head),
            (Inner::Packed(queue), Replay::Descriptors(descriptors)) => {
                queue.replay(memory, batch, descriptors)
            }
            _ => Err(RingError::UnexpectedReplay),
        }
    }

    /// Uses a chain: `written` bytes were written to its writable part from its start. The driver
    /// sees it after [`DeviceQueue::publish`]; with `IN_ORDER` after all earlier ones were
    /// completed too. A `written` beyond the writable part is cut to it.
    ///
    /// # Errors
    /// [`RingError::NotInFlight`] when `token` names no chain in flight.
    #[inline]
    pub fn complete(&mut self, token: Token, written: u32) -> Result<(), RingError> {
        dispatch!(mut self, queue => queue.complete(token, written))
    }

    /// Gives back the last `count` chains of `batch` and removes them from it: they were never
    /// taken, and the next [`DeviceQueue::take`] returns them again. They must be the last ones
    /// taken, on a queue whose chains are completed in the order in which they were taken.
    ///
    /// # Errors
    /// [`RingError::NotInFlight`] when one of them is completed already, or not of this queue; it
    /// and those before it stay in `batch`.
    #[inline]
    pub fn give_back(&mut self, batch: &mut ChainBatch, count: usize) -> Result<(), RingError> {
        for _ in 0..count {
            let last = batch.len().checked_sub(1);
            let chain = last.and_then(|last| Some((last, batch.get(last)?.token)));
            let (last, token) = chain.ok_or(RingError::NotInFlight)?;
            dispatch!(mut self, queue => queue.give_back(token))?;
            batch.truncate(last);
        }
        Ok(())
    }

    /// Makes all completed chains visible to the driver in one step; `true` when the driver wants
    /// an interrupt for them.
    #[inline]
    #[must_use = "the driver may wait for the interrupt"]
    pub fn publish(&mut self) -> bool {
        dispatch!(mut self, queue => queue.publish())
    }

    /// How many completed chains the next [`DeviceQueue::publish`] makes visible.
    #[inline]
    pub fn publishable(&self) -> usize {
        dispatch!(self, queue => queue.publishable())
    }

    /// The bytes of the ring that completions since the last publish and the next
    /// [`DeviceQueue::publish`] write: what a dirty log has to note before the latter.
    ///
    /// [`DeviceQueue::arm`] and [`DeviceQueue::disarm`] write to the device area too: its first
    /// and last four bytes.
    pub fn footprint(&self) -> Footprint {
        dispatch!(self, queue => queue.footprint())
    }

    /// Asks the driver for notifications; `true` when work arrived meanwhile (or the queue is
    /// broken and [`DeviceQueue::take`] will say so): do not sleep.
    #[must_use = "sleeping on true loses a wake-up"]
    pub fn arm(&mut self) -> bool {
        dispatch!(mut self, queue => queue.arm())
    }

    /// Asks the driver for silence, while polling. Notifications may still come.
    #[inline]
    pub fn disarm(&mut self) {
        dispatch!(mut self, queue => queue.disarm());
    }

    /// Whether [`DeviceQueue::take`] would return a chain or an error.
    #[inline]
    pub fn has_work(&self) -> bool {
        dispatch!(self, queue => queue.has_work())
    }

    /// Where the queue stands; completed but unpublished chains count as in flight.
    pub fn state(&self) -> QueueState {
        dispatch!(self, queue => queue.state())
    }

    /// Chains taken and not published.
    #[inline]
    pub fn in_flight(&self) -> usize {
        dispatch!(self, queue => queue.in_flight())
    }

    /// The parameters of the queue.
    pub fn config(&self) -> &QueueConfig {
        dispatch!(self, queue => queue.config())
    }
}
