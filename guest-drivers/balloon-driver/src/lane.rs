//! One direction of the balloon: a queue of messages with PFN arrays (virtio 1.4 sec. 5.5.6).
//!
//! Rule: what is on its way is remembered here, in private memory; the copy that the device sees is never read back.
use alloc::vec::Vec;

use driver_platform::Mmio;
use virtio_core::Error;
use virtio_core::Slot;
use virtio_spec::balloon::PFN_SIZE;

use crate::message;
use crate::message::Batch;
use crate::message::Queue;

/// PFNs copied to the device's memory at once.
const COPY: usize = 64;

/// A queue of PFN arrays.
#[derive(Debug)]
pub(crate) struct Lane<B> {
    pub(crate) queue: Queue<B>,
    /// Slot by slot.
    pfns: Vec<u32>,
    batch: usize,
    /// Pages on their way.
    pub(crate) pages: u32,
}

impl<B: Mmio> Lane<B> {
    /// `pfns` has `batch` items for each slot of the queue.
    pub(crate) fn new(queue: Queue<B>, pfns: Vec<u32>, batch: usize) -> Self {
        Self {
            queue,
            pfns,
            batch,
            pages: 0,
        }
    }

    /// Lets `fill` write up to `most` PFNs into a free slot and sends them. `None` when there is no free slot.
    pub(crate) fn send(
        &mut self,
        most: u32,
        fill: impl FnOnce(&mut [u32]) -> usize,
    ) -> Result<Option<Batch>, Error> {
        let Ok(slot) = self.queue.claim() else {
            return Ok(None);
        };
        let most = self.batch.min(most as usize);
        let start = slot.index() * self.batch;
        let room = self.pfns.get_mut(start..start + most).unwrap_or_default();
        let batch = Batch::of(&slot, self.batch, fill(room).min(most));
        if batch.count == 0 {
            self.queue.release(slot);
            return Ok(Some(batch));
        }
        self.copy(&slot, &batch);
        self.pages = self.pages.saturating_add(batch.count as u32);
        let memory = self.queue.memory();
        let message = memory.segment(&slot, 0, batch.count * PFN_SIZE);
        message::send(&mut self.queue, slot, message, batch)?;
        Ok(Some(batch))
    }

    /// Copies a batch's PFNs to where the device reads them.
    fn copy(&self, slot: &Slot, batch: &Batch) {
        for (index, piece) in self.pages_of(batch).chunks(COPY).enumerate() {
            let mut bytes = [0; COPY * PFN_SIZE];
            for (room, pfn) in bytes.chunks_exact_mut(PFN_SIZE).zip(piece) {
                room.copy_from_slice(&pfn.to_le_bytes());
            }
            let bytes = bytes.get(..piece.len() * PFN_SIZE).unwrap_or(&[]);
            let memory = self.queue.memory();
            memory.write(slot, index * COPY * PFN_SIZE, bytes);
        }
    }

    /// The pages of a batch; they stay until its slot is claimed again.
    pub(crate) fn pages_of(&self, batch: &Batch) -> &[u32] {
        batch.items(&self.pfns)
    }

    /// The pages of a batch are no longer on their way.
    pub(crate) fn forget(&mut self, batch: &Batch) {
        self.pages = self.pages.saturating_sub(batch.count as u32);
    }
}
