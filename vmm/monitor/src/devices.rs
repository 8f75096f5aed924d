//! What can be said about a VM's devices: a socket of a daemon that runs, or the keys of a daemon that is to be started.
//!
//! One rule: the VMM knows its own keys; all others are the daemon's, which judges them itself.

use std::path::Path;
use std::path::PathBuf;

use config_file::Places;
use toml::Table;
use toml::Value;

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Disk,
    Net,
    Balloon,
}

impl Kind {
    /// Its table in the file and its flag.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Net => "net",
            Self::Balloon => "balloon",
        }
    }

    /// The daemon that serves it.
    pub(crate) fn daemon(self) -> &'static str {
        match self {
            Self::Disk => "blockd",
            Self::Net => "netd",
            Self::Balloon => "balloond",
        }
    }

    /// The key by which the daemon takes the number of queues that the VMM is to use.
    pub(crate) fn queues_key(self) -> Option<&'static str> {
        (self == Self::Disk).then_some("num-queues")
    }
}

/// Where a device's backend is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    /// Somebody serves it there.
    Socket(PathBuf),
    /// A daemon with these keys is to be started.
    Daemon(Table),
}

/// One device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Device {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) source: Source,
    /// Where its keys stand in the VM's file, or which flag they come from.
    pub(crate) places: Places,
    /// Request queues of a disk.
    pub(crate) queues: u16,
    /// Entries per queue, a power of two.
    pub(crate) queue_size: u16,
    /// Offer packed rings, if the backend does.
    pub(crate) packed: bool,
    /// Told to the backend of a network.
    pub(crate) mtu: Option<u16>,
    /// For a network backend that has no address of its own.
    pub(crate) mac: [u8; 6],
}

/// The table that `KEY=VALUE,...` stands for. A value is a number, true or false if it reads as one.
pub(crate) fn table(text: &str) -> Result<Table, String> {
    let mut table = Table::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("{part:?} is not KEY=VALUE"))?;
        if table.insert(key.to_owned(), scalar(value)).is_some() {
            return Err(format!("{key:?} is given twice"));
        }
    }
    Ok(table)
}

fn scalar(text: &str) -> Value {
    let quoted = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    match (quoted, text) {
        (Some(text), _) => Value::String(text.to_owned()),
        (None, "true") => Value::Boolean(true),
        (None, "false") => Value::Boolean(false),
        (None, text) => text
            .parse()
            .map_or_else(|_| Value::String(text.to_owned()), Value::Integer),
    }
}

/// Makes the paths in a table of a file in `folder` start there.
pub(crate) fn anchor(table: &mut Table, folder: &Path) {
    for (key, value) in table {
        let path = ["socket", "path", "capture", "state-file"].contains(&key.as_str())
            || key.ends_with("-path");
        if path && let Value::String(text) = value {
            *text = folder.join(&*text).to_string_lossy().into_owned();
        }
    }
}

/// Checks and completes device `number` of its kind. The error is all that is wrong with it.
pub(crate) fn resolve(kind: Kind, number: usize, table: Table) -> Result<Device, Vec<String>> {
    let mut reader = Reader {
        table,
        wrong: Vec::new(),
    };
    let default_name = match kind {
        Kind::Balloon => "balloon".to_owned(),
        kind => format!("{}{number}", kind.word()),
    };
    let name = reader.text("name").unwrap_or(default_name);
    let socket = reader.text("socket").map(PathBuf::from);
    let sized = reader.number("queue-size");
    let queues = match kind {
        Kind::Disk => reader.number("queues"),
        _ => None,
    };
    let packed = reader.flag("packed");
    let mtu = match (kind, &socket) {
        // A daemon of our own has it as a key.
        (Kind::Net, Some(_)) => reader.number("mtu"),
        _ => None,
    };
    let mac = match (kind, &socket) {
        (Kind::Net, Some(socket)) => reader.mac("mac").unwrap_or_else(|| invent(socket)),
        _ => [0; 6],
    };
    let Reader {
        table: mut rest,
        mut wrong,
    } = reader;
    judge_rest(kind, socket.is_some(), &rest, &mut wrong);
    let size = sized.unwrap_or(if kind == Kind::Balloon { 128 } else { 256 });
    if !size.is_power_of_two() || size > 32768 {
        wrong.push(format!(
            "queue-size: {size} is not a power of two up to 32768"
        ));
    }
    if queues == Some(0) {
        wrong.push("queues: at least 1".to_owned());
    }
    // What is said of the queues is said to both sides.
    if let Some(key) = kind.queues_key() {
        let count = Value::Integer(queues.unwrap_or(1).into());
        rest.entry(key).or_insert(count);
    }
    if let Some(size) = sized {
        rest.entry("queue-size")
            .or_insert(Value::Integer(size.into()));
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let shown = rest.get("num-queues").and_then(Value::as_integer);
    let shown = shown.and_then(|count| u16::try_from(count).ok());
    Ok(Device {
        kind,
        name,
        queues: queues.or(shown).unwrap_or(1),
        queue_size: size,
        packed: packed.unwrap_or(false),
        mtu,
        mac,
        source: socket.map_or(Source::Daemon(rest), Source::Socket),
        places: Places::default(),
    })
}

/// Whether what is left of a table, when the VMM has taken its keys, can be.
fn judge_rest(kind: Kind, socket: bool, rest: &Table, wrong: &mut Vec<String>) {
    let ours = match kind {
        Kind::Disk => "name, queues, queue-size, packed",
        Kind::Net => "name, queue-size, packed, mtu, mac",
        Kind::Balloon => "name, queue-size, packed",
    };
    if socket {
        let unknown = |key: &String| {
            format!("{key:?} is none of {ours}, which are all that go with a socket")
        };
        wrong.extend(rest.keys().map(unknown));
    } else if kind == Kind::Disk && !rest.contains_key("path") && !rest.contains_key("memory-disk")
    {
        let message = "no socket=PATH of a daemon that runs, and no path=IMAGE or \
                       memory-disk=SIZE for one that is to be started";
        wrong.push(message.to_owned());
    }
}

/// An address that is the same each time for one place, and most likely another for another.
fn invent(socket: &Path) -> [u8; 6] {
    let bytes = socket.as_os_str().as_encoded_bytes();
    // FNV-1a.
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let [a, b, c, ..] = hash.to_be_bytes();
    [0x52, 0x54, 0, a, b, c]
}

/// Takes known keys out of a table.
struct Reader {
    table: Table,
    wrong: Vec<String>,
}

impl Reader {
    fn text(&mut self, key: &str) -> Option<String> {
        match self.table.remove(key)? {
            Value::String(text) if !text.is_empty() => Some(text),
            other => self.refuse(key, &other, "text"),
        }
    }

    fn number(&mut self, key: &str) -> Option<u16> {
        let value = self.table.remove(key)?;
        let number = value.as_integer().and_then(|n| u16::try_from(n).ok());
        number.or_else(|| self.refuse(key, &value, "a number up to 65535"))
    }

    fn flag(&mut self, key: &str) -> Option<bool> {
        let value = self.table.remove(key)?;
        match (value.as_bool(), value.as_str()) {
            (Some(flag), _) => Some(flag),
            (None, Some("on")) => Some(true),
            (None, Some("off")) => Some(false),
            _ => self.refuse(key, &value, "on or off"),
        }
    }

    fn mac(&mut self, key: &str) -> Option<[u8; 6]> {
        let value = self.table.remove(key)?;
        let text = value.as_str().unwrap_or_default();
        let bytes: Result<Vec<u8>, _> = text
            .split([':', '-'])
            .map(|byte| u8::from_str_radix(byte, 16))
            .collect();
        let mac = bytes.ok().and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        let unicast = mac.filter(|[first, ..]| first & 1 == 0);
        unicast.or_else(|| self.refuse(key, &value, "an address such as 52:54:00:12:34:56"))
    }

    fn refuse<T>(&mut self, key: &str, value: &Value, wanted: &str) -> Option<T> {
        self.wrong.push(format!("{key}: {value} is not {wanted}"));
        None
    }
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
