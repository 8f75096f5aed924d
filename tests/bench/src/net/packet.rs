//! Frames by hand: what the loads need of Ethernet, IPv4, ICMP and TCP.

use super::port::HEADER;
use super::stage::GUEST;
use super::stage::GUEST_MAC;
use super::stage::HOST;

/// TCP flags.
pub mod flag {
    /// Synchronise.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// Acknowledge.
    pub const ACK: u8 = 16;
}

/// The ones' complement sum of `bytes` on top of `start`.
pub fn sum(bytes: &[u8], start: u32) -> u32 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    words.fold(start, |sum, word| sum + word)
}

/// A sum brought to sixteen bits.
pub fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Ethernet and IPv4 headers from the guest to the host, for `payload` bytes of `protocol`.
fn ip_head(host_mac: [u8; 6], protocol: u8, payload: usize) -> [u8; 34] {
    let mut head = [0; 34];
    head[..6].copy_from_slice(&host_mac);
    head[6..12].copy_from_slice(&GUEST_MAC);
    head[12] = 8;
    head[14] = 0x45;
    head[16..18].copy_from_slice(&((20 + payload) as u16).to_be_bytes());
    head[20] = 0x40;
    head[22] = 64;
    head[23] = protocol;
    head[26..30].copy_from_slice(&GUEST);
    head[30..34].copy_from_slice(&HOST);
    let check = !fold(sum(&head[14..34], 0));
    head[24..26].copy_from_slice(&check.to_be_bytes());
    head
}

/// An ICMP echo request of 64 bytes in all.
pub fn echo_request(host_mac: [u8; 6], sequence: u16) -> [u8; 64] {
    let mut frame = [0; 64];
    frame[..34].copy_from_slice(&ip_head(host_mac, 1, 30));
    frame[34] = 8;
    frame[40..42].copy_from_slice(&sequence.to_be_bytes());
    let check = !fold(sum(&frame[34..], 0));
    frame[36..38].copy_from_slice(&check.to_be_bytes());
    frame
}

/// The sequence number of an echo reply.
pub fn echo_reply(head: &[u8]) -> Option<u16> {
    let ours = head.get(12..14)? == [8, 0] && head.get(23) == Some(&1) && head.get(34) == Some(&0);
    ours.then(|| Some(u16::from_be_bytes([*head.get(40)?, *head.get(41)?])))?
}

/// The head of a frame that no protocol of the host takes: it ends behind the link layer.
pub fn dead_end(host_mac: [u8; 6]) -> [u8; 14] {
    let mut head = [0; 14];
    head[..6].copy_from_slice(&host_mac);
    head[6..12].copy_from_slice(&GUEST_MAC);
    // "Local experimental" (IEEE 802).
    head[12..14].copy_from_slice(&[0x88, 0xb5]);
    head
}

/// A TCP segment's place and meaning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// The guest's port.
    pub source: u16,
    /// The host's port.
    pub target: u16,
    /// First byte's sequence number.
    pub sequence: u32,
    /// Next byte that is expected.
    pub acknowledge: u32,
    /// Flags.
    pub flags: u8,
    /// Window, as it stands in the header.
    pub window: u16,
    /// Bytes of data.
    pub payload: usize,
}

/// The head of a TCP frame with a partial checksum, and the virtio-net header that says what is left to do.
pub fn tcp_head(
    host_mac: [u8; 6],
    segment: &Segment,
    options: &[u8],
    mss: u16,
) -> (Vec<u8>, [u8; HEADER]) {
    let tcp = 20 + options.len();
    let mut head = ip_head(host_mac, 6, tcp + segment.payload).to_vec();
    head.extend(segment.source.to_be_bytes());
    head.extend(segment.target.to_be_bytes());
    head.extend(segment.sequence.to_be_bytes());
    head.extend(segment.acknowledge.to_be_bytes());
    head.extend([(tcp as u8 / 4) << 4, segment.flags]);
    head.extend(segment.window.to_be_bytes());
    let length = (tcp + segment.payload) as u32;
    let pseudo = fold(sum(&head[26..34], 6 + length));
    head.extend(pseudo.to_be_bytes());
    head.extend([0, 0]);
    head.extend(options);
    let mut header = [0; HEADER];
    header[0] = 1;
    header[6..8].copy_from_slice(&34_u16.to_le_bytes());
    header[8..10].copy_from_slice(&16_u16.to_le_bytes());
    if segment.payload > usize::from(mss) {
        header[1] = 1;
        header[2..4].copy_from_slice(&(head.len() as u16).to_le_bytes());
        header[4..6].copy_from_slice(&mss.to_le_bytes());
    }
    (head, header)
}

/// Reads a TCP frame from its head; `len` is the frame's length.
pub fn read_tcp(head: &[u8], len: usize) -> Option<(Segment, &[u8])> {
    if head.get(12..14)? != [8, 0] || *head.get(23)? != 6 {
        return None;
    }
    let tcp = head.get(34..)?;
    let word = |at: usize| -> Option<u32> {
        let bytes = tcp.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    let total = usize::from(u16::from_be_bytes([*head.get(16)?, *head.get(17)?])).min(len - 14);
    let bytes = usize::from(tcp.get(12)? >> 4) * 4;
    let segment = Segment {
        source: (word(0)? >> 16) as u16,
        target: word(0)? as u16,
        sequence: word(4)?,
        acknowledge: word(8)?,
        flags: *tcp.get(13)?,
        window: (word(12)? & 0xffff) as u16,
        payload: total.checked_sub(20 + bytes)?,
    };
    Some((segment, tcp.get(20..bytes)?))
}
