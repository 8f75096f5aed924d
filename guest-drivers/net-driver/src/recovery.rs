//! The way back after a device or a queue failed: reset, return what was outstanding, start again.
//!
//! Rule: a device that was reset has forgotten every command: modes, addresses, VLANs, pairs in use; the shell sends them again.
use core::sync::atomic::Ordering;

use driver_platform::Clock;
use driver_platform::Dma;
use driver_platform::Log;
use driver_platform::PciFunction;
use virtio_core::Error;
use virtio_core::Quiesced;
use virtio_core::ResetProgress;
use virtio_core::SlotQueue;

use crate::config::NetInfo;
use crate::control::ControlQueue;
use crate::driver::NetDriver;
use crate::receive::Posted;
use crate::receive::ReceiveQueue;
use crate::start::negotiate;
use crate::transmit::Sending;
use crate::transmit::TransmitQueue;

/// All queues of a device, for [`NetDriver::restart`].
pub struct Queues<'a, P: Dma, B> {
    /// Receive queues.
    pub receive: &'a mut [ReceiveQueue<P, B>],
    /// Transmit queues.
    pub transmit: &'a mut [TransmitQueue<P, B>],
    /// The control queue.
    pub control: Option<&'a mut ControlQueue<B>>,
}

/// A queue that can be reset alone: a receive or a transmit queue.
pub trait PairQueue<B> {
    /// What is out with its chains.
    type Item;
    /// Its ring.
    fn core(&self) -> &SlotQueue<Self::Item, B>;
    /// As [`PairQueue::core`].
    fn core_mut(&mut self) -> &mut SlotQueue<Self::Item, B>;
}

impl<P: Dma, B> PairQueue<B> for ReceiveQueue<P, B> {
    type Item = Posted<P::Buffer>;

    fn core(&self) -> &SlotQueue<Self::Item, B> {
        &self.core
    }

    fn core_mut(&mut self) -> &mut SlotQueue<Self::Item, B> {
        &mut self.core
    }
}

impl<P: Dma, B> PairQueue<B> for TransmitQueue<P, B> {
    type Item = Sending<P::Buffer>;

    fn core(&self) -> &SlotQueue<Self::Item, B> {
        &self.core
    }

    fn core_mut(&mut self) -> &mut SlotQueue<Self::Item, B> {
        &mut self.core
    }
}

impl<F: PciFunction> NetDriver<F> {
    /// Starts a reset of the whole device. From now on nothing must be submitted; completions may still be polled.
    pub fn begin_reset<P: Clock + Log>(&mut self, platform: &P) {
        self.device.begin_reset(platform);
    }

    /// Starts the last reset before the driver is taken apart. [`NetDriver::poll_reset`] and the queues' `take_outstanding` follow as
    /// after any reset.
    pub fn begin_stop<P: Clock>(&mut self, platform: &P) {
        self.device.begin_stop(platform);
    }

    /// Whether the reset is done. Never blocks; gives up after [`virtio_pci::RESET_TIMEOUT_US`]. Without a reset that was begun it stays
    /// [`ResetProgress::Pending`].
    pub fn poll_reset<P: Clock + Log>(&mut self, platform: &P) -> ResetProgress {
        self.device.poll_reset(platform)
    }

    /// Starts the device again after a reset, with the same queues, all of them empty. One pair is in use afterwards, and receive buffers
    /// have to be posted again.
    ///
    /// # Errors
    /// [`Error::NotQuiesced`] when the proof is not of this device and its latest reset; then nothing was done. [`Error::Changed`] when
    /// the device came back with other features or another configuration; otherwise as [`NetDriver::start`]. The device is marked FAILED
    /// then.
    pub fn restart<P: Dma + Clock + Log>(
        &mut self,
        platform: &P,
        proof: Quiesced,
        queues: Queues<'_, P, F::Bar>,
    ) -> Result<(), Error> {
        let (wanted, before) = (self.wanted, self.info);
        self.device.restart(
            platform,
            proof,
            |transport| negotiate(transport, wanted),
            |enabling| {
                let info = NetInfo::read(enabling.transport())?;
                if !before.is_like(&info) || before.rss != info.rss {
                    return Err(Error::Changed);
                }
                self.info = info;
                self.active.store(1, Ordering::Relaxed);
                for queue in queues.receive {
                    enabling.enable(&mut queue.core)?;
                }
                for queue in queues.transmit {
                    enabling.enable(&mut queue.core)?;
                }
                match queues.control {
                    Some(queue) => enabling.enable(&mut queue.core),
                    None => Ok(()),
                }
            },
        )
    }

    /// Starts the reset of one receive or transmit queue, if the device can do that (RING_RESET). The queue takes nothing more.
    ///
    /// # Errors
    /// [`Error::Transport`] when it cannot: reset the whole device then. [`Error::NotQuiesced`] for a queue of another device.
    pub fn begin_queue_reset<P: Log>(
        &mut self,
        platform: &P,
        queue: &mut impl PairQueue<F::Bar>,
    ) -> Result<(), Error> {
        self.device.begin_queue_reset(platform, queue.core_mut())
    }

    /// Whether the reset of one queue is done. It does not give up: when it takes too long the shell resets the device.
    pub fn poll_queue_reset(&self, queue: &impl PairQueue<F::Bar>) -> ResetProgress {
        self.device.poll_queue_reset(queue.core())
    }

    /// Starts a receive or transmit queue again after its reset, when it is empty.
    ///
    /// # Errors
    /// [`Error::NotQuiesced`] when the proof is not of this queue's reset, [`Error::Outstanding`]; otherwise as [`NetDriver::start`].
    pub fn restart_queue(
        &mut self,
        proof: Quiesced,
        queue: &mut impl PairQueue<F::Bar>,
    ) -> Result<(), Error> {
        self.device.restart_queue(proof, queue.core_mut())
    }
}
