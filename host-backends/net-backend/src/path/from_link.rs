//! Frames from a link straight into a guest's receive queue.
//!
//! Rule: the link writes into the guest's buffers, so a frame that is not wanted leaves scraps in buffers that the guest
//! still lends us, and nothing else; no buffer is used for it. Nobody knows a frame's size before it is read: what the
//! buffers at hand have no room for lands in ours, and waits there for more of the guest's.

use guest_memory::Cursor;
use guest_memory::GuestMemory;
use guest_memory::IoVecs;
use net_link::Link;
use net_link::Received;
use virtio_spec::net::ETHERNET_HEADER_SIZE;
use virtio_spec::net::HASH_HEADER_SIZE;
use virtio_spec::net::HEADER_SIZE;
use virtio_spec::net::Header;
use virtio_spec::net::gso;
use virtqueue::Segment;
use zerocopy::FromBytes;

use crate::HEAD_BYTES;
use crate::offload::Tail;
use crate::path::inlet::Pending;
use crate::path::receive::Receiving;
use crate::path::room::Room;
use crate::path::room::Search;
use crate::port::MAX_FRAME;

/// What a look for frames ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The link has no more.
    Empty,
    /// As many as were asked for; there may be more.
    Enough,
    /// The guest has no buffers, or too few for the frame that is being received.
    Starved,
}

/// Nothing behind a frame's head.
struct NoTail;

impl Tail for NoTail {
    fn len(&self) -> usize {
        0
    }

    fn read(&self, _from: usize, into: &mut [u8]) -> bool {
        into.is_empty()
    }
}

/// Where the fields of the header are.
const FLAGS: usize = 0;
const GSO_TYPE: usize = 1;
const NUM_BUFFERS: usize = 10;
/// Bytes of a small frame: the standard MTU's, with two VLAN tags.
const SMALL: usize = 1500 + 14 + 8;
/// Small frames after which large ones are expected no longer.
const MEMORY: u32 = 64;

/// What a receiver from a link keeps from frame to frame.
pub(crate) struct Landing {
    /// The buffers of one frame.
    spans: IoVecs,
    /// What they have no room for.
    behind: Box<[u8]>,
    /// For so many small frames large ones are expected: room for them is laid out, which spares a copy.
    large: u32,
}

impl Landing {
    pub fn new() -> Self {
        Self {
            spans: IoVecs::with_capacity(64),
            behind: vec![0; HASH_HEADER_SIZE + MAX_FRAME].into_boxed_slice(),
            large: 0,
        }
    }
}

impl Receiving<'_> {
    /// Moves up to `max` frames; returns how many the link gave.
    ///
    /// # Errors
    /// The link cannot go on at all.
    pub fn receive_from(
        &mut self,
        link: &mut dyn Link,
        landing: &mut Landing,
        max: usize,
    ) -> Result<(usize, Ended), net_link::Error> {
        let Some(memory) = self.memory().cloned() else {
            return Ok((0, Ended::Starved));
        };
        let header_size = self.view().header_size();
        let small = header_size + SMALL;
        let capacity = header_size + self.largest_frame();
        let plain = header_size == HEADER_SIZE
            && self.view().offloads().csum
            && !self.view().looks()
            && self.policy().is_none();
        let longest = HEADER_SIZE + self.view().max_frame();
        let mut frames = 0;
        while frames < max {
            if let Some(pending) = self.pending() {
                if !self.finish(&memory, landing, pending) {
                    return Ok((frames, Ended::Starved));
                }
                continue;
            }
            let wanted = if landing.large == 0 { small } else { capacity };
            let Landing {
                spans,
                behind,
                large,
            } = &mut *landing;
            let Some(single) = self.lay_out(&memory, spans, wanted, plain) else {
                return Ok((frames, Ended::Starved));
            };
            let Received::Frame(bytes) = link.receive(spans, behind)? else {
                return Ok((frames, Ended::Empty));
            };
            frames += 1;
            *large = if bytes > small {
                MEMORY
            } else {
                large.saturating_sub(1)
            };
            let inside = spans.total_len();
            if let Some(segment) = single
                && bytes >= HEADER_SIZE + ETHERNET_HEADER_SIZE
                && bytes <= longest.min(segment.len as usize)
            {
                // Mapped a moment ago, in the same snapshot.
                let _ = memory.write(segment.addr + NUM_BUFFERS as u64, &1_u16.to_le_bytes());
                self.use_single(bytes, bytes - HEADER_SIZE);
            } else if bytes <= inside {
                self.accept(&memory, bytes);
            } else {
                self.set_pending(Some(Pending { bytes, inside }));
            }
        }
        Ok((frames, Ended::Enough))
    }

    /// Lays out room for `wanted` bytes, or what there is. `None` if there are no buffers; a segment if it is the only
    /// one, and the frame needs no look.
    #[inline]
    fn lay_out(
        &mut self,
        memory: &GuestMemory,
        spans: &mut IoVecs,
        wanted: usize,
        plain: bool,
    ) -> Option<Option<Segment>> {
        loop {
            spans.clear();
            if let Some(segment) = self.single(memory, wanted).filter(|_| plain)
                && memory.iovecs(&[segment], spans).is_ok()
            {
                return Some(Some(segment));
            }
            spans.clear();
            let count = self.gather_room(wanted)?.chains;
            // A link writes a header that is longer than a legacy driver's: its frames go by way of our buffer.
            let legacy = self.view().header_size() < HEADER_SIZE;
            if legacy || self.spans(memory, count, spans) {
                return Some(None);
            }
            self.tally().bad_chains.add(1);
            self.use_chains(count, 0);
        }
    }

    /// Finds room for what lies behind the buffers; `false` if there is none yet.
    fn finish(&mut self, memory: &GuestMemory, landing: &Landing, pending: Pending) -> bool {
        let Pending { bytes, inside } = pending;
        let total = (self.view().header_size() + bytes).saturating_sub(HEADER_SIZE);
        let room = self.gather_room(total);
        let limited = room.is_some_and(|room| room.ended == Search::Limit);
        let count = room.filter(|room| room.ended == Search::Enough);
        if count.is_none() && !limited && self.view().mergeable() {
            return false;
        }
        self.set_pending(None);
        let rest = landing.behind.get(..bytes - inside).unwrap_or_default();
        let Some(Room { chains: count, .. }) = count else {
            self.tally().too_small.add(1);
            return true;
        };
        if self.put_behind(memory, count, inside, rest) {
            self.accept(memory, bytes);
        } else {
            self.tally().bad_chains.add(1);
            self.use_chains(count, 0);
        }
        true
    }

    /// Writes `rest`, what a link's header and frame have behind their first `inside` bytes, into the next `count` chains;
    /// `false` if a part of these is no memory.
    fn put_behind(&self, memory: &GuestMemory, count: usize, inside: usize, rest: &[u8]) -> bool {
        let header_size = self.view().header_size();
        let of_header = HEADER_SIZE.saturating_sub(inside).min(rest.len());
        let (header, frame) = rest.split_at(of_header);
        // A legacy driver's header ends before the link's does.
        let known = header.len().min(header_size.saturating_sub(inside));
        let at = header_size + inside.saturating_sub(HEADER_SIZE);
        self.patch(
            memory,
            count,
            inside,
            header.get(..known).unwrap_or_default(),
        ) && self.patch(memory, count, at, frame)
    }

    /// The largest frame that the link may give.
    fn largest_frame(&self) -> usize {
        let state = self.view().state();
        let offloads = &state.offloads;
        if offloads.tso4 || offloads.tso6 || offloads.uso {
            MAX_FRAME
        } else {
            state.max_frame()
        }
    }

    /// The spans of the next `count` chains, without the part of the header that links do not know.
    fn spans(&self, memory: &GuestMemory, count: usize, out: &mut IoVecs) -> bool {
        let extra = self.view().header_size().saturating_sub(HEADER_SIZE);
        let (mut before, mut skip) = (HEADER_SIZE, extra);
        for parts in self.chains(count) {
            if extra == 0 {
                if memory.iovecs(parts, out).is_err() {
                    return false;
                }
                continue;
            }
            let total: usize = parts.iter().map(|part| part.len as usize).sum();
            let mut cursor = Cursor::new(memory, parts);
            let now = before.min(total);
            let over = skip.min(total - now);
            let fine = cursor.spans(now, out).is_ok();
            cursor.skip(over);
            if !fine || cursor.spans(total - now - over, out).is_err() {
                return false;
            }
            before -= now;
            skip -= over;
        }
        true
    }

    /// A frame of `bytes`, with the link's header, lies in the next chains.
    fn accept(&mut self, memory: &GuestMemory, bytes: usize) {
        let Some(len) = bytes
            .checked_sub(HEADER_SIZE)
            .filter(|len| *len >= ETHERNET_HEADER_SIZE)
        else {
            return;
        };
        let header_size = self.view().header_size();
        let total = header_size + len;
        let Some(count) = self.chains_for(total) else {
            return;
        };
        if len > self.view().max_frame() {
            let mut kind = [0];
            self.read(memory, count, GSO_TYPE, &mut kind);
            if kind == [gso::NONE] {
                return self.tally().too_long.add(1);
            }
        }
        let mut head = [0; HEAD_BYTES];
        if self.view().looks() || self.policy().is_some() {
            let got = self.read_head(memory, count, &mut head);
            let head = head.get(..got.min(len)).unwrap_or_default();
            if !self.view().admits(head, self.tally()) {
                return;
            }
            if self.policy().is_some() && !self.passes_policy(memory, count, len) {
                return;
            }
            if header_size == HASH_HEADER_SIZE {
                let (value, report) = self.view().hash(head);
                let mut bytes = [0; HASH_HEADER_SIZE - HEADER_SIZE];
                bytes[..4].copy_from_slice(&value.to_le_bytes());
                bytes[4..6].copy_from_slice(&report.to_le_bytes());
                self.patch(memory, count, HEADER_SIZE, &bytes);
            }
        }
        if !self.view().offloads().csum {
            // The kernel tells of checksums that it has verified, asked or not (sec. 5.1.6.4.1).
            self.patch(memory, count, FLAGS, &[0]);
        }
        if header_size >= HEADER_SIZE {
            let buffers = u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes();
            self.patch(memory, count, NUM_BUFFERS, &buffers);
        }
        self.use_chains(count, total);
        self.delivered(len);
    }

    /// Limits and records the frame of `len` bytes in the next `count` chains.
    #[cold]
    fn passes_policy(&self, memory: &GuestMemory, count: usize, len: usize) -> bool {
        let Some(policy) = self.policy() else {
            return true;
        };
        let mut header = [0; HEADER_SIZE];
        self.read(memory, count, 0, &mut header);
        let header = Header::read_from_bytes(&header).unwrap_or_default();
        let mut frame = vec![0; len];
        self.read(memory, count, self.view().header_size(), &mut frame);
        policy.admits_bytes(&header, &frame, &NoTail, self.tally())
    }

    /// Reads the frame's first bytes back from the next `count` chains.
    fn read_head(&self, memory: &GuestMemory, count: usize, out: &mut [u8]) -> usize {
        self.read(memory, count, self.view().header_size(), out)
    }

    /// Reads from `offset` of the next `count` chains; returns how many bytes there were.
    fn read(&self, memory: &GuestMemory, count: usize, offset: usize, out: &mut [u8]) -> usize {
        let (mut skip, mut done) = (offset, 0);
        for parts in self.chains(count) {
            let total: usize = parts.iter().map(|part| part.len as usize).sum();
            let over = skip.min(total);
            skip -= over;
            let mut cursor = Cursor::new(memory, parts);
            cursor.skip(over);
            let Some(target) = out.get_mut(done..).filter(|target| !target.is_empty()) else {
                break;
            };
            done += cursor.read(target).unwrap_or(0);
        }
        done
    }

    /// Writes `bytes` at `offset` of the next `count` chains; `false` if a part of these is no memory, or they end.
    fn patch(&self, memory: &GuestMemory, count: usize, offset: usize, bytes: &[u8]) -> bool {
        let (mut skip, mut bytes) = (offset, bytes);
        for parts in self.chains(count) {
            let total: usize = parts.iter().map(|part| part.len as usize).sum();
            let over = skip.min(total);
            skip -= over;
            let mut cursor = Cursor::new(memory, parts);
            cursor.skip(over);
            let (now, later) = bytes.split_at(bytes.len().min(total - over));
            if cursor.write(now).ok() != Some(now.len()) {
                return false;
            }
            bytes = later;
            if bytes.is_empty() {
                return true;
            }
        }
        false
    }

    /// The writable parts of the next `count` chains.
    fn chains(&self, count: usize) -> impl Iterator<Item = &[Segment]> {
        self.taken(count).map(|chain| chain.writable)
    }
}
