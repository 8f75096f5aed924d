//! The way back after the device failed: reset, empty the balloon, start again.
//!
//! Rule: no page is given to the guest while the device might still change it: that needs a [`Quiesced`], which only a finished reset
//! gives out. The device forgets the balloon in a reset (virtio 1.4 sec. 2.4), so the driver does too and starts with an empty one.
use driver_platform::Clock;
use driver_platform::Log;
use driver_platform::PciFunction;
use virtio_pci::QueueSetup;
use virtio_pci::RESET_TIMEOUT_US;
use virtio_pci::ResetState;

use crate::driver::BalloonDriver;
use crate::driver::negotiate;
use crate::error::Error;
use crate::pages::Pages;

/// Messages or batches of pages that one call of [`BalloonDriver::drain`] handles.
const DRAIN_STEPS: usize = 64;

/// Proof that the device no longer touches the guest's memory.
#[derive(Debug)]
pub struct Quiesced {
    _private: (),
}

/// How far a reset has got.
#[derive(Debug)]
pub enum ResetProgress {
    /// Ask again later.
    Pending,
    /// Done; the balloon can be emptied and started again.
    Done(Quiesced),
    /// The device did not finish in time and was cut off from memory: the balloon can be emptied, but the device is lost.
    GaveUp(Quiesced),
}

impl<F: PciFunction> BalloonDriver<F> {
    /// Starts a reset of the device, after a failure or before the driver is taken apart.
    pub fn begin_reset<P: Clock + Log>(&mut self, platform: &P) {
        self.transport.begin_reset();
        self.reset_started_us = platform.now_us();
        self.live = false;
        for queue in self.parts.queues_mut() {
            queue.mark_broken(Error::Broken);
        }
        self.warn(platform, "Resetting the balloon", 0);
    }

    /// Whether the reset is done. Never blocks; gives up after [`RESET_TIMEOUT_US`].
    pub fn poll_reset<P: Clock + Log>(&mut self, platform: &P) -> ResetProgress {
        let proof = Quiesced { _private: () };
        if self.transport.poll_reset() == ResetState::Done {
            return ResetProgress::Done(proof);
        }
        if platform.now_us().wrapping_sub(self.reset_started_us) <= RESET_TIMEOUT_US {
            return ResetProgress::Pending;
        }
        self.transport.set_bus_master(false);
        self.warn(
            platform,
            "The balloon did not finish its reset and is cut off",
            0,
        );
        ResetProgress::GaveUp(proof)
    }

    /// Gives pages back to the guest: what was on its way, and what is in the balloon. A bounded amount; `true` when nothing is left.
    pub fn drain(&mut self, proof: &Quiesced, pages: &mut impl Pages) -> bool {
        let _ = proof;
        if let Some(reports) = &mut self.parts.reports {
            reports.drain(pages);
        }
        if let Some(hints) = &mut self.parts.hints {
            hints.drain(pages);
        }
        if let Some(statistics) = &mut self.parts.statistics {
            statistics.drain();
        }
        let amount = &mut self.parts.amount;
        for _ in 0..DRAIN_STEPS {
            if !amount.drain_one(pages) {
                amount.forget();
                return true;
            }
        }
        false
    }

    /// Starts the device again after a reset, with an empty balloon.
    ///
    /// # Errors
    /// [`Error::Changed`] when the device came back with other features, [`Error::Broken`] when [`BalloonDriver::drain`] is not done;
    /// otherwise as [`BalloonDriver::start`]. The device is marked FAILED then.
    pub fn restart<P: Clock + Log>(&mut self, platform: &P) -> Result<(), Error> {
        let outcome = self.try_restart();
        match outcome {
            Ok(()) => self.warn(platform, "The balloon works again", 0),
            Err(_) => {
                self.transport.fail();
                let what = "The balloon did not come back after its reset";
                self.warn(platform, what, 0);
            }
        }
        outcome
    }

    fn try_restart(&mut self) -> Result<(), Error> {
        if self.parts.queues().any(|queue| queue.in_flight() != 0) || self.actual() != 0 {
            return Err(Error::Broken);
        }
        self.transport.set_bus_master(true);
        if negotiate(&mut self.transport, &self.options)? != self.features {
            return Err(Error::Changed);
        }
        self.transport.set_config_vector(self.vectors.config())?;
        for queue in self.parts.queues_mut() {
            let setup = QueueSetup {
                index: queue.index(),
                size: queue.size(),
                addresses: queue.addresses(),
                vector: self.vectors.queue(queue.index()),
            };
            queue.reopen(self.transport.enable_queue(&setup)?);
        }
        self.transport.start()?;
        self.agree();
        self.live = true;
        Ok(())
    }
}
