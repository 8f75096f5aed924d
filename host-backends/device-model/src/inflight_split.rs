//! The split layout of the in-flight record (`QueueRegionSplit`). One rule: the stores are in the document's order,
//! because a crash may fall between any two of them.

use crate::Error;
use crate::inflight::QueueRecord;
use std::mem::offset_of;
use std::sync::atomic::Ordering;
use vhost_user_protocol::inflight::SplitEntry;
use vhost_user_protocol::inflight::SplitRegion;
use vhost_user_protocol::inflight::VERSION;
use virtqueue::index;

const VERSION_AT: usize = offset_of!(SplitRegion, version);
const DESC_NUM: usize = offset_of!(SplitRegion, desc_num);
const LAST_BATCH_HEAD: usize = offset_of!(SplitRegion, last_batch_head);
const USED_IDX: usize = offset_of!(SplitRegion, used_idx);
const ENTRY_INFLIGHT: usize = offset_of!(SplitEntry, inflight);
const ENTRY_NEXT: usize = offset_of!(SplitEntry, next);
const ENTRY_COUNTER: usize = offset_of!(SplitEntry, counter);

/// Writes the record of a split queue.
#[derive(Debug)]
pub(crate) struct SplitRecorder {
    record: QueueRecord,
    counter: u64,
    used_idx: u16,
    last_batch_head: u16,
}

impl SplitRecorder {
    /// Opens the record against the ring's used index; returns the heads in flight, in the order they were taken.
    pub(crate) fn open(record: QueueRecord, ring_used: u16) -> Result<(Self, Vec<u16>), Error> {
        let mut this = Self {
            record,
            counter: 0,
            used_idx: ring_used,
            last_batch_head: 0,
        };
        match this.load_u16(VERSION_AT) {
            0 => {
                this.initialise();
                Ok((this, Vec::new()))
            }
            VERSION if this.load_u16(DESC_NUM) == this.record.entries => {
                this.finish_last_batch()?;
                let heads = this.heads_in_flight();
                Ok((this, heads))
            }
            VERSION => Err(Error::Record("number of entries changed")),
            _ => Err(Error::Record("unknown version")),
        }
    }

    fn initialise(&mut self) {
        for head in 0..self.record.entries {
            self.store_u8(entry(head) + ENTRY_INFLIGHT, 0);
        }
        self.store_u16(DESC_NUM, self.record.entries);
        self.store_u16(LAST_BATCH_HEAD, 0);
        // Not zero but where the ring stands: otherwise a crash before the first completion would look like a batch
        // half recorded (SPDK issue 3766).
        self.store_u16(USED_IDX, self.used_idx);
        self.store_u16(VERSION_AT, VERSION);
    }

    /// If the crash fell between making a batch visible and clearing its flags, clears them now.
    fn finish_last_batch(&mut self) -> Result<(), Error> {
        let recorded = self.load_u16(USED_IDX);
        let batch = index::distance(recorded, self.used_idx);
        if batch > self.record.entries {
            return self.forget_other_life();
        }
        self.last_batch_head = self.load_u16(LAST_BATCH_HEAD);
        let mut head = self.last_batch_head;
        for _ in 0..batch {
            if head >= self.record.entries {
                return Err(Error::Record("batch list leaves the table"));
            }
            self.store_u8(entry(head) + ENTRY_INFLIGHT, 0);
            head = self.load_u16(entry(head) + ENTRY_NEXT);
        }
        self.store_u16(USED_IDX, self.used_idx);
        Ok(())
    }

    /// The used index is nowhere near the record's: the ring was reset since. That is fine if nothing was in flight.
    fn forget_other_life(&mut self) -> Result<(), Error> {
        if self.heads_in_flight().is_empty() {
            self.initialise();
            return Ok(());
        }
        Err(Error::Record("used index does not belong to the ring"))
    }

    fn heads_in_flight(&mut self) -> Vec<u16> {
        let mut found: Vec<(u64, u16)> = (0..self.record.entries)
            .filter(|head| self.load_u8(entry(*head) + ENTRY_INFLIGHT) != 0)
            .map(|head| (self.load_u64(entry(head) + ENTRY_COUNTER), head))
            .collect();
        found.sort_unstable();
        self.counter = found
            .last()
            .map_or(0, |(counter, _)| counter.wrapping_add(1));
        found.into_iter().map(|(_, head)| head).collect()
    }

    #[inline]
    pub(crate) fn taken(&mut self, head: u16) {
        let at = entry(head);
        self.store_u64(at + ENTRY_COUNTER, self.counter);
        self.counter = self.counter.wrapping_add(1);
        self.store_u8(at + ENTRY_INFLIGHT, 1);
    }

    /// Before the batch becomes visible, for each of its heads.
    #[inline]
    pub(crate) fn stage(&mut self, head: u16) {
        self.store_u16(entry(head) + ENTRY_NEXT, self.last_batch_head);
        self.last_batch_head = head;
        self.store_u16(LAST_BATCH_HEAD, head);
    }

    /// After the batch became visible, for each of its heads.
    #[inline]
    pub(crate) fn clear(&mut self, head: u16) {
        self.store_u8(entry(head) + ENTRY_INFLIGHT, 0);
    }

    /// After all heads of a batch of `count` were cleared.
    #[inline]
    pub(crate) fn commit(&mut self, count: u16) {
        self.used_idx = self.used_idx.wrapping_add(count);
        self.store_u16(USED_IDX, self.used_idx);
    }

    fn load_u8(&self, at: usize) -> u8 {
        self.record
            .memory
            .load_u8(self.record.at(at), Ordering::Acquire)
    }

    fn load_u16(&self, at: usize) -> u16 {
        self.record
            .memory
            .load_u16(self.record.at(at), Ordering::Acquire)
    }

    fn load_u64(&self, at: usize) -> u64 {
        self.record
            .memory
            .load_u64(self.record.at(at), Ordering::Acquire)
    }

    #[inline]
    fn store_u8(&self, at: usize, value: u8) {
        self.record
            .memory
            .store_u8(self.record.at(at), value, Ordering::Release);
    }

    #[inline]
    fn store_u16(&self, at: usize, value: u16) {
        self.record
            .memory
            .store_u16(self.record.at(at), value, Ordering::Release);
    }

    #[inline]
    fn store_u64(&self, at: usize, value: u64) {
        self.record
            .memory
            .store_u64(self.record.at(at), value, Ordering::Release);
    }
}

/// Offset of an entry; a head of 16 bits cannot overflow it, and the shared area checks its bounds.
#[inline]
fn entry(head: u16) -> usize {
    SplitRegion::entry(head)
}
