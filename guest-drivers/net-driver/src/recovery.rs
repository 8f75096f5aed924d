//! The way back after a device or a queue failed: reset, return what was outstanding, start again.
//!
//! Rule: no buffer is returned while the device might still touch it: that needs a [`Quiesced`], which only a finished reset gives out.
//! A device that was reset has forgotten every command: modes, addresses, VLANs, pairs in use; the shell sends them again.
use core::sync::atomic::Ordering;

use driver_platform::Clock;
use driver_platform::Dma;
use driver_platform::Log;
use driver_platform::Mmio;
use driver_platform::PciFunction;
use virtio_pci::RESET_TIMEOUT_US;
use virtio_pci::ResetState;
use virtqueue::RingMemory;

use crate::config::NetInfo;
use crate::control::ControlQueue;
use crate::core_queue::CoreQueue;
use crate::driver::NetDriver;
use crate::error::Error;
use crate::receive::ReceiveQueue;
use crate::start::negotiate;
use crate::transmit::TransmitQueue;

/// Proof that the device no longer touches the memory of one or of all queues.
#[derive(Debug)]
pub struct Quiesced {
    /// Which queue; `None` for all.
    queue: Option<u16>,
}

impl Quiesced {
    pub(crate) fn covers(&self, index: u16) -> bool {
        self.queue.is_none_or(|queue| queue == index)
    }
}

/// How far a reset has got.
#[derive(Debug)]
pub enum ResetProgress {
    /// Ask again later.
    Pending,
    /// Done; the queues can be emptied and started again.
    Done(Quiesced),
    /// The device did not finish in time and was cut off from memory: the queues can be emptied, but the device is lost.
    GaveUp(Quiesced),
}

/// All queues of a device, for [`NetDriver::restart`].
pub struct Queues<'a, P: Dma<Span = RingMemory>, B> {
    /// Receive queues.
    pub receive: &'a mut [ReceiveQueue<P, B>],
    /// Transmit queues.
    pub transmit: &'a mut [TransmitQueue<P, B>],
    /// The control queue.
    pub control: Option<&'a mut ControlQueue<B>>,
}

impl<F: PciFunction> NetDriver<F> {
    /// Starts a reset of the whole device. From now on nothing must be submitted; completions may still be polled.
    pub fn begin_reset<P: Clock + Log>(&mut self, platform: &P) {
        self.begin_stop(platform);
        self.warn(platform, "Resetting the network device", 0);
    }

    /// Starts the last reset before the driver is taken apart. [`NetDriver::poll_reset`] and the queues' `take_outstanding` follow as
    /// after any reset.
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
            "The network device did not finish its reset and is cut off",
            0,
        );
        ResetProgress::GaveUp(all)
    }

    /// Starts the device again after a reset, with the same queues, all of them empty. One pair is in use afterwards, and receive buffers
    /// have to be posted again.
    ///
    /// # Errors
    /// [`Error::Changed`] when the device came back with other features or another configuration; otherwise as [`NetDriver::start`]. The
    /// device is marked FAILED then.
    pub fn restart<P: Dma<Span = RingMemory> + Clock + Log>(
        &mut self,
        platform: &P,
        queues: Queues<'_, P, F::Bar>,
    ) -> Result<(), Error> {
        let outcome = self.try_restart(queues);
        match outcome {
            Ok(()) => self.warn(platform, "The network device works again", 0),
            Err(_) => {
                self.transport.fail();
                self.warn(
                    platform,
                    "The network device did not come back after its reset",
                    0,
                );
            }
        }
        outcome
    }

    fn try_restart<P: Dma<Span = RingMemory>>(
        &mut self,
        queues: Queues<'_, P, F::Bar>,
    ) -> Result<(), Error> {
        self.transport.set_bus_master(true);
        if negotiate(&mut self.transport, self.wanted)? != self.features {
            return Err(Error::Changed);
        }
        let info = NetInfo::read(&self.transport)?;
        if !self.info.is_like(&info) || self.info.rss != info.rss {
            return Err(Error::Changed);
        }
        self.info = info;
        self.active.store(1, Ordering::Relaxed);
        self.transport.set_config_vector(self.vectors.config())?;
        for queue in queues.receive {
            self.enable(&mut queue.core)?;
        }
        for queue in queues.transmit {
            self.enable(&mut queue.core)?;
        }
        if let Some(queue) = queues.control {
            self.enable(&mut queue.core)?;
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
        self.warn(
            platform,
            "Resetting a queue of the network device",
            u64::from(index),
        );
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

    /// Starts a receive queue again after its reset, when it is empty.
    ///
    /// # Errors
    /// As [`NetDriver::start`].
    pub fn restart_receive<P: Dma<Span = RingMemory>>(
        &mut self,
        queue: &mut ReceiveQueue<P, F::Bar>,
    ) -> Result<(), Error> {
        self.enable(&mut queue.core)
    }

    /// Starts a transmit queue again after its reset, when it is empty.
    ///
    /// # Errors
    /// As [`NetDriver::start`].
    pub fn restart_transmit<P: Dma<Span = RingMemory>>(
        &mut self,
        queue: &mut TransmitQueue<P, F::Bar>,
    ) -> Result<(), Error> {
        self.enable(&mut queue.core)
    }

    fn enable<T>(&self, queue: &mut CoreQueue<T, F::Bar>) -> Result<(), Error>
    where
        F::Bar: Mmio,
    {
        if !queue.is_empty() {
            return Err(Error::Broken);
        }
        queue.ring.reset(|_| {});
        let setup = self
            .vectors
            .setup(queue.index, queue.size(), queue.memory.addresses());
        let doorbell = self.transport.enable_queue(&setup)?;
        queue.revive(doorbell);
        Ok(())
    }
}
