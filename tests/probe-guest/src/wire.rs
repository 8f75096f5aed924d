//! The card as the TCP/IP stack sees it; raw frames of our own kind are taken out before.
//!
//! Rule: a frame is copied once on each way, between a DMA buffer and the scratch area that the stack works on.
use alloc::boxed::Box;
use alloc::vec;
use core::num::NonZeroUsize;

use net_driver::FRAME_MAX;
use net_driver::Offload;
use smoltcp::phy::Checksum;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::phy::Device;
use smoltcp::phy::DeviceCapabilities;
use smoltcp::phy::Medium;
use smoltcp::phy::PacketMeta;
use smoltcp::phy::RxToken;
use smoltcp::phy::TxToken;
use smoltcp::time::Instant;

use crate::card::Card;
use crate::frames::Raw;
use crate::offload;

const ETHERNET: usize = 14;
/// Largest frame that the device is asked to cut.
const LARGE_FRAME: usize = 62_000;
/// Where the type is in a frame, and the first byte after it.
const TYPE: core::ops::Range<usize> = 12..ETHERNET;

/// The card with what belongs to frames.
pub(crate) struct Wire<'a> {
    pub(crate) card: Card<'a>,
    pub(crate) raw: Raw,
    incoming: Box<[u8]>,
    outgoing: Box<[u8]>,
}

impl<'a> Wire<'a> {
    pub(crate) fn new(card: Card<'a>) -> Self {
        let scratch = || vec![0; FRAME_MAX].into_boxed_slice();
        Self {
            card,
            raw: Raw::default(),
            incoming: scratch(),
            outgoing: scratch(),
        }
    }

    /// The next frame for the stack.
    fn next(&mut self) -> Option<usize> {
        loop {
            let len = self.card.receive(&mut self.incoming)?;
            let frame = self.incoming.get_mut(..len)?;
            if frame.get(TYPE) != Some(&crate::frames::TYPE) {
                return Some(len);
            }
            self.raw.arrived(&mut self.card, frame);
        }
    }
}

impl<'a> Device for Wire<'a> {
    type RxToken<'b>
        = Incoming<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Outgoing<'b, 'a>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        // An answer must have room, or the frame waits in the queue.
        if !self.card.room() {
            return None;
        }
        let len = self.next()?;
        Some((
            Incoming(self.incoming.get(..len)?),
            Outgoing {
                card: &mut self.card,
                scratch: &mut self.outgoing,
                meta: PacketMeta::default(),
            },
        ))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        self.card.room().then_some(Outgoing {
            card: &mut self.card,
            scratch: &mut self.outgoing,
            meta: PacketMeta::default(),
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut about = DeviceCapabilities::default();
        about.medium = Medium::Ethernet;
        about.max_transmission_unit = self.card.mtu + ETHERNET;
        let side = match (self.card.checksums_out, self.card.checksums_in) {
            (true, true) => Checksum::None,
            (true, false) => Checksum::Rx,
            (false, true) => Checksum::Tx,
            (false, false) => Checksum::Both,
        };
        let mut checksum = ChecksumCapabilities::default();
        (checksum.tcp, checksum.udp) = (side, side);
        about.checksum = checksum;
        if self.card.segments_out {
            about.segmentation.tcpv4 = NonZeroUsize::new(LARGE_FRAME);
        }
        about
    }
}

/// A frame that came.
pub(crate) struct Incoming<'b>(&'b [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, work: F) -> R {
        work(self.0)
    }
}

/// A frame that will go.
pub(crate) struct Outgoing<'b, 'a> {
    card: &'b mut Card<'a>,
    scratch: &'b mut [u8],
    meta: PacketMeta,
}

impl TxToken for Outgoing<'_, '_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, work: F) -> R {
        let frame = self.scratch.get_mut(..len).unwrap_or_default();
        let result = work(frame);
        let segment = self.meta.segmentation_offload_size.map(u16::from);
        let offload = match self.card.checksums_out {
            true => offload::prepare(frame, segment),
            false => Offload::default(),
        };
        self.card.send(frame, &offload);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.meta = meta;
    }
}
