//! Device half of the split ring (virtio 1.4 sec. 2.7).
//!
//! One rule: the driver's indices are believed only within what the queue can hold; from the first
//! breach on the queue is broken and says so at every call.

use core::sync::atomic::Ordering;

use virtio_spec::ring::avail;
use virtio_spec::ring::descriptor_flags;
use virtio_spec::ring::used;

use crate::chain::ChainBatch;
use crate::chain::ChainBuilder;
use crate::chain::Token;
use crate::config::QueueConfig;
use crate::config::QueueState;
use crate::descriptor::Descriptor;
use crate::descriptor::Table;
use crate::error::ConfigError;
use crate::error::RingError;
use crate::footprint::Footprint;
use crate::handshake;
use crate::in_flight::InFlight;
use crate::index;
use crate::memory::Cell;
use crate::memory::Cells;
use crate::memory::PeerMemory;
use crate::memory::Rings;

#[derive(Debug)]
pub(crate) struct SplitDevice {
    table: Cells<u64>,
    avail_flags: Cell<u16>,
    avail_idx: Cell<u16>,
    avail_ring: Cells<u16>,
    used_event: Cell<u16>,
    used_flags: Cell<u16>,
    used_idx: Cell<u16>,
    used_ring: Cells<u32>,
    avail_event: Cell<u16>,
    config: QueueConfig,
    mask: u16,
    /// Next available entry to take.
    next_avail: u16,
    /// The driver's index when last read, checked.
    seen_avail: u16,
    /// The used index the driver sees.
    published: u16,
    /// Completions behind `published` that are in the used ring but not visible.
    staged: u16,
    /// Taken and not published, including those still to be replayed.
    unpublished: u16,
    /// Taken before the restart and not yet replayed.
    unreplayed: u16,
    /// The driver was last asked for notifications.
    armed: bool,
    error: Option<RingError>,
    in_flight: InFlight,
}

impl SplitDevice {
    pub(crate) fn new(
        config: QueueConfig,
        rings: &Rings,
        state: QueueState,
    ) -> Result<Self, RingError> {
        rings.check(&config)?;
        let outstanding = state.outstanding(&config)?;
        let in_flight = InFlight::new(config.size, config.in_order)?;
        let queue = Self::locate(config, rings, state, (outstanding, in_flight));
        let queue = queue.ok_or(ConfigError::AreaTooSmall)?;
        if config.event_idx {
            // With the feature the flags are unused and must be 0 (sec. 2.7.10.1).
            queue.used_flags.store(0, Ordering::Relaxed);
        }
        Ok(queue)
    }

    fn locate(
        config: QueueConfig,
        rings: &Rings,
        state: QueueState,
        (outstanding, in_flight): (u16, InFlight),
    ) -> Option<Self> {
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
            config,
            mask: config.size - 1,
            next_avail: state.avail,
            seen_avail: state.avail,
            published: state.used,
            staged: 0,
            unpublished: outstanding,
            unreplayed: outstanding,
            armed: true,
            error: None,
            in_flight,
        })
    }

    #[inline]
    pub(crate) fn take(
        &mut self,
        memory: &impl PeerMemory,
        batch: &mut ChainBatch,
        max: usize,
    ) -> Result<usize, RingError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if self.config.in_order && self.unreplayed != 0 {
            return Err(RingError::ReplayOutstanding);
        }
        let mut taken = 0;
        while taken != max {
            let result = match self.next_head() {
                Ok(None) => break,
                Ok(Some(head)) => self.take_chain(memory, batch, head),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                self.error = Some(error);
                return if taken == 0 { Err(error) } else { Ok(taken) };
            }
            self.next_avail = self.next_avail.wrapping_add(1);
            self.unpublished += 1;
            taken += 1;
        }
        Ok(taken)
    }

    /// The head in the next available entry, if there is one.
    #[inline]
    fn next_head(&mut self) -> Result<Option<u16>, RingError> {
        if self.next_avail == self.seen_avail {
            let published = self.avail_idx.load(Ordering::Acquire);
            if published == self.next_avail {
                return Ok(None);
            }
            let room = self.config.size - self.unpublished;
            index::pending(self.next_avail, published, room).ok_or(RingError::AvailIndex)?;
            self.seen_avail = published;
        }
        let entry = usize::from(self.next_avail & self.mask);
        Ok(Some(self.avail_ring.load(entry, Ordering::Relaxed)))
    }

    /// Reads the chain at `head` and remembers it as in flight.
    #[inline]
    fn take_chain(
        &mut self,
        memory: &impl PeerMemory,
        batch: &mut ChainBatch,
        head: u16,
    ) -> Result<(), RingError> {
        if head <= self.mask {
            let first = self.descriptor(head);
            if first.is_single() {
                let in_flight = &mut self.in_flight;
                return first.finish_single(head, batch, |bytes| in_flight.begin(head, 1, bytes));
            }
        }
        match self.in_flight.check_free(head) {
            Err(RingError::IdOutOfRange) => return Err(RingError::DescriptorIndex),
            other => other?,
        }
        let mut chain = ChainBuilder::new(batch);
        let descriptors = self.walk(memory, &mut chain, head)?;
        self.in_flight
            .begin(head, descriptors, chain.writable_bytes())?;
        chain.finish(Token {
            id: head,
            descriptors,
        })
    }

    /// The descriptor at `index`, read once.
    #[inline]
    fn descriptor(&self, index: u16) -> Descriptor {
        let word = 2 * usize::from(index);
        let addr = self.table.load(word, Ordering::Relaxed);
        let rest = self.table.load(word + 1, Ordering::Relaxed);
        Descriptor::from_split(addr, rest)
    }

    /// Follows a chain; its length is bounded by the queue's, so a loop ends as too long.
    #[inline]
    fn walk(
        &self,
        memory: &impl PeerMemory,
        chain: &mut ChainBuilder<'_>,
        head: u16,
    ) -> Result<u16, RingError> {
        let mut next = head;
        for count in 1..=self.config.size {
            if next > self.mask {
                return Err(RingError::DescriptorIndex);
            }
            let descriptor = self.descriptor(next);
            if descriptor.has(descriptor_flags::INDIRECT) {
                if !self.config.indirect {
                    return Err(RingError::IndirectNotNegotiated);
                }
                if descriptor.has(descriptor_flags::NEXT) {
                    return Err(RingError::IndirectWithNext);
                }
                Table::find(&descriptor, memory, self.config.size)?.walk_linked(chain)?;
                return Ok(count);
            }
            descriptor.push_to(chain)?;
            if !descriptor.has(descriptor_flags::NEXT) {
                return Ok(count);
            }
            next = descriptor.extra;
        }
        Err(RingError::ChainTooLong)
    }

    pub(crate) fn replay(
        &mut self,
        memory: &impl PeerMemory,
        batch: &mut ChainBatch,
        head: u16,
    ) -> Result<(), RingError> {
        if self.unreplayed == 0 {
            return Err(RingError::UnexpectedReplay);
        }
        self.take_chain(memory, batch, head)?;
        self.unreplayed -= 1;
        Ok(())
    }

    #[inline]
    pub(crate) fn complete(&mut self, token: Token, written: u32) -> Result<(), RingError> {
        if self.config.in_order {
            return self.in_flight.mark_done(token.id, written);
        }
        let (_, written) = self.in_flight.end(token.id, written)?;
        let entry = self.published.wrapping_add(self.staged);
        self.write_used(entry, token.id, written);
        self.staged += 1;
        Ok(())
    }

    #[inline]
    pub(crate) fn give_back(&mut self, token: Token) -> Result<(), RingError> {
        self.in_flight.untake(token.id)?;
        self.next_avail = self.next_avail.wrapping_sub(1);
        self.unpublished -= 1;
        Ok(())
    }

    #[inline]
    fn write_used(&self, entry: u16, id: u16, written: u32) {
        let word = 2 * usize::from(entry & self.mask);
        self.used_ring.store(word, u32::from(id), Ordering::Relaxed);
        self.used_ring.store(word + 1, written, Ordering::Relaxed);
    }

    /// In-order: stages what is completed from the oldest on. A run of wholly written chains
    /// takes one entry, at the place of the first, naming the last (sec. 2.7.9).
    fn stage_in_order(&mut self) {
        let mut first = self.published;
        let mut last = None;
        while let Some(done) = self.in_flight.pop_done() {
            self.staged += 1;
            if done.whole {
                last = Some(done);
            } else {
                self.write_used(first, done.id, done.written);
                first = self.published.wrapping_add(self.staged);
                last = None;
            }
        }
        if let Some(done) = last {
            self.write_used(first, done.id, done.written);
        }
    }

    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        if self.config.in_order {
            self.stage_in_order();
        } else {
            self.in_flight.published();
        }
        if self.staged == 0 {
            return false;
        }
        let old = self.published;
        let new = old.wrapping_add(self.staged);
        self.unpublished -= self.staged;
        self.staged = 0;
        self.published = new;
        if self.config.event_idx {
            let event = handshake::publish(&self.used_idx, new, &self.used_event);
            index::need_event(event, new, old)
        } else {
            handshake::publish(&self.used_idx, new, &self.avail_flags) & avail::NO_INTERRUPT == 0
        }
    }

    pub(crate) fn publishable(&self) -> usize {
        if self.config.in_order {
            self.in_flight.publishable().count()
        } else {
            usize::from(self.staged)
        }
    }

    pub(crate) fn footprint(&self) -> Footprint {
        let start = self.published & self.mask;
        Footprint::used_ring(start, self.publishable(), self.config.size)
    }

    pub(crate) fn arm(&mut self) -> bool {
        self.armed = true;
        let published = if self.config.event_idx {
            handshake::arm(&self.avail_event, self.next_avail, &self.avail_idx)
        } else {
            handshake::arm(&self.used_flags, 0, &self.avail_idx)
        };
        self.error.is_some() || published != self.next_avail
    }

    #[inline]
    pub(crate) fn disarm(&mut self) {
        if !self.armed {
            return;
        }
        self.armed = false;
        if self.config.event_idx {
            handshake::disarm(&self.avail_event, index::never(self.next_avail));
        } else {
            handshake::disarm(&self.used_flags, used::NO_NOTIFY);
        }
    }

    #[inline]
    pub(crate) fn has_work(&self) -> bool {
        self.error.is_some() || self.avail_idx.load(Ordering::Relaxed) != self.next_avail
    }

    pub(crate) fn state(&self) -> QueueState {
        QueueState {
            avail: self.next_avail,
            used: self.published,
        }
    }

    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        usize::from(self.unpublished)
    }

    pub(crate) fn config(&self) -> &QueueConfig {
        &self.config
    }
}
