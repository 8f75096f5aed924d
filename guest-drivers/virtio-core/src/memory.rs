//! The DMA memory of one queue: the three ring areas, and for every slot some bytes and an indirect table.
//!
//! Rule: allocated once when the driver starts, used again after every reset, and handed back whole when the queue is taken apart.
use alloc::vec::Vec;

use driver_platform::Coherent;
use driver_platform::Dma;
use fallible_alloc::FallibleVec;
use virtio_pci::QueueAddresses;
use virtqueue::QueueConfig;
use virtqueue::RingMemory;
use virtqueue::Rings;
use virtqueue::Segment;

use crate::error::Error;
use crate::slot::Slot;

/// Bytes of an entry of an indirect table.
const DESCRIPTOR: usize = size_of::<virtio_spec::ring::Descriptor>();
/// Most areas of one queue: three of the ring, slots, tables.
pub(crate) const AREAS: usize = 5;

/// What a queue needs besides its rings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    pub(crate) slots: u16,
    /// Bytes of a slot; 0 for none.
    pub(crate) slot_size: usize,
    /// Entries of an indirect table; below 2 for none.
    pub(crate) table_entries: usize,
}

/// One area, cut into equal parts, one for each slot.
#[derive(Debug)]
struct Pool {
    memory: RingMemory,
    addr: u64,
    each: usize,
}

/// DMA memory of one queue.
#[derive(Debug)]
pub struct QueueMemory {
    areas: Vec<Coherent>,
    rings: Rings,
    addresses: QueueAddresses,
    slots: Option<Pool>,
    tables: Option<Pool>,
}

/// Places in areas: what the driver and the device know of them.
type Place = (RingMemory, u64);

impl QueueMemory {
    /// Allocates. After a failure what was allocated before is in `areas`, which has room for [`AREAS`].
    pub(crate) fn allocate<P: Dma>(
        platform: &P,
        config: &QueueConfig,
        needs: &Needs,
        areas: &mut Vec<Coherent>,
    ) -> Result<Self, Error> {
        let layout = config.layout();
        let mut allocate = |len: usize, align: usize| -> Result<Place, Error> {
            let area = platform.allocate(len, align)?;
            let place = (area.span, area.device_addr);
            areas.push_in_room(area).map_err(|_| Error::OutOfMemory)?;
            Ok(place)
        };
        let descriptors = allocate(layout.descriptors.size, layout.descriptors.align)?;
        let driver = allocate(layout.driver.size, layout.driver.align)?;
        let device = allocate(layout.device.size, layout.device.align)?;
        let mut pool = |each: usize, align: usize| -> Result<Pool, Error> {
            let (memory, addr) = allocate(usize::from(needs.slots) * each, align)?;
            Ok(Pool { memory, addr, each })
        };
        let slots = match needs.slot_size {
            0 => None,
            size => Some(pool(size, slot_align(size))?),
        };
        let tables = match config.indirect && needs.table_entries > 1 {
            true => Some(pool(needs.table_entries * DESCRIPTOR, DESCRIPTOR)?),
            false => None,
        };
        Ok(Self {
            areas: core::mem::take(areas),
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
    pub(crate) fn into_areas(self) -> Vec<Coherent> {
        self.areas
    }

    /// Writes into a slot's bytes and returns where the device finds them. What goes beyond the slot, which a driver excludes, is not
    /// written, and the segment is empty, which makes its chain one that is refused.
    #[inline]
    pub fn write(&self, slot: &Slot, offset: usize, data: &[u8]) -> Segment {
        let segment = self.segment(slot, offset, data.len());
        if let Some(pool) = &self.slots
            && segment.len != 0
        {
            pool.memory.write(slot.index() * pool.each + offset, data);
        }
        segment
    }

    /// Reads from a slot's bytes; beyond the slot `out` stays as it is.
    #[inline]
    pub fn read(&self, slot: &Slot, offset: usize, out: &mut [u8]) {
        if let Some(pool) = &self.slots
            && offset + out.len() <= pool.each
        {
            pool.memory.read(slot.index() * pool.each + offset, out);
        }
    }

    /// Bytes of a slot as the device sees them.
    #[inline]
    pub fn segment(&self, slot: &Slot, offset: usize, len: usize) -> Segment {
        match &self.slots {
            // The slots of a queue are far below 4 GiB.
            Some(pool) if offset + len <= pool.each => Segment {
                addr: pool.addr + (slot.index() * pool.each + offset) as u64,
                len: len as u32,
            },
            _ => {
                debug_assert!(false, "{len} bytes at {offset} are not in a slot");
                Segment { addr: 0, len: 0 }
            }
        }
    }

    /// A slot's indirect table, when there are tables and `entries` fit.
    #[inline]
    pub(crate) fn table(&self, slot: &Slot, entries: usize) -> Option<Place> {
        let pool = self.tables.as_ref()?;
        if entries * DESCRIPTOR > pool.each {
            return None;
        }
        let offset = slot.index() * pool.each;
        let memory = pool.memory.subspan(offset, pool.each)?;
        Some((memory, pool.addr + offset as u64))
    }
}

/// Small slots that are a power of two do not straddle a cache line, others begin at one.
fn slot_align(size: usize) -> usize {
    if size.is_power_of_two() {
        size.min(64)
    } else {
        64
    }
}
