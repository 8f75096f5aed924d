//! What stands behind the keys of `set`: values that people write as words or numbers.
//!
//! Rule: what is written can be read again, and an answer has sizes as numbers of bytes.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use host_os::ByteSize;
use schemars::JsonSchema;
use schemars::Schema;
use schemars::SchemaGenerator;
use schemars::json_schema;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;

/// A size in bytes: a number, or a number with K, M, G or T (powers of 1024), such as `512M`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ByteSize::deserialize(deserializer).map(|size| Self(size.0))
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A size: a number of bytes, or text such as 512M with K, M, G or T for powers of 1024.",
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": "^[0-9]+([KMGTkmgt]([iI][bB])?|[bB])?$"},
            ],
        })
    }
}

/// Whether a network card's cable is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// Frames pass.
    Up,
    /// None does.
    Down,
}

/// Something that is on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Toggle(pub bool);

impl<'de> Deserialize<'de> for Toggle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Word {
            On,
            Off,
        }
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "it is neither on nor off")]
        enum Written {
            Flag(bool),
            Word(Word),
        }
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::Flag(flag) => flag,
            Written::Word(Word::On) => true,
            Written::Word(Word::Off) => false,
        }))
    }
}

impl JsonSchema for Toggle {
    fn schema_name() -> Cow<'static, str> {
        "Toggle".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "true or on, false or off.",
            "anyOf": [{"type": "boolean"}, {"enum": ["on", "off"]}],
        })
    }
}

/// Who moves a balloon's target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The pool, between floor and ceiling.
    #[default]
    Auto,
    /// Only commands.
    Manual,
    /// The pool decides and logs, and changes nothing.
    DryRun,
}

impl Policy {
    /// As they are written.
    pub const WORDS: [&str; 3] = ["auto", "manual", "dry-run"];
}

impl fmt::Display for Policy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [auto, manual, dry_run] = Self::WORDS;
        out.write_str(match self {
            Self::Auto => auto,
            Self::Manual => manual,
            Self::DryRun => dry_run,
        })
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let all = [Self::Auto, Self::Manual, Self::DryRun];
        let known = Self::WORDS
            .iter()
            .zip(all)
            .find(|(known, _)| **known == word);
        let known = known.map(|(_, policy)| policy);
        known.ok_or_else(|| format!("{word:?} is none of {}", Self::WORDS.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_reads_the_same_in_json_and_in_words() {
        for word in Policy::WORDS {
            let policy: Policy = word.parse().unwrap();
            assert_eq!(policy.to_string(), word);
            assert_eq!(serde_json::json!(policy), word);
        }
        assert!("wild".parse::<Policy>().is_err());
    }
}
