//! The DMA memory of one queue: the three ring areas, and for every entry a slot of bytes and an indirect table.
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

const DESCRIPTOR: usize = size_of::<virtio_spec::ring::Descriptor>();

/// What a queue needs besides its rings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// How many slots.
    pub(crate) slots: usize,
    /// Bytes of a slot, a power of two; 0 for none.
    pub(crate) slot_size: usize,
    /// Entries of an indirect table; below 2 for none.
    pub(crate) table_entries: usize,
}

#[derive(Debug)]
struct Pool {
    memory: RingMemory,
    addr: u64,
    each: usize,
}

/// DMA memory of one queue.
#[derive(Debug)]
pub(crate) struct QueueMemory {
    areas: Vec<Coherent<RingMemory>>,
    rings: Rings,
    addresses: QueueAddresses,
    slots: Option<Pool>,
    tables: Option<Pool>,
}

impl QueueMemory {
    /// Allocates; what was allocated before a failure is appended to `spill`.
    pub(crate) fn allocate<P: Dma<Span = RingMemory>>(
        platform: &P,
        config: &QueueConfig,
        needs: &Needs,
        spill: &mut Vec<Coherent<RingMemory>>,
    ) -> Result<Self, Error> {
        let layout = config.layout();
        let mut areas = Vec::with_capacity(5);
        let mut allocate = |len: usize, align: usize| -> Result<_, Error> {
            let area = platform.allocate(len, align)?;
            let place = (area.span, area.device_addr);
            areas.push(area);
            Ok(place)
        };
        let mut all = || -> Result<_, Error> {
            let mut pool = |each: usize, align: usize| -> Result<_, Error> {
                let (memory, addr) = allocate(needs.slots * each, align)?;
                Ok(Pool { memory, addr, each })
            };
            let slots = match needs.slot_size {
                0 => None,
                size => Some(pool(size, size)?),
            };
            let tables = match config.indirect && needs.table_entries > 1 {
                true => Some(pool(needs.table_entries * DESCRIPTOR, DESCRIPTOR)?),
                false => None,
            };
            let descriptors = allocate(layout.descriptors.size, layout.descriptors.align)?;
            let driver = allocate(layout.driver.size, layout.driver.align)?;
            let device = allocate(layout.device.size, layout.device.align)?;
            Ok((descriptors, driver, device, slots, tables))
        };
        let places = all();
        let (descriptors, driver, device, slots, tables) = match places {
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
            tables,
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

    /// Writes into a slot and returns where the device finds it. `None` when it does not fit, which callers exclude.
    #[inline]
    pub(crate) fn write(&self, slot: u16, offset: usize, data: &[u8]) -> Option<Segment> {
        let (memory, segment) = self.place(slot, offset, data.len())?;
        memory.write(0, data).then_some(segment)
    }

    /// Reads from a slot.
    pub(crate) fn read(&self, slot: u16, offset: usize, out: &mut [u8]) -> bool {
        self.place(slot, offset, out.len())
            .is_some_and(|(memory, _)| memory.read(0, out))
    }

    #[inline]
    fn place(&self, slot: u16, offset: usize, len: usize) -> Option<(RingMemory, Segment)> {
        let pool = self.slots.as_ref()?;
        if offset.checked_add(len)? > pool.each {
            return None;
        }
        let at = usize::from(slot) * pool.each + offset;
        let segment = Segment {
            addr: pool.addr + at as u64,
            len: u32::try_from(len).ok()?,
        };
        Some((pool.memory.subspan(at, len)?, segment))
    }

    /// A slot's indirect table, when there are tables and `entries` fit.
    #[inline]
    pub(crate) fn table(&self, slot: u16, entries: usize) -> Option<(RingMemory, u64)> {
        let pool = self.tables.as_ref()?;
        if entries * DESCRIPTOR > pool.each {
            return None;
        }
        let offset = usize::from(slot) * pool.each;
        Some((
            pool.memory.subspan(offset, pool.each)?,
            pool.addr + offset as u64,
        ))
    }
}
