//! How a link is written: one line of text, in configuration files as on the command line.
//!
//! Rule: what parses prints back to a text that parses to the same; a fault names what would be right.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

use crate::Error;

/// Longest name of an interface (IFNAMSIZ - 1).
const MAX_NAME: usize = 15;
const FORMS: &str = "write passt, passt:KEY=VALUE,..., tap:INTERFACE, fd:NUMBER, packet:INTERFACE, null or source:BYTES";

/// Where a network card's frames go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkSpec {
    /// `passt[:KEY=VALUE,...]`: user-mode networking without privileges.
    Passt(PasstSpec),
    /// `tap:INTERFACE`: a TAP interface of the host.
    Tap(TapSpec),
    /// `packet:INTERFACE`: a packet socket on an interface of the host.
    Packet(String),
    /// `fd:NUMBER,...`: inherited descriptors, one per queue of a TAP interface, or one connected stream socket of passt.
    Fd(Vec<i32>),
    /// `null`: nowhere.
    Null,
    /// `source:BYTES`: frames of this size without end, for measuring.
    Source(u16),
}

impl LinkSpec {
    /// Whether the link, once open, makes connections to a Unix socket: to a passt that comes back.
    pub fn reconnects(&self) -> bool {
        matches!(self, Self::Passt(_))
    }
}

/// A TAP interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TapSpec {
    /// Name of the interface.
    pub name: String,
}

/// How passt is reached or started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PasstSpec {
    /// `socket=PATH`: a passt that somebody else runs; none is started.
    pub socket: Option<PathBuf>,
    /// `binary=PATH`: the program to start, `passt` from the PATH by default.
    pub binary: Option<PathBuf>,
    /// Any other `KEY=VALUE` or `KEY`: passed on as `--KEY VALUE`, in the order given. `mtu=1500`, `address=10.0.2.15`,
    /// `tcp-ports=8080:80`, `no-map-gw` (see passt(1)).
    pub arguments: Vec<(String, Option<String>)>,
}

impl PasstSpec {
    fn parse(text: &str) -> Result<Self, String> {
        let mut spec = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (part, None),
            };
            // passt's own lists have commas: 22,25-30 goes on where the last one ended.
            let goes_on = value.is_none() && !key.starts_with(|c: char| c.is_ascii_lowercase());
            match (key, value) {
                ("socket", Some(value)) => spec.socket = Some(value.into()),
                ("binary", Some(value)) => spec.binary = Some(value.into()),
                _ if goes_on => match spec.arguments.last_mut() {
                    Some((_, Some(last))) => {
                        last.push(',');
                        last.push_str(part);
                    }
                    _ => return Err(format!("{part:?} is no option of passt")),
                },
                ("fd" | "foreground" | "one-off" | "pid" | "daemon", _) => {
                    return Err(format!("The option {key:?} of passt is set by us"));
                }
                _ if is_option(key) => spec
                    .arguments
                    .push((key.to_owned(), value.map(str::to_owned))),
                _ => return Err(format!("{key:?} is no option of passt")),
            }
        }
        if spec.socket.is_some() && (spec.binary.is_some() || !spec.arguments.is_empty()) {
            return Err("A passt that runs already (socket=) takes no other options".to_owned());
        }
        Ok(spec)
    }
}

fn descriptors(text: &str) -> Result<Vec<i32>, String> {
    let mut list: Vec<i32> = Vec::new();
    for number in text.split(',') {
        match number.parse() {
            Ok(fd) if fd >= 0 && !list.contains(&fd) => list.push(fd),
            _ => return Err(format!("{number:?} is no file descriptor, or there twice")),
        }
    }
    Ok(list)
}

fn is_option(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_lowercase())
        && key
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
}

fn frame_size(text: &str) -> Result<u16, String> {
    let size = text.parse().ok().filter(|bytes| *bytes >= 14);
    size.ok_or_else(|| format!("{text:?} is no size of a frame: 14 to 65535 bytes"))
}

fn interface(name: &str) -> Result<String, String> {
    let fits = !name.is_empty() && name.len() <= MAX_NAME && name != "." && name != "..";
    let clean = !name.contains(|c: char| c == '/' || c == ':' || !c.is_ascii_graphic());
    if fits && clean {
        return Ok(name.to_owned());
    }
    Err(format!(
        "{name:?} is no name of an interface (1 to {MAX_NAME} characters, no space, slash or colon)"
    ))
}

impl FromStr for LinkSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (kind, rest) = match text.split_once(':') {
            Some((kind, rest)) => (kind, Some(rest)),
            None => (text, None),
        };
        let spec = match (kind, rest) {
            ("passt", rest) => PasstSpec::parse(rest.unwrap_or_default()).map(Self::Passt),
            ("tap", Some(name)) => interface(name).map(|name| Self::Tap(TapSpec { name })),
            ("packet", Some(name)) => interface(name).map(Self::Packet),
            ("fd", Some(numbers)) => descriptors(numbers).map(Self::Fd),
            ("null", None) => Ok(Self::Null),
            ("source", Some(bytes)) => frame_size(bytes).map(Self::Source),
            _ => Err(format!("{text:?} is no link: {FORMS}")),
        };
        spec.map_err(Error::Spec)
    }
}

impl fmt::Display for LinkSpec {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passt(spec) => spec.fmt(out),
            Self::Tap(spec) => write!(out, "tap:{}", spec.name),
            Self::Packet(name) => write!(out, "packet:{name}"),
            Self::Fd(list) => {
                let list: Vec<_> = list.iter().map(i32::to_string).collect();
                write!(out, "fd:{}", list.join(","))
            }
            Self::Null => out.write_str("null"),
            Self::Source(bytes) => write!(out, "source:{bytes}"),
        }
    }
}

impl fmt::Display for PasstSpec {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("passt")?;
        let socket = self.socket.as_ref().map(|path| ("socket", path));
        let binary = self.binary.as_ref().map(|path| ("binary", path));
        let mut separator = ':';
        for (key, path) in [socket, binary].into_iter().flatten() {
            write!(out, "{separator}{key}={}", path.display())?;
            separator = ',';
        }
        for (key, value) in &self.arguments {
            write!(out, "{separator}{key}")?;
            if let Some(value) = value {
                write!(out, "={value}")?;
            }
            separator = ',';
        }
        Ok(())
    }
}

impl Serialize for LinkSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LinkSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
