//! Frames out of a guest's transmit queue, a burst at a time.
//!
//! Rule: the first bytes of a frame, all that anyone decides by, are copied out of guest memory once, and the copy is
//! what travels on; only what lies behind them is fetched from the guest when it is delivered.

use device_model::Error;
use device_model::Queue;
use guest_memory::Cursor;
use guest_memory::GuestMemory;
use virtio_spec::net::HASH_HEADER_SIZE;
use virtio_spec::net::HEADER_SIZE;
use virtio_spec::net::Header;
use virtqueue::ChainBatch;
use virtqueue::Segment;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;

use crate::path::header::Lie;
use crate::path::header::Rules;
use crate::path::tally::TransmitTally;

/// Most frames of a burst.
pub(crate) const BURST: usize = 64;
/// Bytes of a place in the arena: room for the longest header, then the first 300 bytes of the frame: all of a short
/// one, and more than all protocol headers of TCP over IPv6 with two VLAN tags.
const PLACE: usize = 320;
const _: () = assert!(PLACE - HASH_HEADER_SIZE >= crate::HEAD_BYTES);
/// Chains whose first bytes are on their way to the CPU's cache while one is read.
const AHEAD: usize = 8;

/// One place of the arena: a header that ends where the frame begins.
pub(crate) type Place = [u8; PLACE];

/// A place with nothing in it.
pub(crate) const EMPTY_PLACE: Place = [0; PLACE];

/// One frame that passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// Position of its chain in the batch, and of its first bytes in the arena.
    pub at: u16,
    /// Bytes of it in the arena.
    pub head: u16,
    /// Bytes of it.
    pub len: u32,
    /// Where it goes; the switch's.
    pub to: u16,
    /// The checked header.
    pub header: Header,
}

/// A burst: chains, the first bytes of their frames, and what is true of these.
#[derive(Debug)]
pub(crate) struct Burst {
    batch: ChainBatch,
    arena: Box<[Place; BURST]>,
    pub frames: Vec<Frame>,
    /// Bytes of the guest's header before each frame.
    header_size: usize,
    /// Frames that came without chains.
    arrived: Vec<Segment>,
}

/// One frame on its way to a receiver.
#[derive(Debug)]
pub(crate) struct Departing<'a> {
    /// Where it goes on in guest memory; `None` if all of it is in `place`.
    pub rest: Option<Cursor<'a>>,
    /// Header room and first bytes.
    pub place: &'a mut Place,
    pub head: usize,
    pub len: usize,
    pub header: Header,
}

impl Burst {
    pub fn new() -> Self {
        Self {
            batch: ChainBatch::with_capacity(BURST, 4 * BURST),
            arena: Box::new([[0; PLACE]; BURST]),
            frames: Vec::with_capacity(BURST),
            header_size: HEADER_SIZE,
            arrived: Vec::new(),
        }
    }

    /// Takes up to a burst of chains and reads their frames; returns how many chains there were. Bad ones are counted and
    /// become no frame.
    ///
    /// # Errors
    /// The ring is malformed and no chain is left before the fault.
    #[inline]
    pub fn take(
        &mut self,
        queue: &mut Queue,
        memory: &GuestMemory,
        rules: &Rules,
        header_size: usize,
        tally: &TransmitTally,
    ) -> Result<usize, Error> {
        self.batch.clear();
        self.frames.clear();
        self.header_size = header_size;
        let taken = queue.take(&mut self.batch, BURST)?;
        for at in 0..taken.min(AHEAD) {
            self.prefetch(memory, at);
        }
        for at in 0..taken {
            self.prefetch(memory, at + AHEAD);
            self.read(memory, at, rules, tally);
        }
        Ok(taken)
    }

    #[inline]
    fn prefetch(&self, memory: &GuestMemory, at: usize) {
        if let Some(chain) = self.batch.get(at)
            && let Some(segment) = chain.readable.first()
            && let Some(span) = memory.host_slice(segment.addr, 1)
        {
            span.prefetch();
        }
    }

    /// Makes the burst of frames that lie in `memory` without chains, each with a header of 12 bytes.
    pub fn set_arrived(
        &mut self,
        memory: &GuestMemory,
        frames: &[Segment],
        rules: &Rules,
        tally: &TransmitTally,
    ) {
        self.batch.clear();
        self.frames.clear();
        self.header_size = HEADER_SIZE;
        self.arrived.clear();
        self.arrived.extend_from_slice(frames);
        for at in 0..frames.len().min(BURST) {
            self.read(memory, at, rules, tally);
        }
    }

    /// The readable parts of frame `at` of the burst.
    #[inline]
    fn parts<'a>(
        batch: &'a ChainBatch,
        arrived: &'a [Segment],
        at: usize,
    ) -> Option<(&'a [Segment], bool)> {
        match batch.get(at) {
            Some(chain) => Some((chain.readable, chain.writable.is_empty())),
            None => Some((arrived.get(at..=at)?, true)),
        }
    }

    /// Reads and checks the frame of chain `at`.
    #[inline]
    fn read(&mut self, memory: &GuestMemory, at: usize, rules: &Rules, tally: &TransmitTally) {
        let start = HASH_HEADER_SIZE - self.header_size;
        let parts = Self::parts(&self.batch, &self.arrived, at);
        let (Some((parts, only)), Some(place)) = (parts, self.arena.get_mut(at)) else {
            return;
        };
        let Some(out) = place.get_mut(start..) else {
            return;
        };
        // A chain of a transmit queue must not have parts to write to (sec. 5.1.6.2).
        let Some((total, got)) = gather(memory, parts, out).filter(|_| only) else {
            return tally.bad_chains.add(1);
        };
        let Some(len) = total.checked_sub(self.header_size) else {
            return tally.bad_lengths.add(1);
        };
        let head = got.saturating_sub(self.header_size);
        let header = place
            .get(start..)
            .and_then(|from| Header::read_from_prefix(from).ok());
        let Some((header, _)) = header else {
            return;
        };
        match rules.check(&header, len) {
            Ok(header) => self.frames.push(Frame {
                at: at as u16,
                head: head as u16,
                len: len as u32,
                to: 0,
                header,
            }),
            Err(Lie::Length) => tally.bad_lengths.add(1),
            Err(Lie::Offload | Lie::Checksum | Lie::Segmentation) => tally.bad_headers.add(1),
        }
    }

    /// The frame at `position`, ready to be delivered from `memory`, in which it was read.
    #[inline]
    pub fn depart<'a>(
        &'a mut self,
        memory: &'a GuestMemory,
        position: usize,
    ) -> Option<Departing<'a>> {
        let frame = *self.frames.get(position)?;
        let (head, len) = (usize::from(frame.head), frame.len as usize);
        let rest = if head == len {
            None
        } else {
            let (parts, _) = Self::parts(&self.batch, &self.arrived, usize::from(frame.at))?;
            let mut cursor = Cursor::new(memory, parts);
            cursor.skip(self.header_size + head);
            Some(cursor)
        };
        Some(Departing {
            rest,
            place: self.arena.get_mut(usize::from(frame.at))?,
            head,
            len,
            header: frame.header,
        })
    }

    /// The first bytes of the frame at `position`.
    #[inline]
    pub fn head(&self, position: usize) -> &[u8] {
        let bytes = self.frames.get(position).and_then(|frame| {
            let place = self.arena.get(usize::from(frame.at))?;
            place.get(HASH_HEADER_SIZE..HASH_HEADER_SIZE + usize::from(frame.head))
        });
        bytes.unwrap_or_default()
    }

    /// Makes the burst one frame of the host's own; `false` if it is too long for the arena.
    pub fn set_own(&mut self, frame: &[u8]) -> bool {
        self.batch.clear();
        self.frames.clear();
        let end = HASH_HEADER_SIZE + frame.len();
        let place = self.arena.first_mut();
        let Some(room) = place.and_then(|place| place.get_mut(HASH_HEADER_SIZE..end)) else {
            return false;
        };
        room.copy_from_slice(frame);
        self.frames.push(Frame {
            at: 0,
            head: frame.len() as u16,
            len: frame.len() as u32,
            to: 0,
            header: Header::default(),
        });
        true
    }

    /// Gives all chains of the burst back to the driver: delivered, dropped or refused.
    ///
    /// # Errors
    /// A chain was completed before: a mistake of ours.
    #[inline]
    pub fn complete(&mut self, queue: &mut Queue) -> Result<(), Error> {
        for token in self.batch.tokens() {
            queue.complete(token, 0)?;
        }
        self.batch.clear();
        self.frames.clear();
        Ok(())
    }
}

impl Departing<'_> {
    /// Bytes of the frame that are not in `place`.
    #[inline]
    pub fn behind(&self) -> usize {
        self.len - self.head
    }

    /// The frame's first bytes.
    #[inline]
    pub fn head(&self) -> &[u8] {
        let end = HASH_HEADER_SIZE + self.head;
        self.place.get(HASH_HEADER_SIZE..end).unwrap_or_default()
    }

    /// A header of `size` bytes for a receiver, and the frame's first bytes behind it.
    #[inline]
    pub fn with_header(&mut self, size: usize, buffers: u16, hash: (u32, u16)) -> &[u8] {
        let mut header = self.header;
        header.num_buffers = buffers.into();
        let start = HASH_HEADER_SIZE - size;
        // A legacy header has no `num_buffers`: what stands there is the frame's.
        let known = size.min(HEADER_SIZE);
        if let Some(to) = self.place.get_mut(start..start + known) {
            to.copy_from_slice(header.as_bytes().get(..known).unwrap_or_default());
        }
        if size == HASH_HEADER_SIZE
            && let Some(to) = self.place.get_mut(HEADER_SIZE..HASH_HEADER_SIZE)
        {
            let (value, report) = hash;
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&value.to_le_bytes());
            bytes[4..6].copy_from_slice(&report.to_le_bytes());
            to.copy_from_slice(&bytes);
        }
        let end = HASH_HEADER_SIZE + self.head;
        self.place.get(start..end).unwrap_or_default()
    }
}

/// Copies the first bytes of a chain to `out`; returns the chain's length and how many were copied. `None` when a part
/// is no memory.
#[inline]
fn gather(memory: &GuestMemory, parts: &[Segment], out: &mut [u8]) -> Option<(usize, usize)> {
    if let [only] = parts {
        let len = only.len as usize;
        let got = len.min(out.len());
        memory.read(only.addr, out.get_mut(..got)?).ok()?;
        return Some((len, got));
    }
    let total: u64 = parts.iter().map(|part| u64::from(part.len)).sum();
    let got = Cursor::new(memory, parts).read(out).ok()?;
    Some((usize::try_from(total).ok()?, got))
}
