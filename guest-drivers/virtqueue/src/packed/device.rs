//! Device half of the packed ring (virtio 1.4 sec. 2.8).
//!
//! One rule: what the driver may have put into the ring is bounded by the descriptors not in
//! flight; from the first breach on the queue is broken and says so at every call.

use core::sync::atomic::Ordering;

use virtio_spec::ring::PackedDescriptor;
use virtio_spec::ring::descriptor_flags;

use super::ring;
use super::ring::PackedRing;
use super::ring::Staged;
use crate::chain::ChainBatch;
use crate::chain::ChainBuilder;
use crate::chain::Token;
use crate::config::QueueConfig;
use crate::config::QueueState;
use crate::descriptor;
use crate::descriptor::Descriptor;
use crate::descriptor::Table;
use crate::error::ConfigError;
use crate::error::RingError;
use crate::footprint::Footprint;
use crate::in_flight::Done;
use crate::in_flight::InFlight;
use crate::index::PackedPosition;
use crate::memory::PeerMemory;
use crate::memory::Rings;

#[derive(Debug)]
pub(crate) struct PackedDevice {
    ring: PackedRing,
    config: QueueConfig,
    next_avail: PackedPosition,
    /// Where the driver looks for the next used descriptor.
    published: PackedPosition,
    /// Where the next completion goes.
    next_used: PackedPosition,
    /// The first completion behind `published`: written last, by `publish`.
    first: Option<Staged>,
    staged_chains: u16,
    staged_descriptors: u16,
    /// Taken and not published.
    chains: u16,
    /// The descriptors of these, and of chains still to be replayed.
    descriptors: u16,
    unreplayed: u16,
    armed: bool,
    error: Option<RingError>,
    in_flight: InFlight,
}

impl PackedDevice {
    pub(crate) fn new(
        config: QueueConfig,
        rings: &Rings,
        state: QueueState,
    ) -> Result<Self, RingError> {
        rings.check(&config)?;
        let outstanding = state.outstanding(&config)?;
        let ring = PackedRing::locate(&config, rings).ok_or(ConfigError::AreaTooSmall)?;
        let position = |value| PackedPosition::decode(value, config.size).ok_or(ConfigError::State);
        let published = position(state.used)?;
        let queue = Self {
            ring,
            config,
            next_avail: position(state.avail)?,
            published,
            next_used: published,
            first: None,
            staged_chains: 0,
            staged_descriptors: 0,
            chains: 0,
            descriptors: outstanding,
            unreplayed: outstanding,
            armed: true,
            error: None,
            in_flight: InFlight::new(config.size, config.in_order)?,
        };
        queue.hide_unpublished();
        Ok(queue)
    }

    /// A device that crashed may have left used descriptors behind the first, which it held back:
    /// the driver would see them once new ones stand before them. Those slots are ours.
    fn hide_unpublished(&self) {
        let mut position = self.published;
        for _ in 1..self.unreplayed {
            position = position.advance(1, self.config.size);
            let rest = self.ring.rest(position.slot(), Ordering::Relaxed);
            if ring::is_used(rest, position.wrap()) {
                let hidden = u64::from(ring::available_flags(position.wrap())) << 48;
                self.ring
                    .write_rest(position.slot(), rest & u64::MAX >> 16 | hidden);
            }
        }
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
            let rest = self.ring.rest(self.next_avail.slot(), Ordering::Acquire);
            if !ring::is_available(rest, self.next_avail.wrap()) {
                break;
            }
            match self.take_ring_chain(memory, batch, rest) {
                Ok(descriptors) => {
                    self.next_avail = self.next_avail.advance(descriptors, self.config.size);
                    self.descriptors += descriptors;
                }
                Err(error) => {
                    self.error = Some(error);
                    return if taken == 0 { Err(error) } else { Ok(taken) };
                }
            }
            taken += 1;
        }
        Ok(taken)
    }

    /// Reads the chain whose first descriptor's second word is `rest`; returns its descriptors.
    #[inline]
    fn take_ring_chain(
        &mut self,
        memory: &impl PeerMemory,
        batch: &mut ChainBatch,
        rest: u64,
    ) -> Result<u16, RingError> {
        let room = self.config.size - self.descriptors;
        let mut position = self.next_avail;
        let mut descriptor = Descriptor::from_packed(self.ring.addr(position.slot()), rest);
        if room != 0 && descriptor.is_single() && !batch.keeps_raw() {
            let (id, in_flight) = (descriptor.extra, &mut self.in_flight);
            descriptor.finish_single(id, batch, |bytes| in_flight.begin(id, 1, bytes))?;
            self.chains += 1;
            return Ok(1);
        }
        let mut chain = ChainBuilder::new(batch);
        for count in 1..=room {
            if self.add_descriptor(memory, &mut chain, &descriptor, count == 1)? {
                self.begin(chain, descriptor.extra, count)?;
                return Ok(count);
            }
            position = position.advance(1, self.config.size);
            let addr = self.ring.addr(position.slot());
            let rest = self.ring.rest(position.slot(), Ordering::Relaxed);
            descriptor = Descriptor::from_packed(addr, rest);
        }
        Err(if room == 0 {
            RingError::AvailIndex
        } else {
            RingError::ChainTooLong
        })
    }

    /// Adds one ring descriptor to the chain; `true` when it was the last.
    #[inline]
    fn add_descriptor(
        &self,
        memory: &impl PeerMemory,
        chain: &mut ChainBuilder<'_>,
        descriptor: &Descriptor,
        first: bool,
    ) -> Result<bool, RingError> {
        chain.push_raw(|| raw(descriptor))?;
        let next = descriptor.has(descriptor_flags::NEXT);
        if descriptor.has(descriptor_flags::INDIRECT) {
            if !self.config.indirect {
                return Err(RingError::IndirectNotNegotiated);
            }
            if next || !first {
                return Err(RingError::IndirectWithNext);
            }
            Table::find(descriptor, memory, self.config.size)?.walk_all(chain)?;
        } else {
            descriptor.push_to(chain)?;
        }
        Ok(!next)
    }

    /// Remembers a chain as in flight; its id is that of its last descriptor (sec. 2.8.6).
    #[inline]
    fn begin(
        &mut self,
        chain: ChainBuilder<'_>,
        id: u16,
        descriptors: u16,
    ) -> Result<(), RingError> {
        self.in_flight
            .begin(id, descriptors, chain.writable_bytes())?;
        chain.finish(Token { id, descriptors })?;
        self.chains += 1;
        Ok(())
    }

    pub(crate) fn replay(
        &mut self,
        memory: &impl PeerMemory,
        batch: &mut ChainBatch,
        descriptors: &[PackedDescriptor],
    ) -> Result<(), RingError> {
        let count = u16::try_from(descriptors.len()).unwrap_or(u16::MAX);
        if count == 0 || count > self.unreplayed {
            return Err(RingError::UnexpectedReplay);
        }
        let mut chain = ChainBuilder::new(batch);
        for (at, copy) in (1..=count).zip(descriptors) {
            let descriptor = Descriptor {
                addr: copy.addr.get(),
                len: copy.len.get(),
                flags: copy.flags.get(),
                extra: copy.id.get(),
            };
            let last = self.add_descriptor(memory, &mut chain, &descriptor, at == 1)?;
            if last != (at == count) {
                return Err(RingError::UnexpectedReplay);
            }
            if last {
                self.begin(chain, descriptor.extra, count)?;
                self.unreplayed -= count;
                return Ok(());
            }
        }
        Err(RingError::UnexpectedReplay)
    }

    #[inline]
    pub(crate) fn complete(&mut self, token: Token, written: u32) -> Result<(), RingError> {
        if self.config.in_order {
            return self.in_flight.mark_done(token.id, written);
        }
        let (descriptors, written) = self.in_flight.end(token.id, written)?;
        self.stage(token.id, written, self.next_used);
        self.skip(descriptors);
        Ok(())
    }

    #[inline]
    pub(crate) fn give_back(&mut self, token: Token) -> Result<(), RingError> {
        let descriptors = self.in_flight.untake(token.id)?;
        self.next_avail = self.next_avail.retreat(descriptors, self.config.size);
        self.descriptors -= descriptors;
        self.chains -= 1;
        Ok(())
    }

    /// Writes a used descriptor at `at`; the first one since the last publish is held back.
    #[inline]
    fn stage(&mut self, id: u16, written: u32, at: PackedPosition) {
        let write = if written == 0 {
            0
        } else {
            descriptor_flags::WRITE
        };
        let flags = ring::used_flags(at.wrap()) | write;
        let rest = descriptor::packed_rest(written, id, flags);
        if self.first.is_none() {
            self.first = Some(Staged {
                slot: at.slot(),
                rest,
            });
        } else {
            self.ring.write_rest(at.slot(), rest);
        }
    }

    #[inline]
    fn skip(&mut self, descriptors: u16) {
        self.next_used = self.next_used.advance(descriptors, self.config.size);
        self.staged_descriptors += descriptors;
        self.staged_chains += 1;
    }

    /// In-order: stages what is completed from the oldest on. A run of wholly written chains
    /// takes one used descriptor, at the place of the first, naming the last (sec. 2.8.8).
    fn stage_in_order(&mut self) {
        let mut first = self.next_used;
        let mut last: Option<Done> = None;
        while let Some(done) = self.in_flight.pop_done() {
            self.skip(done.descriptors);
            if done.whole {
                last = Some(done);
            } else {
                self.stage(done.id, done.written, first);
                first = self.next_used;
                last = None;
            }
        }
        if let Some(done) = last {
            self.stage(done.id, done.written, first);
        }
    }

    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        if self.config.in_order {
            self.stage_in_order();
        } else {
            self.in_flight.published();
        }
        let Some(first) = self.first.take() else {
            return false;
        };
        let moved = self.staged_descriptors;
        self.published = self.next_used;
        self.descriptors -= moved;
        self.chains -= self.staged_chains;
        self.staged_descriptors = 0;
        self.staged_chains = 0;
        self.ring
            .publish(first, &self.ring.driver_event, self.published, moved)
    }

    pub(crate) fn publishable(&self) -> usize {
        if self.config.in_order {
            self.in_flight.publishable().count()
        } else {
            usize::from(self.staged_chains)
        }
    }

    pub(crate) fn footprint(&self) -> Footprint {
        let held = |(_, descriptors)| usize::from(descriptors);
        let count = if self.config.in_order {
            self.in_flight.publishable().map(held).sum()
        } else {
            usize::from(self.staged_descriptors)
        };
        Footprint::packed_ring(self.published.slot(), count, self.config.size)
    }

    pub(crate) fn arm(&mut self) -> bool {
        self.armed = true;
        let next = self.next_avail;
        let wish = ring::wish_for(next, self.config.event_idx);
        let rest = self.ring.arm(&self.ring.device_event, wish, next.slot());
        self.error.is_some() || ring::is_available(rest, next.wrap())
    }

    #[inline]
    pub(crate) fn disarm(&mut self) {
        if self.armed {
            self.armed = false;
            self.ring
                .device_event
                .store(ring::WISH_NONE, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(crate) fn has_work(&self) -> bool {
        let next = self.next_avail;
        self.error.is_some()
            || ring::is_available(self.ring.rest(next.slot(), Ordering::Relaxed), next.wrap())
    }

    pub(crate) fn state(&self) -> QueueState {
        QueueState {
            avail: self.next_avail.encode(),
            used: self.published.encode(),
        }
    }

    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        usize::from(self.chains) + usize::from(self.unreplayed)
    }

    pub(crate) fn config(&self) -> &QueueConfig {
        &self.config
    }
}

fn raw(descriptor: &Descriptor) -> PackedDescriptor {
    PackedDescriptor {
        addr: descriptor.addr.into(),
        len: descriptor.len.into(),
        id: descriptor.extra.into(),
        flags: descriptor.flags.into(),
    }
}
