//! Large TCP frames and bundles of UDP datagrams, cut into frames that any receiver takes.
//!
//! Rule: the result is what the Linux kernel makes of the same frame, byte for byte.

use std::ops::Range;

use virtio_spec::net::Header;
use virtio_spec::net::gso;
use virtio_spec::net::header_flags;
use zerocopy::IntoBytes;

use crate::frame;
use crate::frame::Fragment;
use crate::frame::Ip;
use crate::frame::be16;
use crate::frame::field;
use crate::frame::protocol;
use crate::frame::put16;
use crate::offload::Refusal;
use crate::offload::Sum;
use crate::offload::Tail;

/// Most segments that one frame may ask for: 65 535 bytes in pieces of 48, the least that TCP uses (TCP_MIN_SND_MSS).
pub const MAX_SEGMENTS: usize = 1366;

const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;
const TCP_FLAGS: usize = 13;
const TCP_CHECKSUM: usize = 16;
const UDP_LENGTH: usize = 4;
const UDP_CHECKSUM: usize = 6;

/// What is inside IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp { sequence: u32, flags: u8 },
    Udp,
}

/// Cuts one frame. Holds numbers only; head and tail are handed in.
#[derive(Clone, Debug)]
pub struct Segmenter {
    ip: Ip,
    transport: Transport,
    /// End of the headers in the head.
    headers: usize,
    /// Bytes of payload in a full segment.
    size: usize,
    /// Bytes of payload in all.
    payload: usize,
    /// Segments that were made.
    made: usize,
    id: u16,
    /// Leave checksums to the receiver.
    partial: bool,
}

impl Segmenter {
    /// Looks at a frame whose header asks for segmentation. `head` is the frame's start without the virtio-net header;
    /// all its headers must be in it. With `partial_checksums` the receiver completes checksums (it accepts `csum`).
    ///
    /// # Errors
    /// When header and frame do not fit together.
    pub fn new(
        header: &Header,
        head: &[u8],
        tail_len: usize,
        partial_checksums: bool,
    ) -> Result<Self, Refusal> {
        let ip = frame::ethernet(head)
            .and_then(|ethernet| ethernet.ip(head))
            .filter(|ip| ip.fragment == Fragment::Whole)
            .ok_or(Refusal::Headers)?;
        let (transport, length) = transport(header, head, &ip)?;
        let headers = ip.transport + length;
        // The headers lie in the head; the packet may end before the frame does, never behind it.
        let frame_end = head.len().saturating_add(tail_len);
        if headers > head.len() || ip.end < headers || ip.end > frame_end {
            return Err(Refusal::Headers);
        }
        let size = usize::from(header.gso_size.get());
        let payload = ip.end - headers;
        if size == 0 || payload.div_ceil(size) > MAX_SEGMENTS {
            return Err(Refusal::Size);
        }
        let id = be16(head, ip.network + 4).ok_or(Refusal::Headers)?;
        Ok(Self {
            ip,
            transport,
            headers,
            size,
            payload,
            made: 0,
            id,
            partial: partial_checksums,
        })
    }

    /// How many frames it will make.
    pub fn count(&self) -> usize {
        self.payload.div_ceil(self.size).max(1)
    }

    /// Makes the next frame: its 12-byte header and its head in `out`, and where in the tail the rest of it is. `None`
    /// when all are made. `head` and `tail` are those of [`Segmenter::new`].
    ///
    /// # Errors
    /// When head or tail are not what they were.
    pub fn next<T: Tail + ?Sized>(
        &mut self,
        head: &[u8],
        tail: &T,
        out: &mut Vec<u8>,
    ) -> Option<Result<Range<usize>, Refusal>> {
        if self.made >= self.count() {
            return None;
        }
        let result = self.make(head, tail, out);
        self.made = if result.is_ok() {
            self.made + 1
        } else {
            self.count()
        };
        Some(result)
    }

    /// Bytes of payload before the segment that is made now.
    fn done(&self) -> usize {
        self.made * self.size
    }

    fn make<T: Tail + ?Sized>(
        &mut self,
        head: &[u8],
        tail: &T,
        out: &mut Vec<u8>,
    ) -> Result<Range<usize>, Refusal> {
        let from = self.headers + self.done();
        let length = self.size.min(self.payload - self.done());
        let to = from + length;
        let in_head = from.min(head.len())..to.min(head.len());
        let in_tail = from.saturating_sub(head.len())..to.saturating_sub(head.len());
        out.clear();
        out.extend_from_slice(Header::default().as_bytes());
        let start = out.len();
        out.extend_from_slice(head.get(..self.headers).ok_or(Refusal::Headers)?);
        let own = out.get_mut(start..).ok_or(Refusal::Headers)?;
        self.fill_headers(own, length).ok_or(Refusal::Headers)?;
        out.extend_from_slice(head.get(in_head).ok_or(Refusal::Headers)?);
        self.fill_checksum(out, start, tail, in_tail.clone())?;
        Ok(in_tail)
    }

    /// Lengths, identification, sequence and flags of the segment whose payload has `length` bytes.
    fn fill_headers(&self, own: &mut [u8], length: usize) -> Option<()> {
        let ip = &self.ip;
        let inner = u16::try_from(own.len() - ip.transport + length).ok()?;
        if ip.v6 {
            let fixed = u16::try_from(ip.transport - ip.network - 40).ok()?;
            put16(own, ip.network + 4, inner.checked_add(fixed)?)?;
        } else {
            let header = u16::try_from(ip.transport - ip.network).ok()?;
            put16(own, ip.network + 2, inner.checked_add(header)?)?;
            let nth = u16::try_from(self.made).ok()?;
            put16(own, ip.network + 4, self.id.wrapping_add(nth))?;
            put16(own, ip.network + 10, 0)?;
            let mut sum = Sum::default();
            sum.add(own.get(ip.network..ip.transport)?);
            put16(own, ip.network + 10, !sum.partial())?;
        }
        match self.transport {
            Transport::Udp => put16(own, ip.transport + UDP_LENGTH, inner),
            Transport::Tcp { sequence, flags } => {
                let sequence = sequence.wrapping_add(u32::try_from(self.done()).ok()?);
                let at = ip.transport + 4;
                own.get_mut(at..at + 4)?
                    .copy_from_slice(&sequence.to_be_bytes());
                let first = self.made == 0;
                let last = self.done() + length == self.payload;
                let keep = !(if first { 0 } else { TCP_CWR } | if last { 0 } else { TCP_FIN_PSH });
                *own.get_mut(ip.transport + TCP_FLAGS)? = flags & keep;
                Some(())
            }
        }
    }

    /// The checksum of the transport, or what the receiver needs to complete it.
    fn fill_checksum<T: Tail + ?Sized>(
        &self,
        out: &mut [u8],
        start: usize,
        tail: &T,
        in_tail: Range<usize>,
    ) -> Result<(), Refusal> {
        let (header, own) = out.split_at_mut_checked(start).ok_or(Refusal::Headers)?;
        let offset = match self.transport {
            Transport::Tcp { .. } => TCP_CHECKSUM,
            Transport::Udp => UDP_CHECKSUM,
        };
        let transport = self.ip.transport;
        let at = transport + offset;
        let length = own.len() - transport + in_tail.len();
        let pseudo = pseudo_header(own, &self.ip, length).ok_or(Refusal::Headers)?;
        put16(own, at, pseudo.partial()).ok_or(Refusal::Headers)?;
        if self.partial {
            let partial = Header {
                flags: header_flags::NEEDS_CSUM,
                csum_start: u16::try_from(transport)
                    .map_err(|_| Refusal::Headers)?
                    .into(),
                csum_offset: u16::try_from(offset).map_err(|_| Refusal::Headers)?.into(),
                ..Header::default()
            };
            header.copy_from_slice(partial.as_bytes());
            return Ok(());
        }
        let mut sum = Sum::default();
        sum.add(own.get(transport..).ok_or(Refusal::Headers)?);
        if !tail.visit(in_tail.start, in_tail.len(), &mut |piece| sum.add(piece)) {
            return Err(Refusal::Memory);
        }
        put16(own, at, sum.checksum()).ok_or(Refusal::Headers)
    }
}

/// What the header says is inside, if the headers agree, and how long its header is.
fn transport(header: &Header, head: &[u8], ip: &Ip) -> Result<(Transport, usize), Refusal> {
    let ecn = header.gso_type & gso::ECN != 0;
    let (v6, inner) = match header.gso_type & !gso::ECN {
        gso::TCPV4 => (false, protocol::TCP),
        gso::TCPV6 => (true, protocol::TCP),
        gso::UDP_L4 if !ecn => (ip.v6, protocol::UDP),
        _ => return Err(Refusal::Kind),
    };
    // A large frame's checksum is always the receiver's, and covers the transport (virtio 1.4, 5.1.6.2.1).
    let begins = usize::from(header.csum_start.get()) == ip.transport;
    if header.flags & header_flags::NEEDS_CSUM == 0 || !begins {
        return Err(Refusal::Checksum);
    }
    if v6 != ip.v6 || inner != ip.protocol {
        return Err(Refusal::Headers);
    }
    if inner == protocol::UDP {
        return Ok((Transport::Udp, 8));
    }
    let sequence = field(head, ip.transport + 4).ok_or(Refusal::Headers)?;
    let [words, flags] = field(head, ip.transport + 12).ok_or(Refusal::Headers)?;
    let length = usize::from(words >> 4) * 4;
    if length < 20 {
        return Err(Refusal::Headers);
    }
    let transport = Transport::Tcp {
        sequence: u32::from_be_bytes(sequence),
        flags,
    };
    Ok((transport, length))
}

/// The sum over the addresses, the protocol and the length of what is inside IP.
fn pseudo_header(own: &[u8], ip: &Ip, length: usize) -> Option<Sum> {
    let addresses = if ip.v6 {
        ip.network + 8..ip.network + 40
    } else {
        ip.network + 12..ip.network + 20
    };
    let mut sum = Sum::default();
    sum.add(own.get(addresses)?);
    sum.add16(u16::from(ip.protocol));
    sum.add16(u16::try_from(length).ok()?);
    Some(sum)
}
