//! The way back after the device failed: reset, empty the balloon, start again.
//!
//! Rule: the device forgets the balloon in a reset (virtio 1.4 sec. 2.4), so the driver does too and starts with an empty one.
use driver_platform::Clock;
use driver_platform::Log;
use driver_platform::PciFunction;
use virtio_core::Error;
use virtio_core::Quiesced;
use virtio_core::ResetProgress;
use virtio_core::Stopped;

use crate::driver::BalloonDriver;
use crate::driver::negotiate;
use crate::pages::Pages;

/// Messages or batches of pages that one call of [`BalloonDriver::drain`] handles.
const DRAIN_STEPS: usize = 64;

impl<F: PciFunction> BalloonDriver<F> {
    /// Starts a reset of the device, after a failure or before the driver is taken apart.
    pub fn begin_reset<P: Clock + Log>(&mut self, platform: &P) {
        self.device.begin_reset(platform);
        for queue in self.parts.queues_mut() {
            queue.mark_broken(Error::Broken);
        }
    }

    /// Whether the reset is done. Never blocks; gives up after [`virtio_pci::RESET_TIMEOUT_US`]. Without a reset that was begun it stays
    /// [`ResetProgress::Pending`].
    pub fn poll_reset<P: Clock + Log>(&mut self, platform: &P) -> ResetProgress {
        self.device.poll_reset(platform)
    }

    /// Gives pages back to the guest: what was on its way, and what is in the balloon. A bounded amount; `true` when nothing is left.
    ///
    /// # Errors
    /// [`Error::NotQuiesced`] when the proof is of another device or of the time before the latest restart.
    pub fn drain(&mut self, proof: &Stopped, pages: &mut impl Pages) -> Result<bool, Error> {
        if let Some(reports) = &mut self.parts.reports {
            reports.drain(proof, pages)?;
        }
        if let Some(hints) = &mut self.parts.hints {
            hints.drain(proof, pages)?;
        }
        if let Some(statistics) = &mut self.parts.statistics {
            statistics.drain(proof)?;
        }
        let amount = &mut self.parts.amount;
        for _ in 0..DRAIN_STEPS {
            if !amount.drain_one(proof, pages)? {
                amount.forget();
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Starts the device again after a reset, with an empty balloon.
    ///
    /// # Errors
    /// [`Error::NotQuiesced`] when the proof is not of this balloon and its latest reset, [`Error::Outstanding`] when
    /// [`BalloonDriver::drain`] is not done; then nothing was done. [`Error::Changed`] when the device came back with other features;
    /// otherwise as [`BalloonDriver::start`]. The device is marked FAILED then.
    pub fn restart<P: Clock + Log>(&mut self, platform: &P, proof: Quiesced) -> Result<(), Error> {
        if self.parts.queues().any(|queue| queue.in_flight() != 0) || self.actual() != 0 {
            return Err(Error::Outstanding);
        }
        let (options, parts) = (self.options, &mut self.parts);
        self.device.restart(
            platform,
            proof,
            |transport| negotiate(transport, &options),
            |enabling| {
                let mut queues = parts.queues_mut();
                queues.try_for_each(|queue| enabling.enable(queue))
            },
        )?;
        self.agree();
        Ok(())
    }
}
