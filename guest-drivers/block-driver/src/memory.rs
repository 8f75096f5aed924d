//! The DMA memory of one queue: the three ring areas, and for every slot a request header, a status byte and an indirect table.
//!
//! Rule: allocated once when the driver starts, used again after every reset, and handed back whole when the driver is taken apart.
use alloc::vec::Vec;

use driver_platform::Coherent;
use driver_platform::Dma;
use virtio_pci::QueueAddresses;
use virtio_spec::block;
use virtio_spec::block::DiscardWriteZeroes;
use virtio_spec::block::RequestHeader;
use virtqueue::QueueConfig;
use virtqueue::RingMemory;
use virtqueue::Rings;
use virtqueue::Segment;
use zerocopy::IntoBytes;

use crate::error::Error;

/// Bytes of one slot: header at 0, range at 16, serial at 32, status at 63. One cache line.
const SLOT: usize = 64;
const RANGE: usize = 16;
const SERIAL: usize = 32;
const STATUS: usize = 63;
/// What the status byte holds until the device writes it; no status has this value.
pub(crate) const NO_STATUS: u8 = 0xff;
const DESCRIPTOR: usize = size_of::<virtio_spec::ring::Descriptor>();

/// DMA memory of one queue.
#[derive(Debug)]
pub(crate) struct QueueMemory {
    areas: Vec<Coherent<RingMemory>>,
    rings: Rings,
    addresses: QueueAddresses,
    slots: RingMemory,
    slots_addr: u64,
    tables: Option<(RingMemory, u64)>,
    table_entries: usize,
}

impl QueueMemory {
    /// Allocates for `config.size` slots; `table_entries` is the length of an indirect table.
    /// What was allocated before a failure is appended to `spill`.
    pub(crate) fn allocate<P: Dma<Span = RingMemory>>(
        platform: &P,
        config: &QueueConfig,
        table_entries: usize,
        spill: &mut Vec<Coherent<RingMemory>>,
    ) -> Result<Self, Error> {
        let layout = config.layout();
        let slots = usize::from(config.size);
        let mut areas = Vec::with_capacity(5);
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
            let slots_area = allocate(slots * SLOT, SLOT)?;
            let tables = match config.indirect {
                true => Some(allocate(slots * table_entries * DESCRIPTOR, DESCRIPTOR)?),
                false => None,
            };
            Ok((descriptors, driver, device, slots_area, tables))
        };
        let places = all();
        let (descriptors, driver, device, slots_area, tables) = match places {
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
            slots: slots_area.0,
            slots_addr: slots_area.1,
            tables,
            table_entries,
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

    /// Writes a slot's header and takes its status back.
    pub(crate) fn write_header(&self, slot: u16, request_type: u32, sector: u64) {
        let header = RequestHeader {
            request_type: request_type.into(),
            reserved: 0.into(),
            sector: sector.into(),
        };
        self.write(slot, 0, header.as_bytes());
        self.write(slot, STATUS, &[NO_STATUS]);
    }

    /// Writes a slot's range.
    pub(crate) fn write_range(&self, slot: u16, sector: u64, sectors: u32, flags: u32) {
        let range = DiscardWriteZeroes {
            sector: sector.into(),
            num_sectors: sectors.into(),
            flags: flags.into(),
        };
        self.write(slot, RANGE, range.as_bytes());
    }

    pub(crate) fn status(&self, slot: u16) -> u8 {
        let mut status = [NO_STATUS];
        self.slots
            .read(usize::from(slot) * SLOT + STATUS, &mut status);
        status[0]
    }

    pub(crate) fn serial(&self, slot: u16) -> [u8; block::ID_SIZE] {
        let mut serial = [0; block::ID_SIZE];
        self.slots
            .read(usize::from(slot) * SLOT + SERIAL, &mut serial);
        serial
    }

    pub(crate) fn header_segment(&self, slot: u16) -> Segment {
        self.segment(slot, 0, size_of::<RequestHeader>())
    }

    pub(crate) fn range_segment(&self, slot: u16) -> Segment {
        self.segment(slot, RANGE, size_of::<DiscardWriteZeroes>())
    }

    pub(crate) fn serial_segment(&self, slot: u16) -> Segment {
        self.segment(slot, SERIAL, block::ID_SIZE)
    }

    pub(crate) fn status_segment(&self, slot: u16) -> Segment {
        self.segment(slot, STATUS, 1)
    }

    /// A slot's indirect table, when there are tables and `entries` fit.
    pub(crate) fn table(&self, slot: u16, entries: usize) -> Option<(RingMemory, u64)> {
        let (memory, addr) = self.tables.as_ref()?;
        if entries > self.table_entries {
            return None;
        }
        let bytes = self.table_entries * DESCRIPTOR;
        let offset = usize::from(slot) * bytes;
        Some((memory.subspan(offset, bytes)?, addr + offset as u64))
    }

    fn segment(&self, slot: u16, offset: usize, len: usize) -> Segment {
        // A slot is 64 bytes, so lengths fit.
        Segment {
            addr: self.slots_addr + (usize::from(slot) * SLOT + offset) as u64,
            len: len as u32,
        }
    }

    fn write(&self, slot: u16, offset: usize, data: &[u8]) {
        // Slots are numbered below the queue size, for which the memory was allocated.
        self.slots.write(usize::from(slot) * SLOT + offset, data);
    }
}
