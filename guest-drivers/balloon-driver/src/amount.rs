//! Inflating and deflating towards the target (virtio 1.4 sec. 5.5.6).
//!
//! Rule: a page is asked back only after its inflation was acknowledged, and given to the guest only when the device may no longer
//! change it: with MUST_TELL_HOST when it has acknowledged the deflation, without when it was told. Nothing is inflated while a deflation
//! is on its way, so that no page is in both.
use driver_platform::Mmio;
use virtio_core::Error;
use virtio_core::Stopped;

use crate::counters::Counters;
use crate::lane::Lane;
use crate::message::Batch;
use crate::pages::Pages;

/// Pages that the balloon may change by before `actual` is written again.
const TELL_EVERY: u32 = 64 << 8;

/// The balloon's size, where it is going, and what is on its way.
#[derive(Debug)]
pub(crate) struct Amount<B> {
    pub(crate) inflate: Lane<B>,
    pub(crate) deflate: Lane<B>,
    /// Pages that the device wants in the balloon, a multiple of the unit.
    target: u32,
    /// Pages in the balloon.
    actual: u32,
    /// `actual` as the device knows it.
    told: u32,
    /// No inflation beyond this since the guest ran out of memory.
    ceiling: Option<u32>,
    unit: u32,
    must_tell: bool,
    poison: Option<u32>,
}

/// How a step went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// The guest had fewer pages than were wanted.
    pub(crate) short: bool,
}

impl<B: Mmio> Amount<B> {
    pub(crate) fn new(inflate: Lane<B>, deflate: Lane<B>, unit: u16) -> Self {
        Self {
            inflate,
            deflate,
            target: 0,
            actual: 0,
            told: 0,
            ceiling: None,
            unit: u32::from(unit.max(1)),
            must_tell: true,
            poison: None,
        }
    }

    /// What was negotiated.
    pub(crate) fn agree(&mut self, must_tell: bool, poison: Option<u32>) {
        self.must_tell = must_tell;
        self.poison = poison;
    }

    /// The device wants this many pages; returns the target if it is another one than before.
    pub(crate) fn aim(&mut self, num_pages: u32) -> Option<u32> {
        let target = round_up(num_pages, self.unit);
        if target == self.target {
            return None;
        }
        self.target = target;
        self.ceiling = None;
        Some(target)
    }

    pub(crate) fn target(&self) -> u32 {
        self.target
    }

    pub(crate) fn actual(&self) -> u32 {
        self.actual
    }

    /// The guest has memory again: inflates up to the target as before it ran out.
    pub(crate) fn lift_ceiling(&mut self) {
        self.ceiling = None;
    }

    /// Takes back what the device is done with, then sends what the target asks for and the queues have room for.
    pub(crate) fn work(
        &mut self,
        pages: &mut impl Pages,
        counters: &mut Counters,
    ) -> Result<Step, Error> {
        self.collect(pages, counters)?;
        let mut step = Step::default();
        let goal = self.target.min(self.ceiling.unwrap_or(u32::MAX));
        let have = self.actual.saturating_add(self.inflate.pages);
        let keep = self.actual.saturating_sub(self.leaving());
        if goal > have && self.deflate.pages == 0 {
            step.short = self.fill(goal - have, pages, counters)?;
        } else if self.target < keep {
            self.drop_pages(keep - self.target, pages, counters)?;
        }
        self.inflate.queue.publish();
        self.deflate.queue.publish();
        Ok(step)
    }

    /// Takes pages out of the balloon although the device wants them in. Returns how many are on their way out or out.
    pub(crate) fn relieve(
        &mut self,
        wanted: u32,
        pages: &mut impl Pages,
        counters: &mut Counters,
    ) -> Result<u32, Error> {
        let wanted = round_up(wanted, self.unit).min(self.actual.saturating_sub(self.leaving()));
        let sent = self.drop_pages(wanted, pages, counters)?;
        self.deflate.queue.publish();
        counters.relieved_pages += u64::from(sent);
        let left = self.actual.saturating_sub(self.leaving());
        self.ceiling = Some(self.ceiling.map_or(left, |ceiling| ceiling.min(left)));
        Ok(sent)
    }

    /// `actual`, if it is time to tell the device.
    pub(crate) fn news(&mut self) -> Option<u32> {
        let change = self.actual.abs_diff(self.told);
        let idle = self.inflate.pages == 0 && self.deflate.pages == 0;
        if change == 0 || (!idle && change < TELL_EVERY) {
            return None;
        }
        self.told = self.actual;
        Some(self.actual)
    }

    pub(crate) fn idle(&self) -> bool {
        self.inflate.pages == 0 && self.deflate.pages == 0
    }

    pub(crate) fn poison(&self) -> Option<u32> {
        self.poison
    }

    /// Pages of `actual` that are on their way out.
    fn leaving(&self) -> u32 {
        if self.must_tell {
            self.deflate.pages
        } else {
            0
        }
    }

    /// Takes at most as much as was on its way: the ring sees to that.
    fn collect(&mut self, pages: &mut impl Pages, counters: &mut Counters) -> Result<(), Error> {
        while let Some(returned) = self.inflate.queue.pop()? {
            let arrived = self.inflate.pages_of(&returned.item);
            pages.ballooned(arrived);
            self.actual = self.actual.saturating_add(arrived.len() as u32);
            counters.inflated_pages += arrived.len() as u64;
            self.inflate.forget(&returned.item);
            self.inflate.queue.release(returned.slot);
        }
        while let Some(returned) = self.deflate.queue.pop()? {
            if self.must_tell {
                self.hand_out(&returned.item, pages, counters);
            }
            self.deflate.forget(&returned.item);
            self.deflate.queue.release(returned.slot);
        }
        Ok(())
    }

    /// Inflates by up to `want` pages; `true` when the guest had fewer than there was room for.
    fn fill(
        &mut self,
        mut want: u32,
        pages: &mut impl Pages,
        counters: &mut Counters,
    ) -> Result<bool, Error> {
        while want > 0 {
            let mut asked = 0;
            let sent = self.inflate.send(want, |room| {
                asked = room.len();
                pages.grab(room)
            })?;
            let Some(Batch { count, .. }) = sent else {
                return Ok(false);
            };
            counters.batches += u64::from(count > 0);
            if count < asked {
                counters.short += 1;
                return Ok(true);
            }
            want = want.saturating_sub(count as u32);
        }
        Ok(false)
    }

    /// Deflates by up to `want` pages, as far as there is room; returns how many.
    fn drop_pages(
        &mut self,
        want: u32,
        pages: &mut impl Pages,
        counters: &mut Counters,
    ) -> Result<u32, Error> {
        let mut done = 0;
        while done < want {
            let sent = self.deflate.send(want - done, |room| pages.pick(room))?;
            let Some(batch) = sent.filter(|batch| batch.count > 0) else {
                break;
            };
            counters.batches += 1;
            done = done.saturating_add(batch.count as u32);
            if !self.must_tell {
                // Told before used: the message is on the ring and visible before the pages are handed out.
                self.deflate.queue.publish();
                self.hand_out(&batch, pages, counters);
            }
        }
        Ok(done)
    }

    /// The pages of a deflation are the guest's.
    fn hand_out(&mut self, batch: &Batch, pages: &mut impl Pages, counters: &mut Counters) {
        let out = self.deflate.pages_of(batch);
        pages.release(out, self.poison);
        self.actual = self.actual.saturating_sub(out.len() as u32);
        counters.deflated_pages += out.len() as u64;
    }

    /// After a reset: one message's pages, or a batch of pages of the balloon, become the guest's again. `false` when none are left.
    pub(crate) fn drain_one(
        &mut self,
        proof: &Stopped,
        pages: &mut impl Pages,
    ) -> Result<bool, Error> {
        if let Some(batch) = self.inflate.queue.abandon(proof)? {
            pages.release(self.inflate.pages_of(&batch), self.poison);
            self.inflate.forget(&batch);
            return Ok(true);
        }
        if let Some(batch) = self.deflate.queue.abandon(proof)? {
            if self.must_tell {
                pages.release(self.deflate.pages_of(&batch), self.poison);
            }
            self.deflate.forget(&batch);
            return Ok(true);
        }
        let mut batch = [0; 256];
        let count = pages.pick(&mut batch).min(batch.len());
        pages.release(batch.get(..count).unwrap_or(&[]), self.poison);
        Ok(count > 0)
    }

    /// The balloon is empty and the device knows nothing of it.
    pub(crate) fn forget(&mut self) {
        self.target = 0;
        self.actual = 0;
        self.told = 0;
        self.ceiling = None;
    }
}

/// The next multiple of `unit`, or the last one below 2^32.
fn round_up(pages: u32, unit: u32) -> u32 {
    pages
        .checked_next_multiple_of(unit)
        .unwrap_or(u32::MAX - u32::MAX % unit)
}
