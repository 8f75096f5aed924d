//! Puts requests on the ring: one chain for each part that the device takes at once.
//!
//! Rule: room was reserved before; what fails here leaves the queue broken, and the reset path returns the request.
use driver_platform::Direction;
use driver_platform::Dma;
use driver_platform::Mmio;
use virtqueue::RingMemory;

use crate::check::Payload;
use crate::check::Plan;
use crate::error::Error;
use crate::queue::BlockQueue;
use crate::request::Request;
use crate::table::Pending;
use crate::table::RangeOf;
use crate::table::RangePart;
use crate::table::RangeRest;

/// The readable and the writable segments of a chain.
struct Shape {
    readable: usize,
    total: usize,
}

impl<P: Dma<Span = RingMemory>, B: Mmio> BlockQueue<P, B> {
    /// Puts a prepared request on the ring.
    pub(crate) fn issue(&mut self, plan: Plan, request: Request<P::Buffer>) {
        let Some(head) = self.table.take(None) else {
            return;
        };
        let mut pending = Pending {
            cookie: request.cookie,
            operation: request.operation,
            buffer: request.buffer,
            mapped: None,
            serial: plan.payload == Payload::Serial,
            rest: None,
            chains: 0,
            error: None,
        };
        match plan.payload {
            Payload::Data(direction) => {
                pending.mapped = Some(direction);
                pending.chains = self.issue_data(head, &plan, direction);
            }
            Payload::Range {
                sectors,
                per_request,
                flags,
            } => {
                let RangePart { rest, ok } = self.issue_range(
                    head,
                    plan.request_type,
                    RangeOf {
                        sector: plan.sector,
                        sectors,
                        per_request,
                        flags,
                    },
                );
                pending.rest = rest;
                pending.chains = u16::from(ok);
            }
            Payload::None | Payload::Serial => {
                self.memory
                    .write_header(head, plan.request_type, plan.sector);
                let shape = self.plain_chain(head, pending.serial);
                pending.chains = u16::from(self.add(head, &shape));
            }
        }
        self.table.set_pending(head, pending);
    }

    /// Puts all cuts of a data request on the ring, the first one in slot `head`; returns how many. Room was reserved, so a failure means
    /// that the ring is broken: the reset path then returns the request.
    fn issue_data(&mut self, head: u16, plan: &Plan, direction: Direction) -> u16 {
        let mut sector = plan.sector;
        let mut issued = 0;
        for index in 0..self.segments.cuts().len() {
            let Some(&cut) = self.segments.cuts().get(index) else {
                break;
            };
            let Some(slot) = (if index == 0 {
                Some(head)
            } else {
                self.table.take(Some(head))
            }) else {
                break;
            };
            self.memory.write_header(slot, plan.request_type, sector);
            self.chain.clear();
            self.chain.push(self.memory.header_segment(slot));
            self.chain.extend_from_slice(self.segments.of(cut));
            self.chain.push(self.memory.status_segment(slot));
            let total = self.chain.len();
            let readable = match direction {
                Direction::ToDevice => total - 1,
                Direction::FromDevice => 1,
            };
            if !self.add(slot, &Shape { readable, total }) {
                if slot != head {
                    self.table.release(slot);
                }
                break;
            }
            issued += 1;
            sector += cut.bytes / 512;
        }
        issued
    }

    fn plain_chain(&mut self, slot: u16, serial: bool) -> Shape {
        self.chain.clear();
        self.chain.push(self.memory.header_segment(slot));
        if serial {
            self.chain.push(self.memory.serial_segment(slot));
        }
        self.chain.push(self.memory.status_segment(slot));
        Shape {
            readable: 1,
            total: self.chain.len(),
        }
    }

    /// Issues as much of a range as one request may carry.
    fn issue_range(&mut self, slot: u16, request_type: u32, range: RangeOf) -> RangePart {
        let now = range.sectors.min(u64::from(range.per_request));
        self.memory.write_header(slot, request_type, 0);
        self.memory
            .write_range(slot, range.sector, now as u32, range.flags);
        self.chain.clear();
        self.chain.push(self.memory.header_segment(slot));
        self.chain.push(self.memory.range_segment(slot));
        self.chain.push(self.memory.status_segment(slot));
        let ok = self.add(
            slot,
            &Shape {
                readable: 2,
                total: 3,
            },
        );
        let left = range.sectors - now;
        let rest = (left > 0).then_some(RangeRest {
            request_type,
            sector: range.sector + now,
            sectors: left,
            per_request: range.per_request,
            flags: range.flags,
        });
        RangePart { rest, ok }
    }

    /// Adds `self.chain` to the ring for `slot`.
    fn add(&mut self, slot: u16, shape: &Shape) -> bool {
        let Some((readable, writable)) = self.chain.split_at_checked(shape.readable) else {
            return false;
        };
        // Short chains go straight onto the ring while it has room: that saves the device a look at another cache line.
        let free = usize::from(self.ring.free_descriptors());
        // A request of several chains keeps to one descriptor each, because that is what was reserved.
        let alone = self.segments.cuts().len() <= 1;
        let direct = alone
            && shape.total <= 4
            && free >= usize::from(self.size()) / 2
            && free >= shape.total;
        let table = if direct {
            None
        } else {
            self.memory.table(slot, shape.total)
        };
        let added = self.ring.add(readable, writable, table);
        match added {
            Ok(id) if self.table.lend(id, slot) => {
                self.counters.chains += 1;
                true
            }
            // Neither an id that is lent already nor a refusal can happen on a ring that keeps its rules.
            Ok(_) | Err(_) => {
                self.mark_broken(Error::Broken);
                false
            }
        }
    }

    pub(crate) fn continue_range(&mut self, head: u16, rest: RangeRest) {
        let range = RangeOf {
            sector: rest.sector,
            sectors: rest.sectors,
            per_request: rest.per_request,
            flags: rest.flags,
        };
        let part = self.issue_range(head, rest.request_type, range);
        if let Some(pending) = self.table.pending(head) {
            pending.rest = part.rest;
            pending.chains += u16::from(part.ok);
        }
        self.kick();
    }
}
