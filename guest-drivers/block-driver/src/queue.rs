//! One request queue: submit and complete.
//!
//! Rule: one owner at a time, no lock inside, no allocation per request; a queue that met a broken ring does nothing more until it is
//! reset.
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;

use driver_platform::Coherent;
use driver_platform::Dma;
use driver_platform::Mmio;
use fallible_alloc::Shared;
use virtio_core::Error;
use virtio_core::QueueSet;
use virtio_core::Returned;
use virtio_core::Slot;
use virtio_core::SlotQueue;
use virtio_core::Stopped;
use virtio_spec::block::status;

use crate::check;
use crate::check::Payload;
use crate::check::Plan;
use crate::config::DiskInfo;
use crate::counters::Counters;
use crate::error::Refusal;
use crate::error::RequestError;
use crate::layout;
use crate::pending::Key;
use crate::pending::Pending;
use crate::pending::Requests;
use crate::request::Completion;
use crate::request::Rejected;
use crate::request::Request;
use crate::request::Serial;
use crate::request::Success;
use crate::segments::Limits;
use crate::segments::Segments;

/// One request queue of a disk.
pub struct BlockQueue<P: Dma, B> {
    pub(crate) core: SlotQueue<Key, B>,
    pub(crate) requests: Requests<P::Buffer>,
    pub(crate) info: DiskInfo,
    pub(crate) capacity: Shared<AtomicU64>,
    pub(crate) limits: Limits,
    pub(crate) segments: Segments,
    /// The device was reset: what is left to do of a request is not issued any more.
    pub(crate) draining: bool,
    pub(crate) counters: Counters,
}

impl<P: Dma, B: Mmio> QueueSet for BlockQueue<P, B> {
    fn spill(self, into: &mut impl FnMut(Coherent)) {
        self.core.spill(into);
    }
}

impl<P: Dma, B: Mmio> BlockQueue<P, B> {
    /// The queue's number.
    pub fn index(&self) -> u16 {
        self.core.index()
    }

    /// The MSI-X message that the queue raises, for [`driver_platform::Interrupts::set_target`].
    pub fn message(&self) -> Option<u16> {
        self.core.message()
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
            Ok(plan) => self.issue(platform, plan, request),
            Err(reason) => Err(Rejected { reason, request }),
        }
    }

    /// Shows the device everything submitted since the last call, in one step, and rings the doorbell if the device wants that.
    pub fn kick(&mut self) {
        if self.core.broken().is_none() {
            self.counters.batches += 1;
            self.counters.doorbells += u64::from(self.core.publish());
        }
    }

    /// Returns the next finished request, if there is one.
    ///
    /// # Errors
    /// The device broke the rules of the ring: nothing more comes from this queue until it or the device was reset. Every call says so
    /// again.
    #[inline]
    pub fn poll(&mut self, platform: &P) -> Result<Option<Completion<P::Buffer>>, Error> {
        // What the device says it wrote is not needed: what a request brings is known beforehand, and success is in the status byte.
        while let Some(Returned { slot, item, .. }) = self.core.pop()? {
            if let Some(completion) = self.chain_done(platform, slot, item)? {
                return Ok(Some(completion));
            }
        }
        Ok(None)
    }

    /// Returns what is outstanding, one request per call, `None` when the queue is empty: first what the device had finished before the
    /// reset, with its result, then the rest with [`RequestError::Reset`], to be issued again.
    ///
    /// # Errors
    /// [`Error::NotQuiesced`] when the proof is of another device, of another queue or of the time before the latest restart.
    pub fn take_outstanding(
        &mut self,
        platform: &P,
        proof: &Stopped,
    ) -> Result<Option<Completion<P::Buffer>>, Error> {
        self.core.check(proof)?;
        self.draining = true;
        // What completed before the reset counts; a ring that is or turns out broken has nothing more to say.
        if let Ok(Some(completion)) = self.poll(platform) {
            return Ok(Some(completion));
        }
        while self.core.abandon(proof)?.is_some() {}
        let pending = self.requests.close_any().map(|mut pending| {
            pending.error.get_or_insert(RequestError::Reset);
            self.complete(platform, pending)
        });
        Ok(pending)
    }

    /// Asks for an interrupt at the next completion. `true`: something has already completed, poll again before sleeping.
    #[must_use = "a completion may already wait"]
    pub fn arm(&mut self) -> bool {
        self.core.arm()
    }

    /// Asks the device for no interrupts, while the shell polls.
    pub fn disarm(&mut self) {
        self.core.disarm();
    }

    /// Requests to the device that are under way; a request that was split counts more than once.
    pub fn in_flight(&self) -> u16 {
        self.core.in_flight()
    }

    /// What the queue has done.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether the queue has to be reset, and why.
    pub fn broken(&self) -> Option<Error> {
        self.core.broken()
    }

    /// Entries of the ring.
    pub fn size(&self) -> u16 {
        self.core.size()
    }

    /// Takes the queue apart and returns its DMA memory, which the device no longer uses. `None` while requests are outstanding or when
    /// the proof is not of this queue: then the memory stays allocated for good.
    pub fn into_memory(self, proof: &Stopped) -> Option<Vec<Coherent>> {
        match self.requests.is_empty() {
            true => self.core.into_memory(proof),
            false => None,
        }
    }

    /// Checks, maps and cuts. On success there is room on the ring for all of it.
    fn prepare(&mut self, platform: &P, request: &mut Request<P::Buffer>) -> Result<Plan, Refusal> {
        if self.core.broken().is_some() {
            return Err(Refusal::Broken);
        }
        let buffer = request.buffer.as_ref();
        let len = buffer.map(|buffer| platform.buffer_len(buffer));
        let capacity = self.capacity.load(Ordering::Relaxed);
        let plan = check::plan(&self.info, capacity, request.operation, len)?;
        self.segments.clear();
        self.core.has_room(1, self.core.descriptors_for(3))?;
        let Payload::Data(direction) = plan.payload else {
            return Ok(plan);
        };
        let buffer = request.buffer.as_mut().ok_or(Refusal::BadBuffer)?;
        let (segments, limits) = (&mut self.segments, &self.limits);
        platform
            .map(buffer, direction, |piece| segments.push(piece, limits))
            .map_err(virtio_core::Refusal::from)?;
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
        let each = cuts.iter();
        let descriptors: usize = each
            .map(|cut| self.core.descriptors_for(cut.end - cut.start + 2))
            .sum();
        let size = usize::from(self.size());
        if chains > size || descriptors > size {
            return Err(Refusal::TooLarge);
        }
        Ok(self.core.has_room(chains, descriptors)?)
    }

    /// One chain came back: notes its status and ends its request if it was the last one.
    fn chain_done(
        &mut self,
        platform: &P,
        slot: Slot,
        key: Key,
    ) -> Result<Option<Completion<P::Buffer>>, Error> {
        let outcome = self.read_status(&slot);
        let Some(pending) = self.requests.get(key) else {
            return Err(self.core.mark_broken(Error::Broken));
        };
        pending.chains = pending.chains.saturating_sub(1);
        if let Err(error) = outcome {
            pending.error.get_or_insert(error);
            pending.rest = None;
        }
        if self.draining && pending.rest.take().is_some() {
            pending.error.get_or_insert(RequestError::Reset);
        }
        if let Some(serial) = &mut pending.serial {
            *serial = Serial(layout::serial(self.core.memory(), &slot));
        }
        let (rest, chains) = (pending.rest.take(), pending.chains);
        self.core.release(slot);
        if let Some(rest) = rest {
            self.issue_range(key, rest);
            self.kick();
            return Ok(None);
        }
        if chains > 0 {
            return Ok(None);
        }
        let pending = self.requests.close(key);
        Ok(pending.map(|pending| self.complete(platform, pending)))
    }

    /// Unmaps and turns a request into its completion.
    fn complete(&mut self, platform: &P, mut pending: Pending<P::Buffer>) -> Completion<P::Buffer> {
        if let (Some(direction), Some(buffer)) = (pending.mapped, pending.buffer.as_mut()) {
            platform.unmap(buffer, direction);
        }
        self.counters.completions += 1;
        let result = match (pending.error, pending.serial) {
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

    #[inline]
    fn read_status(&mut self, slot: &Slot) -> Result<(), RequestError> {
        match layout::status(self.core.memory(), slot) {
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
