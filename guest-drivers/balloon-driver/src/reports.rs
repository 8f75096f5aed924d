//! Reports of free pages (virtio 1.4 sec. 5.5.6.6).
//!
//! Rule: a block is out of the allocator from before the device learns of it until the device has acknowledged the report.
use alloc::vec;
use alloc::vec::Vec;

use driver_platform::Mmio;
use virtqueue::Segment;

use crate::counters::Counters;
use crate::error::Error;
use crate::pages::Block;
use crate::pages::Pages;
use crate::queue::Queue;

/// The reporting queue.
#[derive(Debug)]
pub(crate) struct Reports<B> {
    pub(crate) queue: Queue<B>,
    /// Slot by slot.
    blocks: Vec<Block>,
    counts: Vec<usize>,
    /// Most blocks in one report.
    most: usize,
    /// One report's blocks for the ring.
    segments: Vec<Segment>,
}

impl<B: Mmio> Reports<B> {
    pub(crate) fn new(queue: Queue<B>, slots: u16, most: usize) -> Self {
        let slots = usize::from(slots);
        Self {
            queue,
            blocks: vec![Block::default(); slots * most],
            counts: vec![0; slots],
            most,
            segments: Vec::with_capacity(most),
        }
    }

    /// Takes back what the device has acknowledged.
    pub(crate) fn collect(
        &mut self,
        pages: &mut impl Pages,
        counters: &mut Counters,
    ) -> Result<(), Error> {
        while let Some(slot) = self.queue.pop()? {
            let blocks = self.blocks_of(slot);
            counters.report_blocks += blocks.len() as u64;
            counters.report_bytes += blocks.iter().map(|b| u64::from(b.len)).sum::<u64>();
            self.finish(slot, pages, true);
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
        while !exhausted && self.queue.room() >= self.most {
            let Some(slot) = self.queue.take() else {
                break;
            };
            let start = usize::from(slot) * self.most;
            let room = self.blocks.get_mut(start..start + self.most);
            let room = room.unwrap_or_default();
            let count = pages.isolate(room, poison).min(room.len());
            exhausted = count < room.len();
            self.segments.clear();
            let blocks = room.iter().take(count);
            self.segments.extend(blocks.map(|block| Segment {
                addr: block.addr,
                len: block.len,
            }));
            if let Some(entry) = self.counts.get_mut(usize::from(slot)) {
                *entry = count;
            }
            if count == 0 {
                self.queue.free(slot);
                break;
            }
            self.queue.lend(slot, &self.segments)?;
        }
        self.queue.kick();
        Ok(exhausted)
    }

    fn blocks_of(&self, slot: u16) -> &[Block] {
        let start = usize::from(slot) * self.most;
        let count = self.counts.get(usize::from(slot)).copied().unwrap_or(0);
        self.blocks.get(start..start + count).unwrap_or(&[])
    }

    fn finish(&mut self, slot: u16, pages: &mut impl Pages, reported: bool) {
        pages.reported(self.blocks_of(slot), reported);
        if let Some(count) = self.counts.get_mut(usize::from(slot)) {
            *count = 0;
        }
        self.queue.free(slot);
    }

    /// After a reset: all blocks go back.
    pub(crate) fn drain(&mut self, pages: &mut impl Pages) {
        while let Some(slot) = self.queue.abandon_one() {
            self.finish(slot, pages, false);
        }
        self.queue.clear();
    }
}
