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
use balloon_backend::Policy;
use clap::Args;
use daemon_shell::Error;
use daemon_shell::Overseer;
use daemon_shell::Served;
use host_os::sync::lock;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::eventfd::EventFd;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
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

/// What can be set of the pool itself.
const KEYS: [&str; 3] = ["size", "reserve", "dry-run"];
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

impl PoolSpec {
    /// `self`, completed from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            size: self.size.or(other.size),
            reserve: self.reserve.or(other.reserve),
            interval_ms: self.interval_ms.or(other.interval_ms),
            dry_run: self.dry_run || other.dry_run,
            cgroup: self.cgroup.or(other.cgroup),
        }
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
        let files = HostFiles::open(spec.cgroup.as_deref()).map_err(|message| Error::Socket {
            device: "pool".to_owned(),
            message,
        })?;
        if spec.reserve.is_some() && files.total().is_none() {
            return Err(Error::Socket {
                device: "pool".to_owned(),
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
            "dry-run": inner.dry_run,
            "host": {
                "available": inner.host.available,
                "pressure-percent": inner.host.pressure,
                "alarm": self.files.alarm().is_some(),
            },
            "balance": inner.balance,
            "journal": inner.journal.entries(),
        })
    }

    fn metrics(&self) -> Value {
        let inner = self.lock();
        let (decisions, shrunk, grown) = inner.journal.sums();
        json!({
            "rounds_total": inner.rounds,
            "alarms_total": inner.alarms,
            "decisions_total": decisions,
            "shrunk_bytes_total": shrunk,
            "grown_bytes_total": grown,
            "budget_bytes": inner.balance.budget_bytes,
            "committed_bytes": inner.balance.committed_bytes,
            "coming_bytes": inner.balance.coming_bytes,
            "wanted_bytes": inner.balance.wanted_bytes,
            "host_available_bytes": inner.host.available.unwrap_or(0),
        })
    }

    fn gauges(&self) -> &'static [&'static str] {
        &[
            "budget_bytes",
            "committed_bytes",
            "coming_bytes",
            "wanted_bytes",
            "host_available_bytes",
        ]
    }

    fn set(&self, set: &Map<String, Value>) -> Result<Value, String> {
        // Where there is one guest, it need not be named.
        if let [only] = self.vms.as_slice()
            && !set.keys().any(|key| KEYS.contains(&key.as_str()))
        {
            return only.set(set);
        }
        let mut inner = self.lock();
        let (mut settings, mut dry_run) = (inner.settings, inner.dry_run);
        for (key, value) in set {
            match key.as_str() {
                "size" => settings.pool = Some(crate::vm::bytes(value)?).filter(|size| *size != 0),
                "reserve" => settings.reserve = crate::vm::bytes(value)?,
                "dry-run" => dry_run = crate::vm::flag(value)?,
                other => {
                    return Err(format!(
                        "Unknown key {other:?}: the pool has size, reserve and dry-run; name a device for others"
                    ));
                }
            }
        }
        (inner.settings, inner.dry_run) = (settings, dry_run);
        tracing::info!(?settings, dry_run, "the pool was set by a command");
        Ok(json!({ "size": settings.pool, "reserve": settings.reserve, "dry-run": dry_run }))
    }

    fn stop(&self) {
        let _ = self.stop.write(1);
    }
}
