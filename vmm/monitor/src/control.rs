//! The VM's control socket: how it fares, its front panel, and the way to its daemons.
//!
//! One rule: an answer waits for no guest and for no backend's session; what a device's daemon is to do is passed on to
//! that daemon's own control socket.

use std::mem::offset_of;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use control_protocol::Answer;
use control_protocol::Answers;
use control_protocol::Command;
use control_protocol::Reply;
use host_os::sync::lock;
use machine::Controls;
use metrics::Exposition;
use metrics::MetricSet as _;
use metrics::Samples;
use serde_json::Value;
use serde_json::json;
use vhost_user_frontend::session::Session;
use virtio_spec::balloon;
use virtio_spec::block;
use virtio_spec::net;

use crate::daemons::Roll;
use crate::devices::Kind;
use crate::signals;
use crate::status::Event;
use crate::status::Status;

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// One device, to ask how it fares.
pub(crate) struct DeviceEntry {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) socket: PathBuf,
    /// Gone when the machine is.
    pub(crate) session: Weak<Session>,
    /// Of the daemon that serves it, if it is ours.
    pub(crate) control: Option<PathBuf>,
}

/// The VM as its clients see it.
pub(crate) struct VmControl {
    pub(crate) name: String,
    pub(crate) cpus: u32,
    /// Bytes.
    pub(crate) memory: u64,
    pub(crate) started: Instant,
    pub(crate) controls: Controls,
    pub(crate) devices: Vec<DeviceEntry>,
    pub(crate) daemons: Option<Roll>,
    pub(crate) resets: Arc<AtomicU64>,
    pub(crate) report: Status,
}

impl Answers for VmControl {
    fn answer(&self, command: Command) -> Answer {
        match command {
            Command::Status => Answer::Value(self.status()),
            Command::Metrics => Answer::Value(self.metrics()),
            Command::Prometheus => Answer::Text(self.prometheus()),
            Command::PowerButton => {
                let heard = self.controls.press_power_button();
                self.report.report(&Event::PowerButton { heard });
                Answer::Value(json!({ "heard": heard }))
            }
            Command::Reset => {
                self.controls.reset();
                Answer::Value(json!("resetting"))
            }
            Command::Stop => {
                let (controls, report) = (self.controls.clone(), self.report);
                let act = move || signals::stop(&controls, report);
                Answer::Last(json!("stopping"), Box::new(act))
            }
            Command::Set { ref device, .. } | Command::Resize { ref device, .. } => {
                self.pass_on(device.as_deref(), &command)
            }
        }
    }
}

impl VmControl {
    /// Has the daemon of `device` carry out `command`.
    fn pass_on(&self, device: Option<&str>, command: &Command) -> Answer {
        let names: Vec<_> = self.devices.iter().map(|entry| &*entry.name).collect();
        let names = names.join(", ");
        let Some(device) = device else {
            return Answer::Error(format!("Name one of the devices: {names}"));
        };
        let Some(entry) = self.devices.iter().find(|entry| entry.name == device) else {
            return Answer::Error(format!("No device {device:?}; there are: {names}"));
        };
        let Some(control) = &entry.control else {
            let message = "is served by a daemon that this VM has not started: ask that one";
            return Answer::Error(format!("{device} {message}"));
        };
        match control_protocol::ask(control, command, PATIENCE) {
            Ok(Reply::Value(value)) => Answer::Value(value),
            Ok(Reply::Error(error)) => Answer::Error(error),
            Ok(Reply::Text(text)) => Answer::Text(text),
            Err(error) => Answer::Error(error.to_string()),
        }
    }

    fn status(&self) -> Value {
        let devices: Vec<_> = self.devices.iter().map(DeviceEntry::status).collect();
        let daemons = self.daemons.as_ref().map(|roll| {
            let roll = lock(roll);
            roll.values().map(|daemon| json!(daemon)).collect()
        });
        json!({
            "name": self.name,
            "pid": std::process::id(),
            "cpus": self.cpus,
            "memory_bytes": self.memory,
            "uptime_seconds": self.uptime(),
            "resets": self.resets.load(Ordering::Relaxed),
            "devices": devices,
            "daemons": Value::Array(daemons.unwrap_or_default()),
        })
    }

    /// In whole milliseconds.
    fn uptime(&self) -> f64 {
        (self.started.elapsed().as_secs_f64() * 1e3).round() / 1e3
    }

    fn own_metrics(&self) -> Samples {
        let metrics = VmMetrics {
            cpus: self.cpus.into(),
            memory_bytes: self.memory,
            uptime_seconds: self.uptime(),
            resets: self.resets.load(Ordering::Relaxed),
        };
        metrics.samples()
    }

    fn metrics(&self) -> Value {
        let devices = self.devices.iter().map(|entry| {
            let metrics = entry.metrics().samples().json();
            json!({"name": entry.name, "type": entry.kind.word(), "device": metrics})
        });
        let devices: Vec<_> = devices.collect();
        json!({ "vm": self.own_metrics().json(), "devices": devices })
    }

    fn prometheus(&self) -> String {
        let mut text = Exposition::default();
        let vm = ("vm", self.name.as_str());
        text.add("vm", &[vm], &self.own_metrics());
        for entry in &self.devices {
            let labels = [
                vm,
                ("device", entry.name.as_str()),
                ("type", entry.kind.word()),
            ];
            text.add("vm_device", &labels, &entry.metrics().samples());
        }
        if let Some(roll) = &self.daemons {
            let roll = lock(roll);
            for daemon in roll.values() {
                let labels = [vm, ("daemon", daemon.name.as_str())];
                let metrics = DaemonMetrics {
                    running: daemon.pid.is_some(),
                    restarts: daemon.restarts,
                };
                text.add("vm_daemon", &labels, &metrics.samples());
            }
        }
        text.text()
    }
}

metrics::metrics! {
    /// How a VM fares.
    struct VmMetrics {
        /// vCPUs.
        cpus: u64 as gauge,
        /// RAM.
        memory_bytes: u64 as gauge in bytes,
        /// Since the VM started.
        uptime_seconds: f64 as gauge in seconds,
        /// Resets since then.
        resets: u64 as counter,
    }
}

metrics::metrics! {
    /// How the connection to a device's backend stands, and what the guest reads in the device's configuration.
    struct DeviceMetrics {
        /// Whether the backend is there.
        connected: bool as gauge,
        /// Times that it came back.
        reconnects: Option<u64> as counter,
        /// Queues that the device has.
        queues: Option<u64> as gauge,
        /// Size of a disk.
        capacity_bytes: Option<u64> as gauge in bytes,
        /// Whether a network card's cable is in.
        link_up: Option<bool> as gauge,
        /// Largest frame without its header.
        mtu_bytes: Option<u64> as gauge in bytes,
        /// Memory that a balloon asks the guest to give up.
        target_bytes: Option<u64> as gauge in bytes,
        /// Memory that the guest says it has given up.
        actual_bytes: Option<u64> as gauge in bytes,
    }
}

metrics::metrics! {
    /// How a daemon of the VM fares.
    struct DaemonMetrics {
        /// Whether it runs, and is not just being started again.
        running: bool as gauge,
        /// Times that it was started again.
        restarts: u64 as counter,
    }
}

impl DeviceEntry {
    fn status(&self) -> Value {
        let mut status = json!({
            "name": self.name,
            "type": self.kind.word(),
            "socket": self.socket,
            "numbers": self.metrics().samples().json(),
        });
        let health = self.session.upgrade().map(|session| session.health());
        if let (Some(object), Some(error)) = (
            status.as_object_mut(),
            health.and_then(|health| health.last_error),
        ) {
            object.insert("last_error".to_owned(), json!(error));
        }
        status
    }

    /// How the connection and what the guest reads in the configuration stand.
    fn metrics(&self) -> DeviceMetrics {
        let Some(session) = self.session.upgrade() else {
            return DeviceMetrics::default();
        };
        let health = session.health();
        DeviceMetrics {
            connected: health.connected,
            reconnects: Some(health.reconnects),
            queues: Some(health.queues as u64),
            ..shown(self.kind, &session.config(), session.offered())
        }
    }
}

/// What the configuration says.
fn shown(kind: Kind, config: &[u8], offered: u64) -> DeviceMetrics {
    let number = |at: usize, len: usize| {
        let bytes = config.get(at..at + len).unwrap_or_default();
        bytes
            .iter()
            .rev()
            .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let has = |feature| offered & feature != 0;
    let mut shown = DeviceMetrics::default();
    match kind {
        Kind::Disk => {
            let sectors = number(offset_of!(block::Config, capacity), 8);
            shown.capacity_bytes = Some(sectors.saturating_mul(block::SECTOR_SIZE));
        }
        Kind::Net => {
            if has(net::feature::STATUS) {
                let status = number(offset_of!(net::Config, status), 2);
                shown.link_up = Some(status & u64::from(net::status::LINK_UP) != 0);
            }
            let mtu = || number(offset_of!(net::Config, mtu), 2);
            shown.mtu_bytes = has(net::feature::MTU).then(mtu);
        }
        Kind::Balloon => {
            let bytes = |at| Some(number(at, 4) * balloon::PAGE_SIZE);
            shown.target_bytes = bytes(balloon::CONFIG_NUM_PAGES_OFFSET);
            shown.actual_bytes = bytes(balloon::CONFIG_ACTUAL_OFFSET);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_shown_in_words_however_short_it_is() {
        let config: Vec<u8> = (1..=16).collect();
        let disk = shown(Kind::Disk, &config, 0);
        let sectors = 0x0807_0605_0403_0201u64;
        assert_eq!(disk.capacity_bytes, Some(sectors.saturating_mul(512)));
        let features = net::feature::STATUS | net::feature::MTU;
        let lan = shown(Kind::Net, &config, features);
        assert_eq!((lan.link_up, lan.mtu_bytes), (Some(true), Some(0x0c0b)));
        assert_eq!(shown(Kind::Net, &config, 0), DeviceMetrics::default());
        let balloon = shown(Kind::Balloon, &config, 0);
        assert_eq!(balloon.target_bytes, Some(0x0403_0201u64 * 4096));
        assert_eq!(balloon.actual_bytes, Some(0x0807_0605u64 * 4096));
        for kind in [Kind::Disk, Kind::Net, Kind::Balloon] {
            shown(kind, &[], u64::MAX);
        }
    }
}
