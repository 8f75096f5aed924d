//! The pool at work: once a second, and when the kernel tells of pressure, it looks, decides and moves targets.
//!
//! Rule: all judgement is in `policy`; this is where it meets clocks, files and guests.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;
use std::time::Instant;

use balloon_backend::ByteSize;
use clap::Args;
use control_protocol::Bytes;
use control_protocol::Changes;
use control_protocol::Policy;
use control_protocol::PoolSettings;
use control_protocol::Settings as _;
use control_protocol::Settled;
use control_protocol::Toggle;
use daemon_shell::Error;
use daemon_shell::Overseer;
use daemon_shell::Served;
use daemon_shell::SharedOptions;
use host_os::sync::lock;
use metrics::MetricSet as _;
use metrics::Samples;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::eventfd::EventFd;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::host::HostFiles;
use crate::journal::Journal;
use crate::policy;
use crate::policy::Balance;
use crate::policy::Decision;
use crate::policy::Host;
use crate::policy::Settings;
use crate::policy::State;
use crate::vm::Vm;

/// How often an unchanged decision of a dry run is told again.
const DRY_RUN_AGAIN: Duration = Duration::from_secs(60);
/// After an alarm of the kernel, the next one is looked at no sooner.
const ALARM_PAUSE: Duration = Duration::from_millis(500);

/// What the pool is told: flags, or the table `[pool]` of the config file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[group(id = "pool")]
pub struct PoolSpec {
    /// Memory for all guests together [default: what the host has available, less its reserve].
    #[arg(long = "pool-size", value_name = "SIZE", help_heading = "Pool")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
    /// Memory that the host keeps available [default: a sixteenth of its memory].
    #[arg(long = "pool-reserve", value_name = "SIZE", help_heading = "Pool")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reserve: Option<ByteSize>,
    /// How often the pool looks [default: 1000].
    #[arg(long = "pool-interval-ms", value_name = "MS", help_heading = "Pool")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u32>,
    /// Decide and log, and change nothing.
    #[arg(long = "pool-dry-run", help_heading = "Pool")]
    pub dry_run: bool,
    /// Control group whose limit counts too, such as /sys/fs/cgroup/machine.slice.
    #[arg(long = "pool-cgroup", value_name = "DIRECTORY", help_heading = "Pool")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
}

/// What the config file has beside process and devices: the table `[pool]`.
#[derive(Clone, Debug, Default, Deserialize, Args)]
#[serde(deny_unknown_fields, default)]
pub struct PoolTable {
    /// The pool.
    #[command(flatten)]
    pub pool: PoolSpec,
}

impl SharedOptions for PoolTable {
    const TABLES: &'static [&'static str] = &["pool"];

    fn or(self, file: Self) -> Self {
        let (flags, file) = (self.pool, file.pool);
        let pool = PoolSpec {
            size: flags.size.or(file.size),
            reserve: flags.reserve.or(file.reserve),
            interval_ms: flags.interval_ms.or(file.interval_ms),
            dry_run: flags.dry_run || file.dry_run,
            cgroup: flags.cgroup.or(file.cgroup),
        };
        Self { pool }
    }
}

metrics::metrics! {
    /// What the pool has done, and how memory stands.
    struct PoolMetrics {
        /// Times that it looked.
        rounds: u64 as counter,
        /// Times that the kernel told of pressure.
        alarms: u64 as counter,
        /// Decisions carried out.
        decisions: u64 as counter,
        /// Memory taken from guests.
        shrunk_bytes: u64 as counter in bytes,
        /// Memory given to guests.
        grown_bytes: u64 as counter in bytes,
        /// Memory for all guests together.
        budget_bytes: u64 as gauge in bytes,
        /// Memory that the guests may take.
        committed_bytes: u64 as gauge in bytes,
        /// Memory that guests were asked for and have not given up yet.
        coming_bytes: u64 as gauge in bytes,
        /// Memory that guests want and do not have.
        wanted_bytes: u64 as gauge in bytes,
        /// Memory that the host has available.
        host_available_bytes: Option<u64> as gauge in bytes,
    }
}

/// The pool over all balloons of the process.
pub struct Pool {
    vms: Vec<Arc<Vm>>,
    files: HostFiles,
    interval: Duration,
    start: Instant,
    stop: EventFd,
    inner: Mutex<Inner>,
}

struct Inner {
    settings: Settings,
    dry_run: bool,
    states: Vec<State>,
    told: Vec<Option<(Instant, u64)>>,
    host: Host,
    balance: Balance,
    rounds: u64,
    alarms: u64,
    journal: Journal,
}

impl Pool {
    /// A pool of `vms`; opens the host's files.
    ///
    /// # Errors
    /// The control group has no limit to read, or there are no descriptors left.
    pub fn new(spec: &PoolSpec, vms: Vec<Arc<Vm>>) -> Result<Self, Error> {
        let files = HostFiles::open(spec.cgroup.as_deref()).map_err(|message| Error::Spec {
            name: "pool".to_owned(),
            message,
        })?;
        if spec.reserve.is_some() && files.total().is_none() {
            return Err(Error::Spec {
                name: "pool".to_owned(),
                message: "the host's memory is not known (/proc/meminfo), so nothing can be kept in reserve".to_owned(),
            });
        }
        let reserve = spec.reserve.map(|size| size.0);
        let reserve = reserve.or_else(|| Some(files.total()? / 16));
        let stop = EventFd::new().map_err(|errno| Error::Thread {
            name: "pool",
            source: errno.into(),
        })?;
        let inner = Inner {
            settings: Settings {
                pool: spec.size.map(|size| size.0),
                reserve: reserve.unwrap_or(0),
            },
            dry_run: spec.dry_run,
            states: Vec::new(),
            told: vec![None; vms.len()],
            host: Host::default(),
            balance: Balance::default(),
            rounds: 0,
            alarms: 0,
            journal: Journal::default(),
        };
        Ok(Self {
            vms,
            files,
            interval: Duration::from_millis(spec.interval_ms.unwrap_or(1000).max(50).into()),
            start: Instant::now(),
            stop,
            inner: Mutex::new(inner),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// Waits for the next round; whether the kernel told of pressure. Nothing when it is time to end.
    fn wait(&self) -> Option<bool> {
        let timeout = PollTimeout::try_from(self.interval).unwrap_or(PollTimeout::MAX);
        let mut fds = vec![PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        if let Some(alarm) = self.files.alarm() {
            fds.push(PollFd::new(alarm, PollFlags::POLLPRI));
        }
        let _ = poll(&mut fds, timeout);
        let ready = |at: usize| fds.get(at).and_then(PollFd::any).unwrap_or(false);
        if ready(0) { None } else { Some(ready(1)) }
    }

    fn work(&self) {
        let mut last_alarm: Option<Instant> = None;
        while let Some(alarm) = self.wait() {
            if alarm && last_alarm.is_some_and(|last| last.elapsed() < ALARM_PAUSE) {
                std::thread::sleep(ALARM_PAUSE);
            }
            if alarm {
                last_alarm = Some(Instant::now());
            }
            self.round(alarm);
        }
    }

    /// One round.
    fn round(&self, alarm: bool) {
        let host = self.files.read(alarm);
        let mut guests: Vec<_> = self.vms.iter().map(|vm| vm.guest()).collect();
        self.vms.iter().for_each(|vm| vm.keep());
        let mut inner = self.lock();
        if inner.dry_run {
            for guest in guests
                .iter_mut()
                .filter(|guest| guest.policy == Policy::Auto)
            {
                guest.policy = Policy::DryRun;
            }
        }
        let (decisions, states, balance) = policy::decide(
            &inner.settings,
            &host,
            &guests,
            &inner.states,
            self.start.elapsed(),
        );
        inner.states = states;
        inner.host = host;
        inner.balance = balance;
        inner.rounds += 1;
        inner.alarms += u64::from(alarm);
        for decision in decisions {
            let (Some(vm), Some(guest)) =
                (self.vms.get(decision.guest), guests.get(decision.guest))
            else {
                continue;
            };
            let carried_out = guest.policy == Policy::Auto;
            if carried_out {
                vm.device
                    .set_target(guest.size.unwrap_or(0).saturating_sub(decision.to));
            }
            vm.keep();
            if carried_out || inner.is_news(&decision) {
                inner.journal.add(&vm.name, &decision, carried_out);
            }
        }
    }
}

impl Inner {
    /// Whether a decision that nobody carries out differs from what was told last.
    fn is_news(&mut self, decision: &Decision) -> bool {
        let Some(told) = self.told.get_mut(decision.guest) else {
            return false;
        };
        let known = told.is_some_and(|(at, to)| {
            at.elapsed() < DRY_RUN_AGAIN && to.abs_diff(decision.to) < 4 * policy::MIN_STEP
        });
        if !known {
            *told = Some((Instant::now(), decision.to));
        }
        !known
    }
}

impl Overseer for Pool {
    fn kind(&self) -> &'static str {
        "pool"
    }

    fn start(self: Arc<Self>) -> Result<(), Error> {
        let thread = std::thread::Builder::new().name("pool".to_owned());
        let body = move || self.work();
        thread
            .spawn(body)
            .map(drop)
            .map_err(|source| Error::Thread {
                name: "pool",
                source,
            })
    }

    fn status(&self) -> Value {
        let inner = self.lock();
        json!({
            "size": inner.settings.pool,
            "reserve": inner.settings.reserve,
            "dry_run": inner.dry_run,
            "host": {
                "available": inner.host.available,
                "pressure_percent": inner.host.pressure,
                "alarm": self.files.alarm().is_some(),
            },
            "balance": inner.balance,
            "journal": inner.journal.entries(),
        })
    }

    fn metrics(&self) -> Samples {
        let inner = self.lock();
        let (decisions, shrunk_bytes, grown_bytes) = inner.journal.sums();
        let metrics = PoolMetrics {
            rounds: inner.rounds,
            alarms: inner.alarms,
            decisions,
            shrunk_bytes,
            grown_bytes,
            budget_bytes: inner.balance.budget_bytes,
            committed_bytes: inner.balance.committed_bytes,
            coming_bytes: inner.balance.coming_bytes,
            wanted_bytes: inner.balance.wanted_bytes,
            host_available_bytes: inner.host.available,
        };
        metrics.samples()
    }

    fn set(&self, changes: &Changes) -> Result<Value, String> {
        // Where there is one guest, it need not be named.
        if let [only] = self.vms.as_slice()
            && !changes.keys().any(|key| PoolSettings::KEYS.contains(&key))
        {
            return only.set(changes);
        }
        let set: PoolSettings = changes
            .read()
            .map_err(|error| format!("{error} (of the pool; name a device for others)"))?;
        let mut inner = self.lock();
        if let Some(Bytes(size)) = set.size {
            inner.settings.pool = Some(size).filter(|size| *size != 0);
        }
        if let Some(Bytes(reserve)) = set.reserve {
            inner.settings.reserve = reserve;
        }
        if let Some(Toggle(dry_run)) = set.dry_run {
            inner.dry_run = dry_run;
        }
        let now = PoolSettings {
            size: inner.settings.pool.map(Bytes),
            reserve: Some(Bytes(inner.settings.reserve)),
            dry_run: Some(Toggle(inner.dry_run)),
        };
        let now = json!(Settled::new(now, &set, &[]));
        tracing::info!(%now, "the pool was set by a command");
        Ok(now)
    }

    fn stop(&self) {
        let _ = self.stop.write(1);
    }
}
