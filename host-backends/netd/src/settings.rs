//! What `set` changes on a card that runs.
//!
//! Rule: every word is understood before the first is done.

use net_backend::NetDevice;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

const KEYS: &str =
    "link=up|down, mtu=BYTES, rate-bytes=BYTES/S, rate-packets=PACKETS/S, capture=on|off";

/// Changes, checked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settings {
    link_up: Option<bool>,
    mtu: Option<u16>,
    rate_bytes: Option<u64>,
    rate_packets: Option<u64>,
    capture: Option<bool>,
}

impl Settings {
    /// Reads the client's words.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn read(set: &Map<String, Value>, card: &NetDevice) -> Result<Self, String> {
        let mut settings = Self::default();
        if set.is_empty() {
            return Err(format!("Nothing to set; there is {KEYS}"));
        }
        for (key, value) in set {
            match key.as_str() {
                "link" => settings.link_up = Some(choice(key, value, "up", "down")?),
                "mtu" => {
                    let mtu = number(key, value)?;
                    let mtu = u16::try_from(mtu).map_err(|_| format!("mtu {mtu} is too large"))?;
                    net_backend::check_mtu(mtu)?;
                    settings.mtu = Some(mtu);
                }
                "rate-bytes" => settings.rate_bytes = Some(number(key, value)?),
                "rate-packets" => settings.rate_packets = Some(number(key, value)?),
                "capture" => {
                    settings.capture = Some(choice(key, value, "on", "off")?);
                    if card.capturing().is_none() {
                        return Err("the card has no file to record to; give it one with capture=FILE in its configuration".to_owned());
                    }
                }
                _ => return Err(format!("{key:?} cannot be set; there is {KEYS}")),
            }
        }
        Ok(settings)
    }

    /// Makes the changes; the answer says what is now.
    ///
    /// # Errors
    /// A sentence for the client.
    pub fn apply(&self, card: &NetDevice) -> Result<Value, String> {
        let mut answer = Map::new();
        if let Some(mtu) = self.mtu {
            let at_once = card
                .change_mtu(mtu)
                .map_err(|error| daemon_shell::exit::chain(&error))?;
            answer.insert("mtu".to_owned(), json!(mtu));
            answer.insert("mtu-at-once".to_owned(), json!(at_once));
        }
        let mut limits = card.limits();
        if let Some(bytes) = self.rate_bytes {
            limits.bytes = bytes;
            answer.insert("rate-bytes".to_owned(), json!(bytes));
        }
        if let Some(packets) = self.rate_packets {
            limits.packets = packets;
            answer.insert("rate-packets".to_owned(), json!(packets));
        }
        card.set_limits(limits);
        if let Some(on) = self.capture {
            card.set_capture(on);
            answer.insert("capture".to_owned(), json!(card.capturing()));
        }
        if let Some(up) = self.link_up {
            card.set_link(up);
            answer.insert("link-up".to_owned(), json!(card.link_up()));
        }
        Ok(Value::Object(answer))
    }
}

fn choice(key: &str, value: &Value, yes: &str, no: &str) -> Result<bool, String> {
    match value {
        Value::Bool(value) => Ok(*value),
        Value::String(text) if text == yes => Ok(true),
        Value::String(text) if text == no => Ok(false),
        other => Err(format!("{key}={other} is neither {yes} nor {no}")),
    }
}

fn number(key: &str, value: &Value) -> Result<u64, String> {
    value
        .as_u64()
        .ok_or_else(|| format!("{key}={value} is no whole number"))
}
