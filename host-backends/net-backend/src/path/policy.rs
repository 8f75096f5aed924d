//! What the operator wants done to a port's frames: address filter, rate limits, recording.
//!
//! Rule: a port without any of them pays two loads a burst.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use guest_memory::GuestMemory;
use virtio_spec::net::Header;
use virtio_spec::net::gso;

use crate::capture::Capture;
use crate::capture::Direction;
use crate::conditions::ConditionKind;
use crate::conditions::Conditions;
use crate::filter::Filter;
use crate::limit::Limiter;
use crate::limit::Limits;
use crate::limit::Verdict;
use crate::offload::Tail;
use crate::path::soften::Rest;
use crate::path::tally::ReceiveTally;
use crate::path::tally::TransmitTally;
use crate::path::transmit::Burst;
use crate::path::transmit::Departing;

/// What the operator wants.
#[derive(Debug)]
pub struct Policy {
    /// Which addresses the guest may use.
    pub filter: Option<Filter>,
    /// Recording of both directions.
    pub capture: Option<Arc<Capture>>,
    /// From the guest.
    transmit: Limiter,
    /// To the guest.
    receive: Limiter,
    start: Instant,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            filter: None,
            capture: None,
            transmit: Limiter::default(),
            receive: Limiter::default(),
            start: Instant::now(),
        }
    }
}

impl Policy {
    /// Limits each direction; at once.
    pub fn set_limits(&self, limits: Limits) {
        self.transmit.set(limits);
        self.receive.set(limits);
    }

    /// The limits of each direction.
    pub fn limits(&self) -> Limits {
        self.transmit.limits()
    }

    #[inline]
    fn records(&self) -> bool {
        self.capture.as_ref().is_some_and(|capture| capture.is_on())
    }

    /// Takes out of a burst what may not go on.
    #[inline]
    pub(crate) fn screen(
        &self,
        burst: &mut Burst,
        memory: &GuestMemory,
        tally: &TransmitTally,
        conditions: &Conditions,
    ) {
        if self.filter.is_some() || self.transmit.is_limiting() || self.records() {
            self.screen_each(burst, memory, tally, conditions);
        }
    }

    #[cold]
    fn screen_each(
        &self,
        burst: &mut Burst,
        memory: &GuestMemory,
        tally: &TransmitTally,
        conditions: &Conditions,
    ) {
        let limiting = self.transmit.is_limiting();
        let mut kept = 0;
        for position in 0..burst.frames.len() {
            let Some(frame) = burst.depart(memory, position) else {
                continue;
            };
            if let Some(filter) = &self.filter
                && let Err(spoof) = filter.check(frame.head())
            {
                tally.spoofed.add(1);
                let some_passed = tally.frames.get() != 0;
                let head = frame.head();
                let say = || filter.explain(spoof, head, some_passed);
                conditions.raise(ConditionKind::Spoofed, say);
                continue;
            }
            if limiting && !self.take(&self.transmit, &frame.header, frame.len) {
                tally.limited.add(1);
                continue;
            }
            self.record(Direction::Sent, frame.head(), &Rest::of(&frame));
            burst.frames.swap(kept, position);
            kept += 1;
        }
        burst.frames.truncate(kept);
    }

    /// Whether frames to the guest are to be looked at.
    #[inline]
    pub(crate) fn screens_received(&self) -> bool {
        self.receive.is_limiting() || self.records()
    }

    /// Whether a frame may go to the guest.
    #[cold]
    pub(crate) fn admits(&self, frame: &Departing<'_>, tally: &ReceiveTally) -> bool {
        let admitted = self.take(&self.receive, &frame.header, frame.len);
        if admitted {
            self.record(Direction::Received, frame.head(), &Rest::of(frame));
        } else {
            tally.limited.add(1);
        }
        admitted
    }

    /// As [`Self::admits`], for a frame that lies in the guest's buffers already.
    #[cold]
    pub(crate) fn admits_bytes(
        &self,
        header: &Header,
        head: &[u8],
        rest: &dyn Tail,
        tally: &ReceiveTally,
    ) -> bool {
        let admitted = self.take(&self.receive, header, head.len() + rest.len());
        if admitted {
            self.record(Direction::Received, head, rest);
        } else {
            tally.limited.add(1);
        }
        admitted
    }

    /// Writes what was recorded; for a worker that is about to sleep.
    pub(crate) fn flush(&self) {
        if let Some(capture) = &self.capture {
            capture.flush();
        }
    }

    fn take(&self, limiter: &Limiter, header: &Header, len: usize) -> bool {
        let size = usize::from(header.gso_size.get());
        let packets = if header.gso_type == gso::NONE || size == 0 {
            1
        } else {
            len.div_ceil(size)
        };
        let now = self.start.elapsed();
        limiter.take(now, len as u64, packets as u64) == Verdict::Pass
    }

    fn record(&self, direction: Direction, head: &[u8], rest: &dyn Tail) {
        if let Some(capture) = self.capture.as_ref().filter(|capture| capture.is_on()) {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            capture.record(direction, now.unwrap_or(Duration::ZERO), head, rest);
        }
    }
}
