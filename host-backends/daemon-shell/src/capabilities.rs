//! How management software finds a daemon and learns what it can do: the conventions of vhost-user.json.
//!
//! Rule: the output is JSON only, so that it can be piped.

use std::path::Path;

use serde::Serialize;

/// What `--print-capabilities` prints (VHostUserBackendCapabilities).
#[derive(Clone, Debug, Serialize)]
pub struct Capabilities {
    /// Kind of device: `block`, `net`, ...
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Optional command line features of that kind.
    pub features: Vec<&'static str>,
}

/// A file in `/usr/share/qemu/vhost-user/`, by which management software finds the daemon (VhostUserBackend).
#[derive(Clone, Debug, Serialize)]
pub struct Descriptor<'a> {
    /// For humans.
    pub description: &'static str,
    /// Kind of device.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The program.
    pub binary: &'a Path,
}

/// `value` as indented JSON.
pub fn to_json(value: &impl Serialize) -> String {
    // Plain strings cannot fail to become JSON.
    serde_json::to_string_pretty(value).unwrap_or_default()
}
