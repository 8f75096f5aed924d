//! A transmit queue: frames out, buffers back.
//!
//! Rule: a frame owns its buffer from `submit` to its completion, and always gets it back; an offload is checked against the frame and the
//! negotiated features before the device sees it.
use alloc::vec::Vec;
use core::sync::atomic::AtomicU16;
use core::sync::atomic::Ordering;

use driver_platform::BufferBytes;
use driver_platform::Coherent;
use driver_platform::Direction;
use driver_platform::Dma;
use driver_platform::Mmio;
use fallible_alloc::Shared;
use virtio_core::Error;
use virtio_core::Placement;
use virtio_core::QueueSet;
use virtio_core::Slot;
use virtio_core::SlotQueue;
use virtio_core::Stopped;
use virtio_spec::net::HASH_HEADER_SIZE;
use virtio_spec::net::Header;
use zerocopy::IntoBytes;

use crate::counters::TransmitCounters;
use crate::error::Refusal;
use crate::frame::Offload;
use crate::header;

/// A frame to be sent.
#[derive(Debug)]
pub struct Transmit<B> {
    /// The frame; with `headroom` the bytes before it too.
    pub buffer: B,
    /// The buffer begins with [`crate::NetInfo::header_size`] bytes for the driver's use, which saves a descriptor.
    pub headroom: bool,
    /// What the device is asked to do with it.
    pub offload: Offload,
    /// Comes back with the completion; the driver does not look at it.
    pub cookie: u64,
}

/// A frame that was refused at submission.
#[derive(Debug)]
pub struct Rejected<T> {
    /// Why.
    pub reason: Refusal,
    /// What was submitted, unchanged but for the headroom.
    pub request: T,
}

/// A frame that came back.
#[derive(Debug)]
pub struct Transmitted<B> {
    /// From the request.
    pub cookie: u64,
    /// The request's buffer.
    pub buffer: B,
    /// The device has taken it; `false`: it was reset before, and the frame may or may not have been sent.
    pub taken: bool,
}

/// A frame that is out.
#[derive(Debug)]
pub struct Sending<B> {
    buffer: B,
    cookie: u64,
}

/// One transmit queue.
pub struct TransmitQueue<P: Dma, B> {
    pub(crate) core: SlotQueue<Sending<P::Buffer>, B>,
    pub(crate) features: u64,
    pub(crate) mtu: Option<u16>,
    pub(crate) header_size: usize,
    /// How many pairs are in use.
    pub(crate) active: Shared<AtomicU16>,
    pub(crate) counters: TransmitCounters,
}

impl<P: Dma, B: Mmio> QueueSet for TransmitQueue<P, B> {
    fn spill(self, into: &mut impl FnMut(Coherent)) {
        self.core.spill(into);
    }
}

impl<P: BufferBytes, B: Mmio> TransmitQueue<P, B> {
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

    /// Takes a frame. The device learns of it with the next [`TransmitQueue::kick`].
    ///
    /// # Errors
    /// The frame with the reason; then it has not reached the device and its buffer is not mapped.
    #[inline]
    pub fn submit(
        &mut self,
        platform: &P,
        mut request: Transmit<P::Buffer>,
    ) -> Result<(), Rejected<Transmit<P::Buffer>>> {
        let slot = match self.core.claim() {
            Ok(slot) => slot,
            Err(refusal) => {
                let reason = refusal.into();
                return Err(Rejected { reason, request });
            }
        };
        let len = match self.prepare(platform, &slot, &mut request) {
            Ok(len) => len,
            Err(reason) => {
                self.core.release(slot);
                return Err(Rejected { reason, request });
            }
        };
        let readable = self.core.chain().len();
        let Transmit {
            buffer,
            headroom,
            offload,
            cookie,
        } = request;
        let item = Sending { buffer, cookie };
        let placement = Placement::RingWhileRoomy;
        let added = self.core.add(slot, readable, placement, item);
        if let Err(Sending { mut buffer, cookie }) = added {
            platform.unmap(&mut buffer, Direction::ToDevice);
            return Err(Rejected {
                reason: Refusal::Broken,
                request: Transmit {
                    buffer,
                    headroom,
                    offload,
                    cookie,
                },
            });
        }
        self.counters.frames += 1;
        self.counters.bytes += len;
        self.counters.large += u64::from(offload.segmentation.is_some());
        Ok(())
    }

    /// Checks, writes the header, maps. On success the chain is ready and there is room for it; returns the frame's bytes.
    fn prepare(
        &mut self,
        platform: &P,
        slot: &Slot,
        request: &mut Transmit<P::Buffer>,
    ) -> Result<u64, Refusal> {
        if self.pair() >= self.active.load(Ordering::Relaxed) {
            return Err(Refusal::Inactive);
        }
        let room = platform.buffer_len(&request.buffer);
        let headroom = if request.headroom {
            self.header_size as u64
        } else {
            0
        };
        let len = room.checked_sub(headroom).ok_or(Refusal::TooSmall)?;
        let header = header::build(self.features, self.mtu, len, &request.offload)?;
        if header::needs_tag(self.mtu, len, &request.offload) {
            self.check_tag(platform, request)?;
        }
        self.core.chain().clear();
        self.write_header(platform, slot, &header, request)?;
        let chain = self.core.chain();
        let before = chain.bytes();
        platform
            .map(&mut request.buffer, Direction::ToDevice, |piece| {
                chain.push_range(piece);
            })
            .map_err(virtio_core::Refusal::from)?;
        if let Err(refusal) = self.core.fits(before + room) {
            platform.unmap(&mut request.buffer, Direction::ToDevice);
            return Err(refusal.into());
        }
        Ok(len)
    }

    /// The room beyond the MTU is a VLAN tag's.
    #[cold]
    fn check_tag(&self, platform: &P, request: &Transmit<P::Buffer>) -> Result<(), Refusal> {
        let before = if request.headroom {
            self.header_size
        } else {
            0
        };
        let mut kind = [0; 2];
        let at = before + header::TYPE_OFFSET;
        let read = platform.read_bytes(&request.buffer, at, &mut kind);
        (read && header::is_tag(kind))
            .then_some(())
            .ok_or(Refusal::TooLarge)
    }

    /// The header, padded with zeroes to the negotiated size, goes before the frame or into the slot.
    fn write_header(
        &mut self,
        platform: &P,
        slot: &Slot,
        header: &Header,
        request: &mut Transmit<P::Buffer>,
    ) -> Result<(), Refusal> {
        let mut bytes = [0_u8; HASH_HEADER_SIZE];
        for (to, from) in bytes.iter_mut().zip(header.as_bytes()) {
            *to = *from;
        }
        let bytes = bytes.get(..self.header_size).unwrap_or(&bytes);
        if request.headroom {
            let written = platform.write_bytes(&mut request.buffer, 0, bytes);
            return written.then_some(()).ok_or(Refusal::BadBuffer);
        }
        let segment = self.core.memory().write(slot, 0, bytes);
        self.core.chain().push(segment);
        Ok(())
    }

    /// Shows the device everything submitted since the last call, in one step, and rings the doorbell if the device wants that.
    #[inline]
    pub fn kick(&mut self) {
        self.counters.batches += 1;
        self.counters.doorbells += u64::from(self.core.publish());
    }

    /// Returns the next frame that the device has taken, if there is one.
    ///
    /// # Errors
    /// The device broke the rules of the ring: nothing more comes from this queue until it or the device was reset. Every call says so
    /// again.
    #[inline]
    pub fn poll(&mut self, platform: &P) -> Result<Option<Transmitted<P::Buffer>>, Error> {
        // What the device says it wrote does not matter: nothing in the chain is for it to write.
        let Some(returned) = self.core.pop()? else {
            return Ok(None);
        };
        self.core.release(returned.slot);
        Ok(Some(self.give_back(platform, returned.item, true)))
    }

    fn give_back(
        &mut self,
        platform: &P,
        mut sending: Sending<P::Buffer>,
        taken: bool,
    ) -> Transmitted<P::Buffer> {
        platform.unmap(&mut sending.buffer, Direction::ToDevice);
        self.counters.completions += 1;
        Transmitted {
            cookie: sending.cookie,
            buffer: sending.buffer,
            taken,
        }
    }

    /// Returns what is outstanding, one frame per call, `None` when the queue is empty.
    ///
    /// # Errors
    /// [`Error::NotQuiesced`] when the proof is of another device, of another queue or of the time before the latest restart.
    pub fn take_outstanding(
        &mut self,
        platform: &P,
        proof: &Stopped,
    ) -> Result<Option<Transmitted<P::Buffer>>, Error> {
        self.core.check(proof)?;
        // What completed before the reset counts; a ring that is or turns out broken has nothing more to say.
        if let Ok(Some(done)) = self.poll(platform) {
            return Ok(Some(done));
        }
        let sending = self.core.abandon(proof)?;
        Ok(sending.map(|sending| self.give_back(platform, sending, false)))
    }

    /// Asks for an interrupt at the next completion. `true`: something has already completed, poll again before sleeping.
    #[must_use = "a completion may already wait"]
    pub fn arm(&mut self) -> bool {
        self.core.arm()
    }

    /// Asks the device for no interrupts, while the shell polls or takes frames back when it sends the next ones.
    pub fn disarm(&mut self) {
        self.core.disarm();
    }

    /// Frames that are under way.
    pub fn in_flight(&self) -> u16 {
        self.core.in_flight()
    }

    /// Ring descriptors that are free: a frame needs one for each of its pieces and one for the header, but only one in all when
    /// indirect tables were negotiated.
    pub fn free_descriptors(&self) -> u16 {
        self.core.free_descriptors()
    }

    /// What the queue has done.
    pub fn counters(&self) -> TransmitCounters {
        self.counters
    }

    /// Whether the queue has to be reset, and why.
    pub fn broken(&self) -> Option<Error> {
        self.core.broken()
    }

    /// Entries of the ring.
    pub fn size(&self) -> u16 {
        self.core.size()
    }

    /// Takes the queue apart and returns its DMA memory, which the device no longer uses. `None` while frames are outstanding or when the
    /// proof is not of this queue: then the memory stays allocated for good.
    pub fn into_memory(self, proof: &Stopped) -> Option<Vec<Coherent>> {
        self.core.into_memory(proof)
    }
}
