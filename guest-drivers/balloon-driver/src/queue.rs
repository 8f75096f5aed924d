//! One queue of the balloon: messages in slots, and the way from a ring id back to its slot.
//!
//! Rule: the device names chains by id; an id leads to a slot only through this private table. A queue that met a broken ring does
//! nothing more until the device was reset.
use alloc::vec::Vec;

use driver_platform::Coherent;
use driver_platform::Mmio;
use virtio_pci::Doorbell;
use virtio_pci::QueueAddresses;
use virtqueue::DriverQueue;
use virtqueue::RingMemory;
use virtqueue::Segment;

use crate::error::Error;
use crate::memory::QueueMemory;

/// A queue of the balloon.
#[derive(Debug)]
pub(crate) struct Queue<B> {
    index: u16,
    ring: DriverQueue,
    memory: QueueMemory,
    doorbell: Doorbell<B>,
    free: Vec<u16>,
    /// By ring id: the slot whose chain has it.
    by_id: Vec<Option<u16>>,
    added: bool,
    broken: Option<Error>,
}

impl<B: Mmio> Queue<B> {
    pub(crate) fn new(
        index: u16,
        ring: DriverQueue,
        memory: QueueMemory,
        doorbell: Doorbell<B>,
        slots: u16,
    ) -> Self {
        let size = ring.config().size;
        Self {
            index,
            ring,
            memory,
            doorbell,
            free: (0..slots).rev().collect(),
            by_id: (0..size).map(|_| None).collect(),
            added: false,
            broken: None,
        }
    }

    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    pub(crate) fn size(&self) -> u16 {
        self.ring.config().size
    }

    pub(crate) fn addresses(&self) -> QueueAddresses {
        self.memory.addresses()
    }

    /// Takes a free slot, if the ring has room for a chain of one segment too.
    pub(crate) fn take(&mut self) -> Option<u16> {
        if self.broken.is_some() || self.ring.free_descriptors() == 0 {
            return None;
        }
        self.free.pop()
    }

    /// Gives a slot back.
    pub(crate) fn free(&mut self, slot: u16) {
        self.free.push(slot);
    }

    /// Room on the ring, in segments.
    pub(crate) fn room(&self) -> usize {
        match self.broken {
            Some(_) => 0,
            None => usize::from(self.ring.free_descriptors()),
        }
    }

    /// Writes into a slot's message.
    pub(crate) fn write(&self, slot: u16, offset: usize, data: &[u8]) {
        self.memory.write(slot, offset, data);
    }

    /// Puts the first `len` bytes of a slot on the ring as a message to the device.
    pub(crate) fn send(&mut self, slot: u16, len: usize) -> Result<(), Error> {
        let message = [self.memory.segment(slot, len)];
        self.add(slot, &message, &[])
    }

    /// Puts memory on the ring that the device may write to, under the name of a slot.
    pub(crate) fn lend(&mut self, slot: u16, segments: &[Segment]) -> Result<(), Error> {
        self.add(slot, &[], segments)
    }

    fn add(&mut self, slot: u16, readable: &[Segment], writable: &[Segment]) -> Result<(), Error> {
        let id = self.ring.add(readable, writable, None).ok();
        let entry = id.and_then(|id| self.by_id.get_mut(usize::from(id)));
        match entry {
            Some(entry) if entry.is_none() => {
                *entry = Some(slot);
                self.added = true;
                Ok(())
            }
            // There was room, so neither a refusal nor an id that is lent already can happen on a ring that keeps its rules.
            _ => Err(self.mark_broken(Error::Broken)),
        }
    }

    /// Shows the device what was added since the last call and rings the doorbell if it wants that.
    pub(crate) fn kick(&mut self) {
        if self.broken.is_some() || !core::mem::take(&mut self.added) {
            return;
        }
        if self.ring.publish() {
            let data = self.ring.notification_data(self.index);
            self.doorbell.ring((data >> 16) as u16);
        }
    }

    /// The slot of the next chain that the device is done with.
    pub(crate) fn pop(&mut self) -> Result<Option<u16>, Error> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        // What the device says it wrote does not matter: no message of the balloon has an answer.
        let used = match self.ring.pop() {
            Ok(Some(used)) => used,
            Ok(None) => return Ok(None),
            Err(error) => return Err(self.mark_broken(error.into())),
        };
        let slot = self.by_id.get_mut(usize::from(used.id));
        match slot.and_then(Option::take) {
            Some(slot) => Ok(Some(slot)),
            None => Err(self.mark_broken(Error::Broken)),
        }
    }

    /// Any slot whose chain is still out: after a reset, when no chain comes back any more.
    pub(crate) fn abandon_one(&mut self) -> Option<u16> {
        self.by_id.iter_mut().find_map(Option::take)
    }

    pub(crate) fn arm(&mut self) -> bool {
        self.broken.is_some() || self.ring.arm()
    }

    pub(crate) fn disarm(&mut self) {
        self.ring.disarm();
    }

    pub(crate) fn in_flight(&self) -> u16 {
        self.ring.in_flight()
    }

    pub(crate) fn broken(&self) -> Option<Error> {
        self.broken
    }

    /// Ends the queue's use until [`Queue::reopen`].
    pub(crate) fn mark_broken(&mut self, error: Error) -> Error {
        *self.broken.get_or_insert(error)
    }

    /// Starts afresh after a reset, with all slots free.
    pub(crate) fn reopen(&mut self, doorbell: Doorbell<B>) {
        self.doorbell = doorbell;
        self.broken = None;
    }

    /// Empties the ring after a reset; all chains are abandoned already.
    pub(crate) fn clear(&mut self) {
        self.ring.reset(|_| {});
        self.added = false;
    }

    pub(crate) fn into_areas(self) -> Vec<Coherent<RingMemory>> {
        self.memory.into_areas()
    }
}
