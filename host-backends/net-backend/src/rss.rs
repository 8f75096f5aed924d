//! Receive-side scaling (virtio 1.4 sec. 5.1.6.5.7 and 5.1.6.4.3): the Toeplitz hash of a frame's addresses, and the
//! table that turns it into a queue.
//!
//! Rule: it is given owned bytes of the frame's head; what is not wholly there is hashed by what is, or not at all.

use virtio_spec::net::rss::hash_report;
use virtio_spec::net::rss::hash_type;

/// Bytes of the longest key: enough for two IPv6 addresses and two ports (sec. 5.1.4.1, at least 40).
pub const KEY_BYTES: usize = 40;
/// Most entries of the indirection table (sec. 5.1.4.1, at least 128).
pub const TABLE_ENTRIES: usize = 512;
/// The hash types that are computed.
pub const SUPPORTED_TYPES: u32 = hash_type::IPV4
    | hash_type::TCPV4
    | hash_type::UDPV4
    | hash_type::IPV6
    | hash_type::TCPV6
    | hash_type::UDPV6;
/// Frame bytes that are looked at, at most: Ethernet, two tags, IPv6, extension headers, ports.
pub const HEAD_BYTES: usize = 128;

/// Bytes of the longest hash input.
const INPUT_BYTES: usize = 36;
/// Extension headers that are followed.
const MAX_EXTENSIONS: usize = 8;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The Toeplitz hash under one key, with a table per half byte of input.
#[derive(Clone)]
pub struct Hasher {
    types: u32,
    tables: Box<[[u32; 16]; INPUT_BYTES * 2]>,
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Hasher")
            .field("types", &self.types)
            .finish_non_exhaustive()
    }
}

/// What a frame's hash is, and over what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameHash {
    /// The value; 0 with [`hash_report::NONE`].
    pub value: u32,
    /// One of [`hash_report`].
    pub report: u16,
}

impl Hasher {
    /// A hasher for `types` under `key`, which is padded with zeroes.
    pub fn new(types: u32, key: &[u8]) -> Self {
        let mut padded = [0; KEY_BYTES + 1];
        for (to, from) in padded.iter_mut().zip(key.iter().take(KEY_BYTES)) {
            *to = *from;
        }
        let mut tables = Box::new([[0; 16]; INPUT_BYTES * 2]);
        for (half, table) in tables.iter_mut().enumerate() {
            for (value, entry) in table.iter_mut().enumerate() {
                for bit in (0..4).filter(|bit| value & (8 >> bit) != 0) {
                    *entry ^= window(&padded, half * 4 + bit);
                }
            }
        }
        Self { types, tables }
    }

    /// The hash types in use.
    pub fn types(&self) -> u32 {
        self.types
    }

    /// The hash of `input`, of at most 36 bytes.
    pub fn toeplitz(&self, input: &[u8]) -> u32 {
        let mut hash = 0;
        for (byte, [high, low]) in input.iter().zip(self.tables.as_chunks::<2>().0) {
            hash ^= high.get(usize::from(byte >> 4)).copied().unwrap_or(0);
            hash ^= low.get(usize::from(byte & 15)).copied().unwrap_or(0);
        }
        hash
    }

    /// The hash of the frame that begins with `head` (its Ethernet header).
    pub fn frame(&self, head: &[u8]) -> FrameHash {
        self.known(head).unwrap_or_default()
    }

    fn known(&self, head: &[u8]) -> Option<FrameHash> {
        let (kind, packet) = payload(head)?;
        match kind {
            0x0800 => self.ipv4(packet),
            0x86dd => self.ipv6(packet),
            _ => None,
        }
    }

    fn ipv4(&self, packet: &[u8]) -> Option<FrameHash> {
        let first = *packet.first()?;
        let words = usize::from(first & 15);
        if first >> 4 != 4 || words < 5 {
            return None;
        }
        let addresses = packet.get(12..20)?;
        // More fragments, or a fragment that is not the first: there are no ports to rely on.
        let fragment = u16::from_be_bytes(*packet.get(6..)?.first_chunk()?) & 0x3fff != 0;
        let protocol = *packet.get(9)?;
        let choices = [
            (TCP, hash_type::TCPV4, hash_report::TCPV4),
            (UDP, hash_type::UDPV4, hash_report::UDPV4),
        ];
        if !fragment {
            let ports = packet.get(words * 4..).and_then(<[u8]>::first_chunk::<4>);
            if let Some(hash) = self.with_ports(addresses, ports, protocol, choices) {
                return Some(hash);
            }
        }
        self.over(addresses, hash_type::IPV4, hash_report::IPV4)
    }

    fn ipv6(&self, packet: &[u8]) -> Option<FrameHash> {
        if packet.first()? >> 4 != 6 {
            return None;
        }
        let addresses = packet.get(8..40)?;
        let choices = [
            (TCP, hash_type::TCPV6, hash_report::TCPV6),
            (UDP, hash_type::UDPV6, hash_report::UDPV6),
        ];
        if let Some((protocol, ports)) = ipv6_transport(packet)
            && let Some(hash) = self.with_ports(addresses, Some(ports), protocol, choices)
        {
            return Some(hash);
        }
        self.over(addresses, hash_type::IPV6, hash_report::IPV6)
    }

    fn with_ports(
        &self,
        addresses: &[u8],
        ports: Option<&[u8; 4]>,
        protocol: u8,
        choices: [(u8, u32, u16); 2],
    ) -> Option<FrameHash> {
        let (_, _, report) = choices
            .into_iter()
            .find(|(known, kind, _)| *known == protocol && self.types & kind != 0)?;
        let ports = ports?;
        let mut input = [0; INPUT_BYTES];
        let (first, rest) = input.split_at_mut_checked(addresses.len())?;
        first.copy_from_slice(addresses);
        rest.first_chunk_mut::<4>()?.copy_from_slice(ports);
        let value = self.toeplitz(input.get(..addresses.len() + 4)?);
        Some(FrameHash { value, report })
    }

    fn over(&self, addresses: &[u8], kind: u32, report: u16) -> Option<FrameHash> {
        let value = self.toeplitz(addresses);
        (self.types & kind != 0).then_some(FrameHash { value, report })
    }
}

/// 32 bits of `key` from bit `at`.
fn window(key: &[u8; KEY_BYTES + 1], at: usize) -> u32 {
    let bytes = key.get(at / 8..at / 8 + 5).unwrap_or_default();
    let wide = bytes
        .iter()
        .fold(0_u64, |wide, byte| wide << 8 | u64::from(*byte));
    (wide >> (8 - at % 8)) as u32
}

/// The EtherType behind up to two VLAN tags, and what follows it.
fn payload(head: &[u8]) -> Option<(u16, &[u8])> {
    let mut rest = head.get(12..)?;
    for _ in 0..3 {
        let kind = u16::from_be_bytes(*rest.first_chunk()?);
        if !matches!(kind, 0x8100 | 0x88a8) {
            return Some((kind, rest.get(2..)?));
        }
        rest = rest.get(4..)?;
    }
    None
}

/// Transport protocol and ports of an IPv6 packet, unless it is a fragment.
fn ipv6_transport(packet: &[u8]) -> Option<(u8, &[u8; 4])> {
    let mut next = *packet.get(6)?;
    let mut rest = packet.get(40..)?;
    for _ in 0..MAX_EXTENSIONS {
        match next {
            // Hop-by-hop, routing, destination options.
            0 | 43 | 60 => {
                let len = (usize::from(*rest.get(1)?) + 1) * 8;
                next = *rest.first()?;
                rest = rest.get(len..)?;
            }
            TCP | UDP => return Some((next, rest.first_chunk()?)),
            _ => return None,
        }
    }
    None
}

/// Where frames go by their hash.
#[derive(Clone, Debug)]
pub struct Steering {
    hasher: Hasher,
    /// Queue pairs by the hash's low bits; a power of two of them.
    table: Vec<u16>,
    unclassified: u16,
}

impl Steering {
    /// Steers by `table`, whose length is a power of two; `unclassified` takes what has no hash.
    pub fn new(hasher: Hasher, table: Vec<u16>, unclassified: u16) -> Self {
        Self {
            hasher,
            table,
            unclassified,
        }
    }

    /// The hash function.
    pub fn hasher(&self) -> &Hasher {
        &self.hasher
    }

    /// The queue pair for a frame of this hash.
    #[inline]
    pub fn pair(&self, hash: FrameHash) -> u16 {
        if hash.report == hash_report::NONE {
            return self.unclassified;
        }
        let mask = self.table.len().wrapping_sub(1);
        self.table
            .get(hash.value as usize & mask)
            .copied()
            .unwrap_or(self.unclassified)
    }

    /// Largest queue pair that frames are sent to.
    pub fn highest_pair(&self) -> u16 {
        self.table.iter().copied().fold(self.unclassified, u16::max)
    }
}
