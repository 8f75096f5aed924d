//! What is out with a chain of the balloon, and how messages go out.
//!
//! Rule: what is on its way is remembered in private memory; what the device sees is never read back.
use driver_platform::Mmio;
use virtio_core::Error;
use virtio_core::Placement;
use virtio_core::Slot;
use virtio_core::SlotQueue;
use virtqueue::Segment;

/// A queue of the balloon.
pub(crate) type Queue<B> = SlotQueue<Batch, B>;

/// Items of a queue's own list that are out with a chain: pages or blocks; none for other messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    start: usize,
    pub(crate) count: usize,
}

impl Batch {
    /// The first `count` of the `each` items that belong to a slot.
    pub(crate) fn of(slot: &Slot, each: usize, count: usize) -> Self {
        Self {
            start: slot.index() * each,
            count,
        }
    }

    /// Its items in the list.
    pub(crate) fn items<'l, T>(&self, list: &'l [T]) -> &'l [T] {
        let items = list.get(self.start..self.start + self.count);
        debug_assert!(items.is_some(), "a batch outside of its list");
        items.unwrap_or(&[])
    }
}

/// Puts a message on the ring. There was room for it.
pub(crate) fn send<B: Mmio>(
    queue: &mut Queue<B>,
    slot: Slot,
    message: Segment,
    batch: Batch,
) -> Result<(), Error> {
    let chain = queue.chain();
    chain.clear();
    chain.push(message);
    let added = queue.add(slot, 1, Placement::RingWhileRoomy, batch);
    added.map_err(|_| Error::Broken)
}

/// Puts the chain on the ring as memory that the device may write to. There was room for it.
pub(crate) fn lend<B: Mmio>(queue: &mut Queue<B>, slot: Slot, batch: Batch) -> Result<(), Error> {
    let added = queue.add(slot, 0, Placement::RingWhileRoomy, batch);
    added.map_err(|_| Error::Broken)
}
