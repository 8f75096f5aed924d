//! The `balloon` job: gives pages of a pool to the balloon and takes them back as the device asks, while others hold a pattern.
//!
//! Rule: every change is told with its time; the job is good only if every pattern is intact at the end and every page of the pool can be
//! used again.
use balloon_driver::BalloonDriver;
use balloon_driver::ConfigChange;
use balloon_driver::Options;
use balloon_driver::Progress;
use balloon_driver::WANTED_FEATURES;
use virtio_spec::balloon::PAGE_SIZE;
use virtio_spec::device_id;

use crate::apic;
use crate::command::Task;
use crate::cpu;
use crate::device;
use crate::device::number;
use crate::json::Line;
use crate::machine::Failure;
use crate::machine::Machine;
use crate::pci::Function;
use crate::pool::Pool;
use crate::tcp_load::Tcp;
use crate::traffic::Traffic;

/// Pages taken out of the balloon at once when the guest wants memory and has none.
const RELIEF_PAGES: u32 = 256;

/// A job under way.
struct Job<'a> {
    machine: &'a Machine,
    driver: BalloonDriver<Function>,
    pool: Pool,
    traffic: Option<Traffic>,
    /// Streams to and from a peer.
    net: Option<Tcp<'a>>,
    demand: Demand<'a>,
    start: u64,
    /// When the present target came; `None` once it is reached.
    aiming_since: Option<u64>,
    /// The target was above 0.
    inflated: bool,
    /// Times that it came back to 0.
    rounds: u64,
    reports: bool,
    relieves: bool,
    /// Pages that the guest uses more after each round.
    grow: usize,
}

pub(crate) fn run(machine: &Machine, task: &Task<'_>) -> Result<(), Failure> {
    let driver = open(machine, task)?;
    let pool = number(task, "pool", 64 << 20)?;
    let pool = Pool::new(&machine.platform, pool).ok_or(Failure::new("No memory for", pool))?;
    let mut job = Job {
        machine,
        driver,
        pool,
        traffic: None,
        net: None,
        demand: Demand::new(task.text("demand").unwrap_or_default()),
        start: cpu::tsc(),
        aiming_since: None,
        inflated: false,
        rounds: 0,
        reports: task.flag("report", false),
        relieves: task.flag("oom", false),
        grow: (number(task, "grow", 0)? / PAGE_SIZE) as usize,
    };
    if task.flag("traffic", false) {
        job.traffic = Some(Traffic::open(machine, task)?);
    }
    if task.flag("net", false) {
        job.net = Some(Tcp::open(machine, task)?);
    }
    let data = number(task, "data", 16 << 20)? / PAGE_SIZE;
    apic::alarm(Some(cpu::FIRST_VECTOR));
    let outcome = job
        .prepare(data as usize, task.flag("touch", true))
        .and_then(|()| job.follow(number(task, "rounds", 1)?, number(task, "seconds", 60)?))
        .and_then(|()| job.finish());
    apic::alarm(None);
    outcome
}

fn open(machine: &Machine, task: &Task<'_>) -> Result<BalloonDriver<Function>, Failure> {
    let options = Options {
        batch_pages: number(task, "batch", 256)?.clamp(1, 16384) as u16,
        features: device::features(task, WANTED_FEATURES, &[]),
        ..Options::default()
    };
    let (function, messages) = device::open(machine, device_id::BALLOON, 0)?;
    BalloonDriver::start(&machine.platform, function, &messages, options)
        .map_err(|failure| device::failed(failure.error, 0))
}

impl Job<'_> {
    fn since(&self, start: u64) -> u64 {
        self.machine.platform.nanoseconds(cpu::tsc() - start) / 1000
    }

    /// Uses memory as asked and says that it is ready.
    fn prepare(&mut self, data: usize, touch: bool) -> Result<(), Failure> {
        if touch {
            self.pool.touch();
        }
        let stride = (self.pool.pages() / data.max(1)).max(1);
        let used = self.pool.use_pages(data, stride);
        if used < data {
            return Err(Failure::new(
                "The pool is too small for the data",
                used as u64,
            ));
        }
        Line::new("balloon_ready")
            .hex("features", self.driver.features())
            .number("pool_pages", self.pool.pages() as u64)
            .number("data_pages", used as u64)
            .print();
        if self.reports {
            self.report_all()?;
        }
        self.start = cpu::tsc();
        self.look()
    }

    /// Reports all free memory and says how long that took.
    fn report_all(&mut self) -> Result<(), Failure> {
        let start = cpu::tsc();
        let before = self.driver.counters().report_bytes;
        while !self.report()? {
            self.wait();
        }
        while self.work()? == Progress::Waiting {
            self.wait();
        }
        Line::new("balloon_reported")
            .number("bytes", self.driver.counters().report_bytes - before)
            .number("us", self.since(start))
            .print();
        Ok(())
    }

    /// Does what the device asks until it has taken everything back `rounds` times, or for so many seconds.
    fn follow(&mut self, rounds: u64, seconds: u64) -> Result<(), Failure> {
        let end = self.start + self.machine.platform.ticks(seconds * 1000);
        while rounds == 0 || self.rounds < rounds {
            if cpu::tsc() > end {
                if rounds == 0 {
                    break;
                }
                return Err(Failure::new("Out of time in round", self.rounds));
            }
            self.look()?;
            let progress = self.work()?;
            self.note(progress);
            if self.reports {
                self.report()?;
            }
            let elapsed = self.since(self.start);
            self.demand.step(elapsed, &mut self.pool);
            if self.demand.wants() && self.relieves && self.pool.free_pages() == 0 {
                let relieved = self.driver.relieve(RELIEF_PAGES, &mut self.pool);
                relieved.map_err(|_| Failure::new("The balloon broke", 2))?;
            }
            let machine = self.machine;
            if let Some(traffic) = &mut self.traffic {
                traffic.step(machine, &mut self.pool, true)?;
            }
            match &mut self.net {
                Some(net) => net.round(true)?,
                None => self.wait(),
            }
        }
        Ok(())
    }

    fn look(&mut self) -> Result<(), Failure> {
        match self.driver.config_changed(&self.machine.platform) {
            Ok(ConfigChange::Nothing) => Ok(()),
            Ok(ConfigChange::Target(pages)) => {
                self.aiming_since = Some(cpu::tsc());
                self.inflated |= pages > 0;
                Ok(())
            }
            Ok(ConfigChange::NeedsReset) => Err(Failure::new("The balloon needs a reset", 0)),
            Err(_) => Err(Failure::new("The balloon's configuration is bad", 0)),
        }
    }

    fn work(&mut self) -> Result<Progress, Failure> {
        let progress = self.driver.work(&mut self.pool);
        progress.map_err(|_| Failure::new("The balloon broke", 0))
    }

    fn report(&mut self) -> Result<bool, Failure> {
        let all = self.driver.report(&mut self.pool);
        all.map_err(|_| Failure::new("The balloon broke", 1))
    }

    /// Tells when the target is reached, or cannot be.
    fn note(&mut self, progress: Progress) {
        if progress == Progress::Waiting {
            return;
        }
        let Some(since) = self.aiming_since.take() else {
            return;
        };
        Line::new("balloon_settled")
            .number("target_pages", u64::from(self.driver.target()))
            .number("actual_pages", u64::from(self.driver.actual()))
            .truth("short", progress == Progress::Short)
            .number("us", self.since(since))
            .print();
        if self.driver.target() == 0 && self.inflated {
            self.inflated = false;
            self.rounds += 1;
            if self.grow > 0 {
                let pages = self.pool.use_pages(self.grow, 1);
                Line::new("balloon_grown")
                    .number("pages", pages as u64)
                    .print();
            }
        }
    }

    /// Sleeps until something happens, at most until the alarm.
    fn wait(&mut self) {
        let seen = cpu::interrupts();
        let traffic = self.traffic.as_mut().is_some_and(Traffic::arm);
        if !self.driver.arm() && !traffic {
            cpu::sleep(seen);
        }
    }

    /// Ends the traffic, checks all memory, and resets the device.
    fn finish(&mut self) -> Result<(), Failure> {
        let machine = self.machine;
        if let Some(net) = self.net.take() {
            net.end()?;
        }
        let mut disk_pages = 0;
        if let Some(mut traffic) = self.traffic.take() {
            while traffic.step(machine, &mut self.pool, false)? {
                if !traffic.arm() {
                    cpu::sleep(cpu::interrupts());
                }
            }
            disk_pages = traffic.verified;
            traffic.close(machine)?;
        }
        let counters = self.driver.counters();
        self.reset()?;
        let verified = self.pool.verify_and_free(usize::MAX);
        let touched = self.pool.touch();
        Line::new("balloon")
            .number("inflated_pages", counters.inflated_pages)
            .number("deflated_pages", counters.deflated_pages)
            .number("relieved_pages", counters.relieved_pages)
            .number("batches", counters.batches)
            .number("targets", counters.targets)
            .number("statistics", counters.statistics)
            .number("reported_bytes", counters.report_bytes)
            .number("disk_pages", disk_pages)
            .number("verified_pages", verified as u64)
            .number("touched_pages", touched as u64)
            .print();
        if let Some(page) = self.pool.damaged {
            return Err(Failure::new(
                "A page does not hold its pattern",
                page as u64,
            ));
        }
        match touched == self.pool.pages() {
            true => Ok(()),
            false => Err(Failure::new("Pages did not come back", touched as u64)),
        }
    }

    fn reset(&mut self) -> Result<(), Failure> {
        self.driver.begin_reset(&self.machine.platform);
        let proof = device::stopped(|| self.driver.poll_reset(&self.machine.platform))?;
        loop {
            match self.driver.drain(&proof, &mut self.pool) {
                Ok(false) => {}
                Ok(true) => return Ok(()),
                Err(error) => return Err(device::failed(error, 0)),
            }
        }
    }
}

/// What the guest wants to use as time goes on, besides its data: `5:32M,9:8M` is 32 MiB from second 5 on and 8 MiB from second 9 on.
struct Demand<'a> {
    rest: &'a str,
    pages: usize,
    got: usize,
    since: u64,
}

impl<'a> Demand<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            rest: text,
            pages: 0,
            got: 0,
            since: 0,
        }
    }

    fn wants(&self) -> bool {
        self.got < self.pages
    }

    fn step(&mut self, now_us: u64, pool: &mut Pool) {
        let (head, tail) = self.rest.split_once(',').unwrap_or((self.rest, ""));
        if let Some((second, bytes)) = head.split_once(':')
            && second.parse::<u64>().is_ok_and(|s| s * 1_000_000 <= now_us)
        {
            self.rest = tail;
            let bytes = crate::command::number(bytes).unwrap_or(0);
            self.pages = (bytes / PAGE_SIZE) as usize;
            self.since = now_us;
            if self.got > self.pages {
                pool.verify_and_free(self.got - self.pages);
                self.got = self.pages;
                self.tell(now_us);
            }
        }
        if self.wants() {
            self.got += pool.use_pages(self.pages - self.got, 1);
            if !self.wants() {
                self.tell(now_us);
            }
        }
    }

    fn tell(&self, now_us: u64) {
        Line::new("balloon_demand")
            .number("pages", self.pages as u64)
            .number("us", now_us - self.since)
            .print();
    }
}
