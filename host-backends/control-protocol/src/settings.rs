//! What `set` changes, one type for each kind of device.
//!
//! Rule: a key left out stays as it is; a set is read whole before anything of it is done.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use schemars::Schema;
use schemars::SchemaGenerator;
use schemars::json_schema;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Map;
use serde_json::Value;

use crate::values::Bytes;
use crate::values::LinkState;
use crate::values::Policy;
use crate::values::Toggle;

/// The keys of one kind of device that `set` can change.
pub trait Settings: DeserializeOwned + Serialize + Default {
    /// All of them, as they are written.
    const KEYS: &'static [&'static str];

    /// Whether the keys have a value, in the order of [`Settings::KEYS`].
    fn given(&self) -> Vec<bool>;

    /// Takes over what `newer` says.
    fn update(&mut self, newer: Self);
}

macro_rules! settings {
    ($(#[$meta:meta])* $name:ident { $($(#[$key_meta:meta])* $field:ident = $key:literal: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $(
                $(#[$key_meta])*
                #[serde(rename = $key, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )*
        }

        impl Settings for $name {
            const KEYS: &'static [&'static str] = &[$($key),*];

            fn given(&self) -> Vec<bool> {
                vec![$(self.$field.is_some()),*]
            }

            fn update(&mut self, newer: Self) {
                $(self.$field = newer.$field.or(self.$field.take());)*
            }
        }
    };
}

settings! {
    /// What `set` changes of a network card.
    NetSettings {
        /// Whether the cable is in.
        link = "link": LinkState,
        /// Largest frame without its Ethernet header, in bytes; a driver that runs keeps its own until it starts anew.
        mtu = "mtu": u16,
        /// Bytes per second in each direction, 0 for any number.
        rate_bytes = "rate-bytes": u64,
        /// Frames per second in each direction, 0 for any number.
        rate_packets = "rate-packets": u64,
        /// Whether frames are recorded, in the file that the card's configuration names.
        capture = "capture": Toggle,
    }
}

settings! {
    /// What `set` changes of a balloon.
    BalloonSettings {
        /// Memory that the guest is asked to give up. Without a policy beside it, the policy becomes `manual`.
        target = "target": Bytes,
        /// Memory that the guest always keeps.
        floor = "floor": Bytes,
        /// Memory beyond which the guest never grows, 0 for all of its memory.
        ceiling = "ceiling": Bytes,
        /// Its share when memory is short, 1 to 10000.
        #[schemars(range(min = 1, max = 10_000))]
        weight = "weight": u32,
        /// Who moves the target.
        policy = "policy": Policy,
        /// Another word for the policy `dry-run`, and if off for `auto`.
        dry_run = "dry-run": Toggle,
        /// Whether no page goes back to the host, as while somebody else pins or copies memory.
        inhibit = "inhibit": Toggle,
    }
}

settings! {
    /// What `set` without a device changes of a balloon daemon's pool.
    PoolSettings {
        /// Memory for all guests together, 0 for what the host has available less its reserve.
        size = "size": Bytes,
        /// Memory that the host keeps available.
        reserve = "reserve": Bytes,
        /// Whether the pool decides and logs, and changes nothing.
        dry_run = "dry-run": Toggle,
    }
}

/// Keys and values of a `set`, on the way to the device that knows them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Changes(Map<String, Value>);

impl Changes {
    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Adds a key and what a word says of it: a number or true or false if it reads as one, and text otherwise. Whether
    /// the key was new.
    pub(crate) fn add_word(&mut self, key: &str, word: &str) -> bool {
        let value = match word.parse::<serde_json::Number>() {
            Ok(number) => Value::Number(number),
            Err(_) => match word {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                word => Value::String(word.to_owned()),
            },
        };
        self.0.insert(key.to_owned(), value).is_none()
    }

    /// The keys and values as those of a kind of device.
    ///
    /// # Errors
    /// A sentence for the client that names each key that is wrong, or says which there are.
    pub fn read<T: Settings>(&self) -> Result<T, String> {
        let keys = T::KEYS.join(", ");
        if self.is_empty() {
            return Err(format!("Nothing to set; there are {keys}"));
        }
        let mut whole = T::default();
        let mut wrong = Vec::new();
        for (key, value) in &self.0 {
            if !T::KEYS.contains(&key.as_str()) {
                wrong.push(format!("{key:?} cannot be set; there are {keys}"));
                continue;
            }
            // One by one: an error of serde names no key.
            let one = Map::from_iter([(key.clone(), value.clone())]);
            match serde_json::from_value(Value::Object(one)) {
                Ok(one) => whole.update(one),
                Err(error) => wrong.push(format!("{key}={value}: {error}")),
            }
        }
        if wrong.is_empty() {
            Ok(whole)
        } else {
            Err(wrong.join("; "))
        }
    }
}

impl FromIterator<(String, Value)> for Changes {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl JsonSchema for Changes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Changes".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let kinds = [
            generator.subschema_for::<NetSettings>(),
            generator.subschema_for::<BalloonSettings>(),
            generator.subschema_for::<PoolSettings>(),
        ];
        json_schema!({
            "description": "What changes, by the kind of device.",
            "anyOf": kinds,
            "minProperties": 1,
        })
    }
}

/// The answer to a `set`: all keys as they are now, and which of those that were set a restart of the daemon undoes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Settled<T> {
    /// What is now.
    #[serde(flatten)]
    pub now: T,
    /// Keys of this `set` that have their configured values again when the daemon was started anew.
    pub until_restart: BTreeSet<&'static str>,
}

impl<T: Settings> Settled<T> {
    /// That `set` was carried out and `now` is the outcome; of the keys, those in `kept` outlive the daemon.
    pub fn new(now: T, set: &T, kept: &[&str]) -> Self {
        let keys = T::KEYS.iter().zip(set.given());
        let set = keys.filter_map(|(key, given)| given.then_some(*key));
        let until_restart = set.filter(|key| !kept.contains(key)).collect();
        Self { now, until_restart }
    }
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
