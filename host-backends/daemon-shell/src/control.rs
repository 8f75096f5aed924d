//! What can be said to a daemon on its control socket.
//!
//! Rule: a command reads the same in JSON and in plain words, so that `socat` and a human suffice.
//!
//! ```text
//! {"command":"status"}                                    what every device is doing
//! {"command":"metrics"}                                   counters of every device
//! {"command":"prometheus"}                                the same as Prometheus text, which ends the conversation
//! {"command":"resize","device":"disk0"}                   take on the image's new size
//! {"command":"resize","device":"ram0","bytes":1073741824} give a memory disk a new size
//! {"command":"set","device":"net0","set":{"link":"down"}} change a device while it runs
//! {"command":"set","set":{"dry-run":true}}                change what stands above the devices, or the only one
//! {"command":"stop"}                                      as SIGTERM
//! ```
//! In words: `resize disk0`, `set net0 link=down mtu=1400`. An answer is `{"ok":...}` or `{"error":"..."}`.

use control_lines::words;
use serde::Deserialize;
use serde_json::Map;
use serde_json::Value;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// What every device is doing.
    Status,
    /// Counters of every device.
    Metrics,
    /// Counters of every device as Prometheus text.
    Prometheus,
    /// A device looks at its size anew, or takes a given one.
    Resize {
        /// The device's name; may be left out when there is one only.
        #[serde(default)]
        device: Option<String>,
        /// New size in bytes, where the device itself can change it.
        #[serde(default)]
        bytes: Option<u64>,
    },
    /// A device, or what stands above the devices, changes.
    Set {
        /// The device's name.
        #[serde(default)]
        device: Option<String>,
        /// What changes, and to what.
        set: Map<String, Value>,
    },
    /// As SIGTERM.
    Stop,
}

impl Command {
    /// Reads a command in either spelling.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with('{') {
            return serde_json::from_str(text)
                .map_err(|error| format!("Malformed command: {error}"));
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        match words.as_slice() {
            ["status"] => Ok(Self::Status),
            ["metrics"] => Ok(Self::Metrics),
            ["prometheus"] => Ok(Self::Prometheus),
            ["stop"] => Ok(Self::Stop),
            ["resize"] => resize(None, None),
            ["resize", device] => resize(Some(device), None),
            ["resize", device, bytes] => resize(Some(device), Some(bytes)),
            ["set", rest @ ..] => set(rest),
            _ => Err(
                "Unknown command: say status, metrics, prometheus, resize [DEVICE [BYTES]], \
                      set [DEVICE] KEY=VALUE ... or stop"
                    .to_owned(),
            ),
        }
    }
}

fn resize(device: Option<&str>, bytes: Option<&str>) -> Result<Command, String> {
    let number = |text: &str| {
        text.parse()
            .map_err(|_| format!("{text:?} is no number of bytes"))
    };
    Ok(Command::Resize {
        device: device.map(str::to_owned),
        bytes: bytes.map(number).transpose()?,
    })
}

fn set(rest: &[&str]) -> Result<Command, String> {
    let (device, rest) = match rest {
        [device, rest @ ..] if !device.contains('=') => (Some((*device).to_owned()), rest),
        rest => (None, rest),
    };
    if rest.is_empty() {
        return Err("Say what to set: set [DEVICE] KEY=VALUE ...".to_owned());
    }
    Ok(Command::Set {
        device,
        set: words::assignments(rest)?,
    })
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
