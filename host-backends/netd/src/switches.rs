//! The process's switches as the daemon shell sees them.
//!
//! Rule: links are opened before the process is confined, threads are started after.

use std::sync::Arc;

use daemon_shell::Error;
use daemon_shell::Needs;
use daemon_shell::Overseer;
use net_backend::Fabric;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

/// All switches.
pub struct Switches {
    /// The switches.
    pub fabric: Fabric,
    /// An uplink makes connections when its other end comes back.
    pub reconnects: bool,
}

impl Overseer for Switches {
    fn kind(&self) -> &'static str {
        "switch"
    }

    fn start(self: Arc<Self>) -> Result<(), Error> {
        for switch in self.fabric.switches() {
            switch.start().map_err(|error| Error::Socket {
                device: format!("switch {}", switch.name()),
                message: daemon_shell::exit::chain(&error),
            })?;
        }
        Ok(())
    }

    fn status(&self) -> Value {
        let switches = self.fabric.switches();
        let each = switches.iter().map(|switch| {
            json!({
                "name": switch.name(),
                "stations": switch.stations(),
            })
        });
        Value::Array(each.collect())
    }

    fn metrics(&self) -> Value {
        let (mut stations, mut out, mut inward) = (0, 0, 0);
        for switch in self.fabric.switches() {
            let (more_out, more_in) = switch.uplink_frames();
            stations += switch.stations();
            out += more_out;
            inward += more_in;
        }
        json!({
            "stations": stations,
            "uplink_transmit_frames_total": out,
            "uplink_receive_frames_total": inward,
        })
    }

    fn gauges(&self) -> &'static [&'static str] {
        &["stations"]
    }

    fn needs(&self) -> Needs {
        Needs {
            syscalls: net_link::SYSCALLS.to_vec(),
            ioctls: net_link::IOCTLS.to_vec(),
            connects: self.reconnects,
            ..Needs::default()
        }
    }

    fn set(&self, _set: &Map<String, Value>) -> Result<Value, String> {
        Err("Nothing can be set on switches; name a device".to_owned())
    }

    fn stop(&self) {
        for switch in self.fabric.switches() {
            switch.stop();
        }
    }
}
