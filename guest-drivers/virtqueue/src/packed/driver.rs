//! Driver half of the packed ring (virtio 1.4 sec. 2.8).
//!
//! One rule: a used descriptor is believed as far as its id names a chain the device has; how far
//! the ring moves on is taken from our own record of that chain.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use fallible_alloc::FallibleVec;
use virtio_spec::pci::NotificationData;
use virtio_spec::ring::descriptor_flags;

use super::ring;
use super::ring::PackedRing;
use super::ring::Staged;
use crate::chain::Segment;
use crate::config::QueueConfig;
use crate::descriptor;
use crate::descriptor::Descriptor;
use crate::driver::Used;
use crate::error::AddError;
use crate::error::ConfigError;
use crate::error::RingError;
use crate::index::PackedPosition;
use crate::lent;
use crate::lent::Lent;
use crate::lent::Loan;
use crate::memory::RingMemory;
use crate::memory::Rings;

#[derive(Debug)]
pub(crate) struct PackedDriver {
    ring: PackedRing,
    rings: Rings,
    config: QueueConfig,
    /// Where the next chain goes.
    next: PackedPosition,
    /// The first descriptor the device was not shown.
    published: PackedPosition,
    /// Where the device puts the next used descriptor.
    next_used: PackedPosition,
    /// The first descriptor of the first unpublished chain: written last, by `publish`.
    first: Option<Staged>,
    /// Descriptors behind `published`.
    staged: u16,
    free: u16,
    /// Links of the free ids. In order they never change: ids then go round.
    links: Vec<u16>,
    first_free: u16,
    /// In order: the oldest id lent.
    oldest: u16,
    /// In order: the batch being returned, as its last id and the bytes written there.
    batch: Option<(u16, u32)>,
    lent: Lent,
    armed: bool,
    error: Option<RingError>,
}

impl PackedDriver {
    pub(crate) fn new(config: QueueConfig, rings: &Rings) -> Result<Self, RingError> {
        rings.check(&config)?;
        let ring = PackedRing::locate(&config, rings).ok_or(ConfigError::AreaTooSmall)?;
        let mut queue = Self {
            ring,
            rings: *rings,
            config,
            next: PackedPosition::START,
            published: PackedPosition::START,
            next_used: PackedPosition::START,
            first: None,
            staged: 0,
            free: 0,
            links: Vec::filled(config.size.into(), |_| 0)?,
            first_free: 0,
            oldest: 0,
            batch: None,
            lent: Lent::new(config.size)?,
            armed: true,
            error: None,
        };
        queue.reset(|_| ());
        Ok(queue)
    }

    pub(crate) fn reset(&mut self, reclaim: impl FnMut(u16)) {
        self.lent.reclaim(reclaim);
        for (next, link) in (1_u16..).zip(self.links.iter_mut()) {
            *link = if next == self.config.size { 0 } else { next };
        }
        self.next = PackedPosition::START;
        self.published = PackedPosition::START;
        self.next_used = PackedPosition::START;
        self.first = None;
        self.staged = 0;
        self.free = self.config.size;
        self.first_free = 0;
        self.oldest = 0;
        self.batch = None;
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
        let id = self.first_free;
        match indirect {
            None => self.write_chain(id, readable, writable, count),
            Some((memory, address)) => {
                if !self.config.indirect {
                    return Err(AddError::IndirectNotNegotiated);
                }
                write_table(&memory, readable, writable)?;
                let flags = descriptor_flags::INDIRECT;
                let len = u32::from(count) * descriptor::SIZE as u32;
                self.write(Descriptor {
                    addr: address,
                    len,
                    flags,
                    extra: id,
                });
            }
        }
        self.free -= used;
        self.staged += used;
        self.first_free = self.link(id);
        self.lent.lend(id, used, 0, bytes);
        Ok(id)
    }

    #[inline]
    fn write_chain(&mut self, id: u16, readable: &[Segment], writable: &[Segment], count: u16) {
        let mut left = count;
        for (segments, write) in [(readable, 0), (writable, descriptor_flags::WRITE)] {
            for segment in segments {
                left -= 1;
                let more = if left == 0 { 0 } else { descriptor_flags::NEXT };
                let flags = write | more;
                self.write(Descriptor {
                    addr: segment.addr,
                    len: segment.len,
                    flags,
                    extra: id,
                });
            }
        }
    }

    /// Writes the next descriptor; the first one since the last publish is held back, and the
    /// device does not look behind it.
    #[inline]
    fn write(&mut self, mut descriptor: Descriptor) {
        descriptor.flags |= ring::available_flags(self.next.wrap());
        let (addr, rest) = descriptor.packed_words();
        let slot = self.next.slot();
        self.ring.write_addr(slot, addr);
        if self.first.is_none() {
            self.first = Some(Staged { slot, rest });
        } else {
            self.ring.write_rest(slot, rest);
        }
        self.next = self.next.advance(1, self.config.size);
    }

    #[inline]
    fn link(&self, id: u16) -> u16 {
        self.links.get(usize::from(id)).copied().unwrap_or(0)
    }

    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        let Some(first) = self.first.take() else {
            return false;
        };
        let moved = self.staged;
        self.staged = 0;
        self.published = self.next;
        self.lent.published = self.lent.added;
        self.ring
            .publish(first, &self.ring.device_event, self.published, moved)
    }

    pub(crate) fn notification_data(&self, queue: u16) -> u32 {
        NotificationData {
            queue,
            next: self.published.encode(),
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
        if let Some((end, written)) = self.batch {
            return self.pop_in_order(end, written).map(Some);
        }
        let rest = self.ring.rest(self.next_used.slot(), Ordering::Acquire);
        if self.lent.with_device() == 0 || !ring::is_used(rest, self.next_used.wrap()) {
            return Ok(None);
        }
        // QEMU's devices leave out the WRITE flag, so other than sec. 2.8.4 says the length counts
        // without it; it is cut to the buffer anyway.
        let used = Descriptor::from_packed(0, rest);
        let (id, loan) = self.lent.check(u32::from(used.extra))?;
        let written = self.lent.clamp(&loan, used.len);
        if self.config.in_order {
            return self.pop_in_order(id, written).map(Some);
        }
        if let Some(link) = self.links.get_mut(usize::from(id)) {
            *link = self.first_free;
        }
        self.first_free = id;
        self.release(id, &loan);
        Ok(Some(Used { id, written }))
    }

    /// The next chain in order, in the batch up to `end`: all but the last count as wholly written
    /// (sec. 2.8.8).
    fn pop_in_order(&mut self, end: u16, written: u32) -> Result<Used, RingError> {
        let id = self.oldest;
        let (id, loan) = self.lent.check(u32::from(id))?;
        let (batch, written) = if id == end {
            (None, written)
        } else {
            (Some((end, written)), loan.writable)
        };
        self.batch = batch;
        self.oldest = self.link(id);
        self.release(id, &loan);
        Ok(Used { id, written })
    }

    #[inline]
    fn release(&mut self, id: u16, loan: &Loan) {
        self.next_used = self.next_used.advance(loan.descriptors, self.config.size);
        self.free += loan.descriptors;
        self.lent.give_back(id);
    }

    pub(crate) fn arm(&mut self) -> bool {
        self.armed = true;
        let next = self.next_used;
        let wish = ring::wish_for(next, self.config.event_idx);
        let rest = self.ring.arm(&self.ring.driver_event, wish, next.slot());
        self.error.is_some() || self.batch.is_some() || self.shows_used(rest)
    }

    #[inline]
    pub(crate) fn disarm(&mut self) {
        if self.armed {
            self.armed = false;
            self.ring
                .driver_event
                .store(ring::WISH_NONE, Ordering::Relaxed);
        }
    }

    #[inline]
    fn shows_used(&self, rest: u64) -> bool {
        self.lent.with_device() != 0 && ring::is_used(rest, self.next_used.wrap())
    }

    #[inline]
    pub(crate) fn has_used(&self) -> bool {
        self.error.is_some()
            || self.batch.is_some()
            || self.shows_used(self.ring.rest(self.next_used.slot(), Ordering::Relaxed))
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

/// Writes an indirect table: entries one after the other, with no flag but WRITE (sec. 2.8.7).
fn write_table(
    memory: &RingMemory,
    readable: &[Segment],
    writable: &[Segment],
) -> Result<(), AddError> {
    let mut offset = 0;
    for (segments, flags) in [(readable, 0), (writable, descriptor_flags::WRITE)] {
        for segment in segments {
            let entry = Descriptor {
                addr: segment.addr,
                len: segment.len,
                flags,
                extra: 0,
            };
            let (first, second) = entry.packed_words();
            if !memory.store_pair(offset, first, second) {
                return Err(AddError::TableTooSmall);
            }
            offset += descriptor::SIZE;
        }
    }
    Ok(())
}
