//! One guest's balloon as the daemon shell and the pool see it.
//!
//! Rule: what a command sets is checked as a whole before anything of it is done.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;

use balloon_backend::BalloonDevice;
use control_protocol::BalloonSettings;
use control_protocol::Bytes;
use control_protocol::Changes;
use control_protocol::Policy;
use control_protocol::Settings as _;
use control_protocol::Settled;
use control_protocol::Toggle;
use daemon_shell::DeviceSpec;
use daemon_shell::Error;
use daemon_shell::Served;
use daemon_shell::StateFile;
use daemon_shell::Unit;
use device_model::Device;
use host_os::sync::lock;
use metrics::MetricSet as _;
use metrics::Samples;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::policy::Guest;
use crate::policy::Sample;
use crate::spec::VmSpec;
use crate::vm_state::VmState;

/// Tags of statistics (virtio 1.4 sec. 5.5.6.3).
mod tag {
    pub const SWAP_IN: u16 = 0;
    pub const MEMFREE: u16 = 4;
    pub const AVAIL: u16 = 6;
    pub const CACHES: u16 = 7;
    pub const OOM_KILL: u16 = 10;
    pub const ALLOC_STALL: u16 = 11;
}

metrics::metrics! {
    /// How a guest's memory stands.
    struct GuestMemory {
        /// Memory of the guest.
        memory_bytes: Option<u64> as gauge in bytes,
        /// Memory of the guest that takes memory of the host.
        resident_bytes: Option<u64> as gauge in bytes,
        /// Memory that the guest is asked to give up.
        target_bytes: u64 as gauge in bytes,
        /// Memory that the guest says it has given up.
        actual_bytes: Option<u64> as gauge in bytes,
        /// Memory in the balloon.
        ballooned_bytes: u64 as gauge in bytes,
        /// Memory that the guest could use without swapping, as it says.
        guest_available_bytes: Option<u64> as gauge in bytes,
    }
}

/// A served balloon.
pub struct Vm {
    /// As in the log.
    pub name: String,
    /// The balloon.
    pub device: Arc<BalloonDevice>,
    terms: Mutex<Terms>,
    kept: Option<Mutex<Kept>>,
    spec: VmSpec,
}

/// What outlives the daemon.
struct Kept {
    file: StateFile<VmState>,
    /// What `set` changed, this daemon's and those before it.
    set: BalloonSettings,
}

#[derive(Clone, Copy)]
struct Terms {
    policy: Policy,
    weight: u32,
}

/// Opens the balloon of `spec`.
///
/// # Errors
/// It cannot be.
pub fn open(spec: DeviceSpec<VmSpec>) -> Result<(Arc<Vm>, Unit), Error> {
    let faults = spec.device.faults();
    if !faults.is_empty() {
        return Err(spec.wrong(&faults));
    }
    let device = BalloonDevice::new(spec.device.balloon.clone());
    let device = device.map_err(|source| spec.refused(source))?;
    let vm = Arc::new(Vm::new(&spec, device)?);
    let unit = spec.served(vm.clone());
    Ok((vm, unit))
}

impl Vm {
    /// `device` as `spec` has it; opens its state file.
    ///
    /// # Errors
    /// That cannot be opened.
    fn new(spec: &DeviceSpec<VmSpec>, device: Arc<BalloonDevice>) -> Result<Self, Error> {
        let mut terms = Terms {
            policy: spec.device.terms.policy,
            weight: spec.device.terms.weight,
        };
        let kept = match &spec.device.state.state_file {
            None => None,
            Some(path) => {
                let refused = |error| {
                    let path = path.display();
                    spec.refused(format!("cannot use the state file {path}: {error}"))
                };
                let opened = StateFile::open(path, "balloon", VmState::older);
                let (file, state) = opened.map_err(refused)?;
                let VmState {
                    target,
                    actual,
                    set,
                } = state.unwrap_or_default();
                if target != 0 || actual.is_some() {
                    device.recall(target, actual);
                }
                change(&device, &set);
                terms.policy = set.policy.unwrap_or(terms.policy);
                terms.weight = set.weight.unwrap_or(terms.weight);
                tracing::info!(path = %path.display(), target, actual, ?set, "took up where the last process was");
                Some(Mutex::new(Kept { file, set }))
            }
        };
        Ok(Self {
            name: spec.name.clone(),
            device,
            terms: Mutex::new(terms),
            kept,
            spec: spec.device.clone(),
        })
    }

    /// Keeps what a next process has to know.
    pub fn keep(&self) {
        if let Some(kept) = &self.kept {
            let mut kept = lock(kept);
            let state = VmState {
                target: self.device.target(),
                actual: self.device.actual(),
                set: kept.set.clone(),
            };
            kept.file.keep(&state);
        }
    }

    fn terms(&self) -> MutexGuard<'_, Terms> {
        lock(&self.terms)
    }

    /// The guest as the policy wants to know it.
    pub fn guest(&self) -> Guest {
        let device = &self.device;
        let terms = *self.terms();
        let interval = Duration::from_millis(device.spec().stats_interval_ms.into());
        let sample = device.statistics().map(|statistics| {
            let free = statistics.get(tag::MEMFREE);
            let caches = statistics.get(tag::CACHES).unwrap_or(0);
            Sample {
                age: statistics.at.elapsed(),
                // Guests that do not know what is available know what is free.
                available: statistics
                    .get(tag::AVAIL)
                    .or(free.map(|free| free.saturating_add(caches))),
                swap_in: statistics.get(tag::SWAP_IN),
                oom_kills: statistics.get(tag::OOM_KILL),
                stalls: statistics.get(tag::ALLOC_STALL),
            }
        });
        Guest {
            size: device.guest_memory(),
            target: device.target(),
            actual: device.actual(),
            resident: device.resident().unwrap_or(0),
            floor: device.floor(),
            ceiling: device.ceiling(),
            weight: terms.weight,
            policy: terms.policy,
            sample,
            patience: (3 * interval).max(Duration::from_secs(5)),
        }
    }

    fn carry_out(&self, set: &BalloonSettings) -> Settled<BalloonSettings> {
        let policy = match (policy_of(set), set.target) {
            // Who sets a target by hand wants it to stay.
            (None, Some(_)) => Some(Policy::Manual),
            (policy, _) => policy,
        };
        {
            let mut terms = self.terms();
            terms.weight = set.weight.unwrap_or(terms.weight);
            terms.policy = policy.unwrap_or(terms.policy);
        }
        change(&self.device, set);
        if let Some(Bytes(target)) = set.target {
            self.device.set_target(target);
        }
        if let Some(kept) = &self.kept {
            lock(kept).set.update(BalloonSettings {
                // The state has the target as it is, whoever moved it.
                target: None,
                policy,
                dry_run: None,
                ..set.clone()
            });
        }
        self.keep();
        let kept = self.kept.as_ref().map(|_| BalloonSettings::KEYS);
        Settled::new(self.settings(), set, kept.unwrap_or_default())
    }

    fn settings(&self) -> BalloonSettings {
        let (device, terms) = (&self.device, *self.terms());
        BalloonSettings {
            target: Some(Bytes(device.target())),
            floor: device.floor().map(Bytes),
            ceiling: device.ceiling().map(Bytes),
            weight: Some(terms.weight),
            policy: Some(terms.policy),
            dry_run: None,
            inhibit: Some(Toggle(device.inhibited())),
        }
    }
}

/// Changes what is the device's own, apart from the target.
fn change(device: &BalloonDevice, set: &BalloonSettings) {
    if set.floor.is_some() || set.ceiling.is_some() {
        let bytes = |size: Option<Bytes>| size.map(|bytes| bytes.0);
        device.set_limits(bytes(set.floor), bytes(set.ceiling));
    }
    if let Some(Toggle(on)) = set.inhibit {
        device.inhibit(on);
    }
}

/// The policy that `set` asks for, if it does.
fn policy_of(set: &BalloonSettings) -> Option<Policy> {
    let dry_run = set.dry_run.map(|Toggle(dry)| match dry {
        true => Policy::DryRun,
        false => Policy::Auto,
    });
    set.policy.or(dry_run)
}

/// Whether all of `set` can be.
fn check(set: &BalloonSettings, device: &BalloonDevice) -> Result<(), String> {
    if set
        .weight
        .is_some_and(|weight| !(1..=10_000).contains(&weight))
    {
        return Err("weight is 1 to 10000".to_owned());
    }
    if set.policy.is_some() && set.dry_run.is_some() {
        return Err("dry-run is a policy: give one of the two".to_owned());
    }
    let floor = set.floor.map(|bytes| bytes.0).or(device.floor());
    let ceiling = set.ceiling.map(|bytes| bytes.0).or(device.ceiling());
    let ceiling = ceiling.filter(|bytes| *bytes != 0);
    if ceiling.is_some_and(|ceiling| floor.unwrap_or(0) > ceiling) {
        return Err("floor would be above ceiling: set both".to_owned());
    }
    Ok(())
}

impl Served for Vm {
    fn device(&self) -> Arc<dyn Device> {
        self.device.clone()
    }

    fn kind(&self) -> &'static str {
        "balloon"
    }

    fn status(&self) -> Value {
        let device = &self.device;
        let terms = *self.terms();
        let statistics = device.statistics().map(|statistics| {
            let mut values: Map<String, Value> = statistics
                .named()
                .map(|(name, value)| (name.to_owned(), value.into()))
                .collect();
            values.insert(
                "age_seconds".to_owned(),
                statistics.at.elapsed().as_secs_f64().into(),
            );
            values
        });
        let (hints, hinted) = device.hints();
        json!({
            "memory": device.guest_memory(),
            "resident": device.resident(),
            "target": device.target(),
            "actual": device.actual(),
            "ballooned": device.ballooned(),
            "floor": device.floor(),
            "ceiling": device.ceiling(),
            "weight": terms.weight,
            "policy": terms.policy,
            "inhibit": device.inhibited(),
            "features": format!("{:#x}", device.accepted()),
            "statistics": statistics,
            "hints": json!({ "state": format!("{hints:?}"), "bytes": hinted }),
            "spec": self.spec,
        })
    }

    fn metrics(&self) -> Samples {
        let device = &self.device;
        let statistics = device.statistics();
        let memory = GuestMemory {
            memory_bytes: device.guest_memory(),
            resident_bytes: device.resident(),
            target_bytes: device.target(),
            actual_bytes: device.actual(),
            ballooned_bytes: device.ballooned(),
            guest_available_bytes: statistics.and_then(|statistics| statistics.get(tag::AVAIL)),
        };
        device.metrics().samples().and(&memory)
    }

    fn set(&self, changes: &Changes) -> Result<Value, String> {
        let set: BalloonSettings = changes.read()?;
        check(&set, &self.device)?;
        let now = json!(self.carry_out(&set));
        tracing::info!(device = self.name, %now, "set by a command");
        Ok(now)
    }

    /// SIGHUP asks every guest how it is.
    fn reload(&self) {
        self.device.request_statistics();
    }
}
