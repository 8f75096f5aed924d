//! The control half of a device: its transport, and the resets.
//!
//! Rule: what was enabled at one time is told from what was enabled later by an epoch; a proof of quiescence bears the epoch at which it
//! was made, and only the one of the present epoch starts the device again.
use driver_platform::Clock;
use driver_platform::Event;
use driver_platform::Log;
use driver_platform::Mmio;
use driver_platform::PciFunction;
use driver_platform::Severity;
use virtio_pci::QueueSetup;
use virtio_pci::RESET_TIMEOUT_US;
use virtio_pci::ResetState;
use virtio_pci::Transport;

use crate::error::Error;
use crate::proof::CutOff;
use crate::proof::Life;
use crate::proof::Quiesced;
use crate::proof::ResetProgress;
use crate::queue::SlotQueue;
use crate::vectors::Vectors;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It may touch the memory of its queues.
    Live,
    /// It was told to reset, at this time.
    Resetting { since_us: u64 },
    /// The reset is done.
    Quiet,
    /// It cannot reach memory.
    CutOff,
}

/// The control half of a device that was brought up.
#[derive(Debug)]
pub struct Device<F: PciFunction> {
    transport: Transport<F>,
    vectors: Vectors,
    /// Its epoch is that of the latest enabling.
    life: Life,
    features: u64,
    state: State,
}

/// A device between FEATURES_OK and DRIVER_OK of a restart.
#[derive(Debug)]
pub struct Enabling<'d, F: PciFunction> {
    device: &'d mut Device<F>,
}

impl<F: PciFunction> Enabling<'_, F> {
    /// The transport, to read the configuration.
    pub fn transport(&self) -> &Transport<F> {
        &self.device.transport
    }

    /// Enables an empty queue of this device again.
    ///
    /// # Errors
    /// [`Error::Outstanding`], [`Error::NotQuiesced`] for a queue of another device, or the device does not take the queue.
    pub fn enable<T>(&mut self, queue: &mut SlotQueue<T, F::Bar>) -> Result<(), Error> {
        self.device.enable(queue)
    }
}

impl<F: PciFunction> Device<F> {
    pub(crate) fn new(transport: Transport<F>, vectors: Vectors, life: Life) -> Self {
        Self {
            features: transport.features(),
            transport,
            vectors,
            life,
            state: State::Live,
        }
    }

    /// The transport.
    pub fn transport(&self) -> &Transport<F> {
        &self.transport
    }

    /// The negotiated features.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Whether the device can use the memory of its queues: it was not told to reset since it started.
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Starts a reset of the whole device. From now on nothing should be added to its queues; chains may still come back.
    pub fn begin_reset(&mut self, platform: &(impl Clock + Log)) {
        self.begin_stop(platform);
        self.warn(platform, "The virtio device of this type is being reset");
    }

    /// As [`Device::begin_reset`], before the driver is taken apart.
    pub fn begin_stop(&mut self, clock: &impl Clock) {
        self.transport.begin_reset();
        self.state = State::Resetting {
            since_us: clock.now_us(),
        };
    }

    /// Whether the reset that was begun is done. Never blocks; gives up after [`RESET_TIMEOUT_US`]. A device that was not told to reset
    /// stays [`ResetProgress::Pending`].
    pub fn poll_reset(&mut self, platform: &(impl Clock + Log)) -> ResetProgress {
        if let State::Resetting { since_us } = self.state {
            if self.transport.poll_reset() == ResetState::Done {
                self.state = State::Quiet;
            } else if platform.now_us().wrapping_sub(since_us) > RESET_TIMEOUT_US {
                self.transport.set_bus_master(false);
                self.state = State::CutOff;
                let what = "The virtio device of this type did not finish its reset and is cut off";
                self.warn(platform, what);
            }
        }
        match self.state {
            State::Live | State::Resetting { .. } => ResetProgress::Pending,
            State::Quiet => ResetProgress::Done(Quiesced::of(self.life, None)),
            State::CutOff => ResetProgress::GaveUp(CutOff::of(self.life)),
        }
    }

    /// Starts the device again after a reset. `negotiate` agrees on features and returns them; `enable` reads the configuration and
    /// enables the queues, all of them empty.
    ///
    /// # Errors
    /// [`Error::NotQuiesced`] when the proof is not of this device and its latest reset; then nothing was done. [`Error::Changed`] when
    /// the device came back with other features; otherwise as for [`crate::bring_up()`]. The device is marked FAILED then, and only another
    /// reset helps.
    pub fn restart(
        &mut self,
        platform: &impl Log,
        proof: Quiesced,
        negotiate: impl FnOnce(&mut Transport<F>) -> Result<u64, Error>,
        enable: impl FnOnce(&mut Enabling<'_, F>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if !proof.is_whole(self.life) || self.state != State::Quiet {
            return Err(Error::NotQuiesced);
        }
        proof.use_up();
        self.state = State::Live;
        self.life.epoch += 1;
        let outcome = self.try_restart(negotiate, enable);
        match outcome {
            Ok(()) => self.warn(platform, "The virtio device of this type works again"),
            Err(_) => {
                self.transport.fail();
                let what = "The virtio device of this type did not come back after its reset";
                self.warn(platform, what);
            }
        }
        outcome
    }

    fn try_restart(
        &mut self,
        negotiate: impl FnOnce(&mut Transport<F>) -> Result<u64, Error>,
        enable: impl FnOnce(&mut Enabling<'_, F>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.transport.set_bus_master(true);
        if negotiate(&mut self.transport)? != self.features {
            return Err(Error::Changed);
        }
        self.transport.set_config_vector(self.vectors.config())?;
        enable(&mut Enabling { device: self })?;
        self.transport.start()?;
        Ok(())
    }

    /// Starts the reset of one queue, if the device can do that (RING_RESET). The queue takes nothing more.
    ///
    /// # Errors
    /// [`Error::Transport`] when it cannot: reset the whole device then. [`Error::NotQuiesced`] for a queue of another device.
    pub fn begin_queue_reset<T>(
        &mut self,
        platform: &impl Log,
        queue: &mut SlotQueue<T, F::Bar>,
    ) -> Result<(), Error> {
        self.owns(queue)?;
        self.transport.begin_queue_reset(queue.index())?;
        queue.set_resetting();
        self.warn(
            platform,
            "A queue of the virtio device of this type is being reset",
        );
        Ok(())
    }

    /// Whether the reset of one queue is done. Without an end to it, the shell resets the device; one that was not begun stays
    /// [`ResetProgress::Pending`].
    pub fn poll_queue_reset<T>(&self, queue: &SlotQueue<T, F::Bar>) -> ResetProgress {
        let begun = self.owns(queue).is_ok() && queue.is_resetting();
        if begun && self.transport.queue_reset_done(queue.index()) {
            ResetProgress::Done(Quiesced::of(queue.life(), Some(queue.index())))
        } else {
            ResetProgress::Pending
        }
    }

    /// Starts one queue again after its reset, when it is empty.
    ///
    /// # Errors
    /// [`Error::NotQuiesced`] when the proof is of something else, [`Error::Outstanding`], or the device does not take the queue.
    pub fn restart_queue<T>(
        &mut self,
        proof: Quiesced,
        queue: &mut SlotQueue<T, F::Bar>,
    ) -> Result<(), Error> {
        queue.check(&proof)?;
        if !self.is_live() || !queue.is_resetting() {
            return Err(Error::NotQuiesced);
        }
        proof.use_up();
        queue.end_reset();
        self.life.epoch += 1;
        self.enable(queue)
    }

    fn enable<T>(&self, queue: &mut SlotQueue<T, F::Bar>) -> Result<(), Error>
    where
        F::Bar: Mmio,
    {
        self.owns(queue)?;
        queue.renew()?;
        let setup = QueueSetup {
            index: queue.index(),
            size: queue.config().size,
            addresses: queue.addresses(),
            vector: queue.message(),
        };
        let doorbell = self.transport.enable_queue(&setup)?;
        queue.revive(doorbell, self.life);
        Ok(())
    }

    fn owns<T>(&self, queue: &SlotQueue<T, F::Bar>) -> Result<(), Error> {
        match queue.life().device == self.life.device {
            true => Ok(()),
            false => Err(Error::NotQuiesced),
        }
    }

    fn warn(&self, log: &impl Log, what: &'static str) {
        log.log(Event {
            severity: Severity::Warning,
            what,
            value: self.transport.device_type().into(),
        });
    }
}
