//! Where the headers of a frame are: Ethernet with VLAN tags, IPv4, IPv6 with its extension headers.
//!
//! Rule: works on bytes that we own; a header that is not wholly there is not there.

/// Bytes at the start of a frame that hold every header worth a look: Ethernet with two tags, IPv6 with a chain of
/// extension headers, TCP with all options. Who copies this many (or the whole of a shorter frame) need not copy more.
pub const HEAD_BYTES: usize = 256;

/// EtherTypes that are looked into.
pub(crate) mod ethertype {
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const RARP: u16 = 0x8035;
    pub const IPV6: u16 = 0x86dd;
    pub const VLAN: u16 = 0x8100;
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// IP protocols that are looked into.
pub(crate) mod protocol {
    pub const HOP_BY_HOP: u8 = 0;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const DESTINATION: u8 = 60;
}

const ETHERNET: usize = 14;
const MAX_TAGS: usize = 2;
const MAX_EXTENSIONS: usize = 8;

/// Two bytes in network order.
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    field::<2>(bytes, at).map(u16::from_be_bytes)
}

/// Stores two bytes in network order.
pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    let field = bytes.get_mut(at..at.checked_add(2)?)?;
    field.copy_from_slice(&value.to_be_bytes());
    Some(())
}

/// `N` bytes at `at`.
pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// What the Ethernet header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ethernet {
    /// What is inside, behind the tags.
    pub ethertype: u16,
    /// Where it begins.
    pub network: usize,
}

/// Reads the Ethernet header and up to two VLAN tags.
pub(crate) fn ethernet(head: &[u8]) -> Option<Ethernet> {
    let mut network = ETHERNET;
    for _ in 0..=MAX_TAGS {
        let ethertype = be16(head, network - 2)?;
        if !matches!(ethertype, ethertype::VLAN | ethertype::SERVICE_VLAN) {
            return Some(Ethernet { ethertype, network });
        }
        network += 4;
    }
    None
}

/// Which part of a packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment {
    /// All of it.
    Whole,
    /// The first of several, with the headers.
    First,
    /// Any other: what follows IP is the middle of something, no header.
    Later,
}

/// What the IP headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ip {
    /// IPv6.
    pub v6: bool,
    /// Where the IP header begins.
    pub network: usize,
    /// Where what is inside begins.
    pub transport: usize,
    /// What is inside.
    pub protocol: u8,
    /// Which part of the packet it is.
    pub fragment: Fragment,
    /// End of the packet in the frame as the IP header has it; padding may follow.
    pub end: usize,
}

impl Ethernet {
    /// Reads the IP headers, if there are any and they are right.
    pub fn ip(self, head: &[u8]) -> Option<Ip> {
        match self.ethertype {
            ethertype::IPV4 => ipv4(head, self.network),
            ethertype::IPV6 => ipv6(head, self.network),
            _ => None,
        }
    }
}

fn ipv4(head: &[u8], network: usize) -> Option<Ip> {
    let [first, _, high, low] = field::<4>(head, network)?;
    let length = usize::from(first & 15) * 4;
    let total = usize::from(u16::from_be_bytes([high, low]));
    if first >> 4 != 4 || length < 20 || total < length {
        return None;
    }
    head.get(network..network + length)?;
    let fragment = match be16(head, network + 6)? & 0x3fff {
        0 => Fragment::Whole,
        0x2000 => Fragment::First,
        _ => Fragment::Later,
    };
    let [protocol] = field(head, network + 9)?;
    Some(Ip {
        v6: false,
        network,
        transport: network + length,
        protocol,
        fragment,
        end: network + total,
    })
}

fn ipv6(head: &[u8], network: usize) -> Option<Ip> {
    let [first, _, _, _, high, low, next, _] = field::<8>(head, network)?;
    if first >> 4 != 6 {
        return None;
    }
    let end = network + 40 + usize::from(u16::from_be_bytes([high, low]));
    let mut ip = Ip {
        v6: true,
        network,
        transport: network + 40,
        protocol: next,
        fragment: Fragment::Whole,
        end,
    };
    head.get(network..ip.transport)?;
    for _ in 0..MAX_EXTENSIONS {
        let length = match ip.protocol {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION => {
                let [_, units] = field(head, ip.transport)?;
                (usize::from(units) + 1) * 8
            }
            protocol::AUTHENTICATION => {
                let [_, units] = field(head, ip.transport)?;
                (usize::from(units) + 2) * 4
            }
            protocol::FRAGMENT => {
                // The only one of its packet (offset 0, no more follow) is a first one too.
                ip.fragment = match be16(head, ip.transport + 2)? & !7 {
                    0 => Fragment::First,
                    _ => Fragment::Later,
                };
                8
            }
            _ => return (ip.transport <= ip.end).then_some(ip),
        };
        let [next] = field(head, ip.transport)?;
        head.get(ip.transport..ip.transport + length)?;
        ip.transport += length;
        ip.protocol = next;
        if ip.fragment == Fragment::Later {
            return (ip.transport <= ip.end).then_some(ip);
        }
    }
    None
}
