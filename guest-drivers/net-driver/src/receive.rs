//! A receive queue: buffers out, frames back.
//!
//! Rule: a posted buffer comes back exactly once, with a frame or with the reason why there is none. The number of buffers of a frame, the
//! bytes in each and every field of the header are the device's claims: nothing is believed beyond what the queue itself knows.
use alloc::vec::Drain;
use alloc::vec::Vec;

use driver_platform::BufferBytes;
use driver_platform::Coherent;
use driver_platform::Direction;
use driver_platform::Dma;
use driver_platform::Mmio;
use fallible_alloc::FallibleVec;
use virtio_core::Error;
use virtio_core::Placement;
use virtio_core::QueueSet;
use virtio_core::SlotQueue;
use virtio_core::Stopped;
use virtio_spec::net::ETHERNET_HEADER_SIZE;
use virtio_spec::net::HASH_HEADER_SIZE;

use crate::FRAME_MAX;
use crate::counters::ReceiveCounters;
use crate::error::Discard;
use crate::error::Refusal;
use crate::frame::Frame;
use crate::header;
use crate::transmit::Rejected;

/// Where the number of buffers is in the header.
const NUM_BUFFERS: usize = core::mem::offset_of!(virtio_spec::net::Header, num_buffers);

/// A buffer that came back.
#[derive(Debug)]
pub struct ReceivedBuffer<B> {
    /// The buffer.
    pub buffer: B,
    /// What it was posted with.
    pub cookie: u64,
    /// First byte of the frame in it.
    pub offset: u32,
    /// Bytes of the frame in it; 0 when there is no frame.
    pub len: u32,
}

/// A frame and the buffers that hold it, in order; or buffers that hold none, and why.
#[derive(Debug)]
pub struct Received<'q, B> {
    /// The frame.
    pub frame: Result<Frame, Discard>,
    /// The buffers. Those that are not taken out are dropped with the iterator.
    pub buffers: Drain<'q, ReceivedBuffer<B>>,
}

/// A buffer that is out.
#[derive(Debug)]
pub struct Posted<B> {
    buffer: B,
    cookie: u64,
}

/// One receive queue.
pub struct ReceiveQueue<P: Dma, B> {
    pub(crate) core: SlotQueue<Posted<P::Buffer>, B>,
    pub(crate) features: u64,
    pub(crate) header_size: usize,
    pub(crate) mergeable: bool,
    pub(crate) buffer_min: usize,
    /// The buffers of one frame; has room for all that the queue can hold.
    pub(crate) parts: Vec<ReceivedBuffer<P::Buffer>>,
    pub(crate) counters: ReceiveCounters,
}

impl<P: Dma, B: Mmio> QueueSet for ReceiveQueue<P, B> {
    fn spill(self, into: &mut impl FnMut(Coherent)) {
        self.core.spill(into);
    }
}

impl<P: BufferBytes, B: Mmio> ReceiveQueue<P, B> {
    /// The queue's number on the device.
    pub fn index(&self) -> u16 {
        self.core.index()
    }

    /// The MSI-X message that the queue raises, for [`driver_platform::Interrupts::set_target`].
    pub fn message(&self) -> Option<u16> {
        self.core.message()
    }

    /// The number of its pair.
    pub fn pair(&self) -> u16 {
        self.core.index() / 2
    }

    /// Gives the device a buffer to receive into, of at least [`crate::NetInfo::buffer_min`] bytes. It learns of it with the next
    /// [`ReceiveQueue::kick`].
    ///
    /// # Errors
    /// The buffer and its cookie with the reason.
    #[inline]
    pub fn post(
        &mut self,
        platform: &P,
        mut buffer: P::Buffer,
        cookie: u64,
    ) -> Result<(), Rejected<(P::Buffer, u64)>> {
        let prepared = match self.core.claim() {
            Ok(slot) => match self.prepare(platform, &mut buffer) {
                Ok(()) => Ok(slot),
                Err(reason) => {
                    self.core.release(slot);
                    Err(reason)
                }
            },
            Err(refusal) => Err(refusal.into()),
        };
        let slot = match prepared {
            Ok(slot) => slot,
            Err(reason) => {
                return Err(Rejected {
                    reason,
                    request: (buffer, cookie),
                });
            }
        };
        // Receive buffers fill the ring, so they take one descriptor each if they can.
        let item = Posted { buffer, cookie };
        match self.core.add(slot, 0, Placement::Table, item) {
            Ok(()) => {
                self.counters.posted += 1;
                Ok(())
            }
            Err(Posted { mut buffer, cookie }) => {
                platform.unmap(&mut buffer, Direction::FromDevice);
                Err(Rejected {
                    reason: Refusal::Broken,
                    request: (buffer, cookie),
                })
            }
        }
    }

    /// Maps; on success the chain is ready and there is room for it.
    fn prepare(&mut self, platform: &P, buffer: &mut P::Buffer) -> Result<(), Refusal> {
        let room = platform.buffer_len(buffer);
        if room < self.buffer_min as u64 {
            return Err(Refusal::TooSmall);
        }
        let chain = self.core.chain();
        chain.clear();
        platform
            .map(buffer, Direction::FromDevice, |piece| {
                chain.push_range(piece);
            })
            .map_err(virtio_core::Refusal::from)?;
        if let Err(refusal) = self.core.fits(room) {
            platform.unmap(buffer, Direction::FromDevice);
            return Err(refusal.into());
        }
        Ok(())
    }

    /// Shows the device everything posted since the last call, in one step, and rings the doorbell if the device wants that.
    #[inline]
    pub fn kick(&mut self) {
        self.counters.doorbells += u64::from(self.core.publish());
    }

    /// Returns the next frame, or the buffers of one that had to be dropped.
    ///
    /// # Errors
    /// The device broke the rules of the ring: nothing more comes from this queue until it or the device was reset. Every call says so
    /// again. Buffers that came back before the ring broke are returned first, without a frame.
    #[inline]
    pub fn poll(&mut self, platform: &P) -> Result<Option<Received<'_, P::Buffer>>, Error> {
        if !self.take_part(platform)? {
            return Ok(None);
        }
        let frame = self.first_part(platform);
        Ok(Some(self.hand_up(frame)))
    }

    /// Takes one used buffer into `parts`, `len` being what the device wrote.
    #[inline]
    fn take_part(&mut self, platform: &P) -> Result<bool, Error> {
        let Some(returned) = self.core.pop()? else {
            return Ok(false);
        };
        self.core.release(returned.slot);
        self.keep_part(platform, returned.item, returned.written);
        Ok(true)
    }

    /// Unmaps a buffer and puts it into `parts`, which has room for all that the queue can hold.
    #[inline]
    fn keep_part(&mut self, platform: &P, mut posted: Posted<P::Buffer>, len: u32) {
        platform.unmap(&mut posted.buffer, Direction::FromDevice);
        let lost = self.parts.push_in_room(ReceivedBuffer {
            buffer: posted.buffer,
            cookie: posted.cookie,
            offset: 0,
            len,
        });
        debug_assert!(lost.is_ok(), "more buffers than the queue holds");
    }

    /// Looks at the buffer that begins a frame, takes the others, and checks.
    #[inline]
    fn first_part(&mut self, platform: &P) -> Result<Frame, Discard> {
        let header_size = self.header_size;
        let first = self.parts.first_mut().ok_or(Discard::NoBuffers)?;
        let mut bytes = [0_u8; HASH_HEADER_SIZE];
        let whole = first.len as usize >= header_size;
        let head = bytes.get_mut(..header_size).ok_or(Discard::TooShort)?;
        if !whole || !platform.read_bytes(&first.buffer, 0, head) {
            return Err(Discard::TooShort);
        }
        // At most 20.
        first.offset = header_size as u32;
        first.len -= header_size as u32;
        let mut total = u64::from(first.len);
        if self.mergeable {
            let at = |index: usize| bytes.get(index).copied().unwrap_or(0);
            let count = u16::from_le_bytes([at(NUM_BUFFERS), at(NUM_BUFFERS + 1)]);
            total += self.take_rest(platform, count)?;
        }
        if total < ETHERNET_HEADER_SIZE as u64 {
            return Err(Discard::TooShort);
        }
        let len = u32::try_from(total).map_err(|_| Discard::TooLong)?;
        if len as usize > FRAME_MAX {
            return Err(Discard::TooLong);
        }
        header::parse(self.features, &bytes, len)
    }

    /// Takes the further buffers of a frame of `count`; returns their bytes. They have to be there already: the device uses all of them
    /// together (sec. 5.1.6.4.1). Bounded by what is out.
    fn take_rest(&mut self, platform: &P, count: u16) -> Result<u64, Discard> {
        if count == 0 {
            return Err(Discard::NoBuffers);
        }
        let mut total = 0_u64;
        let mut empty = false;
        for _ in 1..count {
            // A ring that breaks here says so again at the next poll.
            if !self.take_part(platform).unwrap_or(false) {
                return Err(Discard::MissingBuffers);
            }
            let len = self.parts.last().map_or(0, |part| part.len);
            empty |= len == 0;
            total += u64::from(len);
        }
        if empty {
            return Err(Discard::EmptyBuffer);
        }
        Ok(total)
    }

    #[inline]
    fn hand_up(&mut self, frame: Result<Frame, Discard>) -> Received<'_, P::Buffer> {
        let counters = &mut self.counters;
        counters.buffers += self.parts.len() as u64;
        match &frame {
            Ok(frame) => {
                counters.frames += 1;
                counters.bytes += u64::from(frame.len);
                counters.large += u64::from(frame.segmentation.is_some());
            }
            Err(reason) => {
                match reason {
                    Discard::TooShort => counters.too_short += 1,
                    Discard::TooLong => counters.too_long += 1,
                    Discard::BadHeader => counters.bad_header += 1,
                    Discard::NoBuffers | Discard::MissingBuffers | Discard::EmptyBuffer => {
                        counters.bad_buffers += 1;
                    }
                    Discard::Reset => {}
                }
                for part in &mut self.parts {
                    part.offset = 0;
                    part.len = 0;
                }
            }
        }
        Received {
            frame,
            buffers: self.parts.drain(..),
        }
    }

    /// Returns what is outstanding, `None` when the queue is empty: first the frames that had arrived before the reset, then the buffers
    /// that were never used, one by one, with [`Discard::Reset`].
    ///
    /// # Errors
    /// [`Error::NotQuiesced`] when the proof is of another device, of another queue or of the time before the latest restart.
    pub fn take_outstanding(
        &mut self,
        platform: &P,
        proof: &Stopped,
    ) -> Result<Option<Received<'_, P::Buffer>>, Error> {
        self.core.check(proof)?;
        // A ring that is or turns out broken has nothing more to say.
        let frame = if let Ok(true) = self.take_part(platform) {
            self.first_part(platform)
        } else {
            let Some(posted) = self.core.abandon(proof)? else {
                return Ok(None);
            };
            self.keep_part(platform, posted, 0);
            Err(Discard::Reset)
        };
        Ok(Some(self.hand_up(frame)))
    }

    /// Asks for an interrupt at the next frame. `true`: one has already arrived, poll again before sleeping.
    #[must_use = "a frame may already wait"]
    pub fn arm(&mut self) -> bool {
        self.core.arm()
    }

    /// Asks the device for no interrupts, while the shell polls.
    pub fn disarm(&mut self) {
        self.core.disarm();
    }

    /// Buffers that are out.
    pub fn in_flight(&self) -> u16 {
        self.core.in_flight()
    }

    /// Ring descriptors that are free: a buffer needs one for each of its pieces, but only one in all when indirect tables were
    /// negotiated.
    pub fn free_descriptors(&self) -> u16 {
        self.core.free_descriptors()
    }

    /// What the queue has done.
    pub fn counters(&self) -> ReceiveCounters {
        self.counters
    }

    /// How often the device claimed to have written more than a buffer holds; what it claimed was cut.
    pub fn overruns(&self) -> u64 {
        self.core.overruns()
    }

    /// Whether the queue has to be reset, and why.
    pub fn broken(&self) -> Option<Error> {
        self.core.broken()
    }

    /// Entries of the ring.
    pub fn size(&self) -> u16 {
        self.core.size()
    }

    /// Takes the queue apart and returns its DMA memory, which the device no longer uses. `None` while buffers are outstanding or when
    /// the proof is not of this queue: then the memory stays allocated for good.
    pub fn into_memory(self, proof: &Stopped) -> Option<Vec<Coherent>> {
        self.core.into_memory(proof)
    }
}
