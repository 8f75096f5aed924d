//! Driver half of the split ring (virtio 1.4 sec. 2.7).
//!
//! One rule: the ring is written, never read back, except for what the device writes: the used
//! ring and its event index.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use fallible_alloc::FallibleVec;
use virtio_spec::pci::NotificationData;
use virtio_spec::ring::avail;
use virtio_spec::ring::descriptor_flags;
use virtio_spec::ring::used;

use crate::chain::Segment;
use crate::config::QueueConfig;
use crate::descriptor;
use crate::descriptor::Descriptor;
use crate::driver::Used;
use crate::error::AddError;
use crate::error::ConfigError;
use crate::error::RingError;
use crate::handshake;
use crate::index;
use crate::lent;
use crate::lent::Lent;
use crate::memory::Cell;
use crate::memory::Cells;
use crate::memory::RingMemory;
use crate::memory::Rings;

#[derive(Debug)]
pub(crate) struct SplitDriver {
    table: Cells<u64>,
    avail_flags: Cell<u16>,
    avail_idx: Cell<u16>,
    avail_ring: Cells<u16>,
    used_event: Cell<u16>,
    used_flags: Cell<u16>,
    used_idx: Cell<u16>,
    used_ring: Cells<u32>,
    avail_event: Cell<u16>,
    rings: Rings,
    config: QueueConfig,
    mask: u16,
    /// Links of the free descriptors and of each chain's. In order they never change: then
    /// descriptors are taken and freed round the table, as sec. 2.7.9 asks.
    links: Vec<u16>,
    first_free: u16,
    free: u16,
    lent: Lent,
    /// In order: the id of each available entry.
    order: Vec<u16>,
    /// In order: the batch being returned, as sequence of its last chain and bytes written there.
    batch: Option<(u16, u32)>,
    /// The device's used index when last read, checked.
    seen_used: u16,
    armed: bool,
    error: Option<RingError>,
}

/// What the queue keeps on its own heap.
struct Private {
    links: Vec<u16>,
    order: Vec<u16>,
    lent: Lent,
}

impl SplitDriver {
    pub(crate) fn new(config: QueueConfig, rings: &Rings) -> Result<Self, RingError> {
        rings.check(&config)?;
        let order = if config.in_order { config.size } else { 0 };
        let private = Private {
            links: Vec::filled(config.size.into(), |_| 0)?,
            order: Vec::filled(order.into(), |_| 0)?,
            lent: Lent::new(config.size)?,
        };
        let queue = Self::locate(config, rings, private);
        let mut queue = queue.ok_or(ConfigError::AreaTooSmall)?;
        queue.reset(|_| ());
        Ok(queue)
    }

    fn locate(config: QueueConfig, rings: &Rings, private: Private) -> Option<Self> {
        let size = usize::from(config.size);
        Some(Self {
            table: Cells::new(&rings.descriptors, 0, 2 * size)?,
            avail_flags: Cell::new(&rings.driver, avail::FLAGS)?,
            avail_idx: Cell::new(&rings.driver, avail::IDX)?,
            avail_ring: Cells::new(&rings.driver, avail::RING, size)?,
            used_event: Cell::new(&rings.driver, avail::used_event(config.size))?,
            used_flags: Cell::new(&rings.device, used::FLAGS)?,
            used_idx: Cell::new(&rings.device, used::IDX)?,
            used_ring: Cells::new(&rings.device, used::RING, 2 * size)?,
            avail_event: Cell::new(&rings.device, used::avail_event(config.size))?,
            rings: *rings,
            config,
            mask: config.size - 1,
            links: private.links,
            first_free: 0,
            free: 0,
            lent: private.lent,
            order: private.order,
            batch: None,
            seen_used: 0,
            armed: true,
            error: None,
        })
    }

    pub(crate) fn reset(&mut self, reclaim: impl FnMut(u16)) {
        self.lent.reclaim(reclaim);
        for (next, link) in (1_u16..).zip(self.links.iter_mut()) {
            *link = next & self.mask;
        }
        self.first_free = 0;
        self.free = self.config.size;
        self.batch = None;
        self.seen_used = 0;
        self.armed = true;
        self.error = None;
        self.rings.descriptors.zero();
        self.rings.driver.zero();
        self.rings.device.zero();
    }

    #[inline]
    pub(crate) fn add(
        &mut self,
        readable: &[Segment],
        writable: &[Segment],
        indirect: Option<(RingMemory, u64)>,
    ) -> Result<u16, AddError> {
        if self.error.is_some() {
            return Err(AddError::Broken);
        }
        let (count, bytes) = lent::measure(readable, writable, self.config.size)?;
        let used = if indirect.is_some() { 1 } else { count };
        if self.free < used {
            return Err(AddError::Full);
        }
        let head = self.first_free;
        let last = match indirect {
            None => self.write_chain(readable, writable, count),
            Some((memory, address)) => {
                if !self.config.indirect {
                    return Err(AddError::IndirectNotNegotiated);
                }
                write_table(&memory, readable, writable, count)?;
                let flags = descriptor_flags::INDIRECT;
                let len = u32::from(count) * descriptor::SIZE as u32;
                self.write(
                    head,
                    Descriptor {
                        addr: address,
                        len,
                        flags,
                        extra: 0,
                    },
                );
                self.first_free = self.link(head);
                head
            }
        };
        self.free -= used;
        let entry = usize::from(self.lent.added & self.mask);
        self.avail_ring.store(entry, head, Ordering::Relaxed);
        if let Some(place) = self.order.get_mut(entry) {
            *place = head;
        }
        self.lent.lend(head, used, last, bytes);
        Ok(head)
    }

    /// Writes a chain to the free descriptors; returns the last one used.
    #[inline]
    fn write_chain(&mut self, readable: &[Segment], writable: &[Segment], count: u16) -> u16 {
        let mut at = self.first_free;
        let mut last = at;
        let mut left = count;
        let parts = [(readable, 0), (writable, descriptor_flags::WRITE)];
        for (segments, write) in parts {
            for segment in segments {
                left -= 1;
                let next = self.link(at);
                let more = if left == 0 { 0 } else { descriptor_flags::NEXT };
                let extra = if left == 0 { 0 } else { next };
                let flags = write | more;
                self.write(
                    at,
                    Descriptor {
                        addr: segment.addr,
                        len: segment.len,
                        flags,
                        extra,
                    },
                );
                last = at;
                at = next;
            }
        }
        self.first_free = at;
        last
    }

    #[inline]
    fn write(&self, at: u16, descriptor: Descriptor) {
        let (addr, rest) = descriptor.split_words();
        let word = 2 * usize::from(at);
        self.table.store(word, addr, Ordering::Relaxed);
        self.table.store(word + 1, rest, Ordering::Relaxed);
    }

    #[inline]
    fn link(&self, at: u16) -> u16 {
        self.links.get(usize::from(at)).copied().unwrap_or(0)
    }

    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        let (old, new) = (self.lent.published, self.lent.added);
        if old == new {
            return false;
        }
        self.lent.published = new;
        if self.config.event_idx {
            let event = handshake::publish(&self.avail_idx, new, &self.avail_event);
            index::need_event(event, new, old)
        } else {
            handshake::publish(&self.avail_idx, new, &self.used_flags) & used::NO_NOTIFY == 0
        }
    }

    pub(crate) fn notification_data(&self, queue: u16) -> u32 {
        NotificationData {
            queue,
            next: self.lent.published,
        }
        .encode()
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Result<Option<Used>, RingError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let result = self.pop_checked();
        if let Err(error) = result {
            self.error = Some(error);
        }
        result
    }

    #[inline]
    fn pop_checked(&mut self) -> Result<Option<Used>, RingError> {
        let next = self.lent.returned;
        if next == self.seen_used {
            let published = self.used_idx.load(Ordering::Acquire);
            if published == next {
                return Ok(None);
            }
            let limit = self.lent.with_device();
            index::pending(next, published, limit).ok_or(RingError::UsedIndex)?;
            self.seen_used = published;
        }
        if self.config.in_order {
            return self.pop_in_order().map(Some);
        }
        let (id, written) = self.read_used(next);
        let (id, loan) = self.lent.check(id)?;
        let written = self.lent.clamp(&loan, written);
        self.release(id, loan.descriptors, loan.last);
        Ok(Some(Used { id, written }))
    }

    /// The next chain in order: all but the last of a batch count as wholly written (sec. 2.7.9).
    fn pop_in_order(&mut self) -> Result<Used, RingError> {
        let next = self.lent.returned;
        let (end, written) = match self.batch {
            Some(batch) => batch,
            None => {
                let (id, written) = self.read_used(next);
                let (_, loan) = self.lent.check(id)?;
                let announced = index::distance(next, self.seen_used);
                if !index::within(loan.sequence, next, announced) {
                    return Err(RingError::UsedIndex);
                }
                (loan.sequence, self.lent.clamp(&loan, written))
            }
        };
        let id = self
            .order
            .get(usize::from(next & self.mask))
            .copied()
            .unwrap_or(0);
        let (id, loan) = self.lent.check(u32::from(id))?;
        let (batch, written) = if next == end {
            (None, written)
        } else {
            (Some((end, written)), loan.writable)
        };
        self.batch = batch;
        self.release(id, loan.descriptors, loan.last);
        Ok(Used { id, written })
    }

    #[inline]
    fn read_used(&self, entry: u16) -> (u32, u32) {
        let word = 2 * usize::from(entry & self.mask);
        let id = self.used_ring.load(word, Ordering::Relaxed);
        (id, self.used_ring.load(word + 1, Ordering::Relaxed))
    }

    #[inline]
    fn release(&mut self, head: u16, descriptors: u16, last: u16) {
        if !self.config.in_order {
            if let Some(link) = self.links.get_mut(usize::from(last)) {
                *link = self.first_free;
            }
            self.first_free = head;
        }
        self.free += descriptors;
        self.lent.give_back(head);
    }

    pub(crate) fn arm(&mut self) -> bool {
        self.armed = true;
        let next = self.lent.returned;
        let published = if self.config.event_idx {
            handshake::arm(&self.used_event, next, &self.used_idx)
        } else {
            handshake::arm(&self.avail_flags, 0, &self.used_idx)
        };
        self.error.is_some() || published != next
    }

    #[inline]
    pub(crate) fn disarm(&mut self) {
        if !self.armed {
            return;
        }
        self.armed = false;
        if self.config.event_idx {
            handshake::disarm(&self.used_event, index::never(self.lent.returned));
        } else {
            handshake::disarm(&self.avail_flags, avail::NO_INTERRUPT);
        }
    }

    #[inline]
    pub(crate) fn has_used(&self) -> bool {
        self.error.is_some() || self.used_idx.load(Ordering::Relaxed) != self.lent.returned
    }

    #[inline]
    pub(crate) fn free_descriptors(&self) -> u16 {
        self.free
    }

    #[inline]
    pub(crate) fn in_flight(&self) -> u16 {
        self.lent.lent()
    }

    pub(crate) fn overruns(&self) -> u64 {
        self.lent.overruns
    }

    pub(crate) fn config(&self) -> &QueueConfig {
        &self.config
    }
}

/// Writes an indirect table: entries linked one after the other (sec. 2.7.5.3.1).
fn write_table(
    memory: &RingMemory,
    readable: &[Segment],
    writable: &[Segment],
    count: u16,
) -> Result<(), AddError> {
    let mut at = 0;
    for (segments, write) in [(readable, 0), (writable, descriptor_flags::WRITE)] {
        for segment in segments {
            let next = at + 1;
            let more = if next == count {
                0
            } else {
                descriptor_flags::NEXT
            };
            let extra = if next == count { 0 } else { next };
            let flags = write | more;
            let entry = Descriptor {
                addr: segment.addr,
                len: segment.len,
                flags,
                extra,
            };
            let (first, second) = entry.split_words();
            if !memory.store_pair(usize::from(at) * descriptor::SIZE, first, second) {
                return Err(AddError::TableTooSmall);
            }
            at = next;
        }
    }
    Ok(())
}
