//! Reports of free pages (virtio 1.4 sec. 5.5.6.6).
//!
//! Rule: a block is out of the allocator from before the device learns of it until the device has acknowledged the report.
use alloc::vec::Vec;

use driver_platform::Mmio;
use virtio_core::Error;
use virtio_core::Stopped;
use virtqueue::Segment;

use crate::counters::Counters;
use crate::message;
use crate::message::Batch;
use crate::message::Queue;
use crate::pages::Block;
use crate::pages::Pages;

/// The reporting queue.
#[derive(Debug)]
pub(crate) struct Reports<B> {
    pub(crate) queue: Queue<B>,
    /// Slot by slot.
    blocks: Vec<Block>,
    /// Most blocks in one report.
    most: usize,
}

impl<B: Mmio> Reports<B> {
    /// `blocks` has `most` items for each slot of the queue.
    pub(crate) fn new(queue: Queue<B>, blocks: Vec<Block>, most: usize) -> Self {
        Self {
            queue,
            blocks,
            most,
        }
    }

    /// Takes back what the device has acknowledged.
    pub(crate) fn collect(
        &mut self,
        pages: &mut impl Pages,
        counters: &mut Counters,
    ) -> Result<(), Error> {
        while let Some(returned) = self.queue.pop()? {
            let blocks = returned.item.items(&self.blocks);
            counters.report_blocks += blocks.len() as u64;
            counters.report_bytes += blocks.iter().map(|b| u64::from(b.len)).sum::<u64>();
            pages.reported(blocks, true);
            self.queue.release(returned.slot);
        }
        Ok(())
    }

    /// Reports free blocks, as far as there is room; `true` when there was room for more than the guest had.
    pub(crate) fn send(
        &mut self,
        pages: &mut impl Pages,
        poison: Option<u32>,
    ) -> Result<bool, Error> {
        let mut exhausted = false;
        while !exhausted && usize::from(self.queue.free_descriptors()) >= self.most {
            let Ok(slot) = self.queue.claim() else {
                break;
            };
            let start = slot.index() * self.most;
            let room = self.blocks.get_mut(start..start + self.most);
            let room = room.unwrap_or_default();
            let count = pages.isolate(room, poison).min(room.len());
            exhausted = count < room.len();
            if count == 0 {
                self.queue.release(slot);
                break;
            }
            let batch = Batch::of(&slot, self.most, count);
            let chain = self.queue.chain();
            chain.clear();
            for block in batch.items(&self.blocks) {
                chain.push(Segment {
                    addr: block.addr,
                    len: block.len,
                });
            }
            message::lend(&mut self.queue, slot, batch)?;
        }
        self.queue.publish();
        Ok(exhausted)
    }

    /// After a reset: all blocks go back.
    pub(crate) fn drain(&mut self, proof: &Stopped, pages: &mut impl Pages) -> Result<(), Error> {
        while let Some(batch) = self.queue.abandon(proof)? {
            pages.reported(batch.items(&self.blocks), false);
        }
        Ok(())
    }
}
