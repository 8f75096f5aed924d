//! Frames whose every byte is known, and the check of what arrives.
//!
//! Rule: the payload is a place in an endless sequence of words, so that cut, merged, doubled or damaged data shows, however it was
//! carried.

use std::collections::BTreeMap;

use net_driver::Checksum;
use net_driver::ChecksumAt;
use net_driver::Frame;
use net_driver::Offload;
use net_driver::SegmentKind;
use net_driver::Segmentation;

pub type Mac = [u8; 6];

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Udp4,
    Udp6,
    Tcp4,
    Tcp6,
}

impl Kind {
    fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Tcp6)
    }

    fn is_v6(self) -> bool {
        matches!(self, Self::Udp6 | Self::Tcp6)
    }

    fn segments(self) -> SegmentKind {
        match self {
            Self::Tcp4 => SegmentKind::Tcp4,
            Self::Tcp6 => SegmentKind::Tcp6,
            Self::Udp4 | Self::Udp6 => SegmentKind::Udp,
        }
    }
}

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub kind: Kind,
    pub to: Mac,
    pub from: Mac,
    /// Place of the payload in the sequence, a multiple of 4.
    pub base: u32,
    /// Bytes of payload, at least 4.
    pub len: usize,
    pub vlan: Option<u16>,
    /// Leave the checksum to the device.
    pub partial: bool,
    /// Have the frame cut into pieces of so many bytes, a multiple of 4.
    pub mss: Option<u16>,
}

fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    bytes.chunks(2).map(word).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of the pseudo header.
fn pseudo(addresses: &[u8], protocol: u8, len: usize) -> u32 {
    sum(addresses) + u32::from(protocol) + (len >> 16) as u32 + (len & 0xffff) as u32
}

fn payload(base: u32, len: usize) -> Vec<u8> {
    let words = (0..len.div_ceil(4) as u32).map(|word| base.wrapping_add(4 * word));
    let mut bytes: Vec<u8> = words.flat_map(u32::to_be_bytes).collect();
    bytes.truncate(len);
    bytes
}

/// Makes a frame and what to ask the device for.
pub fn build(plan: &Plan) -> (Vec<u8>, Offload) {
    let mut frame = [plan.to, plan.from].concat();
    if let Some(vlan) = plan.vlan {
        frame.extend(0x8100_u16.to_be_bytes());
        frame.extend(vlan.to_be_bytes());
    }
    let protocol = if plan.kind.is_tcp() { 6 } else { 17 };
    let header = if plan.kind.is_tcp() { 20 } else { 8 };
    let transport_len = header + plan.len;
    let addresses = if plan.kind.is_v6() {
        frame.extend(0x86dd_u16.to_be_bytes());
        frame.extend([0x60, 0, 0, 0]);
        frame.extend((transport_len as u16).to_be_bytes());
        frame.extend([protocol, 64]);
        let addresses = [[0xfd; 16], [0xfe; 16]].concat();
        frame.extend(&addresses);
        addresses
    } else {
        frame.extend(0x0800_u16.to_be_bytes());
        let mut ip = vec![0x45, 0];
        ip.extend((20 + transport_len as u16).to_be_bytes());
        ip.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        ip.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        let check = !fold(sum(&ip));
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        frame.extend(&ip);
        ip[12..].to_vec()
    };
    let start = frame.len();
    frame.extend([0x12, 0x34, 0x56, 0x78]);
    let offset = if plan.kind.is_tcp() {
        frame.extend(plan.base.to_be_bytes());
        frame.extend([0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
        16
    } else {
        frame.extend((transport_len as u16).to_be_bytes());
        frame.extend([0, 0]);
        6
    };
    let header_len = frame.len() as u16;
    frame.extend(payload(plan.base, plan.len));
    let seed = pseudo(&addresses, protocol, transport_len);
    let check = if plan.partial {
        fold(seed)
    } else {
        !fold(seed + sum(&frame[start..]))
    };
    frame[start + offset..start + offset + 2].copy_from_slice(&check.to_be_bytes());
    let offload = Offload {
        checksum: plan.partial.then_some(ChecksumAt {
            start: start as u16,
            offset: offset as u16,
        }),
        segmentation: plan.mss.map(|size| Segmentation {
            kind: plan.kind.segments(),
            size,
            ecn: false,
        }),
        header_len,
    };
    (frame, offload)
}

/// What of the sequence has arrived.
#[derive(Debug, Default)]
pub struct Arrived {
    parts: BTreeMap<u32, u32>,
    /// Frames that were to be cut by the receiver.
    pub large: u64,
    /// Frames with a checksum that was not complete.
    pub partial: u64,
    /// Frames.
    pub frames: u64,
}

impl Arrived {
    /// Checks a frame from the first byte to the last.
    pub fn take(&mut self, frame: &Frame, mut bytes: Vec<u8>, to: Mac) {
        assert_eq!(frame.len as usize, bytes.len());
        self.frames += 1;
        self.large += u64::from(frame.segmentation.is_some());
        if let Checksum::Partial(at) = frame.checksum {
            self.partial += 1;
            let (start, offset) = (usize::from(at.start), usize::from(at.offset));
            let check = !fold(sum(&bytes[start..]));
            bytes[start + offset..start + offset + 2].copy_from_slice(&check.to_be_bytes());
        }
        assert_eq!(bytes[..6], to, "a frame for somebody else");
        let mut at = 12;
        if bytes[at..at + 2] == [0x81, 0] {
            at += 4;
        }
        let network = &bytes[at + 2..];
        let (start, protocol, addresses) = match [bytes[at], bytes[at + 1]] {
            [0x08, 0x00] => {
                assert_eq!(
                    fold(sum(&network[..20])),
                    0xffff,
                    "checksum of the IP header"
                );
                let total = usize::from(u16::from_be_bytes([network[2], network[3]]));
                assert_eq!(total, network.len(), "length in the IP header");
                (at + 22, network[9], network[12..20].to_vec())
            }
            [0x86, 0xdd] => {
                let len = usize::from(u16::from_be_bytes([network[4], network[5]]));
                assert_eq!(len + 40, network.len(), "length in the IP header");
                (at + 42, network[6], network[8..40].to_vec())
            }
            other => panic!("ethertype {other:x?}"),
        };
        let transport = &bytes[start..];
        let all = pseudo(&addresses, protocol, transport.len()) + sum(transport);
        assert_eq!(fold(all), 0xffff, "checksum of protocol {protocol}");
        let data = match protocol {
            6 => {
                assert_eq!(transport[4..8], transport[20..24], "sequence number");
                &transport[20..]
            }
            17 => {
                let len = usize::from(u16::from_be_bytes([transport[4], transport[5]]));
                assert_eq!(len, transport.len(), "length in the UDP header");
                &transport[8..]
            }
            other => panic!("protocol {other}"),
        };
        if let Some(segmentation) = frame.segmentation {
            assert!(
                usize::from(segmentation.size) < data.len(),
                "nothing to cut"
            );
        }
        let base = u32::from_be_bytes([data[0], data[1], data[2], data[3]]);
        assert!(data == payload(base, data.len()), "payload at {base}");
        self.note(base, data.len() as u32);
    }

    fn note(&mut self, base: u32, len: u32) {
        let before = self.parts.range(..base + len).next_back();
        let clash = before.is_some_and(|(start, len)| start + len > base);
        assert!(!clash, "{len} bytes at {base} arrived twice");
        self.parts.insert(base, len);
    }

    /// Bytes of `base..base + len` that have arrived.
    pub fn of(&self, base: u32, len: usize) -> usize {
        let parts = self.parts.range(base..base + len as u32);
        parts.map(|(_, len)| *len as usize).sum()
    }
}
