//! The configuration space and the feature bits that a disk offers.
//!
//! Rule: the one field that a driver may write is `writeback`, and only with CONFIG_WCE negotiated.

use virtio_spec::block::Config;
use virtio_spec::block::SECTOR_SIZE;
use virtio_spec::block::Topology;
use virtio_spec::block::feature as block;
use virtio_spec::feature as ring;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::BlockSpec;
use crate::request::MAX_RANGE_SECTORS;
use crate::request::MAX_RANGES;

/// Largest data segment in bytes that a driver should send.
const SIZE_MAX: u32 = 4 << 20;
/// Most data segments that a driver should send: with head and status they fit the usual ring of 128 without indirect
/// descriptors.
const SEG_MAX: u32 = 126;

/// Every feature bit that a disk of `spec` offers.
pub(crate) fn features(spec: &BlockSpec) -> u64 {
    let mut bits =
        ring::VERSION_1 | ring::RING_INDIRECT_DESC | ring::RING_EVENT_IDX | ring::RING_RESET;
    bits |= block::SIZE_MAX | block::SEG_MAX | block::BLK_SIZE | block::TOPOLOGY | block::FLUSH;
    // CONFIG_WCE would promise that a write cache can be switched on, which a read-only disk has no use for.
    let choices = [
        (spec.num_queues > 1, block::MQ),
        (spec.readonly, block::RO),
        (!spec.readonly, block::CONFIG_WCE),
        (spec.discard && !spec.readonly, block::DISCARD),
        (spec.write_zeroes && !spec.readonly, block::WRITE_ZEROES),
        (spec.packed, ring::RING_PACKED),
        (spec.in_order, ring::IN_ORDER),
    ];
    for (offered, bit) in choices {
        if offered {
            bits |= bit;
        }
    }
    bits
}

/// The configuration space of a disk of `spec` with `size` bytes.
pub(crate) fn space(spec: &BlockSpec, size: u64, writeback: bool) -> Config {
    let block = spec.block_size;
    let discard_alignment = (spec.physical_block_size.max(block)) / 512;
    let seg_max = u32::from(spec.queue_size)
        .saturating_sub(2)
        .clamp(1, SEG_MAX);
    let offers = features(spec);
    let when = |bit: u64, value: u32| U32::new(if offers & bit != 0 { value } else { 0 });
    let ranges = u32::try_from(MAX_RANGES).unwrap_or(1);
    let optimal = spec.optimal_io_size / block;
    Config {
        capacity: U64::new(size / SECTOR_SIZE),
        size_max: U32::new(SIZE_MAX),
        seg_max: U32::new(seg_max),
        blk_size: U32::new(block),
        topology: Topology {
            physical_block_exp: u8::try_from((spec.physical_block_size / block).max(1).ilog2())
                .unwrap_or(0),
            alignment_offset: 0,
            min_io_size: U16::new(u16::try_from(spec.physical_block_size / block).unwrap_or(1)),
            opt_io_size: U32::new(optimal),
        },
        writeback: u8::from(writeback),
        num_queues: U16::new(spec.num_queues),
        max_discard_sectors: when(block::DISCARD, MAX_RANGE_SECTORS),
        max_discard_seg: when(block::DISCARD, ranges),
        discard_sector_alignment: when(block::DISCARD, discard_alignment),
        max_write_zeroes_sectors: when(block::WRITE_ZEROES, MAX_RANGE_SECTORS),
        max_write_zeroes_seg: when(block::WRITE_ZEROES, ranges),
        write_zeroes_may_unmap: u8::from(offers & block::WRITE_ZEROES != 0),
        ..Config::default()
    }
}

/// Copies `out.len()` bytes of `config` from `offset`; bytes past its end read as zero.
pub(crate) fn read(config: &Config, offset: u32, out: &mut [u8]) {
    let bytes = config.as_bytes();
    out.fill(0);
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    for (to, byte) in out.iter_mut().zip(bytes.iter().skip(from)) {
        *to = *byte;
    }
}
