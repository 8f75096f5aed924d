//! From the bytes of a control request to a command (virtio 1.4 sec. 5.1.6.5).
//!
//! Rule: a request has exactly the bytes that its command needs, and every value in it is checked before anything
//! changes; what is not negotiated does not exist.

use virtio_spec::net::control::CommandHeader;
use virtio_spec::net::control::QueueCoalescing;
use virtio_spec::net::control::TableHeader;
use virtio_spec::net::control::VLANS;
use virtio_spec::net::control::announce;
use virtio_spec::net::control::class;
use virtio_spec::net::control::coalescing;
use virtio_spec::net::control::guest_offloads;
use virtio_spec::net::control::mac;
use virtio_spec::net::control::mq;
use virtio_spec::net::control::rx;
use virtio_spec::net::control::vlan;
use virtio_spec::net::feature;
use virtio_spec::net::rss::HashHead;
use virtio_spec::net::rss::QUEUE_ID_MASK;
use virtio_spec::net::rss::RssHead;
use virtio_spec::net::rss::RssTail;
use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::KnownLayout;
use zerocopy::Unaligned;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U64;

use crate::MacAddress;
use crate::control::Moderation;
use crate::rss::KEY_BYTES;
use crate::rss::SUPPORTED_TYPES;
use crate::rss::TABLE_ENTRIES;

/// Longest request that is read; more than any sensible address table needs.
pub(crate) const MAX_REQUEST: usize = 16 << 10;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Unknown, or not negotiated.
    Unknown,
    /// Too few bytes, too many, or a table that contradicts its length.
    Length,
    /// A value that is not allowed.
    Value,
    /// Not all of it lies in guest memory.
    Address,
    /// The device cannot do it now.
    Failed,
}

/// What a request is checked against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Features the driver accepted.
    pub features: u64,
    /// Queue pairs of the device.
    pub pairs: u16,
}

impl Limits {
    fn has(&self, bit: u64) -> bool {
        self.features & bit != 0
    }
}

/// One receive mode (sec. 5.1.6.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Promiscuous,
    AllMulticast,
    AllUnicast,
    NoMulticast,
    NoUnicast,
    NoBroadcast,
}

/// What to hash and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HashSetup {
    pub types: u32,
    pub key: Vec<u8>,
}

/// A whole RSS configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RssSetup {
    pub hash: HashSetup,
    /// Pairs, each below the device's; a power of two of them.
    pub table: Vec<u16>,
    pub unclassified: u16,
    /// Pairs that the driver sends on.
    pub transmit_pairs: u16,
}

/// What the driver asks, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Mode(Mode, bool),
    Table {
        unicast: Vec<MacAddress>,
        multicast: Vec<MacAddress>,
    },
    Address(MacAddress),
    Vlan(u16, bool),
    AnnounceAck,
    Pairs(u16),
    Rss(RssSetup),
    Hash(HashSetup),
    /// GUEST_* feature bits.
    Offloads(u64),
    /// For all transmit queues, or all receive queues.
    Moderate {
        transmit: bool,
        moderation: Moderation,
    },
    /// For one virtqueue.
    ModerateQueue(u16, Moderation),
    AskModeration(u16),
}

impl Command {
    /// Whether it changes how the card is from now on.
    pub fn lasts(&self) -> bool {
        !matches!(self, Self::AnnounceAck | Self::AskModeration(_))
    }

    /// Reads `request`, which nobody else can change any more.
    pub fn parse(request: &[u8], limits: &Limits) -> Result<Self, Refusal> {
        let (header, body) =
            CommandHeader::read_from_prefix(request).map_err(|_| Refusal::Length)?;
        let command = header.command;
        match header.class {
            class::RX => receive_mode(command, body, limits),
            class::MAC => address(command, body, limits),
            class::VLAN if limits.has(feature::CTRL_VLAN) => vlan_filter(command, body),
            class::ANNOUNCE if limits.has(feature::GUEST_ANNOUNCE) => match command {
                announce::ACK if body.is_empty() => Ok(Self::AnnounceAck),
                announce::ACK => Err(Refusal::Length),
                _ => Err(Refusal::Unknown),
            },
            class::MQ => queues(command, body, limits),
            class::GUEST_OFFLOADS if limits.has(feature::CTRL_GUEST_OFFLOADS) => match command {
                guest_offloads::SET => offloads(body, limits),
                _ => Err(Refusal::Unknown),
            },
            class::NOTF_COAL => moderation(command, body, limits),
            _ => Err(Refusal::Unknown),
        }
    }
}

fn exactly<T: FromBytes>(body: &[u8]) -> Result<T, Refusal> {
    T::read_from_bytes(body).map_err(|_| Refusal::Length)
}

fn split<T: FromBytes + Immutable + KnownLayout + Unaligned>(
    body: &[u8],
) -> Result<(T, &[u8]), Refusal> {
    T::read_from_prefix(body).map_err(|_| Refusal::Length)
}

fn receive_mode(command: u8, body: &[u8], limits: &Limits) -> Result<Command, Refusal> {
    let (mode, bit) = match command {
        rx::PROMISC => (Mode::Promiscuous, feature::CTRL_RX),
        rx::ALLMULTI => (Mode::AllMulticast, feature::CTRL_RX),
        rx::ALLUNI => (Mode::AllUnicast, feature::CTRL_RX_EXTRA),
        rx::NOMULTI => (Mode::NoMulticast, feature::CTRL_RX_EXTRA),
        rx::NOUNI => (Mode::NoUnicast, feature::CTRL_RX_EXTRA),
        rx::NOBCAST => (Mode::NoBroadcast, feature::CTRL_RX_EXTRA),
        _ => return Err(Refusal::Unknown),
    };
    if !limits.has(bit) {
        return Err(Refusal::Unknown);
    }
    match exactly(body)? {
        on @ (0_u8 | 1) => Ok(Command::Mode(mode, on == 1)),
        _ => Err(Refusal::Value),
    }
}

fn address(command: u8, body: &[u8], limits: &Limits) -> Result<Command, Refusal> {
    match command {
        mac::TABLE_SET if limits.has(feature::CTRL_RX) => {
            let (unicast, rest) = table(body)?;
            let (multicast, rest) = table(rest)?;
            if !rest.is_empty() {
                return Err(Refusal::Length);
            }
            Ok(Command::Table { unicast, multicast })
        }
        mac::ADDR_SET if limits.has(feature::CTRL_MAC_ADDR) => {
            let address = MacAddress(exactly(body)?);
            if !address.is_station() {
                return Err(Refusal::Value);
            }
            Ok(Command::Address(address))
        }
        _ => Err(Refusal::Unknown),
    }
}

fn table(body: &[u8]) -> Result<(Vec<MacAddress>, &[u8]), Refusal> {
    let (header, rest) = split::<TableHeader>(body)?;
    let entries = usize::try_from(header.entries.get()).map_err(|_| Refusal::Length)?;
    let bytes = entries.checked_mul(6).ok_or(Refusal::Length)?;
    let (table, rest) = rest.split_at_checked(bytes).ok_or(Refusal::Length)?;
    let (addresses, _) = table.as_chunks::<6>();
    Ok((addresses.iter().copied().map(MacAddress).collect(), rest))
}

fn vlan_filter(command: u8, body: &[u8]) -> Result<Command, Refusal> {
    let wanted = match command {
        vlan::ADD => true,
        vlan::DEL => false,
        _ => return Err(Refusal::Unknown),
    };
    let id = exactly::<U16>(body)?.get();
    if id >= VLANS {
        return Err(Refusal::Value);
    }
    Ok(Command::Vlan(id, wanted))
}

fn queues(command: u8, body: &[u8], limits: &Limits) -> Result<Command, Refusal> {
    match command {
        mq::VQ_PAIRS_SET if limits.has(feature::MQ) => {
            let pairs = exactly::<U16>(body)?.get();
            if pairs == 0 || pairs > limits.pairs {
                return Err(Refusal::Value);
            }
            Ok(Command::Pairs(pairs))
        }
        mq::RSS_CONFIG if limits.has(feature::RSS) => rss(body, limits).map(Command::Rss),
        mq::HASH_CONFIG if limits.has(feature::HASH_REPORT) => {
            let (head, key) = split::<HashHead>(body)?;
            hash(head.hash_types.get(), head.hash_key_length, key).map(Command::Hash)
        }
        _ => Err(Refusal::Unknown),
    }
}

fn hash(types: u32, key_length: u8, key: &[u8]) -> Result<HashSetup, Refusal> {
    if usize::from(key_length) > KEY_BYTES || types & !SUPPORTED_TYPES != 0 {
        return Err(Refusal::Value);
    }
    if usize::from(key_length) != key.len() {
        return Err(Refusal::Length);
    }
    Ok(HashSetup {
        types,
        key: key.to_vec(),
    })
}

fn rss(body: &[u8], limits: &Limits) -> Result<RssSetup, Refusal> {
    let (head, rest) = split::<RssHead>(body)?;
    let entries = usize::from(head.indirection_table_mask.get()) + 1;
    if !entries.is_power_of_two() || entries > TABLE_ENTRIES {
        return Err(Refusal::Value);
    }
    let (table, rest) = rest.split_at_checked(entries * 2).ok_or(Refusal::Length)?;
    let (tail, key) = split::<RssTail>(rest)?;
    let hash = hash(head.hash_types.get(), tail.hash_key_length, key)?;
    let pair = |id: u16| {
        let fine = id & !QUEUE_ID_MASK == 0 && id < limits.pairs;
        fine.then_some(id).ok_or(Refusal::Value)
    };
    let (table, _) = table.as_chunks::<2>();
    let table: Result<Vec<u16>, Refusal> = table
        .iter()
        .map(|bytes| pair(u16::from_le_bytes(*bytes)))
        .collect();
    let transmit_pairs = tail.max_tx_vq.get();
    if transmit_pairs == 0 || transmit_pairs > limits.pairs {
        return Err(Refusal::Value);
    }
    Ok(RssSetup {
        hash,
        table: table?,
        unclassified: pair(head.unclassified_queue.get())?,
        transmit_pairs,
    })
}

fn offloads(body: &[u8], limits: &Limits) -> Result<Command, Refusal> {
    let bits = exactly::<U64>(body)?.get();
    if bits & !(limits.features & feature::GUEST_OFFLOADS) != 0 {
        return Err(Refusal::Value);
    }
    Ok(Command::Offloads(bits))
}

fn moderation(command: u8, body: &[u8], limits: &Limits) -> Result<Command, Refusal> {
    let all = limits.has(feature::NOTF_COAL);
    let each = limits.has(feature::VQ_NOTF_COAL);
    match command {
        coalescing::TX_SET | coalescing::RX_SET if all => Ok(Command::Moderate {
            transmit: command == coalescing::TX_SET,
            moderation: Moderation::from_wire(exactly(body)?),
        }),
        coalescing::VQ_SET if each => {
            let setting = exactly::<QueueCoalescing>(body)?;
            let queue = data_queue(setting.vq_index.get(), limits)?;
            let moderation = Moderation::from_wire(setting.coalescing);
            Ok(Command::ModerateQueue(queue, moderation))
        }
        coalescing::VQ_GET if each => {
            // Drivers send the head alone, or the whole structure with zeroes.
            let (index, rest) = split::<U16>(body)?;
            if !matches!(rest.len(), 2 | 10) {
                return Err(Refusal::Length);
            }
            data_queue(index.get(), limits).map(Command::AskModeration)
        }
        _ => Err(Refusal::Unknown),
    }
}

/// `index` if it is a transmit or receive queue.
fn data_queue(index: u16, limits: &Limits) -> Result<u16, Refusal> {
    if index / 2 < limits.pairs {
        Ok(index)
    } else {
        Err(Refusal::Value)
    }
}
