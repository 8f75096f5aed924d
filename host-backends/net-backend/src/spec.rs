//! What a network device is asked to be: one schema for the command line, the config file and the constructor.
//!
//! Rule: everything is checked in [`NetSpec::check`], which reports every fault at once and names the mend.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use clap::ValueEnum;
use net_link::LinkSpec;
use net_link::PasstSpec;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use virtio_spec::net::SPEED_MAX;

use crate::MacAddress;

/// Most queue pairs: with the control queue 255 queues, which the eight bits of a message can name.
pub const MAX_PAIRS: u16 = 127;
/// Largest ring that virtio allows a split queue.
pub const MAX_QUEUE_SIZE: u16 = 32768;
/// Smallest MTU that a device should have (virtio 1.4, 5.1.4.2).
pub const MIN_MTU: u16 = 1280;
/// Largest MTU.
pub const MAX_MTU: u16 = 65535;

/// What nearly every Ethernet has.
const ETHERNET_MTU: u16 = 1500;
/// What passt uses unless it is told otherwise: the less often it is called the faster it is.
const PASST_MTU: u16 = 65520;

/// Where the device's frames go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChoice {
    /// Out of the process.
    Outside(LinkSpec),
    /// Into a switch of this process, by its name.
    Switch(String),
}

impl Default for LinkChoice {
    fn default() -> Self {
        Self::Outside(LinkSpec::Passt(PasstSpec::default()))
    }
}

impl FromStr for LinkChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("switch", name)) if is_name(name) => Ok(Self::Switch(name.to_owned())),
            Some(("switch", name)) => Err(format!(
                "{name:?} is no name of a switch, use letters, digits, - and _"
            )),
            _ => match text.parse() {
                Ok(spec) => Ok(Self::Outside(spec)),
                Err(error) => Err(format!("{error}; or switch:NAME")),
            },
        }
    }
}

/// Whether `name` is fit for a switch.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

impl fmt::Display for LinkChoice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside(spec) => spec.fmt(out),
            Self::Switch(name) => write!(out, "switch:{name}"),
        }
    }
}

impl Serialize for LinkChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LinkChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether both sides may send at once; what the guest is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Duplex {
    /// Both at once.
    #[default]
    Full,
    /// One at a time.
    Half,
}

/// A set of feature bits, written as a hexadecimal number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureMask(pub u64);

impl FromStr for FeatureMask {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        u64::from_str_radix(digits, 16).map(Self).map_err(|_| {
            format!("{text:?} is no set of feature bits, write for example 0x130000000")
        })
    }
}

impl fmt::Display for FeatureMask {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:#x}", self.0)
    }
}

impl Serialize for FeatureMask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FeatureMask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One network device: where its frames go and how it presents itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[group(id = "net")]
pub struct NetSpec {
    /// Where frames go: passt, tap:NAME, switch:NAME, packet:INTERFACE, fd:N or null.
    #[arg(long, value_name = "LINK", default_value_t, help_heading = "Network")]
    pub link: LinkChoice,
    /// Ethernet address of the guest's interface [default: made from this host's machine-id and the absolute path where the
    /// device is served, always the same].
    #[arg(long, value_name = "MAC", help_heading = "Network")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// Largest packet that the guest should send, in bytes [default: 1500, with passt 65520].
    #[arg(long, value_name = "BYTES", help_heading = "Network")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Queue pairs; one worker thread each.
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Network")]
    pub queue_pairs: u16,
    /// Largest ring that a front-end may give a queue, a power of two.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1024,
        help_heading = "Network"
    )]
    pub queue_size: u16,
    /// Offer packed rings.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, help_heading = "Network")]
    pub packed: bool,
    /// Offer IN_ORDER: buffers come back in the order they were given, which this device does anyway.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, help_heading = "Network")]
    pub in_order: bool,
    /// Offer checksum offload, on which TSO and USO build.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, help_heading = "Offloads")]
    pub csum: bool,
    /// Offer TCP segmentation offload (TSO4, TSO6) in both directions.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, help_heading = "Offloads")]
    pub tso: bool,
    /// Offer UDP segmentation offload (USO4, USO6) in both directions.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, help_heading = "Offloads")]
    pub uso: bool,
    /// Offer large TCP frames with the ECN bit in both directions.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, help_heading = "Offloads")]
    pub ecn: bool,
    /// Offer received frames that are spread over several buffers (MRG_RXBUF).
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, help_heading = "Offloads")]
    pub mergeable: bool,
    /// Offer the control queue: receive filters, offload switches, number of queue pairs.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, help_heading = "Network")]
    pub control_queue: bool,
    /// Offer receive-side scaling and hash reports.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, help_heading = "Network")]
    pub rss: bool,
    /// Speed in Mbit/s that the guest is told [default: unknown].
    #[arg(long, value_name = "MBITS", help_heading = "Network")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed: Option<u32>,
    /// Duplex that the guest is told.
    #[arg(long, value_enum, default_value_t, help_heading = "Network")]
    pub duplex: Duplex,
    /// Limit of each direction in bytes per second; 0 is no limit.
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 0,
        help_heading = "Policy"
    )]
    pub rate_bytes: u64,
    /// Limit of each direction in packets per second; 0 is no limit.
    #[arg(
        long,
        value_name = "PACKETS",
        default_value_t = 0,
        help_heading = "Policy"
    )]
    pub rate_packets: u64,
    /// Drop what the guest sends from another Ethernet address than its own [default: true where `mac` is given, which
    /// the virtual machine monitor must be told too; else false, and on a switch the first address that the
    /// guest sends from is its own, which no other guest can take over].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Policy")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_filter: Option<bool>,
    /// Drop what the guest sends from other IP addresses than these (IP, ARP, neighbour discovery); implies mac-filter.
    #[arg(
        long,
        value_name = "IP",
        value_delimiter = ',',
        help_heading = "Policy"
    )]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_ip: Vec<IpAddr>,
    /// Record the device's frames in this file (pcap); `set` turns it on and off.
    #[arg(long, value_name = "FILE", help_heading = "Policy")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<PathBuf>,
    /// Begin to record only when `set capture=on` says so.
    #[arg(long, requires = "capture", help_heading = "Policy")]
    pub capture_paused: bool,
    /// Offer only these feature bits, hexadecimal; for tests and odd front-ends.
    #[arg(
        long,
        value_name = "HEX",
        hide_short_help = true,
        help_heading = "Network"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feature_mask: Option<FeatureMask>,
}

/// One switch of the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SwitchSpec {
    /// By which devices name it.
    pub name: String,
    /// A link to the world outside, as a further port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<LinkSpec>,
}

impl SwitchSpec {
    /// Checks everything that needs no file.
    ///
    /// # Errors
    /// The fault with its mend.
    pub fn check(&self) -> Result<(), String> {
        if is_name(&self.name) {
            return Ok(());
        }
        Err(format!(
            "{:?} is no name of a switch, use letters, digits, - and _",
            self.name
        ))
    }
}

impl Default for NetSpec {
    fn default() -> Self {
        Self {
            link: LinkChoice::default(),
            mac: None,
            mtu: None,
            queue_pairs: 1,
            queue_size: 1024,
            packed: true,
            in_order: true,
            csum: true,
            tso: true,
            uso: true,
            ecn: true,
            mergeable: true,
            control_queue: true,
            rss: true,
            speed: None,
            duplex: Duplex::Full,
            rate_bytes: 0,
            rate_packets: 0,
            mac_filter: None,
            allow_ip: Vec::new(),
            capture: None,
            capture_paused: false,
            feature_mask: None,
        }
    }
}

impl NetSpec {
    /// A device on `link`, all else by default.
    pub fn on(link: LinkSpec) -> Self {
        Self {
            link: LinkChoice::Outside(link),
            ..Self::default()
        }
    }

    /// A device on the switch `name`, all else by default.
    pub fn on_switch(name: &str) -> Self {
        Self {
            link: LinkChoice::Switch(name.to_owned()),
            ..Self::default()
        }
    }

    /// Index of the control queue when all pairs exist, and the number of queues before it.
    pub fn data_queues(&self) -> u16 {
        self.queue_pairs.saturating_mul(2)
    }

    /// The MTU that the guest is told: the one asked for, else what the link commonly has.
    pub fn shown_mtu(&self) -> u16 {
        let of_link = match &self.link {
            LinkChoice::Outside(LinkSpec::Passt(passt)) => passt_mtu(passt),
            _ => ETHERNET_MTU,
        };
        self.mtu.unwrap_or(of_link)
    }

    /// Whether the guest is held to its Ethernet address: as asked for, else where the operator named the address, so that
    /// the guest's card can be known to have it too.
    pub fn filters_mac(&self) -> bool {
        self.mac_filter.unwrap_or(self.mac.is_some()) || !self.allow_ip.is_empty()
    }

    /// Checks everything that needs no file; `Err` holds every fault found, each with its mend.
    ///
    /// # Errors
    /// The faults.
    pub fn check(&self) -> Result<(), Vec<String>> {
        let mut faults = Vec::new();
        if self.queue_pairs == 0 || self.queue_pairs > MAX_PAIRS {
            faults.push(format!(
                "`queue-pairs` is {}, give 1 to {MAX_PAIRS}",
                self.queue_pairs
            ));
        }
        if self.queue_pairs > 1 && !self.control_queue {
            faults.push(
                "several `queue-pairs` need the control queue: leave `control-queue` on".to_owned(),
            );
        }
        let size = self.queue_size;
        if !size.is_power_of_two() || !(4..=MAX_QUEUE_SIZE).contains(&size) {
            faults.push(format!(
                "`queue-size` is {size}, give a power of two from 4 to {MAX_QUEUE_SIZE}"
            ));
        }
        if let Some(mac) = self.mac
            && !mac.is_station()
        {
            faults.push(format!(
                "`mac` {mac} is no address of a single station: its first byte must be even"
            ));
        }
        if let Some(mtu) = self.mtu
            && let Err(fault) = check_mtu(mtu)
        {
            faults.push(fault);
        }
        if let Some(speed) = self.speed
            && speed > SPEED_MAX
        {
            faults.push(format!(
                "`speed` is {speed}, give up to {SPEED_MAX} or leave it out for unknown"
            ));
        }
        if self.capture_paused && self.capture.is_none() {
            faults.push("`capture-paused` needs a `capture` file".to_owned());
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults)
        }
    }
}

/// The MTU that this passt will tell the guest too.
fn passt_mtu(passt: &PasstSpec) -> u16 {
    let given = passt.arguments.iter().find(|(key, _)| key == "mtu");
    let value = given.and_then(|(_, value)| value.as_ref()?.parse().ok());
    value
        .filter(|mtu| check_mtu(*mtu).is_ok())
        .unwrap_or(PASST_MTU)
}

/// Whether a guest can be told this MTU.
///
/// # Errors
/// The fault with its mend.
pub fn check_mtu(mtu: u16) -> Result<(), String> {
    if mtu < MIN_MTU {
        return Err(format!("`mtu` is {mtu}, give {MIN_MTU} to {MAX_MTU}"));
    }
    Ok(())
}
