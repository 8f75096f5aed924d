//! Balloons: pages in and out, and the question for statistics.

use crate::Load;
use crate::all_live;
use crate::live;
use crate::vm::Terms;
use crate::vm::Vm;
use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use balloon_backend::BalloonDevice;
use balloon_backend::BalloonSpec;
use protocol::Serving;
use std::sync::Arc;
use virtio_spec::balloon::feature;
use virtio_spec::balloon::stat;
use virtqueue::Segment;

const FEATURES: u64 = feature::MUST_TELL_HOST | feature::STATS_VQ;
const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATS: usize = 2;
/// Chains in flight on each of the first two queues, and pages in each.
const CHAINS: u64 = 8;
const PAGES: u64 = 4;
/// The first page of the guest that goes into the balloon and comes back; all others stay.
const FIRST: u64 = 256;
/// Where statistics are.
const FIGURES: u64 = 128;

struct Balloon {
    device: Arc<BalloonDevice>,
    round: u64,
    /// The device has the buffer of the statistics.
    asked: bool,
    deflating: bool,
}

impl Balloon {
    /// Gives the chains of this round, of pages that stay `after` those of the last.
    fn chains(&self, vm: &mut Vm, queue: usize, round: u64) -> Result<()> {
        for chain in 0..CHAINS {
            let list = vm.guest.buffer(queue as u64 * CHAINS + chain);
            for page in 0..PAGES {
                let addr = self.page(vm, round, chain * PAGES + page);
                if queue == INFLATE {
                    vm.guest.memory.write(addr, &[0x5a; 4096])?;
                }
                let pfn = u32::try_from(addr >> 12)?;
                vm.guest.memory.write(list + page * 4, &pfn.to_le_bytes())?;
            }
            let part = Segment {
                addr: list,
                len: u32::try_from(PAGES * 4)?,
            };
            let driver = &mut vm.queues.get_mut(queue).context("a queue")?.driver;
            driver
                .add(&[part], &[], None)
                .map_err(|error| anyhow::anyhow!("{error}"))?;
        }
        vm.queues.get_mut(queue).context("a queue")?.publish();
        Ok(())
    }

    fn page(&self, vm: &Vm, round: u64, at: u64) -> u64 {
        vm.guest.buffer(FIRST + (round % 2) * CHAINS * PAGES + at)
    }

    fn offer_figures(&mut self, vm: &mut Vm) -> Result<()> {
        let mut bytes = stat::AVAIL.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.round.to_le_bytes());
        let addr = vm.guest.buffer(FIGURES);
        vm.guest.memory.write(addr, &bytes)?;
        let part = Segment { addr, len: 10 };
        let queue = vm.queues.get_mut(STATS).context("a queue")?;
        let id = queue.driver.add(&[part], &[], None);
        id.map_err(|error| anyhow::anyhow!("{error}"))?;
        queue.publish();
        self.asked = true;
        Ok(())
    }
}

impl Load for Balloon {
    fn begin(&mut self, vm: &mut Vm) -> Result<()> {
        self.round += 1;
        if !self.asked {
            self.offer_figures(vm)?;
        }
        // Asked for in the middle of whatever comes now.
        self.device.request_statistics();
        self.chains(vm, INFLATE, self.round)?;
        self.deflating = self.round > 1;
        if self.deflating {
            self.chains(vm, DEFLATE, self.round - 1)?;
        }
        Ok(())
    }

    fn finish(&mut self, vm: &mut Vm) -> Result<()> {
        for queue in [INFLATE, DEFLATE] {
            if queue == DEFLATE && !self.deflating {
                continue;
            }
            let driver = vm.queues.get_mut(queue).context("a queue")?;
            let done = driver.wait(usize::try_from(CHAINS)?).context("pages")?;
            ensure!(done.iter().all(|(_, written)| *written == 0), "{done:?}");
            ensure!(!driver.driver.has_used(), "more completions than chains");
            ensure!(!driver.err.drain(), "an error is signalled");
        }
        for at in 0..CHAINS * PAGES {
            let mut bytes = [1; 4096];
            vm.guest
                .memory
                .read(self.page(vm, self.round, at), &mut bytes)?;
            ensure!(
                bytes == [0; 4096],
                "a page in the balloon is not given back"
            );
        }
        // The buffer comes back because it was asked for, or because the queue paused; once in either case.
        // A question from before a reconnect was to a driver that may not have been there yet.
        self.device.request_statistics();
        let queue = vm.queues.get_mut(STATS).context("a queue")?;
        let done = queue.wait(1).context("statistics")?;
        ensure!(done.iter().all(|(_, written)| *written == 0), "{done:?}");
        ensure!(
            !queue.driver.has_used() && !queue.err.drain(),
            "the statistics' queue"
        );
        self.asked = false;
        Ok(())
    }

    fn abandon(&mut self, vm: &mut Vm) -> Result<()> {
        for queue in &mut vm.queues {
            let most = if usize::from(queue.index) == STATS {
                1
            } else {
                CHAINS
            };
            let mut done = 0;
            while queue.pop()?.is_some() {
                done += 1;
            }
            ensure!(done <= most, "{done} completions on queue {}", queue.index);
        }
        self.asked = false;
        Ok(())
    }

    fn anew(&mut self, _vm: &mut Vm) -> Result<()> {
        self.round = 0;
        Ok(())
    }
}

#[test]
fn balloons_live_through_everything() {
    let mut failures = Vec::new();
    for terms in Terms::all(FEATURES) {
        let start = || {
            let spec = BalloonSpec {
                stats_interval_ms: 3_600_000,
                ..BalloonSpec::default()
            };
            let device = BalloonDevice::new(spec)?;
            let vm = Vm::new(Serving::new(device.clone())?, terms, 3)?;
            let load = Balloon {
                device,
                round: 0,
                asked: false,
                deflating: false,
            };
            Ok((vm, load))
        };
        failures.extend(live(&format!("balloon, {}", terms.name()), start));
    }
    all_live(&failures);
}
