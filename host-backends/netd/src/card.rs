//! A network card as the daemon shell sees it.
//!
//! Rule: a change is checked whole before any of it is made.

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;

use control_protocol::Changes;
use control_protocol::NetSettings;
use control_protocol::Settings as _;
use control_protocol::Settled;
use daemon_shell::DeviceSpec;
use daemon_shell::Error;
use daemon_shell::Needs;
use daemon_shell::Served;
use daemon_shell::StateFile;
use daemon_shell::Unit;
use daemon_shell::identity;
use device_model::Device;
use host_os::sync::lock;
use metrics::Samples;
use net_backend::Fabric;
use net_backend::LinkChoice;
use net_backend::MacAddress;
use net_backend::NetDevice;
use serde_json::Value;
use serde_json::json;

use crate::settings;
use crate::settings::NetSettled;
use crate::spec::CardSpec;

/// Opens the card of `spec`, on the switches of `fabric`.
///
/// # Errors
/// It cannot be.
pub fn open(mut spec: DeviceSpec<CardSpec>, fabric: &Fabric) -> Result<Unit, Error> {
    let card = &mut spec.device.net;
    // Before it has an address that only this process knows.
    card.mac_filter = Some(card.filters_mac());
    card.mac.get_or_insert_with(|| {
        let fingerprint = identity::of_socket("net", &spec.socket, &spec.name);
        MacAddress::from_fingerprint(fingerprint)
    });
    let device = match NetDevice::open(&spec.name, spec.device.net.clone(), fabric) {
        Ok(device) => device,
        Err(net_backend::Error::Spec(faults)) => return Err(spec.wrong(&faults)),
        Err(source) => return Err(spec.refused(source)),
    };
    let kept = match &spec.device.state.state_file {
        Some(path) => Some(recall(path, &device).map_err(|error| {
            let path = path.display();
            spec.refused(format!("cannot use the state file {path}: {error}"))
        })?),
        None => None,
    };
    let card = Card {
        device,
        spec: spec.device.clone(),
        kept: kept.map(Mutex::new),
    };
    Ok(spec.served(Arc::new(card)))
}

/// Opens the file of what `set` changed, and changes `card` as it says.
fn recall(path: &Path, card: &NetDevice) -> std::io::Result<Kept> {
    let (file, set) = StateFile::open(path, "card", |_| None)?;
    let set: NetSettings = set.unwrap_or_default();
    // The configuration may have changed since; what no longer goes together with it is not worth the start.
    let done = settings::check(&set, card).and_then(|()| settings::apply(&set, card));
    match done {
        Ok(_) => tracing::info!(path = %path.display(), ?set, "took up where the last process was"),
        Err(error) => tracing::warn!(%error, "what was set before cannot be any more"),
    }
    Ok(Kept { file, set })
}

/// What outlives the daemon.
struct Kept {
    file: StateFile<NetSettings>,
    /// What `set` changed, this daemon's and those before it.
    set: NetSettings,
}

/// A served network card.
pub struct Card {
    device: Arc<NetDevice>,
    spec: CardSpec,
    kept: Option<Mutex<Kept>>,
}

impl Served for Card {
    fn device(&self) -> Arc<dyn Device> {
        self.device.clone()
    }

    fn kind(&self) -> &'static str {
        "net"
    }

    fn status(&self) -> Value {
        let card = &self.device;
        json!({
            "mac": card.mac(),
            "link_up": card.link_up(),
            "mtu": card.mtu(),
            "capturing": card.capturing(),
            "rate_bytes": card.limits().bytes,
            "rate_packets": card.limits().packets,
            "active_pairs": card.active_pairs(),
            "conditions": card.conditions(),
            "features": format!("{:#x}", card.features_in_use()),
            "spec": self.spec,
        })
    }

    fn metrics(&self) -> Samples {
        self.device.metrics().samples()
    }

    fn needs(&self) -> Needs {
        Needs {
            syscalls: net_link::SYSCALLS.to_vec(),
            ioctls: net_link::IOCTLS.to_vec(),
            connects: matches!(&self.spec.net.link, LinkChoice::Outside(link) if link.reconnects()),
            ..Needs::default()
        }
    }

    fn set(&self, changes: &Changes) -> Result<Value, String> {
        let set: NetSettings = changes.read()?;
        settings::check(&set, &self.device)?;
        let mtu_at_once = settings::apply(&set, &self.device)?;
        let kept: &[&str] = match &self.kept {
            Some(kept) => {
                let mut kept = lock(kept);
                kept.set.update(set.clone());
                let Kept { file, set } = &mut *kept;
                file.keep(set);
                NetSettings::KEYS
            }
            None => &[],
        };
        let now = settings::now(&self.device);
        Ok(json!(NetSettled {
            settled: Settled::new(now, &set, kept),
            mtu_at_once,
        }))
    }
}
