//! A network card as the daemon shell sees it.
//!
//! Rule: a change is checked whole before any of it is made.

use std::sync::Arc;

use daemon_shell::Needs;
use daemon_shell::Served;
use device_model::Device;
use net_backend::LinkChoice;
use net_backend::NetDevice;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::settings::Settings;

/// A served network card.
pub struct Card(pub Arc<NetDevice>);

impl Served for Card {
    fn device(&self) -> Arc<dyn Device> {
        self.0.clone()
    }

    fn status(&self) -> Value {
        let card = &self.0;
        json!({
            "type": "net",
            "mac": card.mac(),
            "link-up": card.link_up(),
            "mtu": card.mtu(),
            "capturing": card.capturing(),
            "rate-bytes": card.limits().bytes,
            "rate-packets": card.limits().packets,
            "active-pairs": card.active_pairs(),
            "conditions": card.conditions(),
            "features": format!("{:#x}", card.features_in_use()),
            "spec": card.spec(),
        })
    }

    fn metrics(&self) -> Value {
        json!(self.0.metrics())
    }

    fn gauges(&self) -> &'static [&'static str] {
        &["link_up", "active_pairs", "conditions"]
    }

    fn needs(&self) -> Needs {
        Needs {
            syscalls: net_link::SYSCALLS.to_vec(),
            ioctls: net_link::IOCTLS.to_vec(),
            connects: matches!(&self.0.spec().link, LinkChoice::Outside(link) if link.reconnects()),
            ..Needs::default()
        }
    }

    fn set(&self, set: &Map<String, Value>) -> Result<Value, String> {
        let settings = Settings::read(set, &self.0)?;
        settings.apply(&self.0)
    }
}
