//! Offloads in software: against themselves, against a slow checksum, and against the kernel.
//!
//! Rule: the frames are built by code that the offloads do not use.

mod checksum;
mod golden;
mod hostile;
mod segments;

use virtio_spec::net::Header;
use virtio_spec::net::gso;
use virtio_spec::net::header_flags;

use super::Refusal;
use super::Segmenter;

/// The checksum as RFC 1071 words it, one word at a time.
pub(super) fn slow_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

/// What a large frame is made of.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub v6: bool,
    pub tcp: bool,
    pub tags: usize,
    /// Bytes of TCP options, a multiple of 4.
    pub options: usize,
    /// Bytes of IPv6 extension headers, a multiple of 8.
    pub extensions: usize,
    pub flags: u8,
    pub sequence: u32,
    pub id: u16,
    pub size: u16,
    pub payload: usize,
}

impl Plan {
    pub fn tcp4() -> Self {
        Self {
            v6: false,
            tcp: true,
            tags: 0,
            options: 12,
            extensions: 0,
            flags: 0x18,
            sequence: 0xffff_ff00,
            id: 0xfffe,
            size: 1000,
            payload: 3500,
        }
    }

    pub fn udp6() -> Self {
        Self {
            v6: true,
            tcp: false,
            options: 0,
            ..Self::tcp4()
        }
    }

    pub fn transport_at(&self) -> usize {
        14 + self.tags * 4 + if self.v6 { 40 + self.extensions } else { 20 }
    }

    pub fn headers(&self) -> usize {
        self.transport_at() + if self.tcp { 20 + self.options } else { 8 }
    }

    pub fn header(&self) -> Header {
        let kind = match (self.tcp, self.v6) {
            (false, _) => gso::UDP_L4,
            (true, true) => gso::TCPV6,
            (true, false) => gso::TCPV4,
        };
        let ecn = if self.tcp && self.flags & 0x80 != 0 {
            gso::ECN
        } else {
            0
        };
        Header {
            flags: header_flags::NEEDS_CSUM,
            gso_type: kind | ecn,
            hdr_len: u16::try_from(self.headers()).unwrap().into(),
            gso_size: self.size.into(),
            csum_start: u16::try_from(self.transport_at()).unwrap().into(),
            csum_offset: if self.tcp { 16 } else { 6 }.into(),
            num_buffers: 0.into(),
        }
    }

    /// The large frame, its checksum partial.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in 0..self.tags {
            frame.extend([0x81, 0, 0, 10 + u8::try_from(tag).unwrap()]);
        }
        frame.extend(if self.v6 { [0x86, 0xdd] } else { [8, 0] });
        let inner = self.headers() - self.transport_at() + self.payload;
        let protocol = if self.tcp { 6 } else { 17 };
        self.push_ip(&mut frame, inner, protocol);
        assert_eq!(frame.len(), self.transport_at());
        frame.extend(4000u16.to_be_bytes());
        frame.extend(5000u16.to_be_bytes());
        if self.tcp {
            frame.extend(self.sequence.to_be_bytes());
            frame.extend([0, 0, 0, 9]);
            let words = u8::try_from(5 + self.options / 4).unwrap();
            frame.extend([words << 4, self.flags, 1, 0, 0, 0, 0, 0]);
            frame.extend(std::iter::repeat_n(1, self.options));
        } else {
            frame.extend(u16::try_from(inner).unwrap().to_be_bytes());
            frame.extend([0, 0]);
        }
        let at = self.transport_at() + if self.tcp { 16 } else { 6 };
        let pseudo = self.pseudo_header(&frame, inner);
        frame[at..at + 2].copy_from_slice(&slow_sum(&pseudo).to_be_bytes());
        frame.extend((0..self.payload).map(|i| u8::try_from((i * 7 + i / 251) % 256).unwrap()));
        frame
    }

    fn push_ip(&self, frame: &mut Vec<u8>, inner: usize, protocol: u8) {
        if !self.v6 {
            let at = frame.len();
            frame.extend([0x45, 0]);
            frame.extend(u16::try_from(20 + inner).unwrap().to_be_bytes());
            frame.extend(self.id.to_be_bytes());
            frame.extend([0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
            let sum = !slow_sum(&frame[at..]);
            frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
            return;
        }
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(
            u16::try_from(self.extensions + inner)
                .unwrap()
                .to_be_bytes(),
        );
        let extended = self.extensions > 0;
        frame.extend([if extended { 60 } else { protocol }, 64]);
        for last in [2, 1] {
            frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        if extended {
            // One destination options header of padding.
            frame.extend([protocol, u8::try_from(self.extensions / 8 - 1).unwrap()]);
            frame.extend([1, u8::try_from(self.extensions - 4).unwrap()]);
            frame.extend(std::iter::repeat_n(0, self.extensions - 4));
        }
    }

    /// The bytes of the pseudo header for a transport of `inner` bytes.
    pub fn pseudo_header(&self, frame: &[u8], inner: usize) -> Vec<u8> {
        let network = 14 + self.tags * 4;
        let addresses = if self.v6 {
            network + 8..network + 40
        } else {
            network + 12..network + 20
        };
        let mut pseudo = frame[addresses].to_vec();
        pseudo.extend([0, if self.tcp { 6 } else { 17 }]);
        pseudo.extend(u16::try_from(inner).unwrap().to_be_bytes());
        pseudo
    }
}

/// A virtio-net header and its frame.
pub(super) type Made = (Vec<u8>, Vec<u8>);

/// All frames that are made of `frame`, of which the first `owned` bytes are the head.
pub(super) fn cut(
    header: &Header,
    frame: &[u8],
    owned: usize,
    partial: bool,
) -> Result<Vec<Made>, Refusal> {
    let (head, tail) = frame.split_at(owned.min(frame.len()));
    let mut segmenter = Segmenter::new(header, head, tail.len(), partial)?;
    let count = segmenter.count();
    let mut frames = Vec::new();
    let mut out = Vec::new();
    while let Some(range) = segmenter.next(head, tail, &mut out) {
        let (header, own) = out.split_at(12);
        let whole = [own, &tail[range?]].concat();
        frames.push((header.to_vec(), whole));
    }
    assert_eq!(frames.len(), count);
    Ok(frames)
}
