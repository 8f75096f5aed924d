//! One request queue: submit and complete.
//!
//! Rule: one owner at a time, no lock inside, no allocation per request; a queue that met a broken ring does nothing more until it is
//! reset.
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

use driver_platform::Coherent;
use driver_platform::Dma;
use driver_platform::Mmio;
use virtio_pci::Doorbell;
use virtio_spec::block::status;
use virtqueue::DriverQueue;
use virtqueue::RingMemory;
use virtqueue::Segment;

use crate::check;
use crate::check::Payload;
use crate::check::Plan;
use crate::config::DiskInfo;
use crate::counters::Counters;
use crate::error::Error;
use crate::error::Refusal;
use crate::error::RequestError;
use crate::memory::QueueMemory;
use crate::request::Completion;
use crate::request::Rejected;
use crate::request::Request;
use crate::request::Serial;
use crate::request::Success;
use crate::segments::Limits;
use crate::segments::Segments;
use crate::table::Pending;
use crate::table::Table;

/// One request queue of a disk.
pub struct BlockQueue<P: Dma<Span = RingMemory>, B> {
    pub(crate) index: u16,
    pub(crate) ring: DriverQueue,
    pub(crate) memory: QueueMemory,
    pub(crate) doorbell: Doorbell<B>,
    pub(crate) table: Table<P::Buffer>,
    pub(crate) info: DiskInfo,
    pub(crate) capacity: Arc<AtomicU64>,
    pub(crate) limits: Limits,
    pub(crate) segments: Segments,
    /// One chain's segments, put together for the ring.
    pub(crate) chain: Vec<Segment>,
    pub(crate) broken: Option<Error>,
    /// The device was reset: what is left to do of a request is not issued any more.
    pub(crate) draining: bool,
    pub(crate) counters: Counters,
}

impl<P: Dma<Span = RingMemory>, B: Mmio> BlockQueue<P, B> {
    /// The queue's number.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Takes a request. The device learns of it with the next [`BlockQueue::kick`].
    ///
    /// # Errors
    /// The request with the reason; then it has not reached the device and its buffer is not mapped.
    pub fn submit(
        &mut self,
        platform: &P,
        mut request: Request<P::Buffer>,
    ) -> Result<(), Rejected<P::Buffer>> {
        match self.prepare(platform, &mut request) {
            Ok(plan) => {
                self.issue(plan, request);
                Ok(())
            }
            Err(reason) => Err(Rejected { reason, request }),
        }
    }

    /// Shows the device everything submitted since the last call, in one step, and rings the doorbell if the device wants that.
    pub fn kick(&mut self) {
        if self.broken.is_some() {
            return;
        }
        self.counters.batches += 1;
        if self.ring.publish() {
            self.counters.doorbells += 1;
            let data = self.ring.notification_data(self.index);
            self.doorbell.ring((data >> 16) as u16);
        }
    }

    /// Returns the next finished request, if there is one.
    ///
    /// # Errors
    /// The device broke the rules of the ring: nothing more comes from this queue until it or the device was reset. Every call says so
    /// again.
    #[inline]
    pub fn poll(&mut self, platform: &P) -> Result<Option<Completion<P::Buffer>>, Error> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        loop {
            let used = match self.ring.pop() {
                Ok(Some(used)) => used,
                Ok(None) => return Ok(None),
                Err(error) => return Err(self.mark_broken(Error::Ring(error))),
            };
            // `used.written` is not needed: what a request brings is known beforehand, and success is in the status byte.
            let Some(slot) = self.table.returned(used.id) else {
                return Err(self.mark_broken(Error::Broken));
            };
            if let Some(completion) = self.chain_done(platform, slot)? {
                return Ok(Some(completion));
            }
        }
    }

    /// Asks for an interrupt at the next completion. `true`: something has already completed, poll again before sleeping.
    #[must_use = "a completion may already wait"]
    pub fn arm(&mut self) -> bool {
        self.broken.is_some() || self.ring.arm()
    }

    /// Asks the device for no interrupts, while the shell polls.
    pub fn disarm(&mut self) {
        self.ring.disarm();
    }

    /// Requests to the device that are under way; a request that was split counts more than once.
    pub fn in_flight(&self) -> u16 {
        self.ring.in_flight()
    }

    /// What the queue has done.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether the queue has to be reset, and why.
    pub fn broken(&self) -> Option<Error> {
        self.broken
    }

    /// Entries of the ring.
    pub fn size(&self) -> u16 {
        self.ring.config().size
    }

    /// Takes the queue apart and returns its DMA memory, for the shell to release once the device was reset. `None` while requests are
    /// outstanding.
    pub fn into_memory(self) -> Option<Vec<Coherent<RingMemory>>> {
        let idle = self.table.free_slots() == usize::from(self.size());
        idle.then(|| self.memory.into_areas())
    }

    pub(crate) fn mark_broken(&mut self, error: Error) -> Error {
        *self.broken.get_or_insert(error)
    }

    /// Checks, maps and cuts. On success there is room on the ring for all of it.
    fn prepare(&mut self, platform: &P, request: &mut Request<P::Buffer>) -> Result<Plan, Refusal> {
        if self.broken.is_some() {
            return Err(Refusal::Broken);
        }
        let len = request
            .buffer
            .as_ref()
            .map(|buffer| platform.buffer_len(buffer));
        let capacity = self.capacity.load(Ordering::Relaxed);
        let plan = check::plan(&self.info, capacity, request.operation, len)?;
        self.segments.clear();
        let Payload::Data(direction) = plan.payload else {
            self.room_for(1, 3)?;
            return Ok(plan);
        };
        self.room_for(1, 3)?;
        let buffer = request.buffer.as_mut().ok_or(Refusal::BadBuffer)?;
        let (segments, limits) = (&mut self.segments, &self.limits);
        platform
            .map(buffer, direction, |piece| segments.push(piece, limits))
            .map_err(|error| match error {
                driver_platform::DmaError::Exhausted => Refusal::Busy,
                driver_platform::DmaError::Unmappable => Refusal::BadBuffer,
            })?;
        let fits = self.cut_and_reserve(&plan, len.unwrap_or(0));
        if fits.is_err() {
            platform.unmap(buffer, direction);
        }
        fits.map(|()| plan)
    }

    fn cut_and_reserve(&mut self, plan: &Plan, len: u64) -> Result<(), Refusal> {
        // A raw request is one chain whatever its length; so is one that fits.
        let whole = !matches!(plan.request_type, 0 | 1);
        let limits = if whole {
            Limits {
                block: 1,
                ..self.limits
            }
        } else {
            self.limits
        };
        self.segments.cut(len, &limits)?;
        let cuts = self.segments.cuts();
        if whole && cuts.len() > 1 {
            return Err(Refusal::TooLarge);
        }
        let chains = cuts.len();
        let descriptors: usize = cuts
            .iter()
            .map(|cut| self.descriptors_for(cut.end - cut.start + 2))
            .sum();
        let size = usize::from(self.size());
        if chains > size || descriptors > size {
            return Err(Refusal::TooLarge);
        }
        self.room_for(chains, descriptors)
    }

    fn room_for(&self, slots: usize, descriptors: usize) -> Result<(), Refusal> {
        let descriptors = if self.ring.config().indirect {
            slots
        } else {
            descriptors
        };
        let free = usize::from(self.ring.free_descriptors());
        if self.table.free_slots() < slots || free < descriptors {
            Err(Refusal::Busy)
        } else {
            Ok(())
        }
    }

    /// Ring descriptors that a chain needs at least.
    fn descriptors_for(&self, segments: usize) -> usize {
        if self.ring.config().indirect {
            1
        } else {
            segments
        }
    }

    /// One chain came back: notes its status and ends its request if it was the last one.
    fn chain_done(
        &mut self,
        platform: &P,
        slot: u16,
    ) -> Result<Option<Completion<P::Buffer>>, Error> {
        let outcome = self.read_status(slot);
        let head = self.table.head_of(slot).ok_or(Error::Broken)?;
        let Some(pending) = self.table.pending(head) else {
            return Err(self.mark_broken(Error::Broken));
        };
        pending.chains = pending.chains.saturating_sub(1);
        if let Err(error) = outcome {
            pending.error.get_or_insert(error);
            pending.rest = None;
        }
        if self.draining && pending.rest.take().is_some() {
            pending.error.get_or_insert(RequestError::Reset);
        }
        let rest = pending.rest.take();
        let last = pending.chains == 0;
        if slot != head {
            self.table.release(slot);
        }
        if let Some(rest) = rest {
            self.continue_range(head, rest);
            return Ok(None);
        }
        Ok(if last {
            self.finish(platform, head)
        } else {
            None
        })
    }

    pub(crate) fn finish(&mut self, platform: &P, head: u16) -> Option<Completion<P::Buffer>> {
        let pending = self.table.finish(head)?;
        let serial = pending.serial.then(|| Serial(self.memory.serial(head)));
        Some(self.complete(platform, pending, serial))
    }

    /// Unmaps and turns a request into its completion.
    pub(crate) fn complete(
        &mut self,
        platform: &P,
        mut pending: Pending<P::Buffer>,
        serial: Option<Serial>,
    ) -> Completion<P::Buffer> {
        if let (Some(direction), Some(buffer)) = (pending.mapped, pending.buffer.as_mut()) {
            platform.unmap(buffer, direction);
        }
        self.counters.completions += 1;
        let result = match (pending.error, serial) {
            (Some(error), _) => Err(error),
            (None, Some(serial)) => Ok(Success::Serial(serial)),
            (None, None) => Ok(Success::Done),
        };
        Completion {
            cookie: pending.cookie,
            result,
            buffer: pending.buffer,
            operation: pending.operation,
        }
    }

    fn read_status(&mut self, slot: u16) -> Result<(), RequestError> {
        match self.memory.status(slot) {
            status::OK => Ok(()),
            status::IOERR => Err(RequestError::Io),
            status::UNSUPP => Err(RequestError::Unsupported),
            other => {
                self.counters.bad_status += 1;
                Err(RequestError::BadStatus(other))
            }
        }
    }
}
