//! One direction of the balloon: a queue of messages with PFN arrays (virtio 1.4 sec. 5.5.6).
//!
//! Rule: what is on its way is remembered here, in private memory; the copy that the device sees is never read back.
use alloc::vec;
use alloc::vec::Vec;

use driver_platform::Mmio;
use virtio_spec::balloon::PFN_SIZE;

use crate::error::Error;
use crate::queue::Queue;

/// PFNs copied to the device's memory at once.
const COPY: usize = 64;

/// A queue of PFN arrays.
#[derive(Debug)]
pub(crate) struct Lane<B> {
    pub(crate) queue: Queue<B>,
    /// Slot by slot.
    pfns: Vec<u32>,
    /// Pages of each slot that are on their way.
    counts: Vec<usize>,
    batch: usize,
    /// Pages on their way.
    pub(crate) pages: u32,
}

impl<B: Mmio> Lane<B> {
    pub(crate) fn new(queue: Queue<B>, slots: u16, batch: usize) -> Self {
        let slots = usize::from(slots);
        Self {
            queue,
            pfns: vec![0; slots * batch],
            counts: vec![0; slots],
            batch,
            pages: 0,
        }
    }

    /// Lets `fill` write up to `most` PFNs into a free slot and sends them; returns how many. `None` when there is no free slot.
    pub(crate) fn send(
        &mut self,
        most: u32,
        fill: impl FnOnce(&mut [u32]) -> usize,
    ) -> Result<Option<(u16, usize)>, Error> {
        let Some(slot) = self.queue.take() else {
            return Ok(None);
        };
        let most = self.batch.min(most as usize);
        let start = usize::from(slot) * self.batch;
        let room = self.pfns.get_mut(start..start + most).unwrap_or_default();
        let count = fill(room).min(most);
        if count == 0 {
            self.queue.free(slot);
            return Ok(Some((slot, 0)));
        }
        self.note(slot, count);
        self.copy(slot);
        self.queue.send(slot, count * PFN_SIZE)?;
        Ok(Some((slot, count)))
    }

    fn note(&mut self, slot: u16, count: usize) {
        if let Some(entry) = self.counts.get_mut(usize::from(slot)) {
            *entry = count;
            self.pages = self.pages.saturating_add(count as u32);
        }
    }

    /// Copies a slot's PFNs to where the device reads them.
    fn copy(&self, slot: u16) {
        for (index, piece) in self.pages_of(slot).chunks(COPY).enumerate() {
            let mut bytes = [0; COPY * PFN_SIZE];
            for (room, pfn) in bytes.chunks_exact_mut(PFN_SIZE).zip(piece) {
                room.copy_from_slice(&pfn.to_le_bytes());
            }
            let bytes = bytes.get(..piece.len() * PFN_SIZE).unwrap_or(&[]);
            self.queue.write(slot, index * COPY * PFN_SIZE, bytes);
        }
    }

    /// The pages of a slot that are on their way.
    pub(crate) fn pages_of(&self, slot: u16) -> &[u32] {
        let start = usize::from(slot) * self.batch;
        let count = self.counts.get(usize::from(slot)).copied().unwrap_or(0);
        self.pfns.get(start..start + count).unwrap_or(&[])
    }

    /// The pages of a slot have arrived, or came back: forgets them and frees the slot.
    pub(crate) fn finish(&mut self, slot: u16) {
        if let Some(count) = self.counts.get_mut(usize::from(slot)) {
            self.pages = self.pages.saturating_sub(*count as u32);
            *count = 0;
            self.queue.free(slot);
        }
    }
}
