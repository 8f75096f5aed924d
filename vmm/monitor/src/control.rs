//! The VM's control socket: how it fares, its front panel, and the way to its daemons.
//!
//! One rule: an answer waits for no guest and for no backend's session; what a device's daemon is to do is passed on to
//! that daemon's own control socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use control_lines::Answer;
use control_lines::Answers;
use control_lines::Reply;
use control_lines::prometheus::Exposition;
use host_os::sync::lock;
use machine::Controls;
use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use vhost_user_frontend::session::Session;
use virtio_spec::balloon;
use virtio_spec::net;

use crate::daemons::Roll;
use crate::devices::Kind;
use crate::signals;
use crate::status::Event;
use crate::status::Status;

/// How long a daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a client asks for, in JSON (`{"command":"reset"}`) or in words (`reset`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
enum Command {
    Status,
    Metrics,
    Prometheus,
    PowerButton,
    Reset,
    Stop,
    /// For the daemon of a device.
    Set {
        device: String,
        set: Map<String, Value>,
    },
    /// For the daemon of a device.
    Resize {
        device: String,
        #[serde(default)]
        bytes: Option<u64>,
    },
}

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
    fn answer(&self, line: &str) -> Answer {
        match parse(line) {
            Ok(command) => self.carry_out(command, line),
            Err(error) => Answer::Error(error),
        }
    }
}

fn parse(text: &str) -> Result<Command, String> {
    if text.starts_with('{') {
        return serde_json::from_str(text).map_err(|error| format!("Malformed command: {error}"));
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        ["status"] => Ok(Command::Status),
        ["metrics"] => Ok(Command::Metrics),
        ["prometheus"] => Ok(Command::Prometheus),
        ["power-button"] => Ok(Command::PowerButton),
        ["reset"] => Ok(Command::Reset),
        ["stop"] => Ok(Command::Stop),
        ["set", device, rest @ ..] if !device.contains('=') && !rest.is_empty() => {
            Ok(Command::Set {
                device: (*device).to_owned(),
                set: control_lines::words::assignments(rest)?,
            })
        }
        ["resize", device] => Ok(Command::Resize {
            device: (*device).to_owned(),
            bytes: None,
        }),
        ["resize", device, bytes] => Ok(Command::Resize {
            device: (*device).to_owned(),
            bytes: Some(
                bytes
                    .parse()
                    .map_err(|_| format!("{bytes:?} is no number of bytes"))?,
            ),
        }),
        _ => Err(
            "Unknown command: say status, metrics, prometheus, power-button, reset, stop, set DEVICE \
             KEY=VALUE ... or resize DEVICE [BYTES]"
                .to_owned(),
        ),
    }
}

impl VmControl {
    fn carry_out(&self, command: Command, line: &str) -> Answer {
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
            Command::Set { device, .. } | Command::Resize { device, .. } => {
                self.pass_on(&device, line)
            }
        }
    }

    fn pass_on(&self, device: &str, line: &str) -> Answer {
        let Some(entry) = self.devices.iter().find(|entry| entry.name == device) else {
            let names: Vec<_> = self.devices.iter().map(|entry| &*entry.name).collect();
            let names = names.join(", ");
            return Answer::Error(format!("No device {device:?}; there are: {names}"));
        };
        let Some(control) = &entry.control else {
            let message = "is served by a daemon that this VM has not started: ask that one";
            return Answer::Error(format!("{device} {message}"));
        };
        match control_lines::ask(control, line, PATIENCE) {
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

    fn own_metrics(&self) -> Value {
        json!({
            "cpus": self.cpus,
            "memory_bytes": self.memory,
            "uptime_seconds": self.uptime(),
            "resets": self.resets.load(Ordering::Relaxed),
        })
    }

    fn metrics(&self) -> Value {
        let devices = self
            .devices
            .iter()
            .map(|entry| json!({"name": entry.name, "type": entry.kind.word(), "device": entry.metrics()}));
        let devices: Vec<_> = devices.collect();
        json!({ "vm": self.own_metrics(), "devices": devices })
    }

    fn prometheus(&self) -> String {
        let mut text = Exposition::default();
        let vm = ("vm", self.name.as_str());
        let gauges = ["cpus", "memory_bytes", "uptime_seconds"];
        text.add("vm", &[vm], &self.own_metrics(), &gauges);
        for entry in &self.devices {
            let labels = [
                vm,
                ("device", entry.name.as_str()),
                ("type", entry.kind.word()),
            ];
            text.add("vm_device", &labels, &entry.metrics(), GAUGES);
        }
        if let Some(roll) = &self.daemons {
            let roll = lock(roll);
            for daemon in roll.values() {
                let labels = [vm, ("daemon", daemon.name.as_str())];
                let numbers = json!({"running": daemon.pid.is_some(), "restarts": daemon.restarts});
                text.add("vm_daemon", &labels, &numbers, &[]);
            }
        }
        text.text()
    }
}

/// Numbers of a device that go up and down.
const GAUGES: &[&str] = &[
    "queues",
    "capacity_bytes",
    "mtu_bytes",
    "target_bytes",
    "actual_bytes",
];

impl DeviceEntry {
    fn status(&self) -> Value {
        let mut status = json!({
            "name": self.name,
            "type": self.kind.word(),
            "socket": self.socket,
            "numbers": self.metrics(),
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
    fn metrics(&self) -> Value {
        let Some(session) = self.session.upgrade() else {
            return json!({ "connected": false });
        };
        let health = session.health();
        let mut numbers = json!({
            "connected": health.connected,
            "reconnects": health.reconnects,
            "queues": health.queues,
        });
        if let Some(object) = numbers.as_object_mut() {
            object.extend(shown(self.kind, &session.config(), session.offered()));
        }
        numbers
    }
}

/// What the configuration says, by name.
fn shown(kind: Kind, config: &[u8], offered: u64) -> Map<String, Value> {
    let number = |at: usize, len: usize| {
        let bytes = config.get(at..at + len).unwrap_or_default();
        bytes
            .iter()
            .rev()
            .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    let has = |feature| offered & feature != 0;
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    match kind {
        Kind::Disk => {
            put("capacity_bytes", json!(number(0, 8).saturating_mul(512)));
        }
        Kind::Net => {
            if has(net::feature::STATUS) {
                let up = number(6, 2) & u64::from(net::status::LINK_UP) != 0;
                put("link_up", json!(up));
            }
            if has(net::feature::MTU) {
                put("mtu_bytes", json!(number(10, 2)));
            }
        }
        Kind::Balloon => {
            let bytes = |at| json!(number(at, 4) * balloon::PAGE_SIZE);
            put("target_bytes", bytes(balloon::CONFIG_NUM_PAGES_OFFSET));
            put("actual_bytes", bytes(balloon::CONFIG_ACTUAL_OFFSET));
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_mean_the_same() {
        for (words, json) in [
            ("status", json!({"command": "status"})),
            ("power-button", json!({"command": "power-button"})),
            ("reset", json!({"command": "reset"})),
            (
                "set net0 link=down",
                json!({"command": "set", "device": "net0", "set": {"link": "down"}}),
            ),
            (
                "resize disk0 512",
                json!({"command": "resize", "device": "disk0", "bytes": 512}),
            ),
        ] {
            assert_eq!(parse(words), parse(&json.to_string()), "{words}");
            assert!(parse(words).is_ok(), "{words}");
        }
        for wrong in [
            "",
            "dance",
            "set",
            "set a",
            "set a=1",
            "resize",
            "resize a b",
            "{",
            "{}",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_configuration_is_shown_in_words_however_short_it_is() {
        let config: Vec<u8> = (1..=16).collect();
        let disk = shown(Kind::Disk, &config, 0);
        assert_eq!(
            disk["capacity_bytes"],
            0x0807_0605_0403_0201u64.saturating_mul(512)
        );
        let features = net::feature::STATUS | net::feature::MTU;
        let lan = shown(Kind::Net, &config, features);
        assert_eq!(lan["link_up"], true);
        assert_eq!(lan["mtu_bytes"], 0x0c0b);
        assert!(shown(Kind::Net, &config, 0).is_empty());
        let balloon = shown(Kind::Balloon, &config, 0);
        assert_eq!(balloon["target_bytes"], 0x0403_0201u64 * 4096);
        assert_eq!(balloon["actual_bytes"], 0x0807_0605u64 * 4096);
        for kind in [Kind::Disk, Kind::Net, Kind::Balloon] {
            shown(kind, &[], u64::MAX);
        }
    }
}
