//! What can be said to a daemon or a VM, and what it says.
//!
//! Rule: a request reads the same in JSON and in plain words, so that `socat` and a person suffice.
//!
//! ```text
//! {"command":"status"}                                    what every device is doing
//! {"command":"metrics"}                                   counters of every device
//! {"command":"prometheus"}                                the same as Prometheus text, which ends the conversation
//! {"command":"resize","device":"disk0"}                   take on the image's new size
//! {"command":"resize","device":"ram0","bytes":1073741824} give a memory disk a new size
//! {"command":"set","device":"net0","set":{"link":"down"}} change a device while it runs
//! {"command":"set","set":{"dry-run":true}}                change what stands above the devices, or the only one
//! {"command":"power-button"}                              of a VM
//! {"command":"reset"}                                     of a VM
//! {"command":"stop"}                                      as SIGTERM
//! ```
//! In words: `resize ram0 1G`, `set net0 link=down mtu=1400`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use crate::settings::Changes;
use crate::values::Bytes;

const WORDS: &str = "status, metrics, prometheus, set [DEVICE] KEY=VALUE ..., resize [DEVICE [BYTES]], stop, or of a \
                     VM power-button, reset";

/// What a client asks for, of a daemon or of a VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// What every device is doing.
    Status,
    /// Counters of every device.
    Metrics,
    /// Counters of every device as Prometheus text, which ends the conversation.
    Prometheus,
    /// A disk looks at its size anew, or takes a given one. A VM passes it on to the device's daemon.
    Resize {
        /// The device's name; may be left out where a daemon has one device only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// The new size, where the device itself can change it (a disk in memory).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<Bytes>,
    },
    /// A device changes. A VM passes it on to the device's daemon.
    Set {
        /// The device's name; without one it is what stands above a daemon's devices, or the only device.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
        /// What changes, and to what.
        set: Changes,
    },
    /// Presses a VM's power button.
    PowerButton,
    /// Resets a VM.
    Reset,
    /// As SIGTERM.
    Stop,
}

/// What comes back on a line, except for Prometheus text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    /// The request was carried out.
    Ok(Value),
    /// It was not, and this is why, in a sentence.
    Error(String),
}

impl Command {
    /// Reads a line, in JSON or in words.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn parse(line: &str) -> Result<Self, String> {
        if line.starts_with('{') {
            return serde_json::from_str(line)
                .map_err(|error| format!("Malformed command: {error}"));
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        Self::from_words(&words)
    }

    /// Reads words, as a command line has them.
    ///
    /// # Errors
    /// A sentence for the person.
    pub fn from_words<W: AsRef<str>>(words: &[W]) -> Result<Self, String> {
        let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
        match words.as_slice() {
            ["status"] => Ok(Self::Status),
            ["metrics"] => Ok(Self::Metrics),
            ["prometheus"] => Ok(Self::Prometheus),
            ["power-button"] => Ok(Self::PowerButton),
            ["reset"] => Ok(Self::Reset),
            ["stop"] => Ok(Self::Stop),
            ["resize"] => resize(None, None),
            ["resize", device] => resize(Some(device), None),
            ["resize", device, bytes] => resize(Some(device), Some(bytes)),
            ["set", rest @ ..] => set(rest),
            _ => Err(format!("Unknown command: say {WORDS}")),
        }
    }
}

fn resize(device: Option<&str>, bytes: Option<&str>) -> Result<Command, String> {
    let size = |text: &str| {
        let size = text.parse::<host_os::ByteSize>();
        size.map(|size| Bytes(size.0))
    };
    Ok(Command::Resize {
        device: device.map(str::to_owned),
        bytes: bytes.map(size).transpose()?,
    })
}

fn set(words: &[&str]) -> Result<Command, String> {
    let (device, words) = match words {
        [device, rest @ ..] if !device.contains('=') => (Some((*device).to_owned()), rest),
        rest => (None, rest),
    };
    if words.is_empty() {
        return Err("Say what to set: set [DEVICE] KEY=VALUE ...".to_owned());
    }
    let mut set = Changes::default();
    for word in words {
        let (key, text) = word
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| format!("{word:?} is not KEY=VALUE"))?;
        if !set.add_word(key, text) {
            return Err(format!("{key:?} is given twice"));
        }
    }
    Ok(Command::Set { device, set })
}

#[cfg(test)]
#[path = "command_tests.rs"]
mod tests;
