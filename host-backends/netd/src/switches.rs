//! The process's switches as the daemon shell sees them.
//!
//! Rule: links are opened before the process is confined, threads are started after.

use std::sync::Arc;

use clap::Args;
use control_protocol::Changes;
use daemon_shell::DeviceSpec;
use daemon_shell::Error;
use daemon_shell::Needs;
use daemon_shell::Overseer;
use daemon_shell::SharedOptions;
use metrics::MetricSet as _;
use metrics::Samples;
use net_backend::Fabric;
use net_backend::LinkChoice;
use net_backend::SwitchSpec;
use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use crate::spec::CardSpec;

/// The config file's tables beside `[[device]]`.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    #[arg(skip)]
    switch: Vec<SwitchSpec>,
}

impl SharedOptions for Network {
    const TABLES: &'static [&'static str] = &["switch"];

    /// There are no flags of them.
    fn or(self, file: Self) -> Self {
        file
    }
}

impl Network {
    /// Makes the switches; every switch that one of several `devices` names must be among them.
    ///
    /// # Errors
    /// One is missing or wrong, or its uplink cannot be had.
    pub fn make(&self, devices: &[DeviceSpec<CardSpec>]) -> Result<Fabric, Error> {
        let fabric = Fabric::default();
        for spec in &self.switch {
            spec.check().map_err(|message| Error::Spec {
                name: format!("switch {}", spec.name),
                message,
            })?;
            let refused = |source: Box<dyn std::error::Error + Send + Sync>| Error::Device {
                device: format!("switch {}", spec.name),
                source,
            };
            let switch = fabric.switch(&spec.name);
            let Some(link) = &spec.uplink else {
                continue;
            };
            for end in net_link::open(link, 1).map_err(|error| refused(error.into()))? {
                let added = switch.add_uplink(end);
                added.map_err(|error| refused(error.into()))?;
            }
        }
        for device in devices {
            let LinkChoice::Switch(name) = &device.device.net.link else {
                continue;
            };
            if !self.switch.iter().any(|switch| switch.name == *name) && devices.len() > 1 {
                return Err(device.wrong(&[format!(
                    "link: there is no switch {name:?}: add a [[switch]] table with name = {name:?}"
                )]));
            }
        }
        Ok(fabric)
    }

    /// Who looks after the switches, if there are any.
    pub fn overseer(&self, fabric: Fabric) -> Option<Arc<dyn Overseer>> {
        let mut uplinks = self.switch.iter().filter_map(|spec| spec.uplink.as_ref());
        let reconnects = uplinks.any(net_link::LinkSpec::reconnects);
        let switches = Switches { fabric, reconnects };
        (!self.switch.is_empty()).then(|| Arc::new(switches) as Arc<dyn Overseer>)
    }
}

metrics::metrics! {
    /// What the switches have done.
    struct SwitchMetrics {
        /// Cards that the switches have.
        stations: u64 as gauge,
        /// Frames that went out by uplinks.
        uplink_transmit_frames: u64 as counter,
        /// Frames that came in by uplinks.
        uplink_receive_frames: u64 as counter,
    }
}

/// All switches.
struct Switches {
    fabric: Fabric,
    /// An uplink makes connections when its other end comes back.
    reconnects: bool,
}

impl Overseer for Switches {
    fn kind(&self) -> &'static str {
        "switch"
    }

    fn start(self: Arc<Self>) -> Result<(), Error> {
        for switch in self.fabric.switches() {
            switch.start().map_err(|error| Error::Device {
                device: format!("switch {}", switch.name()),
                source: error.into(),
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

    fn metrics(&self) -> Samples {
        let mut sums = SwitchMetrics::default();
        for switch in self.fabric.switches() {
            let (out, inward) = switch.uplink_frames();
            sums.stations += switch.stations() as u64;
            sums.uplink_transmit_frames += out;
            sums.uplink_receive_frames += inward;
        }
        sums.samples()
    }

    fn needs(&self) -> Needs {
        Needs {
            syscalls: net_link::SYSCALLS.to_vec(),
            ioctls: net_link::IOCTLS.to_vec(),
            connects: self.reconnects,
            ..Needs::default()
        }
    }

    fn set(&self, _: &Changes) -> Result<Value, String> {
        Err("Nothing can be set on switches; name a device".to_owned())
    }

    fn stop(&self) {
        for switch in self.fabric.switches() {
            switch.stop();
        }
    }
}
