//! One running queue as its handler sees it: the ring, the in-flight record, the dirty log, the interrupt and the
//! counters. One rule: what must happen around taking and publishing happens here, so that no device can forget it.

use crate::Error;
use crate::Moderator;
use crate::QueueCounters;
use crate::QueueMemory;
use crate::inflight::QueueRecord;
use crate::moderator::Verdict;
use crate::recorder::Recorded;
use crate::recorder::Recorder;
use crate::starting::starting_state;
use guest_memory::GuestMemory;
use host_os::EventFd;
use std::collections::VecDeque;
use std::sync::Arc;
use virtqueue::ChainBatch;
use virtqueue::DeviceQueue;
use virtqueue::Footprint;
use virtqueue::Format;
use virtqueue::QueueConfig;
use virtqueue::Replay;
use virtqueue::RingMemory;
use virtqueue::Rings;
use virtqueue::Segment;
use virtqueue::Token;
use virtqueue::WrittenArea;

/// Where the ring's areas are, in front-end addresses, as in `SET_VRING_ADDR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RingAddresses {
    /// Descriptor area.
    pub descriptors: u64,
    /// Driver area (available ring).
    pub driver: u64,
    /// Device area (used ring).
    pub device: u64,
    /// Guest address to which writes to the device area are logged, if they are (`VHOST_VRING_F_LOG`).
    pub log: Option<u64>,
}

/// Everything a queue needs to start.
#[derive(Debug)]
pub struct QueueSetup {
    /// Ring parameters.
    pub config: QueueConfig,
    /// Where the ring is.
    pub addresses: RingAddresses,
    /// The vring base: where the front-end believes that the ring stands.
    pub base: u32,
    /// The memory the ring and its buffers lie in.
    pub memory: Arc<GuestMemory>,
    /// The in-flight record, if the front-end keeps one.
    pub record: Option<QueueRecord>,
    /// The interrupt, if the driver is to be told.
    pub call: Option<Arc<EventFd>>,
    /// Where to count.
    pub counters: Arc<QueueCounters>,
}

/// A running queue.
#[derive(Debug)]
pub struct Queue {
    ring: DeviceQueue,
    recorder: Option<Recorder>,
    replay: VecDeque<Recorded>,
    /// Chains taken and not published.
    unpublished: usize,
    /// Where the ring's areas are to the dirty log, if writes to them are logged.
    ring_log: Option<RingLog>,
    /// Writable parts of chains in flight, by token id; empty unless the memory logs.
    writable: Vec<Vec<Segment>>,
    call: Option<Arc<EventFd>>,
    /// Holds interrupts back.
    moderator: Option<Arc<Moderator>>,
    counters: Arc<QueueCounters>,
    /// Last field: the ring lies in it.
    ground: QueueMemory,
}

impl Queue {
    /// Builds the queue on its ring, and recovers what the in-flight record holds.
    ///
    /// # Errors
    /// When ring, record and parameters do not fit together; nothing was written to the ring then.
    pub fn new(setup: QueueSetup) -> Result<Self, Error> {
        let QueueSetup {
            config,
            addresses,
            base,
            memory,
            record,
            call,
            counters,
        } = setup;
        config.check()?;
        let ground = QueueMemory {
            memory: memory.clone(),
            record: record.as_ref().map(|record| record.memory.clone()),
        };
        let rings = find_rings(&config, &addresses, &memory)?;
        let mut state = starting_state(&config, &rings, base)?;
        let mut recorder = None;
        let mut replay = VecDeque::new();
        if let Some(record) = record {
            let (opened, chains, recovered) = Recorder::open(record, &config, &rings, state)?;
            (recorder, replay, state) = (Some(opened), chains, recovered);
        }
        let ring = DeviceQueue::new(config, rings, state)?;
        let logging = memory.is_logging();
        let ring_log = logging
            .then(|| RingLog::new(&config, &addresses, &memory))
            .flatten();
        if let Some(log) = &ring_log {
            // The ring was built: that hides what a device that crashed has left half done.
            log.mark_all(&memory);
        }
        let slots = if logging { usize::from(config.size) } else { 0 };
        let writable = vec![Vec::new(); slots];
        Ok(Self {
            ring,
            recorder,
            replay,
            unpublished: 0,
            ring_log,
            writable,
            call,
            moderator: None,
            counters,
            ground,
        })
    }

    /// The memory snapshot that the ring's addresses refer to.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.ground.memory
    }

    /// What to look at for truncation; it is to be looked at after each use of the queue.
    pub fn ground(&self) -> &QueueMemory {
        &self.ground
    }

    /// The ring's parameters.
    pub fn config(&self) -> &QueueConfig {
        self.ring.config()
    }

    /// The queue's counters.
    pub fn counters(&self) -> &Arc<QueueCounters> {
        &self.counters
    }

    /// Takes up to `max` chains and appends them to `batch`; returns how many. Chains of a former life, from the
    /// in-flight record, come first.
    ///
    /// # Errors
    /// The ring or the record is malformed; the queue can only drain then.
    #[inline]
    pub fn take(&mut self, batch: &mut ChainBatch, max: usize) -> Result<usize, Error> {
        if !self.replay.is_empty() {
            return self.take_recorded(batch, max);
        }
        if self.recorder.is_some() && self.ring.config().format == Format::Packed {
            batch.keep_raw_descriptors();
        }
        let before = batch.len();
        let taken = self.ring.take(&*self.ground.memory, batch, max)?;
        if taken == 0 {
            return Ok(0);
        }
        self.unpublished += taken;
        self.counters.taken.add(taken as u64);
        if let Some(recorder) = &mut self.recorder {
            for position in before..batch.len() {
                if let Some(chain) = batch.get(position) {
                    recorder.taken(chain.token, batch.raw(position));
                }
            }
        }
        self.remember_writable(batch, before);
        Ok(taken)
    }

    #[cold]
    fn take_recorded(&mut self, batch: &mut ChainBatch, max: usize) -> Result<usize, Error> {
        let before = batch.len();
        let mut taken = 0;
        while taken < max {
            let Some(chain) = self.replay.front() else {
                break;
            };
            let replay = match chain {
                Recorded::Head(head) => Replay::Head(*head),
                Recorded::Descriptors(descriptors) => Replay::Descriptors(descriptors),
            };
            let position = batch.len();
            self.ring.replay(&*self.ground.memory, batch, replay)?;
            self.replay.pop_front();
            if let (Some(recorder), Some(chain)) = (&mut self.recorder, batch.get(position)) {
                recorder.replayed(chain.token);
            }
            taken += 1;
            self.unpublished += 1;
        }
        self.counters.taken.add(taken as u64);
        self.counters.replayed.add(taken as u64);
        self.remember_writable(batch, before);
        Ok(taken)
    }

    #[inline]
    fn remember_writable(&mut self, batch: &ChainBatch, from: usize) {
        if self.writable.is_empty() {
            return;
        }
        for chain in (from..batch.len()).filter_map(|position| batch.get(position)) {
            if let Some(place) = self.writable.get_mut(usize::from(chain.token.id)) {
                place.clear();
                place.extend_from_slice(chain.writable);
            }
        }
    }

    /// Gives back the last `count` chains of `batch`, which shrinks by them: the next [`Self::take`] returns them
    /// again. Only for the chains taken last, in a queue that completes its chains in the order taken (a network
    /// device's receive queue); chains from the in-flight record may be among them.
    ///
    /// # Errors
    /// A chain is completed already or not of this queue: a mistake of the device.
    pub fn give_back(&mut self, batch: &mut ChainBatch, count: usize) -> Result<(), Error> {
        for _ in 0..count {
            let last = batch.len().checked_sub(1);
            let token = last
                .and_then(|last| batch.get(last))
                .map(|chain| chain.token);
            self.ring.give_back(batch, 1)?;
            self.unpublished = self.unpublished.saturating_sub(1);
            self.counters.given_back.add(1);
            let Some(token) = token else {
                continue;
            };
            if let Some(segments) = self.writable.get_mut(usize::from(token.id)) {
                segments.clear();
            }
            if let Some(recorder) = &mut self.recorder {
                recorder.untaken(token);
            }
        }
        Ok(())
    }

    /// Completes a chain of which `written` bytes were written. All data must be in guest memory already. The driver
    /// sees it after [`Self::publish`].
    ///
    /// # Errors
    /// When `token` names no chain in flight: a mistake of the device.
    #[inline]
    pub fn complete(&mut self, token: Token, written: u32) -> Result<(), Error> {
        if let Some(segments) = self.writable.get_mut(usize::from(token.id)) {
            // Whole buffers, whatever `written` says: a failed read may have changed any part.
            for segment in segments.drain(..) {
                self.ground
                    .memory
                    .mark_dirty(segment.addr, u64::from(segment.len));
            }
        }
        self.ring.complete(token, written)?;
        if let Some(recorder) = &mut self.recorder {
            recorder.completed(token);
        }
        Ok(())
    }

    /// Makes all completed chains visible in one step and interrupts the driver if it wants that.
    #[inline]
    pub fn publish(&mut self) {
        if self.recorder.is_some() || self.ring_log.is_some() {
            return self.publish_noted();
        }
        let before = self.ring.in_flight();
        let wanted = self.ring.publish();
        let count = before - self.ring.in_flight();
        if count != 0 {
            self.published(count, wanted);
        }
    }

    /// As [`Self::publish`], for a queue with a record or a log.
    fn publish_noted(&mut self) {
        let count = self.ring.publishable();
        if count == 0 {
            return;
        }
        // The bit goes before the change becomes visible; a front-end that clears it in between reads the ring
        // only after it stopped us, and the next publication marks it again.
        let written = self.ring_log.as_ref().map(|_| self.ring.footprint());
        self.mark_written(written.as_ref());
        if let Some(recorder) = &mut self.recorder {
            recorder.before_publish(count);
        }
        let wanted = self.ring.publish();
        if let Some(recorder) = &mut self.recorder {
            recorder.after_publish(count);
        }
        self.mark_written(written.as_ref());
        self.published(count, wanted);
    }

    #[inline]
    fn published(&mut self, count: usize, wanted: bool) {
        self.unpublished = self.unpublished.saturating_sub(count);
        self.counters.completed.add(count as u64);
        self.counters.published.add(1);
        match &self.moderator {
            None if wanted => self.interrupt(),
            None => {}
            Some(moderator) => self.moderate(moderator.judge(wanted, count)),
        }
    }

    #[inline]
    fn moderate(&self, verdict: Verdict) {
        match verdict {
            Verdict::Nothing => {}
            Verdict::Interrupt => self.interrupt(),
            // Counted here, by the holder of the queue, and sent later, perhaps by another.
            Verdict::Hold => self.counters.interrupts.add(self.call.is_some().into()),
            Verdict::InterruptHeld => self.call_driver(),
        }
    }

    /// From now on `moderator` may hold interrupts back.
    pub fn set_moderator(&mut self, moderator: Option<Arc<Moderator>>) {
        self.moderator = moderator;
    }

    /// What may hold interrupts back.
    pub fn moderator(&self) -> Option<&Moderator> {
        self.moderator.as_deref()
    }

    /// Sends an interrupt that was held back and is due.
    #[inline]
    pub fn interrupt_if_late(&self) {
        if self.moderator.as_ref().is_some_and(|held| held.take_late()) {
            self.call_driver();
        }
    }

    /// Sends an interrupt that was held back, due or not: nobody looks at it any more.
    pub fn interrupt_if_held(&self) {
        if self.moderator.as_ref().is_some_and(|held| held.take()) {
            self.call_driver();
        }
    }

    /// Marks what publishing writes to the ring.
    fn mark_written(&self, written: Option<&Footprint>) {
        let (Some(log), Some(written)) = (&self.ring_log, written) else {
            return;
        };
        let area = match written.area {
            WrittenArea::Descriptors => log.descriptors,
            WrittenArea::Device => Some(log.device),
        };
        for range in &written.ranges {
            if let Some(addr) = area.and_then(|area| area.checked_add(range.start as u64)) {
                self.ground.memory.mark_dirty(addr, range.len() as u64);
            }
        }
    }

    /// Marks what arming and disarming write: the first or the last word of the device area.
    #[inline]
    fn mark_suppression(&self) {
        if let Some(log) = &self.ring_log {
            self.ground.memory.mark_dirty(log.device, 4);
            let last = log.device.saturating_add(log.device_len.saturating_sub(4));
            self.ground.memory.mark_dirty(last, 4);
        }
    }

    /// Interrupts the driver, wanted or not.
    pub fn interrupt(&self) {
        if self.call.is_some() {
            self.call_driver();
            self.counters.interrupts.add(1);
        }
    }

    fn call_driver(&self) {
        if let Some(call) = &self.call {
            call.notify();
        }
    }

    /// Replaces the interrupt; the driver is interrupted once through the new one, since a call through the old one
    /// may have been lost.
    pub fn set_call(&mut self, call: Option<Arc<EventFd>>) {
        self.call = call;
        self.interrupt();
    }

    /// Asks the driver for notifications; `true` when there is work already: do not sleep.
    #[must_use = "sleeping on true loses a wake-up"]
    pub fn arm(&mut self) -> bool {
        let work = self.ring.arm();
        self.mark_suppression();
        work || !self.replay.is_empty()
    }

    /// Asks the driver for silence, while polling.
    #[inline]
    pub fn disarm(&mut self) {
        self.ring.disarm();
        self.mark_suppression();
    }

    /// Whether [`Self::take`] would return a chain or an error.
    #[inline]
    pub fn has_work(&self) -> bool {
        self.ring.has_work() || !self.replay.is_empty()
    }

    /// Chains taken and not visible as used yet, and those still to be replayed.
    pub fn in_flight(&self) -> usize {
        self.unpublished + self.replay.len()
    }

    /// The vring base for `GET_VRING_BASE`.
    pub fn base(&self) -> u32 {
        self.ring.state().encode(self.ring.config().format)
    }
}

/// Finds the three areas; each must lie in one region.
pub(crate) fn find_rings(
    config: &QueueConfig,
    addresses: &RingAddresses,
    memory: &GuestMemory,
) -> Result<Rings, Error> {
    let layout = config.layout();
    let find = |addr: u64, len: usize, name: &'static str| -> Result<RingMemory, Error> {
        memory.user_ring(addr, len).ok_or(Error::RingArea(name))
    };
    Ok(Rings {
        descriptors: find(addresses.descriptors, layout.descriptors.size, "descriptor")?,
        driver: find(addresses.driver, layout.driver.size, "driver")?,
        device: find(addresses.device, layout.device.size, "device")?,
    })
}

/// The areas that the device writes, as guest addresses.
#[derive(Debug)]
struct RingLog {
    /// The device area, and its bytes.
    device: u64,
    device_len: u64,
    /// The descriptor area of a packed ring, and its bytes: used descriptors are written there, which the log address
    /// does not cover.
    descriptors: Option<u64>,
    descriptors_len: u64,
}

impl RingLog {
    fn new(config: &QueueConfig, addresses: &RingAddresses, memory: &GuestMemory) -> Option<Self> {
        let packed = config.format == Format::Packed;
        let layout = config.layout();
        Some(Self {
            device: addresses.log?,
            device_len: layout.device.size as u64,
            descriptors_len: layout.descriptors.size as u64,
            descriptors: packed
                .then(|| memory.user_to_guest(addresses.descriptors))
                .flatten(),
        })
    }

    fn mark_all(&self, memory: &GuestMemory) {
        memory.mark_dirty(self.device, self.device_len);
        if let Some(descriptors) = self.descriptors {
            memory.mark_dirty(descriptors, self.descriptors_len);
        }
    }
}
