//! The disk as its configuration space describes it (virtio 1.4 sec. 5.2.4), checked.
//!
//! Rule: a field counts only if its feature was negotiated, and a value that no disk can have refuses the disk.
use core::mem::offset_of;

use driver_platform::PciFunction;
use virtio_core::Error;
use virtio_pci::Transport;
use virtio_spec::block;
use virtio_spec::block::Config;

/// Largest block size taken, in bytes.
const BLOCK_SIZE_MAX: u32 = 64 << 10;

/// What a shell needs to know about the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskInfo {
    /// Size in sectors of 512 bytes.
    pub capacity_sectors: u64,
    /// Logical block size in bytes: the granularity of all requests.
    pub block_size: u32,
    /// Physical block size in bytes.
    pub physical_block_size: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// Flush works; without it every completed write is durable.
    pub flush: bool,
    /// The cache mode can be read and changed.
    pub write_cache_switch: bool,
    /// Largest data segment in bytes.
    pub size_max: u32,
    /// Most data segments in one request to the device.
    pub seg_max: u32,
    /// Queues that the device has.
    pub queues: u16,
    /// Most sectors of one discard request to the device; 0: no discard.
    pub max_discard_sectors: u32,
    /// Discards should be aligned to this many sectors.
    pub discard_alignment_sectors: u32,
    /// Most sectors of one write-zeroes request to the device; 0: no write-zeroes.
    pub max_write_zeroes_sectors: u32,
    /// Write-zeroes may give space up.
    pub write_zeroes_may_unmap: bool,
    /// Most bytes of one read or write with a buffer of page-sized pieces.
    pub max_transfer: u64,
}

impl DiskInfo {
    /// Reads and checks the configuration; the features are negotiated already.
    pub(crate) fn read<F: PciFunction>(transport: &Transport<F>) -> Result<Self, Error> {
        let info = transport.read_consistent(|t| read_fields(t))?;
        info.checked()
    }

    fn checked(self) -> Result<Self, Error> {
        let plausible = self.block_size.is_power_of_two()
            && (512..=BLOCK_SIZE_MAX).contains(&self.block_size)
            && self.physical_block_size >= self.block_size
            && self.size_max >= 512
            && self.queues > 0
            // Byte addresses of the disk fit into 63 bits: operating systems need that, and sums of sectors cannot overflow.
            && self.capacity_sectors <= i64::MAX as u64 / block::SECTOR_SIZE;
        if !plausible {
            return Err(Error::BadConfig);
        }
        // What does not make up a whole block at the end is out of reach.
        let capacity_sectors =
            self.capacity_sectors - self.capacity_sectors % self.sectors_per_block();
        Ok(Self {
            capacity_sectors,
            ..self
        })
    }

    /// Sectors per logical block.
    pub fn sectors_per_block(&self) -> u64 {
        u64::from(self.block_size) / block::SECTOR_SIZE
    }
}

fn read_fields<F: PciFunction>(t: &Transport<F>) -> Result<DiskInfo, virtio_pci::Error> {
    use block::feature::BLK_SIZE;
    use block::feature::CONFIG_WCE;
    use block::feature::DISCARD;
    use block::feature::FLUSH;
    use block::feature::MQ;
    use block::feature::RO;
    use block::feature::SEG_MAX;
    use block::feature::SIZE_MAX;
    use block::feature::TOPOLOGY;
    use block::feature::WRITE_ZEROES;
    let block_size = field_u32(t, BLK_SIZE, offset_of!(Config, blk_size), 512)?;
    let exponent = field_u8(t, TOPOLOGY, offset_of!(Config, topology), 0)?;
    let discard = field_u32(t, DISCARD, offset_of!(Config, max_discard_sectors), 0)?;
    let discard_ranges = field_u32(t, DISCARD, offset_of!(Config, max_discard_seg), 0)?;
    let zeroes = field_u32(
        t,
        WRITE_ZEROES,
        offset_of!(Config, max_write_zeroes_sectors),
        0,
    )?;
    let zeroes_ranges = field_u32(t, WRITE_ZEROES, offset_of!(Config, max_write_zeroes_seg), 0)?;
    let per_block = (block_size / 512).max(1);
    // A limit of no ranges or of less than one block means that the operation is not usable.
    let usable = |sectors: u32, ranges: u32| {
        if ranges == 0 {
            0
        } else {
            sectors - sectors % per_block
        }
    };
    Ok(DiskInfo {
        capacity_sectors: u64::from_le_bytes(t.read_field(offset_of!(Config, capacity))?),
        block_size,
        // An absurd exponent is ignored: it is only a hint.
        physical_block_size: block_size
            .checked_shl(u32::from(exponent))
            .filter(|&size| size >= block_size && size >> exponent == block_size)
            .unwrap_or(block_size),
        read_only: t.has(RO),
        flush: t.has(FLUSH),
        write_cache_switch: t.has(CONFIG_WCE),
        // 0 bytes would mean no data at all: taken as no limit, as others do (qemu-storage-daemon says 0).
        size_max: match field_u32(t, SIZE_MAX, offset_of!(Config, size_max), u32::MAX)? {
            0 => u32::MAX,
            limit => limit,
        },
        // 0 segments would mean no data at all: taken as 1, as others do.
        seg_max: field_u32(t, SEG_MAX, offset_of!(Config, seg_max), 1)?.max(1),
        queues: field_u16(t, MQ, offset_of!(Config, num_queues), 1)?,
        max_discard_sectors: usable(discard, discard_ranges),
        discard_alignment_sectors: field_u32(
            t,
            DISCARD,
            offset_of!(Config, discard_sector_alignment),
            1,
        )?,
        max_write_zeroes_sectors: usable(zeroes, zeroes_ranges),
        write_zeroes_may_unmap: field_u8(
            t,
            WRITE_ZEROES,
            offset_of!(Config, write_zeroes_may_unmap),
            0,
        )? != 0,
        max_transfer: 0,
    })
}

fn field_u32<F: PciFunction>(
    t: &Transport<F>,
    feature: u64,
    at: usize,
    without: u32,
) -> Result<u32, virtio_pci::Error> {
    if t.has(feature) {
        t.read_field(at).map(u32::from_le_bytes)
    } else {
        Ok(without)
    }
}

fn field_u16<F: PciFunction>(
    t: &Transport<F>,
    feature: u64,
    at: usize,
    without: u16,
) -> Result<u16, virtio_pci::Error> {
    if t.has(feature) {
        t.read_field(at).map(u16::from_le_bytes)
    } else {
        Ok(without)
    }
}

fn field_u8<F: PciFunction>(
    t: &Transport<F>,
    feature: u64,
    at: usize,
    without: u8,
) -> Result<u8, virtio_pci::Error> {
    if t.has(feature) {
        t.read_field(at).map(u8::from_le_bytes)
    } else {
        Ok(without)
    }
}
