//! The driver half of a queue, of either format.
//!
//! One rule: this file only chooses the format; the rules of the rings are in `split` and
//! `packed`.

use crate::chain::Segment;
use crate::config::Format;
use crate::config::QueueConfig;
use crate::error::AddError;
use crate::error::RingError;
use crate::memory::RingMemory;
use crate::memory::Rings;
use crate::packed::PackedDriver;
use crate::split::SplitDriver;

/// A buffer the device is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Used {
    /// What [`DriverQueue::add`] returned for it.
    pub id: u16,
    /// Bytes the device says it wrote, at most the writable bytes of the chain.
    pub written: u32,
}

/// The driver half of a queue: makes chains available and gets them back.
///
/// Everything needed to take a chain back is private memory: what the device writes to the rings
/// is only ever compared with it.
#[derive(Debug)]
pub struct DriverQueue {
    inner: Inner,
}

#[derive(Debug)]
enum Inner {
    Split(SplitDriver),
    Packed(PackedDriver),
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

impl DriverQueue {
    /// A fresh queue on `rings`, which are zeroed. The device must not use them yet.
    ///
    /// # Errors
    /// When the parameters and the areas do not fit each other.
    pub fn new(config: QueueConfig, rings: Rings) -> Result<Self, RingError> {
        let inner = match config.format {
            Format::Split => Inner::Split(SplitDriver::new(config, &rings)?),
            Format::Packed => Inner::Packed(PackedDriver::new(config, &rings)?),
        };
        Ok(Self { inner })
    }

    /// Adds a chain: `readable` segments, then `writable` ones. The device sees it after
    /// [`DriverQueue::publish`]. The returned id is lent until [`DriverQueue::pop`] returns it.
    ///
    /// With `indirect`, the descriptors go to that table (16 bytes per segment, aligned to 8, at
    /// the given device address), which belongs to the device until the id comes back; the chain
    /// then takes one descriptor of the ring.
    ///
    /// # Errors
    /// See [`AddError`]; nothing was added.
    #[inline]
    pub fn add(
        &mut self,
        readable: &[Segment],
        writable: &[Segment],
        indirect: Option<(RingMemory, u64)>,
    ) -> Result<u16, AddError> {
        dispatch!(mut self, queue => queue.add(readable, writable, indirect))
    }

    /// Makes all added chains visible to the device; `true` when it wants a notification.
    #[inline]
    #[must_use = "the device may wait for the notification"]
    pub fn publish(&mut self) -> bool {
        dispatch!(mut self, queue => queue.publish())
    }

    /// The value to notify with when `NOTIFICATION_DATA` is negotiated (virtio 1.4 sec. 2.9).
    pub fn notification_data(&self, queue_index: u16) -> u32 {
        dispatch!(self, queue => queue.notification_data(queue_index))
    }

    /// Takes back the next buffer the device is done with.
    ///
    /// # Errors
    /// The device broke the rules of the ring. The queue is broken: every later call returns the
    /// same error, lent buffers stay lent until a reset.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Used>, RingError> {
        dispatch!(mut self, queue => queue.pop())
    }

    /// Asks the device for interrupts; `true` when a buffer came back meanwhile (or the queue is
    /// broken and [`DriverQueue::pop`] will say so): do not sleep.
    #[must_use = "sleeping on true loses a wake-up"]
    pub fn arm(&mut self) -> bool {
        dispatch!(mut self, queue => queue.arm())
    }

    /// Asks the device for silence, while polling. Interrupts may still come.
    #[inline]
    pub fn disarm(&mut self) {
        dispatch!(mut self, queue => queue.disarm());
    }

    /// Whether [`DriverQueue::pop`] would return a buffer or an error.
    #[inline]
    pub fn has_used(&self) -> bool {
        dispatch!(self, queue => queue.has_used())
    }

    /// Ring descriptors left for [`DriverQueue::add`].
    #[inline]
    pub fn free_descriptors(&self) -> u16 {
        dispatch!(self, queue => queue.free_descriptors())
    }

    /// Chains added and not popped.
    #[inline]
    pub fn in_flight(&self) -> u16 {
        dispatch!(self, queue => queue.in_flight())
    }

    /// How often the device claimed to have written more than a chain can hold; what it claimed
    /// was cut.
    pub fn overruns(&self) -> u64 {
        dispatch!(self, queue => queue.overruns())
    }

    /// Starts afresh after the device has completed a reset of the queue or of itself (sec. 2.6.1):
    /// hands every lent id to `reclaim` and zeroes the rings.
    pub fn reset(&mut self, reclaim: impl FnMut(u16)) {
        dispatch!(mut self, queue => queue.reset(reclaim));
    }

    /// The parameters of the queue.
    pub fn config(&self) -> &QueueConfig {
        dispatch!(self, queue => queue.config())
    }
}
