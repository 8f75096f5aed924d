//! Puts requests on the ring: one chain for each part that the device takes at once.
//!
//! Rule: room was reserved before; what fails here leaves the queue broken, and the reset path returns the request.
use driver_platform::Direction;
use driver_platform::Dma;
use driver_platform::Mmio;
use virtio_core::Error;
use virtio_core::Placement;

use crate::check::Payload;
use crate::check::Plan;
use crate::error::Refusal;
use crate::layout;
use crate::pending::Key;
use crate::pending::Pending;
use crate::pending::Range;
use crate::queue::BlockQueue;
use crate::request::Rejected;
use crate::request::Request;
use crate::request::Serial;

impl<P: Dma, B: Mmio> BlockQueue<P, B> {
    /// Puts a prepared request on the ring.
    pub(crate) fn issue(
        &mut self,
        platform: &P,
        plan: Plan,
        request: Request<P::Buffer>,
    ) -> Result<(), Rejected<P::Buffer>> {
        let mapped = match plan.payload {
            Payload::Data(direction) => Some(direction),
            _ => None,
        };
        let asks_serial = plan.payload == Payload::Serial;
        let pending = Pending {
            cookie: request.cookie,
            operation: request.operation,
            buffer: request.buffer,
            mapped,
            serial: asks_serial.then_some(Serial::EMPTY),
            rest: None,
            chains: 0,
            error: None,
        };
        let key = match self.requests.open(pending) {
            Ok(key) => key,
            Err(mut pending) => {
                // There are as many places as slots, and a slot is free.
                debug_assert!(false, "no place for a request");
                if let (Some(direction), Some(buffer)) = (mapped, &mut pending.buffer) {
                    platform.unmap(buffer, direction);
                }
                return Err(Rejected {
                    reason: Refusal::Busy,
                    request: Request {
                        operation: pending.operation,
                        buffer: pending.buffer,
                        cookie: pending.cookie,
                    },
                });
            }
        };
        match plan.payload {
            Payload::Data(direction) => self.issue_data(key, &plan, direction),
            Payload::Range {
                sectors,
                per_request,
                flags,
            } => self.issue_range(
                key,
                Range {
                    request_type: plan.request_type,
                    sector: plan.sector,
                    sectors,
                    per_request,
                    flags,
                },
            ),
            Payload::None | Payload::Serial => self.issue_plain(key, &plan, asks_serial),
        }
        Ok(())
    }

    /// Puts all cuts of a data request on the ring.
    fn issue_data(&mut self, key: Key, plan: &Plan, direction: Direction) {
        let mut sector = plan.sector;
        // A request of several chains keeps to one descriptor each, because that is what was reserved.
        let placement = match self.segments.cuts().len() {
            0 | 1 => Placement::RingWhileRoomy,
            _ => Placement::Table,
        };
        for index in 0..self.segments.cuts().len() {
            let Some(&cut) = self.segments.cuts().get(index) else {
                return;
            };
            let Ok(slot) = self.core.claim() else {
                self.core.mark_broken(Error::Broken);
                return;
            };
            let memory = self.core.memory();
            let (header, status) = layout::write_header(memory, &slot, plan.request_type, sector);
            let chain = self.core.chain();
            chain.clear();
            chain.push(header);
            chain.extend(self.segments.of(cut));
            chain.push(status);
            let readable = match direction {
                Direction::ToDevice => chain.len() - 1,
                Direction::FromDevice => 1,
            };
            if self.core.add(slot, readable, placement, key).is_err() {
                return;
            }
            self.added(key);
            sector += cut.bytes / 512;
        }
    }

    fn issue_plain(&mut self, key: Key, plan: &Plan, serial: bool) {
        let Ok(slot) = self.core.claim() else {
            self.core.mark_broken(Error::Broken);
            return;
        };
        let memory = self.core.memory();
        let (header, status) = layout::write_header(memory, &slot, plan.request_type, plan.sector);
        let answer = serial.then(|| layout::serial_segment(memory, &slot));
        let chain = self.core.chain();
        chain.clear();
        chain.push(header);
        chain.extend(answer.as_slice());
        chain.push(status);
        let added = self.core.add(slot, 1, Placement::RingWhileRoomy, key);
        if added.is_ok() {
            self.added(key);
        }
    }

    /// Issues as much of a range as one request may carry and notes the rest.
    pub(crate) fn issue_range(&mut self, key: Key, range: Range) {
        let now = range.sectors.min(u64::from(range.per_request));
        let Ok(slot) = self.core.claim() else {
            self.core.mark_broken(Error::Broken);
            return;
        };
        let memory = self.core.memory();
        let (header, status) = layout::write_header(memory, &slot, range.request_type, 0);
        let sectors = now as u32;
        let written = layout::write_range(memory, &slot, range.sector, sectors, range.flags);
        let chain = self.core.chain();
        chain.clear();
        chain.push(header);
        chain.push(written);
        chain.push(status);
        let left = range.sectors - now;
        if let Some(pending) = self.requests.get(key) {
            pending.rest = (left > 0).then_some(Range {
                sector: range.sector + now,
                sectors: left,
                ..range
            });
        }
        let added = self.core.add(slot, 2, Placement::RingWhileRoomy, key);
        if added.is_ok() {
            self.added(key);
        }
    }

    /// One more chain of a request is on the ring.
    #[inline]
    fn added(&mut self, key: Key) {
        self.counters.chains += 1;
        if let Some(pending) = self.requests.get(key) {
            pending.chains += 1;
        }
    }
}
