//! Frames from a link straight into a guest's receive queue.
//!
//! Rule: the link writes into the guest's buffers, so a frame that is not wanted leaves scraps in buffers that the guest
//! still lends us, and nothing else; no buffer is used for it.

use guest_memory::Cursor;
use guest_memory::GuestMemory;
use guest_memory::IoVecs;
use net_link::Link;
use net_link::Received;
use virtio_spec::net::ETHERNET_HEADER_SIZE;
use virtio_spec::net::HASH_HEADER_SIZE;
use virtio_spec::net::HEADER_SIZE;
use virtio_spec::net::Header;
use virtqueue::Segment;
use zerocopy::FromBytes;

use crate::HEAD_BYTES;
use crate::offload::Tail;
use crate::path::receive::Receiving;
use crate::port::MAX_FRAME;

/// What a look for frames ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The link has no more.
    Empty,
    /// As many as were asked for; there may be more.
    Enough,
    /// The guest has no room for a frame as large as may come.
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

/// Where the link's header and `num_buffers` are; the hash follows.
const NUM_BUFFERS: usize = 10;

impl Receiving<'_> {
    /// Moves up to `max` frames; returns how many the link gave. With `all` even the last buffers are used, though a
    /// large frame may be lost for want of more.
    ///
    /// # Errors
    /// The link cannot go on at all.
    pub fn receive_from(
        &mut self,
        link: &mut dyn Link,
        spans: &mut IoVecs,
        max: usize,
        all: bool,
    ) -> Result<(usize, Ended), net_link::Error> {
        let Some(memory) = self.memory().cloned() else {
            return Ok((0, Ended::Starved));
        };
        let capacity = self.view().header_size() + self.largest_frame();
        let mut frames = 0;
        while frames < max {
            let Some((count, room)) = self.gather_room(capacity) else {
                return Ok((frames, Ended::Starved));
            };
            if room < capacity as u64 && room < self.most_room() / 4 && !all {
                return Ok((frames, Ended::Starved));
            }
            spans.clear();
            if !self.spans(&memory, count, spans) {
                self.tally().bad_chain.add(1);
                self.use_chains(count, 0);
                continue;
            }
            match link.receive(spans)? {
                Received::Empty => return Ok((frames, Ended::Empty)),
                Received::Frame(bytes) => {
                    frames += 1;
                    self.accept(&memory, bytes);
                }
            }
        }
        Ok((frames, Ended::Enough))
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
        let buffers = u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes();
        self.patch(memory, count, NUM_BUFFERS, &buffers);
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

    /// Writes `bytes` at `offset` of the next `count` chains.
    fn patch(&self, memory: &GuestMemory, count: usize, offset: usize, bytes: &[u8]) {
        let (mut skip, mut bytes) = (offset, bytes);
        for parts in self.chains(count) {
            let total: usize = parts.iter().map(|part| part.len as usize).sum();
            let over = skip.min(total);
            skip -= over;
            let mut cursor = Cursor::new(memory, parts);
            cursor.skip(over);
            // These bytes were mapped a moment ago, in the same snapshot.
            let written = cursor.write(bytes).unwrap_or(bytes.len());
            bytes = bytes.get(written..).unwrap_or_default();
            if bytes.is_empty() {
                return;
            }
        }
    }

    /// The writable parts of the next `count` chains.
    fn chains(&self, count: usize) -> impl Iterator<Item = &[Segment]> {
        self.taken(count).map(|chain| chain.writable)
    }
}
