//! What a shell calls while the balloon runs.
//!
//! Rule: each call does a bounded amount of work whatever the device does meanwhile, and never waits.
use driver_platform::Event;
use driver_platform::Log;
use driver_platform::PciFunction;
use driver_platform::Severity;
use virtio_core::Error;
use virtio_spec::balloon::PAGE_SIZE;
use virtio_spec::balloon::feature;

use crate::config;
use crate::config::Wishes;
use crate::driver::BalloonDriver;
use crate::message::Queue;
use crate::pages::Pages;

/// What [`BalloonDriver::config_changed`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// Nothing new about the balloon's size; a hint command may have changed. Work goes on.
    Nothing,
    /// The device wants this many pages in the balloon.
    Target(u32),
    /// The device asks to be reset.
    NeedsReset,
}

/// How far [`BalloonDriver::work`] got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The balloon has the size that it should have, and nothing is on its way.
    Settled,
    /// The device has something to do; an interrupt follows.
    Waiting,
    /// The guest has fewer pages to spare than are wanted: call again when it has more, or after a while.
    Short,
}

impl<F: PciFunction> BalloonDriver<F> {
    /// To be called after a configuration interrupt, and once after the start. [`BalloonDriver::work`] follows.
    ///
    /// # Errors
    /// The configuration cannot be read; the target stays what it was.
    pub fn config_changed<P: Log>(&mut self, platform: &P) -> Result<ConfigChange, Error> {
        if self.device.transport().needs_reset() {
            return Ok(ConfigChange::NeedsReset);
        }
        let wishes = Wishes::read(self.device.transport())?;
        if let Some(hints) = &mut self.parts.hints {
            hints.command(wishes.hint_command);
        }
        let Some(target) = self.parts.amount.aim(wishes.num_pages) else {
            return Ok(ConfigChange::Nothing);
        };
        self.counters.targets += 1;
        platform.log(Event {
            severity: Severity::Info,
            what: "The balloon has a new target in bytes",
            value: u64::from(target) * PAGE_SIZE,
        });
        Ok(ConfigChange::Target(target))
    }

    /// Takes back what the device is done with, answers it and goes on towards the target.
    ///
    /// # Errors
    /// The device broke the rules of a ring: nothing more happens until it was reset. Every call says so again.
    pub fn work(&mut self, pages: &mut impl Pages) -> Result<Progress, Error> {
        self.alive()?;
        let (parts, counters) = (&mut self.parts, &mut self.counters);
        let step = parts.amount.work(pages, counters)?;
        if let Some(statistics) = &mut parts.statistics {
            statistics.work(pages, counters)?;
        }
        if let Some(hints) = &mut parts.hints {
            hints.work(pages, counters)?;
        }
        if let Some(reports) = &mut parts.reports {
            reports.collect(pages, counters)?;
        }
        if let Some(actual) = parts.amount.news() {
            config::write_actual(self.device.transport(), actual)?;
        }
        let parts = &self.parts;
        let reports = parts.reports.as_ref();
        let quiet = parts.amount.idle()
            && parts.hints.as_ref().is_none_or(|hints| hints.idle())
            && reports.is_none_or(|reports| reports.queue.in_flight() == 0);
        Ok(match (step.short, quiet) {
            (true, _) => Progress::Short,
            (false, true) => Progress::Settled,
            (false, false) => Progress::Waiting,
        })
    }

    /// Reports free blocks to the device, as many as there is room for. `true` when the guest has no more to report now; otherwise call
    /// again after the next interrupt. Does nothing without PAGE_REPORTING.
    ///
    /// # Errors
    /// As [`BalloonDriver::work`].
    pub fn report(&mut self, pages: &mut impl Pages) -> Result<bool, Error> {
        self.alive()?;
        let poison = self.parts.amount.poison();
        let Some(reports) = &mut self.parts.reports else {
            return Ok(true);
        };
        reports.collect(pages, &mut self.counters)?;
        reports.send(pages, poison)
    }

    /// The guest runs out of memory: takes up to `wanted` pages out of the balloon although the device wants them in. Returns how many;
    /// with MUST_TELL_HOST they come with a later [`BalloonDriver::work`], when the device has acknowledged them. The balloon does not
    /// grow again until the device sets another target or [`BalloonDriver::resume`] is called. 0 without DEFLATE_ON_OOM.
    ///
    /// # Errors
    /// As [`BalloonDriver::work`].
    pub fn relieve(&mut self, wanted: u32, pages: &mut impl Pages) -> Result<u32, Error> {
        self.alive()?;
        if self.features() & feature::DEFLATE_ON_OOM == 0 {
            return Ok(0);
        }
        let (parts, counters) = (&mut self.parts, &mut self.counters);
        parts.amount.relieve(wanted, pages, counters)
    }

    /// The guest has memory again: the balloon may grow up to the target as before [`BalloonDriver::relieve`].
    pub fn resume(&mut self) {
        self.parts.amount.lift_ceiling();
    }

    /// Asks for interrupts. `true`: something waits already, [`BalloonDriver::work`] again before sleeping.
    #[must_use = "a completion may already wait"]
    pub fn arm(&mut self) -> bool {
        let mut waits = false;
        for queue in self.parts.queues_mut() {
            waits |= queue.arm();
        }
        waits
    }

    /// Asks the device for no interrupts, while the shell polls.
    pub fn disarm(&mut self) {
        self.parts.queues_mut().for_each(Queue::disarm);
    }

    fn alive(&self) -> Result<(), Error> {
        let broken = self.parts.queues().find_map(Queue::broken);
        broken.map_or(Ok(()), Err)
    }
}
