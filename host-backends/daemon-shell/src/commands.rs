//! Carries out what is said on the control socket.
//!
//! Rule: a command looks at numbers and hands over wishes; it never waits for a guest.

use std::sync::Arc;

use control_protocol::Answer;
use control_protocol::Answers;
use control_protocol::Changes;
use control_protocol::Command;
use metrics::Exposition;
use metrics::MetricSet as _;
use serde_json::Value;
use serde_json::json;
use vhost_user_server::Server;
use vhost_user_server::ShutdownHandle;

use crate::Served;
use crate::daemon::Overseer;

metrics::metrics! {
    /// What became of the log.
    struct Log {
        /// Lines that nobody took in time.
        lines_lost: u64 as counter,
    }
}

impl Log {
    fn now() -> Self {
        let lines_lost = host_os::output::dropped();
        Self { lines_lost }
    }
}

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
            let session = unit.server.statistics().session;
            json!({
                "name": unit.name,
                "type": unit.served.kind(),
                "connected": session.connected,
                "waiting": session.waiting,
                "sessions": session.sessions,
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
            let queues = numbers.queues.iter();
            let queues: Vec<_> = queues.map(|queue| queue.samples().json()).collect();
            json!({
                "name": unit.name,
                "type": unit.served.kind(),
                "vhost_user": numbers.session.samples().json(),
                "queues": queues,
                "device": unit.served.metrics().json(),
            })
        });
        let devices: Vec<_> = devices.collect();
        let log = Log::now().samples().json();
        self.with_overseer(json!({ "devices": devices, "log": log }), |overseer| {
            overseer.metrics().json()
        })
    }

    fn with_overseer(&self, mut value: Value, part: impl Fn(&dyn Overseer) -> Value) -> Value {
        if let (Some(overseer), Some(object)) = (&self.overseer, value.as_object_mut()) {
            object.insert(overseer.kind().to_owned(), part(overseer.as_ref()));
        }
        value
    }

    fn prometheus(&self) -> String {
        let mut text = Exposition::default();
        text.add("log", &[], &Log::now().samples());
        for unit in &self.units {
            let device = [("device", unit.name.as_str())];
            let numbers = unit.server.statistics();
            text.add("vhost_user", &device, &numbers.session.samples());
            for (index, numbers) in numbers.queues.iter().enumerate() {
                let index = index.to_string();
                let labels = [("device", unit.name.as_str()), ("queue", index.as_str())];
                text.add("queue", &labels, &numbers.samples());
            }
            text.add(unit.served.kind(), &device, &unit.served.metrics());
        }
        if let Some(overseer) = &self.overseer {
            text.add(overseer.kind(), &[], &overseer.metrics());
        }
        text.text()
    }

    /// `set` without a device means the overseer where there is one, and else the only device.
    fn set(&self, device: Option<&str>, changes: &Changes) -> Result<Value, String> {
        match (device, &self.overseer) {
            (None, Some(overseer)) => overseer.set(changes),
            (device, _) => self.find(device)?.served.set(changes),
        }
    }
}

impl Answers for Commands {
    fn answer(&self, command: Command) -> Answer {
        match command {
            Command::Status => Answer::Value(self.status()),
            Command::Metrics => Answer::Value(self.metrics()),
            Command::Prometheus => Answer::Text(self.prometheus()),
            Command::Resize { device, bytes } => {
                let unit = self.find(device.as_deref());
                let bytes = bytes.map(|bytes| bytes.0);
                unit.and_then(|unit| unit.served.resize(bytes)).into()
            }
            Command::Set { device, set } => self.set(device.as_deref(), &set).into(),
            Command::PowerButton | Command::Reset => {
                Answer::Error("A VM has that, and this is a daemon".to_owned())
            }
            Command::Stop => {
                let shutdown = self.shutdown.clone();
                Answer::Last(json!("stopping"), Box::new(move || shutdown.shutdown()))
            }
        }
    }
}

#[cfg(test)]
#[path = "commands_tests.rs"]
mod tests;
