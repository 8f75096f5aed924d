//! What the three kinds of queues share: a ring, its memory, the slots, and the way chains go out and come back.
//!
//! Rule: one owner at a time, no lock inside, no allocation per chain; a queue that met a broken ring does nothing more until it is
//! reset.
use alloc::vec::Vec;

use driver_platform::Coherent;
use driver_platform::DeviceRange;
use driver_platform::Mmio;
use virtio_pci::Doorbell;
use virtqueue::DriverQueue;
use virtqueue::RingMemory;
use virtqueue::Segment;

use crate::error::Error;
use crate::error::Refusal;
use crate::memory::QueueMemory;
use crate::table::Table;

/// Longest chain that goes straight onto a ring that has room, which saves the device a look at another cache line.
const DIRECT_MAX: usize = 4;

/// The segments of a chain that is being put together.
#[derive(Debug)]
pub(crate) struct Chain {
    segments: Vec<Segment>,
    bytes: u64,
    most: usize,
    overflow: bool,
}

impl Chain {
    fn new(most: usize) -> Self {
        Self {
            segments: Vec::with_capacity(most),
            bytes: 0,
            most,
            overflow: false,
        }
    }

    #[inline]
    pub(crate) fn clear(&mut self) {
        self.segments.clear();
        self.bytes = 0;
        self.overflow = false;
    }

    /// Appends a piece; one too many is remembered and refused later.
    #[inline]
    pub(crate) fn push(&mut self, addr: u64, len: u32) {
        if len == 0 {
            return;
        }
        if self.segments.len() >= self.most {
            self.overflow = true;
            return;
        }
        self.segments.push(Segment { addr, len });
        self.bytes += u64::from(len);
    }

    #[inline]
    pub(crate) fn push_range(&mut self, range: DeviceRange) {
        self.push(range.addr, range.len);
    }
}

/// The common part of a queue; `T` is what is out with a chain.
#[derive(Debug)]
pub(crate) struct CoreQueue<T, B> {
    pub(crate) index: u16,
    pub(crate) ring: DriverQueue,
    pub(crate) memory: QueueMemory,
    pub(crate) doorbell: Doorbell<B>,
    pub(crate) chain: Chain,
    table: Table<T>,
    broken: Option<Error>,
}

impl<T, B: Mmio> CoreQueue<T, B> {
    pub(crate) fn new(
        index: u16,
        ring: DriverQueue,
        memory: QueueMemory,
        doorbell: Doorbell<B>,
        segments: usize,
    ) -> Self {
        let table = Table::new(ring.config().size);
        Self {
            index,
            ring,
            memory,
            doorbell,
            chain: Chain::new(segments),
            table,
            broken: None,
        }
    }

    /// The slot of the next chain, if there is room for one.
    #[inline]
    pub(crate) fn slot(&self) -> Result<u16, Refusal> {
        if self.broken.is_some() {
            return Err(Refusal::Broken);
        }
        if self.ring.free_descriptors() == 0 {
            return Err(Refusal::Busy);
        }
        self.table.next_free().ok_or(Refusal::Busy)
    }

    /// Segments of the chain.
    #[inline]
    pub(crate) fn chain_len(&self) -> usize {
        self.chain.segments.len()
    }

    /// Bytes of the chain.
    #[inline]
    pub(crate) fn chain_bytes(&self) -> u64 {
        self.chain.bytes
    }

    /// Whether the chain has `bytes` bytes and the ring has room for it.
    #[inline]
    pub(crate) fn fits(&self, bytes: u64) -> Result<(), Refusal> {
        let chain = &self.chain;
        let segments = chain.segments.len();
        if chain.overflow || segments > usize::from(self.ring.config().size) {
            return Err(Refusal::TooLarge);
        }
        if chain.bytes != bytes || segments == 0 {
            return Err(Refusal::BadBuffer);
        }
        if !self.ring.config().indirect && usize::from(self.ring.free_descriptors()) < segments {
            return Err(Refusal::Busy);
        }
        Ok(())
    }

    /// Puts the chain on the ring, the first `readable` segments for the device to read. It passed [`CoreQueue::fits`], so a failure
    /// means that the ring's rules are broken; the item then comes back.
    #[inline]
    pub(crate) fn add(&mut self, slot: u16, readable: usize, item: T) -> Result<(), T> {
        let segments = self.chain.segments.len();
        let Some((read, write)) = self.chain.segments.split_at_checked(readable) else {
            return Err(item);
        };
        let free = usize::from(self.ring.free_descriptors());
        // Receive buffers fill the ring, so they take one descriptor each if they can.
        let roomy = readable > 0
            && segments <= DIRECT_MAX
            && free >= usize::from(self.ring.config().size) / 2;
        let direct = segments == 1 || roomy && free >= segments;
        let table = if direct {
            None
        } else {
            self.memory.table(slot, segments)
        };
        let filled = match self.ring.add(read, write, table) {
            Ok(id) => self.table.fill(id, item),
            Err(_) => Err(item),
        };
        if filled.is_err() {
            self.mark_broken(Error::Broken);
        }
        filled
    }

    /// Shows the device everything added since the last call; `true` when the doorbell was rung.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        if self.broken.is_some() || !self.ring.publish() {
            return false;
        }
        let data = self.ring.notification_data(self.index);
        self.doorbell.ring((data >> 16) as u16);
        true
    }

    /// The next chain that came back: its slot, its item, and how much of it was written.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<(u16, T, u32)>, Error> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let used = match self.ring.pop() {
            Ok(Some(used)) => used,
            Ok(None) => return Ok(None),
            Err(error) => return Err(self.mark_broken(Error::Ring(error))),
        };
        match self.table.take(used.id) {
            Some((slot, item)) => Ok(Some((slot, item, used.written))),
            None => Err(self.mark_broken(Error::Broken)),
        }
    }

    /// Any chain that is still out, after a reset; when there is none the ring is made new.
    pub(crate) fn abandon_one(&mut self) -> Option<T> {
        self.mark_broken(Error::Broken);
        let item = self.table.abandon_one();
        if item.is_none() {
            self.ring.reset(|_| {});
        }
        item
    }

    #[must_use]
    pub(crate) fn arm(&mut self) -> bool {
        self.broken.is_some() || self.ring.arm()
    }

    pub(crate) fn broken(&self) -> Option<Error> {
        self.broken
    }

    pub(crate) fn mark_broken(&mut self, error: Error) -> Error {
        *self.broken.get_or_insert(error)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(crate) fn size(&self) -> u16 {
        self.ring.config().size
    }

    pub(crate) fn into_memory(self) -> Option<Vec<Coherent<RingMemory>>> {
        self.table.is_empty().then(|| self.memory.into_areas())
    }

    /// Works again, on a ring that was made new, with a doorbell that was found again.
    pub(crate) fn revive(&mut self, doorbell: Doorbell<B>) {
        self.doorbell = doorbell;
        self.broken = None;
    }
}
