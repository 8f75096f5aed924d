//! The packed layout of the in-flight record (`QueueRegionPacked`). One rule: as for the split one, plus that list
//! links are kept in private memory and only written to the shared area, so that a front-end cannot lead us astray.
//!
//! Deviation from the document: the last free entry's `next` is 0xffff, which the document leaves open.

use crate::Error;
use crate::inflight::QueueRecord;
use std::mem::offset_of;
use std::sync::atomic::Ordering;
use vhost_user_protocol::inflight::PackedEntry;
use vhost_user_protocol::inflight::PackedRegion;
use vhost_user_protocol::inflight::PackedUsed;
use vhost_user_protocol::inflight::VERSION;
use virtio_spec::ring::PackedDescriptor;
use virtqueue::QueueState;
use virtqueue::RingMemory;
use virtqueue::Token;
use virtqueue::index::PackedPosition;

const VERSION_AT: usize = offset_of!(PackedRegion, version);
const DESC_NUM: usize = offset_of!(PackedRegion, desc_num);
const FREE_HEAD: usize = offset_of!(PackedRegion, free_head);
const OLD_FREE_HEAD: usize = offset_of!(PackedRegion, old_free_head);
const USED: usize = offset_of!(PackedRegion, used);
const ENTRY_INFLIGHT: usize = offset_of!(PackedEntry, inflight);
const ENTRY_NEXT: usize = offset_of!(PackedEntry, next);
const ENTRY_LAST: usize = offset_of!(PackedEntry, last);
const ENTRY_NUM: usize = offset_of!(PackedEntry, num);
const ENTRY_COUNTER: usize = offset_of!(PackedEntry, counter);
/// `id`, `flags` and `len`: 16, 16 and 32 bits.
const ENTRY_ID: usize = offset_of!(PackedEntry, id);
const ENTRY_ADDR: usize = offset_of!(PackedEntry, addr);
/// End of the free list.
const NONE: u16 = 0xffff;
/// Offset of `flags` in a ring descriptor.
const RING_FLAGS: usize = offset_of!(PackedDescriptor, flags);

/// Writes the record of a packed queue.
#[derive(Debug)]
pub(crate) struct PackedRecorder {
    record: QueueRecord,
    size: u16,
    counter: u64,
    used: PackedPosition,
    /// Where the ring stood when the batch before became visible.
    old_used: PackedPosition,
    free_head: u16,
    /// Private copies of each entry's links, and which entry holds which buffer id.
    next: Vec<u16>,
    last: Vec<u16>,
    entry_of_id: Vec<u16>,
}

/// One chain found in the record: copies of its ring descriptors.
pub(crate) type RecordedChain = Vec<PackedDescriptor>;

impl PackedRecorder {
    /// Opens the record of a queue of `size` on `ring`; `base` is where the front-end says that the ring stands.
    /// Returns the chains in flight in the order they were taken, and where the ring really stands.
    pub(crate) fn open(
        record: QueueRecord,
        ring: &RingMemory,
        size: u16,
        base: QueueState,
    ) -> Result<(Self, Vec<RecordedChain>, QueueState), Error> {
        let used = PackedPosition::decode(base.used, size);
        let used = used.ok_or(Error::Record("vring base is outside the ring"))?;
        let entries = usize::from(record.entries);
        let mut this = Self {
            record,
            size,
            counter: 0,
            used,
            old_used: used,
            free_head: 0,
            next: vec![NONE; entries],
            last: vec![0; entries],
            entry_of_id: vec![0; entries],
        };
        let version = this.load_u16(VERSION_AT);
        if version != 0 && (version, this.load_u16(DESC_NUM)) != (VERSION, this.record.entries) {
            return Err(Error::Record(
                "unknown version, or number of entries changed",
            ));
        }
        if version == 0 {
            this.initialise();
            return Ok((this, Vec::new(), base));
        }
        this.settle_last_batch(ring)?;
        let (chains, outstanding) = this.recover_chains()?;
        let avail = this.used.advance(outstanding, size).encode();
        let state = QueueState {
            avail,
            used: this.used.encode(),
        };
        Ok((this, chains, state))
    }

    fn initialise(&mut self) {
        for e in 0..self.record.entries {
            self.store_u8(entry(e) + ENTRY_INFLIGHT, 0);
            let next = if e + 1 == self.record.entries {
                NONE
            } else {
                e + 1
            };
            self.set_next(e, next);
        }
        self.store_u16(DESC_NUM, self.record.entries);
        self.free_head = 0;
        self.store_u16(FREE_HEAD, 0);
        self.commit();
        self.store_u16(VERSION_AT, VERSION);
    }

    /// Commits or rolls back the batch that the crash interrupted.
    fn settle_last_batch(&mut self, ring: &RingMemory) -> Result<(), Error> {
        let (new, old) = self.load_used()?;
        let visible = new != old && {
            let at = usize::from(old.slot()) * size_of::<PackedDescriptor>() + RING_FLAGS;
            let flags = ring
                .load_u16(at)
                .ok_or(Error::Record("ring is too small"))?;
            !old.is_available(flags)
        };
        let (used, free_at) = if visible {
            (new, FREE_HEAD)
        } else {
            (old, OLD_FREE_HEAD)
        };
        self.used = used;
        self.free_head = self.load_u16(free_at);
        self.store_u16(FREE_HEAD, self.free_head);
        self.commit();
        Ok(())
    }

    /// Walks the free list, then collects what is in flight.
    fn recover_chains(&mut self) -> Result<(Vec<RecordedChain>, u16), Error> {
        let mut seen = vec![false; usize::from(self.record.entries)];
        let mut at = self.free_head;
        while let Some(flag) = seen.get_mut(usize::from(at)) {
            if std::mem::replace(flag, true) {
                return Err(Error::Record("free list has a loop"));
            }
            self.store_u8(entry(at) + ENTRY_INFLIGHT, 0);
            let next = self.load_u16(entry(at) + ENTRY_NEXT);
            self.set_next(at, next);
            at = next;
        }
        let mut heads: Vec<(u64, u16)> = (0..self.record.entries)
            .filter(|e| self.load_u8(entry(*e) + ENTRY_INFLIGHT) != 0)
            .map(|e| (self.load_u64(entry(e) + ENTRY_COUNTER), e))
            .collect();
        heads.sort_unstable();
        self.counter = heads
            .last()
            .map_or(0, |(counter, _)| counter.wrapping_add(1));
        let mut chains = Vec::with_capacity(heads.len());
        let mut outstanding = 0_u16;
        for (_, head) in heads {
            let chain = self.recover_chain(head, &mut seen)?;
            outstanding = outstanding.saturating_add(chain.len() as u16);
            chains.push(chain);
        }
        if outstanding > self.size {
            return Err(Error::Record(
                "more descriptors in flight than the ring has",
            ));
        }
        Ok((chains, outstanding))
    }

    fn recover_chain(&mut self, head: u16, seen: &mut [bool]) -> Result<RecordedChain, Error> {
        let count = self.load_u16(entry(head) + ENTRY_NUM);
        let mut chain = Vec::new();
        let mut at = head;
        for step in 1..=count {
            match seen.get_mut(usize::from(at)) {
                Some(flag) if !*flag => *flag = true,
                _ => return Err(Error::Record("chain leaves the table or shares an entry")),
            }
            chain.push(self.load_descriptor(at));
            let next = self.load_u16(entry(at) + ENTRY_NEXT);
            if step == count {
                self.remember(head, at)?;
            } else {
                self.set_next(at, next);
                at = next;
            }
        }
        if chain.is_empty() {
            Err(Error::Record("chain is empty"))
        } else {
            Ok(chain)
        }
    }

    fn remember(&mut self, head: u16, last: u16) -> Result<(), Error> {
        let id = usize::from(self.load_u16(entry(last) + ENTRY_ID));
        let place = self
            .entry_of_id
            .get_mut(id)
            .ok_or(Error::Record("buffer id out of range"))?;
        *place = head;
        if let Some(place) = self.last.get_mut(usize::from(head)) {
            *place = last;
        }
        Ok(())
    }

    /// A chain was taken; `descriptors` as they stood in the ring, `token` as the queue named it.
    ///
    /// The document stores `num` and `free_head` anew for every descriptor; once at the end is the same after any
    /// crash, for until `old_free_head` moves all of it is rolled back.
    #[inline]
    pub(crate) fn taken(&mut self, token: Token, descriptors: &[PackedDescriptor]) {
        let head = self.free_head;
        let mut last = head;
        for descriptor in descriptors {
            last = self.free_head;
            self.store_descriptor(last, descriptor);
            self.free_head = self.next.get(usize::from(last)).copied().unwrap_or(NONE);
        }
        let at = entry(head);
        self.store_u16(at + ENTRY_LAST, last);
        self.store_u16(at + ENTRY_NUM, descriptors.len() as u16);
        self.store_u64(at + ENTRY_COUNTER, self.counter);
        self.counter = self.counter.wrapping_add(1);
        self.store_u8(at + ENTRY_INFLIGHT, 1);
        self.store_u16(FREE_HEAD, self.free_head);
        self.store_u16(OLD_FREE_HEAD, self.free_head);
        if let Some(place) = self.last.get_mut(usize::from(head)) {
            *place = last;
        }
        if let Some(place) = self.entry_of_id.get_mut(usize::from(token.id)) {
            *place = head;
        }
    }

    /// The chain taken last went back to the ring. Its entries join the free list first: after a crash in between
    /// the walk over that list clears the flag.
    pub(crate) fn untaken(&mut self, token: Token) {
        let id = usize::from(token.id);
        let head = self.entry_of_id.get(id).copied().unwrap_or(NONE);
        let last = self.last.get(usize::from(head)).copied().unwrap_or(NONE);
        self.set_next(last, self.free_head);
        self.free_head = head;
        self.store_u16(FREE_HEAD, head);
        self.store_u16(OLD_FREE_HEAD, head);
        self.store_u8(entry(head) + ENTRY_INFLIGHT, 0);
    }

    /// Before the batch becomes visible, for each of its chains.
    #[inline]
    pub(crate) fn stage(&mut self, token: Token) {
        let head = self
            .entry_of_id
            .get(usize::from(token.id))
            .copied()
            .unwrap_or(NONE);
        let last = self.last.get(usize::from(head)).copied().unwrap_or(NONE);
        self.set_next(last, self.free_head);
        self.free_head = head;
        self.used = self.used.advance(token.descriptors, self.size);
    }

    /// After all chains of the batch were staged, before it becomes visible.
    #[inline]
    pub(crate) fn announce(&mut self) {
        self.store_u16(FREE_HEAD, self.free_head);
        self.store_used();
    }

    /// After the batch became visible, for each of its chains.
    #[inline]
    pub(crate) fn clear(&mut self, token: Token) {
        let head = self
            .entry_of_id
            .get(usize::from(token.id))
            .copied()
            .unwrap_or(NONE);
        self.store_u8(entry(head) + ENTRY_INFLIGHT, 0);
    }

    /// After all chains of the batch were cleared.
    #[inline]
    pub(crate) fn commit(&mut self) {
        self.store_u16(OLD_FREE_HEAD, self.free_head);
        self.old_used = self.used;
        self.store_used();
    }

    #[inline]
    fn store_used(&self) {
        let used = PackedUsed {
            used_idx: self.used.slot(),
            old_used_idx: self.old_used.slot(),
            used_wrap_counter: self.used.wrap().into(),
            old_used_wrap_counter: self.old_used.wrap().into(),
        };
        self.store_u64(USED, used.to_word());
    }

    /// Where the ring stands by the record, and where it stood before the last batch.
    fn load_used(&self) -> Result<(PackedPosition, PackedPosition), Error> {
        let recorded = PackedUsed::from_word(self.load_u64(USED));
        let position = |slot: u16, wrap: u8| {
            PackedPosition::new(slot, wrap != 0, self.size)
                .ok_or(Error::Record("used index is outside the ring"))
        };
        Ok((
            position(recorded.used_idx, recorded.used_wrap_counter)?,
            position(recorded.old_used_idx, recorded.old_used_wrap_counter)?,
        ))
    }

    fn set_next(&mut self, at: u16, next: u16) {
        if let Some(place) = self.next.get_mut(usize::from(at)) {
            *place = next;
            self.store_u16(entry(at) + ENTRY_NEXT, next);
        }
    }

    fn load_descriptor(&self, at: u16) -> PackedDescriptor {
        let at = entry(at);
        let rest = self.load_u64(at + ENTRY_ID).to_ne_bytes();
        let [i0, i1, f0, f1, l0, l1, l2, l3] = rest;
        PackedDescriptor {
            addr: self.load_u64(at + ENTRY_ADDR).into(),
            len: u32::from_ne_bytes([l0, l1, l2, l3]).into(),
            id: u16::from_ne_bytes([i0, i1]).into(),
            flags: u16::from_ne_bytes([f0, f1]).into(),
        }
    }

    #[inline]
    fn store_descriptor(&self, at: u16, descriptor: &PackedDescriptor) {
        let at = entry(at);
        self.store_u64(at + ENTRY_ADDR, descriptor.addr.get());
        // `id`, `flags` and `len` follow each other, so one store does for the three.
        let [i0, i1] = descriptor.id.get().to_ne_bytes();
        let [f0, f1] = descriptor.flags.get().to_ne_bytes();
        let [l0, l1, l2, l3] = descriptor.len.get().to_ne_bytes();
        self.store_u64(
            at + ENTRY_ID,
            u64::from_ne_bytes([i0, i1, f0, f1, l0, l1, l2, l3]),
        );
    }
}

macro_rules! fields {
    ($($load:ident $store:ident $value:ident)*) => {
        impl PackedRecorder {$(
            #[inline]
            fn $load(&self, at: usize) -> $value {
                self.record.memory.$load(self.record.at(at), Ordering::Acquire)
            }

            #[inline]
            fn $store(&self, at: usize, value: $value) {
                self.record.memory.$store(self.record.at(at), value, Ordering::Release);
            }
        )*}
    };
}

fields! {
    load_u8 store_u8 u8
    load_u16 store_u16 u16
    load_u64 store_u64 u64
}

/// Offset of an entry; the table's bounds are checked where links are read, and again by the shared area.
#[inline]
fn entry(index: u16) -> usize {
    PackedRegion::entry(index)
}
