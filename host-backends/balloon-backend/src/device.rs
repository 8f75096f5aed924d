//! A balloon as a virtio device, and as its owner sees it.
//!
//! Rule: the target is kept between floor and ceiling here, whoever asks; the guest learns of it by a change of the
//! configuration space.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use device_model::ConfigNotifier;
use device_model::Device;
use device_model::QueueHandler;
use host_os::sync::lock;
use metrics::CounterSet as _;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::ClockId;
use nix::sys::timerfd::Expiration;
use nix::sys::timerfd::TimerFd;
use nix::sys::timerfd::TimerFlags;
use nix::sys::timerfd::TimerSetTimeFlags;
use virtio_spec::balloon::Config;
use virtio_spec::balloon::PAGE_SIZE;
use virtio_spec::balloon::feature as balloon;
use virtio_spec::balloon::queue::Role;
use virtio_spec::device_id;

use crate::BalloonSpec;
use crate::Error;
use crate::HintState;
use crate::Metrics;
use crate::Statistics;
use crate::balloon::Balloon;
use crate::balloon::Terms;
use crate::config;
use crate::counters::Counters;
use crate::handler::BalloonQueue;
use crate::hints::Hints;
use crate::state::State;
use crate::statistics::Oddities;

/// What queues and owner share under one lock.
#[derive(Debug, Default)]
pub(crate) struct Inner {
    pub balloon: Balloon,
    pub hints: Hints,
    statistics: Option<Statistics>,
    /// What the driver wrote; nothing since a reset.
    actual: Option<u32>,
    /// What it wrote before that, or to an earlier process; it counts until a new driver starts.
    remembered: Option<u32>,
    target: u32,
    /// Queue 2 was started by the present driver.
    second_runs: bool,
    /// The timer of the statistics runs. It goes on over a pause of their queue: a question whose time came meanwhile is
    /// asked when the queue is back.
    asks: bool,
}

/// What queues and owner share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub counters: Counters,
    pub timer: TimerFd,
    inner: Mutex<Inner>,
    poison: AtomicU32,
}

impl Inner {
    /// A new driver: its balloon is empty, whatever its predecessor left.
    pub fn start_over(&mut self) {
        self.balloon.clear();
        (self.actual, self.remembered) = (None, None);
    }
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    pub fn poison(&self) -> u32 {
        self.poison.load(Ordering::Acquire)
    }

    pub fn take_statistics(&self, statistics: Statistics, odd: Oddities) {
        self.counters.statistics.add(1);
        self.counters.statistics_odd.add(odd.entries);
        self.counters.malformed_chains.add(u64::from(odd.malformed));
        self.lock().statistics = Some(statistics);
    }

    /// Whether the timer ran out since it was last asked.
    pub fn statistics_due(&self) -> bool {
        self.timer.wait().is_ok()
    }

    fn poll_every(&self, first: Duration, interval: Duration) -> Result<(), nix::errno::Errno> {
        let times = Expiration::IntervalDelayed(TimeSpec::from(first), TimeSpec::from(interval));
        self.timer.set(times, TimerSetTimeFlags::empty())
    }
}

/// One balloon, shared by its queues.
pub struct BalloonDevice {
    spec: BalloonSpec,
    features: u64,
    acked: AtomicU64,
    shared: Arc<Shared>,
    interval_ms: AtomicU32,
    /// Floor and ceiling in bytes; zero is none.
    floor: AtomicU64,
    ceiling: AtomicU64,
    notify: Mutex<Option<ConfigNotifier>>,
}

impl std::fmt::Debug for BalloonDevice {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("BalloonDevice")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

/// A timer that never blocks its reader.
fn timer() -> Result<TimerFd, Error> {
    let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
    TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(Error::Timer)
}

fn pages(bytes: u64) -> u32 {
    u32::try_from(bytes / PAGE_SIZE).unwrap_or(u32::MAX)
}

impl BalloonDevice {
    /// A balloon of `spec`, with its target set.
    ///
    /// # Errors
    /// The specification is wrong, or there is no timer to be had.
    pub fn new(spec: BalloonSpec) -> Result<Arc<Self>, Error> {
        spec.check().map_err(Error::Spec)?;
        let shared = Shared {
            counters: Counters::default(),
            timer: timer()?,
            inner: Mutex::default(),
            poison: AtomicU32::new(0),
        };
        let device = Self {
            features: config::features(&spec),
            acked: AtomicU64::new(0),
            shared: Arc::new(shared),
            interval_ms: AtomicU32::new(spec.stats_interval_ms),
            floor: AtomicU64::new(spec.floor.map_or(0, |size| size.0)),
            ceiling: AtomicU64::new(spec.ceiling.map_or(0, |size| size.0)),
            notify: Mutex::new(None),
            spec,
        };
        device.shared.lock().target = pages(device.spec.target.0);
        Ok(Arc::new(device))
    }

    /// What the balloon was made with.
    pub fn spec(&self) -> &BalloonSpec {
        &self.spec
    }

    /// Asks the guest for a balloon of `bytes`, kept between floor and ceiling as far as guest memory is known; returns
    /// what was asked in the end. Pages are 4 KiB.
    pub fn set_target(&self, bytes: u64) -> u64 {
        let (floor, ceiling) = (self.floor(), self.ceiling());
        let mut inner = self.shared.lock();
        let mut bytes = bytes;
        let size = inner.balloon.size();
        if size != 0 {
            let least = ceiling.map_or(0, |ceiling| size.saturating_sub(ceiling));
            let most = size.saturating_sub(floor.unwrap_or(0));
            bytes = bytes.max(least).min(most);
        }
        let changed = std::mem::replace(&mut inner.target, pages(bytes)) != pages(bytes);
        let asked = u64::from(inner.target) * PAGE_SIZE;
        drop(inner);
        if changed {
            self.shared.counters.targets.add(1);
            self.notify_config_change();
        }
        asked
    }

    /// Size of the balloon that the guest is asked for, in bytes.
    pub fn target(&self) -> u64 {
        u64::from(self.shared.lock().target) * PAGE_SIZE
    }

    /// Size of the balloon as the guest says, in bytes, and no more than it has memory; nothing until it said so. After
    /// a session ended, what it said in that, until a new driver starts.
    pub fn actual(&self) -> Option<u64> {
        let inner = self.shared.lock();
        let bytes = u64::from(inner.actual.or(inner.remembered)?) * PAGE_SIZE;
        Some(match inner.balloon.size() {
            0 => bytes,
            size => bytes.min(size),
        })
    }

    /// Takes up where an earlier process was: the guest was asked for `target` bytes and said that it gave `actual`. To
    /// be called before it is served.
    pub fn recall(&self, target: u64, actual: Option<u64>) {
        let mut inner = self.shared.lock();
        inner.target = pages(target);
        inner.remembered = actual.map(pages);
    }

    /// Bytes of pages known to be in the balloon.
    pub fn ballooned(&self) -> u64 {
        self.shared.lock().balloon.len() * PAGE_SIZE
    }

    /// Bytes of guest memory, once a queue has run on it.
    pub fn guest_memory(&self) -> Option<u64> {
        Some(self.shared.lock().balloon.size()).filter(|size| *size != 0)
    }

    /// Bytes of host memory behind it, now; nothing unless queues run.
    pub fn resident(&self) -> Option<u64> {
        self.shared.lock().balloon.resident()
    }

    /// What the guest said last.
    pub fn statistics(&self) -> Option<Statistics> {
        self.shared.lock().statistics
    }

    /// Memory that the guest always keeps, in bytes.
    pub fn floor(&self) -> Option<u64> {
        Some(self.floor.load(Ordering::Acquire)).filter(|bytes| *bytes != 0)
    }

    /// Memory beyond which the guest does not grow, in bytes.
    pub fn ceiling(&self) -> Option<u64> {
        Some(self.ceiling.load(Ordering::Acquire)).filter(|bytes| *bytes != 0)
    }

    /// Moves the limits, and the target where they say so; zero removes one.
    pub fn set_limits(&self, floor: Option<u64>, ceiling: Option<u64>) {
        if let Some(floor) = floor {
            self.floor.store(floor, Ordering::Release);
        }
        if let Some(ceiling) = ceiling {
            self.ceiling.store(ceiling, Ordering::Release);
        }
        self.set_target(self.target());
    }

    /// Asks for statistics now, and then as often as before.
    pub fn request_statistics(&self) {
        let interval = Duration::from_millis(self.interval_ms.load(Ordering::Acquire).into());
        if self.acked_has(balloon::STATS_VQ)
            && let Err(errno) = self.shared.poll_every(Duration::from_nanos(1), interval)
        {
            tracing::warn!(%errno, "cannot set the timer of the statistics");
        }
    }

    /// Starts a round of free page hints; returns its command id.
    ///
    /// # Errors
    /// The driver knows none.
    pub fn start_hints(&self) -> Result<u32, Error> {
        if !self.acked_has(balloon::FREE_PAGE_HINT) {
            return Err(Error::NoHints);
        }
        let command = self.shared.lock().hints.start();
        self.notify_config_change();
        Ok(command)
    }

    /// Tells the driver that hints are of no use now; it keeps the pages that it hinted.
    pub fn stop_hints(&self) {
        self.shared.lock().hints.stop();
        self.notify_config_change();
    }

    /// Tells the driver that it may use the pages again that it hinted.
    pub fn end_hints(&self) {
        self.shared.lock().hints.done();
        self.notify_config_change();
    }

    /// Where the round stands, and how many bytes were hinted in it.
    pub fn hints(&self) -> (HintState, u64) {
        let inner = self.shared.lock();
        (inner.hints.state, inner.hints.len() * PAGE_SIZE)
    }

    /// Guest addresses hinted as free in the current round: start and length in bytes. See `hints` for what they are
    /// good for.
    pub fn hinted(&self) -> Vec<(u64, u64)> {
        let runs = self.shared.lock().hints.runs();
        let bytes =
            |run: std::ops::Range<u64>| (run.start * PAGE_SIZE, (run.end - run.start) * PAGE_SIZE);
        runs.into_iter().map(bytes).collect()
    }

    /// Stops giving pages back (a snapshot is taken, a device has memory pinned), or makes up for it. The guest notices
    /// nothing. What a driver without MUST_TELL_HOST gave up meanwhile stays on the host.
    pub fn inhibit(&self, on: bool) {
        let told = self.acked_has(balloon::MUST_TELL_HOST);
        self.shared
            .lock()
            .balloon
            .inhibit(on, told, &self.shared.counters);
    }

    /// Whether giving pages back is inhibited.
    pub fn inhibited(&self) -> bool {
        self.shared.lock().balloon.inhibited()
    }

    /// What happened so far.
    pub fn metrics(&self) -> Metrics {
        self.shared.counters.sums()
    }

    /// Features that the driver accepted.
    pub fn accepted(&self) -> u64 {
        self.acked.load(Ordering::Acquire)
    }

    fn acked_has(&self, bit: u64) -> bool {
        self.accepted() & bit != 0
    }

    fn notify_config_change(&self) {
        let notify = lock(&self.notify).clone();
        if let Some(notify) = notify {
            notify();
        }
    }

    fn config(&self) -> Config {
        let inner = self.shared.lock();
        Config {
            num_pages: inner.target.into(),
            actual: inner.actual.unwrap_or(0).into(),
            free_page_hint_cmd_id: inner.hints.command.into(),
            poison_val: self.shared.poison().into(),
        }
    }

    fn take_actual(&self, actual: u32) {
        let mut inner = self.shared.lock();
        let size = inner.balloon.size();
        if size != 0 && u64::from(actual) * PAGE_SIZE > size {
            self.shared.counters.absurd_actual.add(1);
        }
        inner.actual = Some(actual);
    }

    /// The timer that wakes the worker of the statistics; for those who wait on it themselves.
    pub fn statistics_fd(&self) -> BorrowedFd<'_> {
        self.shared.timer.as_fd()
    }
}

impl Device for BalloonDevice {
    fn device_id(&self) -> u32 {
        device_id::BALLOON
    }

    fn queue_count(&self) -> u16 {
        config::queue_count(self.features)
    }

    fn queue_size_max(&self) -> u16 {
        self.spec.queue_size
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn acked(&self, features: u64) {
        self.acked.store(features, Ordering::Release);
        self.shared.lock().second_runs = false;
    }

    fn config_size(&self) -> u32 {
        u32::try_from(size_of::<Config>()).unwrap_or(0)
    }

    fn read_config(&self, offset: u32, out: &mut [u8]) {
        config::read(&self.config(), offset, out);
    }

    fn write_config(&self, offset: u32, data: &[u8]) -> Result<(), device_model::Error> {
        let written = config::write(&self.config(), offset, data);
        if written.actual.is_none() && written.poison.is_none() {
            return Err(device_model::Error::Config {
                offset,
                len: data.len(),
            });
        }
        if let Some(actual) = written.actual {
            self.take_actual(actual);
        }
        if let Some(poison) = written.poison {
            self.shared.poison.store(poison, Ordering::Release);
        }
        Ok(())
    }

    fn start_queue(
        &self,
        index: u16,
        features: u64,
    ) -> Result<Box<dyn QueueHandler>, device_model::Error> {
        let mut inner = self.shared.lock();
        inner.second_runs |= index == 2;
        let role = config::role(index, features, inner.second_runs);
        let role = role.ok_or(device_model::Error::Unsupported)?;
        let first = role == Role::Stats && !std::mem::replace(&mut inner.asks, true);
        drop(inner);
        if first {
            let interval = Duration::from_millis(self.interval_ms.load(Ordering::Acquire).into());
            self.shared
                .poll_every(interval, interval)
                .map_err(|errno| {
                    self.shared.lock().asks = false;
                    device_model::Error::Io {
                        what: "setting a timer",
                        source: errno.into(),
                    }
                })?;
        }
        let terms = Terms {
            told: features & balloon::MUST_TELL_HOST != 0,
            repopulate: self.spec.repopulate,
        };
        let poison = features & balloon::PAGE_POISON != 0;
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(BalloonQueue::new(shared, role, terms, poison)))
    }

    fn reset(&self) {
        self.acked.store(0, Ordering::Release);
        self.shared.poison.store(0, Ordering::Release);
        let mut inner = self.shared.lock();
        inner.balloon.leave();
        inner.hints.leave();
        inner.statistics = None;
        inner.remembered = inner.actual.take().or(inner.remembered);
        (inner.second_runs, inner.asks) = (false, false);
        drop(inner);
        // Nobody is asked any more.
        let _ = self.shared.timer.unset();
    }

    fn on_config_change(&self, notify: ConfigNotifier) {
        *lock(&self.notify) = Some(notify);
    }

    fn has_state(&self) -> bool {
        true
    }

    fn save_state(&self) -> Result<Vec<u8>, device_model::Error> {
        let inner = self.shared.lock();
        let state = State {
            target: inner.target,
            actual: inner.actual,
            poison: self.shared.poison(),
            runs: inner.balloon.runs(),
        };
        Ok(state.encode())
    }

    fn load_state(&self, state: &[u8]) -> Result<(), device_model::Error> {
        let state = State::decode(state)?;
        self.shared.poison.store(state.poison, Ordering::Release);
        let mut inner = self.shared.lock();
        inner.target = state.target;
        inner.actual = state.actual;
        inner.balloon.load(&state.runs);
        Ok(())
    }
}
