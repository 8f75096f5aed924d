//! Carries out what is said on the control socket.
//!
//! Rule: a command looks at numbers and hands over wishes; it never waits for a guest.

use std::sync::Arc;

use control_lines::Answer;
use control_lines::Answers;
use control_lines::prometheus::Exposition;
use device_model::QueueStatistics;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use vhost_user_server::Server;
use vhost_user_server::ShutdownHandle;

use crate::Served;
use crate::control::Command;
use crate::daemon::Overseer;

/// A unit that is being served.
pub(crate) struct Running {
    pub name: String,
    pub server: Arc<Server>,
    pub served: Arc<dyn Served>,
}

/// Everything that commands are about.
pub(crate) struct Commands {
    pub units: Vec<Running>,
    pub overseer: Option<Arc<dyn Overseer>>,
    pub shutdown: ShutdownHandle,
}

impl Commands {
    pub fn reload(&self) {
        for unit in &self.units {
            unit.served.reload();
        }
        if let Some(overseer) = &self.overseer {
            overseer.reload();
        }
    }

    fn find(&self, name: Option<&str>) -> Result<&Running, String> {
        match (name, self.units.as_slice()) {
            (None, [only]) => Ok(only),
            (None, _) => Err(format!("Name one of the devices: {}", self.names())),
            (Some(name), units) => units
                .iter()
                .find(|unit| unit.name == name)
                .ok_or_else(|| format!("No device {name:?}; there are: {}", self.names())),
        }
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.units.iter().map(|unit| unit.name.as_str()).collect();
        names.join(", ")
    }

    fn status(&self) -> Value {
        let devices = self.units.iter().map(|unit| {
            let numbers = unit.server.statistics();
            json!({
                "name": unit.name,
                "connected": numbers.connected,
                "another-waits": numbers.waiting,
                "sessions": numbers.sessions,
                "device": unit.served.status(),
            })
        });
        let devices: Vec<_> = devices.collect();
        self.with_overseer(
            json!({ "pid": std::process::id(), "devices": devices }),
            |overseer| overseer.status(),
        )
    }

    fn metrics(&self) -> Value {
        let devices = self.units.iter().map(|unit| {
            let numbers = unit.server.statistics();
            let queues: Vec<_> = numbers.queues.iter().map(queue).collect();
            json!({
                "name": unit.name,
                "sessions": numbers.sessions,
                "waits": numbers.waits,
                "messages": numbers.messages,
                "message-errors": numbers.message_errors,
                "queues": queues,
                "device": unit.served.metrics(),
            })
        });
        let devices: Vec<_> = devices.collect();
        let lost = host_os::output::dropped();
        self.with_overseer(
            json!({ "devices": devices, "log-lines-lost": lost }),
            |overseer| overseer.metrics(),
        )
    }

    fn with_overseer(&self, mut value: Value, part: impl Fn(&dyn Overseer) -> Value) -> Value {
        if let (Some(overseer), Some(object)) = (&self.overseer, value.as_object_mut()) {
            object.insert(overseer.kind().to_owned(), part(overseer.as_ref()));
        }
        value
    }

    fn prometheus(&self) -> String {
        let mut text = Exposition::default();
        let lost = json!({ "lines-lost": host_os::output::dropped() });
        text.add("log", &[], &lost, &[]);
        for unit in &self.units {
            let device = [("device", unit.name.as_str())];
            let numbers = unit.server.statistics();
            let session = json!({
                "connected": numbers.connected,
                "sessions": numbers.sessions,
                "waits": numbers.waits,
                "messages": numbers.messages,
                "message-errors": numbers.message_errors,
            });
            text.add("vhost_user", &device, &session, &[]);
            for (index, numbers) in numbers.queues.iter().enumerate() {
                let index = index.to_string();
                let labels = [("device", unit.name.as_str()), ("queue", index.as_str())];
                text.add("queue", &labels, &queue(numbers), &[]);
            }
            let status = unit.served.status();
            let kind = status.get("type").and_then(Value::as_str);
            let (metrics, gauges) = (unit.served.metrics(), unit.served.gauges());
            text.add(kind.unwrap_or("device"), &device, &metrics, gauges);
        }
        if let Some(overseer) = &self.overseer {
            let (metrics, gauges) = (overseer.metrics(), overseer.gauges());
            text.add(overseer.kind(), &[], &metrics, gauges);
        }
        text.text()
    }

    /// `set` without a device means the overseer where there is one, and else the only device.
    fn set(&self, device: Option<&str>, set: &Map<String, Value>) -> Result<Value, String> {
        match (device, &self.overseer) {
            (None, Some(overseer)) => overseer.set(set),
            (device, _) => self.find(device)?.served.set(set),
        }
    }

    fn carry_out(&self, command: Command) -> Answer {
        match command {
            Command::Status => Answer::Value(self.status()),
            Command::Metrics => Answer::Value(self.metrics()),
            Command::Prometheus => Answer::Text(self.prometheus()),
            Command::Resize { device, bytes } => {
                let unit = self.find(device.as_deref());
                unit.and_then(|unit| unit.served.resize(bytes)).into()
            }
            Command::Set { device, set } => self.set(device.as_deref(), &set).into(),
            Command::Stop => {
                let shutdown = self.shutdown.clone();
                Answer::Last(json!("stopping"), Box::new(move || shutdown.shutdown()))
            }
        }
    }
}

fn queue(queue: &QueueStatistics) -> Value {
    json!({
        "taken": queue.taken,
        "completed": queue.completed,
        "published": queue.published,
        "interrupts": queue.interrupts,
        "wakeups": queue.wakeups,
        "empty-polls": queue.empty_polls,
        "replayed": queue.replayed,
        "ring-errors": queue.ring_errors,
        "device-errors": queue.device_errors,
        "panics": queue.panics,
    })
}

impl Answers for Commands {
    fn answer(&self, line: &str) -> Answer {
        match Command::parse(line) {
            Ok(command) => self.carry_out(command),
            Err(error) => Answer::Error(error),
        }
    }
}

#[cfg(test)]
#[path = "commands_tests.rs"]
mod tests;
