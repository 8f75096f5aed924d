//! Commands for the control queue (virtio 1.4 sec. 5.1.6.5), checked and put into bytes.
//!
//! Rule: a command that passes was negotiated and its values are in range; pure functions.
use virtio_spec::net::MAC_SIZE;
use virtio_spec::net::control;
use virtio_spec::net::control::CommandHeader;
use virtio_spec::net::control::class;
use virtio_spec::net::feature;
use virtio_spec::net::rss::HashHead;
use virtio_spec::net::rss::RssHead;
use virtio_spec::net::rss::RssTail;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;

use crate::config::NetInfo;
use crate::error::Refusal;

/// Most bytes of a command with its header: an indirection table of 512 entries and a key of 255 bytes, or 330 addresses.
pub(crate) const COMMAND_MAX: usize = 2000;

/// A mode of receiving (sec. 5.1.6.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveMode {
    /// Everything is received.
    Promiscuous,
    /// All multicast is received.
    AllMulticast,
    /// All unicast is received.
    AllUnicast,
    /// No multicast is received.
    NoMulticast,
    /// No unicast is received.
    NoUnicast,
    /// No broadcast is received.
    NoBroadcast,
}

/// When notifications are sent (sec. 5.1.6.5.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coalescing {
    /// Most frames before a notification.
    pub max_packets: u32,
    /// Most microseconds from a frame to its notification.
    pub max_usecs: u32,
}

/// Receive-side scaling (sec. 5.1.6.5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RssConfig<'a> {
    /// What is hashed: bits of [`virtio_spec::net::rss::hash_type`].
    pub hash_types: u32,
    /// Pair for frames without a hash.
    pub unclassified: u16,
    /// Pair by the low bits of the hash; its length is a power of two.
    pub table: &'a [u16],
    /// Transmit queues in use.
    pub transmit_queues: u16,
    /// The key.
    pub key: &'a [u8],
}

/// Hash reports without receive-side scaling (sec. 5.1.6.5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashConfig<'a> {
    /// What is hashed: bits of [`virtio_spec::net::rss::hash_type`].
    pub hash_types: u32,
    /// The key.
    pub key: &'a [u8],
}

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Switches a mode of receiving.
    Receive(ReceiveMode, bool),
    /// Replaces the table of addresses that are received besides the device's own.
    MacTable {
        /// Unicast addresses.
        unicast: &'a [[u8; MAC_SIZE]],
        /// Multicast addresses.
        multicast: &'a [[u8; MAC_SIZE]],
    },
    /// Changes the device's own address.
    SetMac([u8; MAC_SIZE]),
    /// Receives frames of a VLAN.
    AddVlan(u16),
    /// Receives frames of a VLAN no more.
    RemoveVlan(u16),
    /// Says that the driver has announced itself.
    AnnounceAck,
    /// Uses so many queue pairs. Transmit queues beyond them take nothing from the moment when fewer are asked for.
    Pairs(u16),
    /// Configures receive-side scaling, which sets the transmit queues in use too.
    Rss(RssConfig<'a>),
    /// Configures hash reports.
    Hash(HashConfig<'a>),
    /// Receives with these of the negotiated offloads: bits of [`virtio_spec::net::feature::GUEST_OFFLOADS`].
    GuestOffloads(u64),
    /// Coalesces notifications of all transmit queues.
    CoalesceTransmit(Coalescing),
    /// Coalesces notifications of all receive queues.
    CoalesceReceive(Coalescing),
    /// Coalesces notifications of one queue, by its index on the device.
    CoalesceQueue(u16, Coalescing),
    /// Reads what holds for one queue.
    ReadCoalescing(u16),
}

/// What the checks need to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) features: u64,
    pub(crate) info: NetInfo,
    /// Pairs that are set up.
    pub(crate) pairs: u16,
}

/// Bytes of a command, put together without allocation.
#[derive(Debug)]
pub(crate) struct Encoded {
    bytes: [u8; COMMAND_MAX],
    len: usize,
    overflow: bool,
    /// The device answers with [`Coalescing`].
    pub(crate) reads: bool,
    /// Transmit queues in use once it is done.
    pub(crate) transmit_queues: Option<u16>,
}

impl Encoded {
    fn new(class: u8, command: u8) -> Self {
        let mut new = Self {
            bytes: [0; COMMAND_MAX],
            len: 0,
            overflow: false,
            reads: false,
            transmit_queues: None,
        };
        new.put(CommandHeader { class, command }.as_bytes());
        new
    }

    fn put(&mut self, bytes: &[u8]) {
        match self.bytes.get_mut(self.len..self.len + bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.overflow = true,
        }
    }

    fn with(mut self, bytes: &[u8]) -> Self {
        self.put(bytes);
        self
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

/// Checks a command and puts it into bytes.
pub(crate) fn encode(limits: &Limits, command: &Command<'_>) -> Result<Encoded, Refusal> {
    if limits.features & needed(command) != needed(command) {
        return Err(Refusal::Unsupported);
    }
    let encoded = match *command {
        Command::Receive(mode, on) => {
            Encoded::new(class::RX, mode_command(mode)).with(&[u8::from(on)])
        }
        Command::MacTable { unicast, multicast } => mac_table(unicast, multicast)?,
        Command::SetMac(mac) => {
            check(mac[0] & 1 == 0 && mac != [0; MAC_SIZE])?;
            Encoded::new(class::MAC, control::mac::ADDR_SET).with(&mac)
        }
        Command::AddVlan(id) => vlan(control::vlan::ADD, id)?,
        Command::RemoveVlan(id) => vlan(control::vlan::DEL, id)?,
        Command::AnnounceAck => Encoded::new(class::ANNOUNCE, control::announce::ACK),
        Command::Pairs(pairs) => {
            check((1..=limits.pairs).contains(&pairs))?;
            let mut encoded = Encoded::new(class::MQ, control::mq::VQ_PAIRS_SET);
            encoded.put(&pairs.to_le_bytes());
            encoded.transmit_queues = Some(pairs);
            encoded
        }
        Command::Rss(config) => rss(limits, &config)?,
        Command::Hash(config) => hash(limits, &config)?,
        Command::GuestOffloads(set) => {
            check(set & !(limits.features & feature::GUEST_OFFLOADS) == 0)?;
            Encoded::new(class::GUEST_OFFLOADS, control::guest_offloads::SET)
                .with(&set.to_le_bytes())
        }
        Command::CoalesceTransmit(coalescing) => {
            coalesce_all(control::coalescing::TX_SET, coalescing)
        }
        Command::CoalesceReceive(coalescing) => {
            coalesce_all(control::coalescing::RX_SET, coalescing)
        }
        Command::CoalesceQueue(queue, coalescing) => {
            coalesce_one(limits, control::coalescing::VQ_SET, queue)?
                .with(wire(coalescing).as_bytes())
        }
        Command::ReadCoalescing(queue) => {
            let mut encoded = coalesce_one(limits, control::coalescing::VQ_GET, queue)?;
            encoded.reads = true;
            encoded
        }
    };
    if encoded.overflow {
        Err(Refusal::TooLarge)
    } else {
        Ok(encoded)
    }
}

/// The features without which a command does not exist.
fn needed(command: &Command<'_>) -> u64 {
    match command {
        Command::Receive(ReceiveMode::Promiscuous | ReceiveMode::AllMulticast, _)
        | Command::MacTable { .. } => feature::CTRL_RX,
        Command::Receive(..) => feature::CTRL_RX_EXTRA,
        // The whole class needs it (sec. 5.1.6.5.2.2), and this command its own feature too.
        Command::SetMac(_) => feature::CTRL_MAC_ADDR | feature::CTRL_RX,
        Command::AddVlan(_) | Command::RemoveVlan(_) => feature::CTRL_VLAN,
        Command::AnnounceAck => feature::GUEST_ANNOUNCE,
        Command::Pairs(_) => feature::MQ,
        Command::Rss(_) => feature::RSS,
        Command::Hash(_) => feature::HASH_REPORT,
        Command::GuestOffloads(_) => feature::CTRL_GUEST_OFFLOADS,
        Command::CoalesceTransmit(_) | Command::CoalesceReceive(_) => feature::NOTF_COAL,
        Command::CoalesceQueue(..) | Command::ReadCoalescing(_) => feature::VQ_NOTF_COAL,
    }
}

fn check(holds: bool) -> Result<(), Refusal> {
    holds.then_some(()).ok_or(Refusal::OutOfRange)
}

fn mode_command(mode: ReceiveMode) -> u8 {
    match mode {
        ReceiveMode::Promiscuous => control::rx::PROMISC,
        ReceiveMode::AllMulticast => control::rx::ALLMULTI,
        ReceiveMode::AllUnicast => control::rx::ALLUNI,
        ReceiveMode::NoMulticast => control::rx::NOMULTI,
        ReceiveMode::NoUnicast => control::rx::NOUNI,
        ReceiveMode::NoBroadcast => control::rx::NOBCAST,
    }
}

fn mac_table(unicast: &[[u8; MAC_SIZE]], multicast: &[[u8; MAC_SIZE]]) -> Result<Encoded, Refusal> {
    check(unicast.iter().all(|mac| mac[0] & 1 == 0))?;
    check(multicast.iter().all(|mac| mac[0] & 1 == 1))?;
    let mut encoded = Encoded::new(class::MAC, control::mac::TABLE_SET);
    for table in [unicast, multicast] {
        let entries = u32::try_from(table.len()).map_err(|_| Refusal::TooLarge)?;
        encoded.put(&entries.to_le_bytes());
        encoded.put(table.as_flattened());
    }
    Ok(encoded)
}

fn vlan(command: u8, id: u16) -> Result<Encoded, Refusal> {
    check(id < control::VLANS)?;
    Ok(Encoded::new(class::VLAN, command).with(&id.to_le_bytes()))
}

fn hash_checks(limits: &Limits, hash_types: u32, key: &[u8]) -> Result<u8, Refusal> {
    let info = limits.info.rss.ok_or(Refusal::Unsupported)?;
    check(hash_types & !info.hash_types == 0)?;
    let len = u8::try_from(key.len()).map_err(|_| Refusal::OutOfRange)?;
    check(len <= info.key_max)?;
    Ok(len)
}

fn rss(limits: &Limits, config: &RssConfig<'_>) -> Result<Encoded, Refusal> {
    let key_len = hash_checks(limits, config.hash_types, config.key)?;
    let table_max = limits.info.rss.map_or(0, |info| info.table_max);
    let len = u16::try_from(config.table.len()).map_err(|_| Refusal::OutOfRange)?;
    check(len.is_power_of_two() && len <= table_max)?;
    check(config.unclassified < limits.pairs)?;
    check(config.table.iter().all(|&pair| pair < limits.pairs))?;
    check((1..=limits.pairs).contains(&config.transmit_queues))?;
    let head = RssHead {
        hash_types: config.hash_types.into(),
        indirection_table_mask: (len - 1).into(),
        unclassified_queue: config.unclassified.into(),
    };
    let tail = RssTail {
        max_tx_vq: config.transmit_queues.into(),
        hash_key_length: key_len,
    };
    let mut encoded = Encoded::new(class::MQ, control::mq::RSS_CONFIG).with(head.as_bytes());
    for &pair in config.table {
        encoded.put(&pair.to_le_bytes());
    }
    encoded.put(tail.as_bytes());
    encoded.put(config.key);
    encoded.transmit_queues = Some(config.transmit_queues);
    Ok(encoded)
}

fn hash(limits: &Limits, config: &HashConfig<'_>) -> Result<Encoded, Refusal> {
    let head = HashHead {
        hash_types: config.hash_types.into(),
        reserved: [U16::ZERO; 4],
        hash_key_length: hash_checks(limits, config.hash_types, config.key)?,
    };
    Ok(Encoded::new(class::MQ, control::mq::HASH_CONFIG)
        .with(head.as_bytes())
        .with(config.key))
}

fn wire(coalescing: Coalescing) -> control::Coalescing {
    control::Coalescing {
        max_packets: coalescing.max_packets.into(),
        max_usecs: coalescing.max_usecs.into(),
    }
}

fn coalesce_all(command: u8, coalescing: Coalescing) -> Encoded {
    Encoded::new(class::NOTF_COAL, command).with(wire(coalescing).as_bytes())
}

/// The head of a command for one queue, without the values.
fn coalesce_one(limits: &Limits, command: u8, queue: u16) -> Result<Encoded, Refusal> {
    check(queue / 2 < limits.pairs)?;
    Ok(Encoded::new(class::NOTF_COAL, command)
        .with(&queue.to_le_bytes())
        .with(&[0, 0]))
}
