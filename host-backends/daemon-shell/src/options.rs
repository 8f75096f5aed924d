//! Options that every daemon has, as flags and as keys of the config file.
//!
//! Rule: a flag beats the config file, which beats the default.

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use vhost_user_server::Polling;

use crate::LogFormat;
use crate::Sandbox;

/// Options of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[group(id = "process")]
pub struct ProcessSpec {
    /// Answer commands (status, metrics, prometheus, resize, set, stop) on this Unix socket, as JSON lines.
    #[arg(long, value_name = "PATH", help_heading = "Process")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_socket: Option<PathBuf>,
    /// What to log: a level, or levels by module such as warn,block_backend=debug [default: info].
    #[arg(long, value_name = "FILTER", help_heading = "Process")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    /// How log lines look [default: text].
    #[arg(long, value_enum, help_heading = "Process")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_format: Option<LogFormat>,
    /// Confine the process with seccomp and Landlock [default: on].
    #[arg(long, value_enum, help_heading = "Process")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
    /// Become this user, by name or number, when everything is open that needs root: images, sockets (which are given to
    /// it), TAP interfaces. What is opened later must be its own: a balloon's state file, files below a resize or reload.
    #[arg(long, value_name = "USER", help_heading = "Process")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Become a member of this group, by name or number, rather than of the user's own; the user's other groups stay.
    #[arg(
        long,
        value_name = "GROUP",
        requires = "user",
        help_heading = "Process"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// End, as at SIGTERM, when standard input ends: when whoever holds its other end is gone, killed or not.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", help_heading = "Process")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_with_stdin: Option<bool>,
}

impl ProcessSpec {
    /// `self`, completed from `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            control_socket: self.control_socket.or(other.control_socket),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
            sandbox: self.sandbox.or(other.sandbox),
            user: self.user.or(other.user),
            group: self.group.or(other.group),
            end_with_stdin: self.end_with_stdin.or(other.end_with_stdin),
        }
    }
}

/// Options of one device's service, apart from where it is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[group(id = "service")]
pub struct ServiceSpec {
    /// Name of the device in logs and on the control socket [default: device1, device2, ...].
    #[arg(long, value_name = "NAME", help_heading = "Service")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How a worker waits for requests: auto, off, always, or a window in microseconds.
    #[arg(
        long,
        value_name = "HOW",
        default_value = "auto",
        help_heading = "Service"
    )]
    #[serde(with = "polling")]
    pub poll: Polling,
}

mod polling {
    //! Polling as the words that the flag takes.

    use super::*;

    pub fn serialize<S: Serializer>(poll: &Polling, out: S) -> Result<S::Ok, S::Error> {
        match poll {
            Polling::Auto => out.serialize_str("auto"),
            Polling::Off => out.serialize_str("off"),
            Polling::Always => out.serialize_str("always"),
            Polling::Window(window) => out.collect_str(&window.as_micros()),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Polling, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Micros(u64),
            Word(String),
        }
        let text = match Written::deserialize(input)? {
            Written::Micros(micros) => micros.to_string(),
            Written::Word(word) => word,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}
