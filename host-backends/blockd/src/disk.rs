//! A disk as the daemon shell sees it.

use std::sync::Arc;

use block_backend::BlockDevice;
use daemon_shell::Needs;
use daemon_shell::Served;
use device_model::Device;
use serde_json::Value;
use serde_json::json;

/// A served disk.
pub struct Disk(pub Arc<BlockDevice>);

impl Served for Disk {
    fn device(&self) -> Arc<dyn Device> {
        self.0.clone()
    }

    fn status(&self) -> Value {
        json!({
            "type": "block",
            "bytes": self.0.size(),
            "engine": self.0.engine(),
            "write-through": self.0.is_write_through(),
            // Why each flush fails, once a write-back of the image has failed.
            "lost-durability": self.0.lost_durability().map(|error| error.to_string()),
            "spec": self.0.spec(),
        })
    }

    fn metrics(&self) -> Value {
        json!(self.0.metrics())
    }

    fn needs(&self) -> Needs {
        Needs {
            syscalls: self.0.syscalls().to_vec(),
            ..Needs::default()
        }
    }

    fn resize(&self, bytes: Option<u64>) -> Result<Value, String> {
        let resized = match bytes {
            Some(bytes) => self.0.resize_to(bytes),
            None => self.0.resize(),
        };
        match resized {
            Ok(bytes) => Ok(json!({ "bytes": bytes })),
            Err(error) => Err(daemon_shell::exit::chain(&error)),
        }
    }

    fn reload(&self) {
        if let Err(error) = self.0.resize() {
            tracing::warn!(
                "cannot look at the size again: {}",
                daemon_shell::exit::chain(&error)
            );
        }
    }
}
