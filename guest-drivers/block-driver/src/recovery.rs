//! The way back after a device or a queue failed: reset, return what was outstanding, start again.
//!
//! Rule: no request is returned while the device might still touch its buffer: that needs a [`Quiesced`], which only a finished reset
//! gives out.
use core::sync::atomic::Ordering;

use driver_platform::Clock;
use driver_platform::Dma;
use driver_platform::Log;
use driver_platform::Mmio;
use driver_platform::PciFunction;
use virtio_pci::RESET_TIMEOUT_US;
use virtio_pci::ResetState;
use virtqueue::RingMemory;

use crate::config::DiskInfo;
use crate::driver::BlockDriver;
use crate::error::Error;
use crate::error::RequestError;
use crate::queue::BlockQueue;
use crate::request::Completion;

/// Proof that the device no longer touches the memory of one or of all queues.
#[derive(Debug)]
pub struct Quiesced {
    /// Which queue; `None` for all.
    queue: Option<u16>,
}

/// How far a reset has got.
#[derive(Debug)]
pub enum ResetProgress {
    /// Ask again later.
    Pending,
    /// Done; the queues can be emptied and started again.
    Done(Quiesced),
    /// The device did not finish in time and was cut off from memory: the queues can be emptied, but the disk is lost.
    GaveUp(Quiesced),
}

impl<F: PciFunction> BlockDriver<F> {
    /// Starts a reset of the whole device. From now on nothing must be submitted; completions may still be polled.
    pub fn begin_reset<P: Clock + Log>(&mut self, platform: &P) {
        self.transport.begin_reset();
        self.reset_started_us = platform.now_us();
        self.warn(platform, "Resetting the disk", 0);
    }

    /// Starts the last reset before the driver is taken apart. [`BlockDriver::poll_reset`] and
    /// [`BlockQueue::take_outstanding`] follow as after any reset.
    pub fn begin_stop<P: Clock>(&mut self, platform: &P) {
        self.transport.begin_reset();
        self.reset_started_us = platform.now_us();
    }

    /// Whether the reset is done. Never blocks; gives up after [`RESET_TIMEOUT_US`].
    pub fn poll_reset<P: Clock + Log>(&mut self, platform: &P) -> ResetProgress {
        let all = Quiesced { queue: None };
        if self.transport.poll_reset() == ResetState::Done {
            return ResetProgress::Done(all);
        }
        if platform.now_us().wrapping_sub(self.reset_started_us) <= RESET_TIMEOUT_US {
            return ResetProgress::Pending;
        }
        self.transport.set_bus_master(false);
        self.warn(
            platform,
            "The disk did not finish its reset and is cut off",
            0,
        );
        ResetProgress::GaveUp(all)
    }

    /// Starts the device again after a reset, with the same queues, all of them empty.
    ///
    /// # Errors
    /// [`Error::Changed`] when the device came back with other features or smaller queues; otherwise as [`BlockDriver::start`]. The
    /// device is marked FAILED then.
    pub fn restart<P: Dma<Span = RingMemory> + Clock + Log>(
        &mut self,
        platform: &P,
        queues: &mut [&mut BlockQueue<P, F::Bar>],
    ) -> Result<(), Error> {
        let outcome = self.try_restart(queues);
        match outcome {
            Ok(()) => self.warn(platform, "The disk works again", 0),
            Err(_) => {
                self.transport.fail();
                self.warn(platform, "The disk did not come back after its reset", 0);
            }
        }
        outcome
    }

    fn try_restart<P: Dma<Span = RingMemory>>(
        &mut self,
        queues: &mut [&mut BlockQueue<P, F::Bar>],
    ) -> Result<(), Error> {
        self.transport.set_bus_master(true);
        if self.transport.negotiate(|_| self.wanted)? != self.features {
            return Err(Error::Changed);
        }
        let mut info = DiskInfo::read(&self.transport)?;
        info.max_transfer = self.info.max_transfer;
        if info.block_size != self.info.block_size
            || info.seg_max < self.info.seg_max.min(self.segments_used)
        {
            return Err(Error::Changed);
        }
        self.capacity
            .store(info.capacity_sectors, Ordering::Relaxed);
        self.info = info;
        self.transport.set_config_vector(self.vectors.config())?;
        for queue in queues.iter_mut() {
            self.enable(queue)?;
        }
        self.transport.start()?;
        Ok(())
    }

    /// Starts the reset of one queue, if the device can do that (RING_RESET).
    ///
    /// # Errors
    /// [`Error::Transport`] when it cannot: reset the whole device then.
    pub fn begin_queue_reset<P: Clock + Log>(
        &mut self,
        platform: &P,
        index: u16,
    ) -> Result<(), Error> {
        self.transport.begin_queue_reset(index)?;
        self.reset_started_us = platform.now_us();
        self.warn(platform, "Resetting a queue of the disk", u64::from(index));
        Ok(())
    }

    /// Whether the reset of one queue is done. After a timeout, which `GaveUp` would mean for the whole device, this stays `Pending`
    /// and the shell resets the device.
    pub fn poll_queue_reset(&self, index: u16) -> ResetProgress {
        match self.transport.queue_reset_done(index) {
            true => ResetProgress::Done(Quiesced { queue: Some(index) }),
            false => ResetProgress::Pending,
        }
    }

    /// Starts one queue again after its reset, when it is empty.
    ///
    /// # Errors
    /// As [`BlockDriver::start`].
    pub fn restart_queue<P: Dma<Span = RingMemory>>(
        &mut self,
        queue: &mut BlockQueue<P, F::Bar>,
    ) -> Result<(), Error> {
        self.enable(queue)
    }

    fn enable<P: Dma<Span = RingMemory>>(
        &self,
        queue: &mut BlockQueue<P, F::Bar>,
    ) -> Result<(), Error> {
        if queue.in_flight() != 0 {
            return Err(Error::Broken);
        }
        queue.ring.reset(|_| {});
        queue.info = self.info;
        queue.doorbell = self.transport.enable_queue(&self.queue_setup(
            queue.index,
            queue.size(),
            queue.memory.addresses(),
        ))?;
        queue.broken = None;
        queue.draining = false;
        Ok(())
    }
}

impl<P: Dma<Span = RingMemory>, B: Mmio> BlockQueue<P, B> {
    /// Returns what is outstanding, one request per call, `None` when the queue is empty: first what the device had finished before the
    /// reset, with its result, then the rest with [`RequestError::Reset`], to be issued again. A proof for another queue returns
    /// nothing.
    pub fn take_outstanding(
        &mut self,
        platform: &P,
        proof: &Quiesced,
    ) -> Option<Completion<P::Buffer>> {
        if proof.queue.is_some_and(|queue| queue != self.index) {
            return None;
        }
        self.draining = true;
        // What completed before the reset counts; a ring that is or turns out broken has nothing more to say.
        if let Ok(Some(completion)) = self.poll(platform) {
            return Some(completion);
        }
        self.mark_broken(Error::Broken);
        let Some(mut pending) = self.table.abandon_one() else {
            self.ring.reset(|_| {});
            return None;
        };
        pending.error.get_or_insert(RequestError::Reset);
        Some(self.complete(platform, pending, None))
    }
}
