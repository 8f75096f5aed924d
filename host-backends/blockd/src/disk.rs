//! A disk as the daemon shell sees it.

use std::sync::Arc;

use block_backend::BlockDevice;
use block_backend::BlockSpec;
use daemon_shell::DeviceSpec;
use daemon_shell::Error;
use daemon_shell::Needs;
use daemon_shell::Served;
use daemon_shell::Unit;
use daemon_shell::identity;
use device_model::Device;
use metrics::MetricSet as _;
use metrics::Samples;
use serde_json::Value;
use serde_json::json;

/// Opens the disk of `spec`.
///
/// # Errors
/// It cannot be.
pub fn open(mut spec: DeviceSpec<BlockSpec>) -> Result<Unit, Error> {
    let disk = &mut spec.device;
    disk.serial.get_or_insert_with(|| {
        let fingerprint = match &disk.path {
            Some(path) => identity::of_path("disk", path),
            None => identity::of_socket("disk", &spec.socket, &spec.name),
        };
        format!("{fingerprint:016x}")
    });
    let device = match BlockDevice::open(spec.device.clone()) {
        Ok(device) => device,
        Err(block_backend::Error::Spec(faults)) => return Err(spec.wrong(&faults)),
        Err(source) => return Err(spec.refused(source)),
    };
    Ok(spec.served(Arc::new(Disk(device))))
}

/// A served disk.
pub struct Disk(pub Arc<BlockDevice>);

impl Served for Disk {
    fn device(&self) -> Arc<dyn Device> {
        self.0.clone()
    }

    fn kind(&self) -> &'static str {
        "block"
    }

    fn status(&self) -> Value {
        json!({
            "bytes": self.0.size(),
            "engine": self.0.engine(),
            "write_through": self.0.is_write_through(),
            // Why each flush fails, once a write-back of the image has failed.
            "lost_durability": self.0.lost_durability().map(|error| error.to_string()),
            "spec": self.0.spec(),
        })
    }

    fn metrics(&self) -> Samples {
        self.0.metrics().samples()
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
            // A file keeps its size; what is in memory goes with the daemon.
            Ok(bytes) => Ok(json!({
                "bytes": bytes,
                "until_restart": self.0.spec().memory_disk.is_some(),
            })),
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
