//! One guest's balloon as the daemon shell and the pool see it.
//!
//! Rule: what a command sets is checked as a whole before anything of it is done.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;

use balloon_backend::BalloonDevice;
use balloon_backend::ByteSize;
use balloon_backend::Policy;
use daemon_shell::Error;
use daemon_shell::Served;
use device_model::Device;
use host_os::sync::lock;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::memory::Memory;
use crate::policy::Guest;
use crate::policy::Sample;

/// Tags of statistics (virtio 1.4 sec. 5.5.6.3).
mod tag {
    pub const SWAP_IN: u16 = 0;
    pub const MEMFREE: u16 = 4;
    pub const AVAIL: u16 = 6;
    pub const CACHES: u16 = 7;
    pub const OOM_KILL: u16 = 10;
    pub const ALLOC_STALL: u16 = 11;
}

/// A served balloon.
pub struct Vm {
    /// As in the log.
    pub name: String,
    /// The balloon.
    pub device: Arc<BalloonDevice>,
    terms: Mutex<Terms>,
    memory: Option<Mutex<Memory>>,
}

#[derive(Clone, Copy)]
struct Terms {
    policy: Policy,
    weight: u32,
}

/// What one command sets.
#[derive(Default)]
struct Change {
    target: Option<u64>,
    floor: Option<u64>,
    ceiling: Option<u64>,
    weight: Option<u32>,
    policy: Option<Policy>,
    inhibit: Option<bool>,
}

impl Vm {
    /// `device` under `name`, on the terms of its specification; opens its state file.
    ///
    /// # Errors
    /// That cannot be opened.
    pub fn new(name: String, device: Arc<BalloonDevice>) -> Result<Self, Error> {
        let memory = match &device.spec().state_file {
            None => None,
            Some(path) => {
                let refused = |error| {
                    let path = path.display();
                    format!("cannot use the state file {path}: {error}")
                };
                let memory = Memory::open(path, &device).map_err(|error| Error::Device {
                    device: name.clone(),
                    source: refused(error).into(),
                })?;
                Some(memory)
            }
        };
        let remembered = memory.as_ref().and_then(|memory| memory.policy);
        let terms = Terms {
            policy: remembered.unwrap_or(device.spec().policy),
            weight: device.spec().weight,
        };
        let memory = memory.map(Mutex::new);
        Ok(Self {
            name,
            device,
            terms: Mutex::new(terms),
            memory,
        })
    }

    /// Keeps what a next process has to know.
    pub fn keep(&self) {
        if let Some(memory) = &self.memory {
            let policy = self.terms().policy;
            let mut memory = lock(memory);
            memory.keep(&self.device, policy);
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

    fn carry_out(&self, change: &Change) -> Value {
        let device = &self.device;
        {
            let mut terms = self.terms();
            terms.weight = change.weight.unwrap_or(terms.weight);
            terms.policy = match (change.policy, change.target) {
                (Some(policy), _) => policy,
                // Who sets a target by hand wants it to stay.
                (None, Some(_)) => Policy::Manual,
                (None, None) => terms.policy,
            };
        }
        if change.floor.is_some() || change.ceiling.is_some() {
            device.set_limits(change.floor, change.ceiling);
        }
        if let Some(target) = change.target {
            device.set_target(target);
        }
        if let Some(on) = change.inhibit {
            device.inhibit(on);
        }
        self.keep();
        let terms = *self.terms();
        json!({
            "target": device.target(),
            "floor": device.floor(),
            "ceiling": device.ceiling(),
            "weight": terms.weight,
            "policy": terms.policy,
            "inhibit": device.inhibited(),
        })
    }
}

/// A size in JSON: a number, or text such as 512M.
pub fn bytes(value: &Value) -> Result<u64, String> {
    match value {
        Value::Number(number) => number
            .as_u64()
            .ok_or_else(|| format!("{number} is no number of bytes")),
        Value::String(text) => text.parse::<ByteSize>().map(|size| size.0),
        other => Err(format!("{other} is no size, write for example 512M")),
    }
}

/// A switch in JSON: true, false, or on, off.
pub fn flag(value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(flag) => Ok(*flag),
        Value::String(word) if word == "on" || word == "true" => Ok(true),
        Value::String(word) if word == "off" || word == "false" => Ok(false),
        other => Err(format!("{other} is neither on nor off")),
    }
}

/// Reads all of `set`.
fn change(set: &Map<String, Value>, device: &BalloonDevice) -> Result<Change, String> {
    let mut change = Change::default();
    for (key, value) in set {
        match key.as_str() {
            "target" => change.target = Some(bytes(value)?),
            "floor" => change.floor = Some(bytes(value)?),
            "ceiling" => change.ceiling = Some(bytes(value)?),
            "inhibit" => change.inhibit = Some(flag(value)?),
            "weight" => {
                let weight = value.as_u64().or_else(|| value.as_str()?.parse().ok());
                let weight = weight.and_then(|weight| u32::try_from(weight).ok());
                let weight = weight.filter(|weight| (1..=10_000).contains(weight));
                change.weight = Some(weight.ok_or("weight is 1 to 10000")?);
            }
            "policy" => {
                let policy = serde_json::from_value(value.clone());
                change.policy = Some(policy.map_err(|_| "policy is auto, manual or dry-run")?);
            }
            "dry-run" => {
                let policy = if flag(value)? {
                    Policy::DryRun
                } else {
                    Policy::Auto
                };
                change.policy = Some(policy);
            }
            other => {
                return Err(format!(
                    "Unknown key {other:?}: there are target, floor, ceiling, weight, policy, dry-run and inhibit"
                ));
            }
        }
    }
    let floor = change.floor.or(device.floor()).unwrap_or(0);
    let ceiling = change
        .ceiling
        .or(device.ceiling())
        .filter(|bytes| *bytes != 0);
    if ceiling.is_some_and(|ceiling| floor > ceiling) {
        return Err("floor would be above ceiling: set both".to_owned());
    }
    Ok(change)
}

impl Served for Vm {
    fn device(&self) -> Arc<dyn Device> {
        self.device.clone()
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
            "type": "balloon",
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
            "spec": device.spec(),
        })
    }

    fn metrics(&self) -> Value {
        let mut metrics = json!(self.device.metrics());
        let device = &self.device;
        let gauges = [
            ("memory_bytes", device.guest_memory()),
            ("resident_bytes", device.resident()),
            ("target_bytes", Some(device.target())),
            ("actual_bytes", device.actual()),
            ("ballooned_bytes", Some(device.ballooned())),
        ];
        let statistics = device.statistics();
        let available = statistics.and_then(|statistics| statistics.get(tag::AVAIL));
        if let Some(metrics) = metrics.as_object_mut() {
            for (name, value) in gauges
                .into_iter()
                .chain([("guest_available_bytes", available)])
            {
                metrics.insert(name.to_owned(), value.unwrap_or(0).into());
            }
        }
        metrics
    }

    fn gauges(&self) -> &'static [&'static str] {
        &[
            "memory_bytes",
            "resident_bytes",
            "target_bytes",
            "actual_bytes",
            "ballooned_bytes",
            "guest_available_bytes",
        ]
    }

    fn set(&self, set: &Map<String, Value>) -> Result<Value, String> {
        let change = change(set, &self.device)?;
        let now = self.carry_out(&change);
        tracing::info!(device = self.name, %now, "set by a command");
        Ok(now)
    }

    /// SIGHUP asks every guest how it is.
    fn reload(&self) {
        self.device.request_statistics();
    }
}
