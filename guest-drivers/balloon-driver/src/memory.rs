//! The DMA memory of one queue: the three ring areas and the message slots.
//!
//! Rule: allocated once when the driver starts, used again after every reset, and handed back whole when the driver is taken apart.
use alloc::vec::Vec;

use driver_platform::Coherent;
use driver_platform::Dma;
use virtio_pci::QueueAddresses;
use virtqueue::QueueConfig;
use virtqueue::RingMemory;
use virtqueue::Rings;
use virtqueue::Segment;

use crate::error::Error;

/// The slots are aligned to a cache line.
const SLOT_ALIGN: usize = 64;

/// DMA memory of one queue.
#[derive(Debug)]
pub(crate) struct QueueMemory {
    areas: Vec<Coherent<RingMemory>>,
    rings: Rings,
    addresses: QueueAddresses,
    slots: Option<(RingMemory, u64)>,
    slot_len: usize,
}

impl QueueMemory {
    /// Allocates rings and `slots` messages of `slot_len` bytes. What was allocated before a failure is appended to `spill`.
    pub(crate) fn allocate<P: Dma<Span = RingMemory>>(
        platform: &P,
        config: &QueueConfig,
        (slots, slot_len): (u16, usize),
        spill: &mut Vec<Coherent<RingMemory>>,
    ) -> Result<Self, Error> {
        let layout = config.layout();
        let slot_len = slot_len.next_multiple_of(SLOT_ALIGN);
        let mut areas = Vec::with_capacity(4);
        let mut allocate = |len: usize, align: usize| -> Result<_, Error> {
            let area = platform.allocate(len, align)?;
            let place = (area.span, area.device_addr);
            areas.push(area);
            Ok(place)
        };
        let mut all = || -> Result<_, Error> {
            let descriptors = allocate(layout.descriptors.size, layout.descriptors.align)?;
            let driver = allocate(layout.driver.size, layout.driver.align)?;
            let device = allocate(layout.device.size, layout.device.align)?;
            let bytes = usize::from(slots) * slot_len;
            let slots = match bytes {
                0 => None,
                bytes => Some(allocate(bytes, SLOT_ALIGN)?),
            };
            Ok((descriptors, driver, device, slots))
        };
        let places = all();
        let (descriptors, driver, device, slots) = match places {
            Ok(places) => places,
            Err(error) => {
                spill.append(&mut areas);
                return Err(error);
            }
        };
        Ok(Self {
            areas,
            rings: Rings {
                descriptors: descriptors.0,
                driver: driver.0,
                device: device.0,
            },
            addresses: QueueAddresses {
                descriptors: descriptors.1,
                driver: driver.1,
                device: device.1,
            },
            slots,
            slot_len,
        })
    }

    pub(crate) fn rings(&self) -> Rings {
        self.rings
    }

    pub(crate) fn addresses(&self) -> QueueAddresses {
        self.addresses
    }

    /// Gives the areas up; the queue that used them is gone.
    pub(crate) fn into_areas(self) -> Vec<Coherent<RingMemory>> {
        self.areas
    }

    /// Writes into a slot. Slots are numbered below the count for which the memory was allocated.
    pub(crate) fn write(&self, slot: u16, offset: usize, data: &[u8]) {
        if let Some((memory, _)) = &self.slots {
            memory.write(usize::from(slot) * self.slot_len + offset, data);
        }
    }

    /// The first `len` bytes of a slot, as the device sees them.
    pub(crate) fn segment(&self, slot: u16, len: usize) -> Segment {
        let start = self.slots.as_ref().map_or(0, |(_, addr)| *addr);
        // A slot is far below 4 GiB, so lengths fit.
        Segment {
            addr: start + (usize::from(slot) * self.slot_len) as u64,
            len: len.min(self.slot_len) as u32,
        }
    }
}
