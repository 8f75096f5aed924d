//! Cross-checks against `virtio-bindings`, generated from the kernel's headers.
//!
//! One rule: a constant that the bindings know is compared with them; what they lack (PCI offsets,
//! lifetime) is checked for consistency.

macro_rules! same_offsets {
    ($ours:ty, $theirs:ty, $($our:ident = $their:ident),* $(,)?) => {
        $(assert_eq!(offset_of!($ours, $our), offset_of!($theirs, $their));)*
    };
}

mod net;

use core::mem::offset_of;

use virtio_bindings::virtio_blk as blk;
use virtio_bindings::virtio_config as config;
use virtio_bindings::virtio_ids as ids;
use virtio_bindings::virtio_ring as vring;

use crate::block;
use crate::device_id;
use crate::feature;
use crate::pci;
use crate::ring;
use crate::status;

#[test]
fn device_ids_are_the_kernels() {
    assert_eq!(device_id::NET, ids::VIRTIO_ID_NET);
    assert_eq!(device_id::BLOCK, ids::VIRTIO_ID_BLOCK);
    assert_eq!(device_id::BALLOON, ids::VIRTIO_ID_BALLOON);
}

#[test]
fn feature_bits_are_the_kernels() {
    let pairs = [
        (feature::NOTIFY_ON_EMPTY, config::VIRTIO_F_NOTIFY_ON_EMPTY),
        (feature::ANY_LAYOUT, config::VIRTIO_F_ANY_LAYOUT),
        (
            feature::RING_INDIRECT_DESC,
            vring::VIRTIO_RING_F_INDIRECT_DESC,
        ),
        (feature::RING_EVENT_IDX, vring::VIRTIO_RING_F_EVENT_IDX),
        (feature::VERSION_1, config::VIRTIO_F_VERSION_1),
        (feature::ACCESS_PLATFORM, config::VIRTIO_F_ACCESS_PLATFORM),
        (feature::RING_PACKED, config::VIRTIO_F_RING_PACKED),
        (feature::IN_ORDER, config::VIRTIO_F_IN_ORDER),
        (feature::ORDER_PLATFORM, config::VIRTIO_F_ORDER_PLATFORM),
        (feature::SR_IOV, config::VIRTIO_F_SR_IOV),
        (
            feature::NOTIFICATION_DATA,
            config::VIRTIO_F_NOTIFICATION_DATA,
        ),
        (
            feature::NOTIF_CONFIG_DATA,
            config::VIRTIO_F_NOTIF_CONFIG_DATA,
        ),
        (feature::RING_RESET, config::VIRTIO_F_RING_RESET),
        (feature::ADMIN_VQ, config::VIRTIO_F_ADMIN_VQ),
        (block::feature::SIZE_MAX, blk::VIRTIO_BLK_F_SIZE_MAX),
        (block::feature::SEG_MAX, blk::VIRTIO_BLK_F_SEG_MAX),
        (block::feature::GEOMETRY, blk::VIRTIO_BLK_F_GEOMETRY),
        (block::feature::RO, blk::VIRTIO_BLK_F_RO),
        (block::feature::BLK_SIZE, blk::VIRTIO_BLK_F_BLK_SIZE),
        (block::feature::FLUSH, blk::VIRTIO_BLK_F_FLUSH),
        (block::feature::TOPOLOGY, blk::VIRTIO_BLK_F_TOPOLOGY),
        (block::feature::CONFIG_WCE, blk::VIRTIO_BLK_F_CONFIG_WCE),
        (block::feature::MQ, blk::VIRTIO_BLK_F_MQ),
        (block::feature::DISCARD, blk::VIRTIO_BLK_F_DISCARD),
        (block::feature::WRITE_ZEROES, blk::VIRTIO_BLK_F_WRITE_ZEROES),
        (block::feature::SECURE_ERASE, blk::VIRTIO_BLK_F_SECURE_ERASE),
        (block::feature::ZONED, blk::VIRTIO_BLK_F_ZONED),
    ];
    for (mask, bit) in pairs {
        assert_eq!(mask, 1 << bit);
    }
    assert_eq!(block::feature::LIFETIME, 1 << 15, "not in the bindings");
}

#[test]
fn ring_features_and_device_features_do_not_overlap() {
    let ring = [
        feature::RING_INDIRECT_DESC,
        feature::RING_EVENT_IDX,
        feature::RING_RESET,
    ];
    assert!(
        ring.iter()
            .all(|mask| mask & feature::RING_AND_TRANSPORT == *mask)
    );
    assert_eq!(feature::RING_AND_TRANSPORT & block::feature::ZONED, 0);
    assert_eq!(feature::RING_AND_TRANSPORT.count_ones(), 26);
}

#[test]
fn status_bits_are_the_kernels() {
    let pairs = [
        (status::ACKNOWLEDGE, config::VIRTIO_CONFIG_S_ACKNOWLEDGE),
        (status::DRIVER, config::VIRTIO_CONFIG_S_DRIVER),
        (status::DRIVER_OK, config::VIRTIO_CONFIG_S_DRIVER_OK),
        (status::FEATURES_OK, config::VIRTIO_CONFIG_S_FEATURES_OK),
        (
            status::DEVICE_NEEDS_RESET,
            config::VIRTIO_CONFIG_S_NEEDS_RESET,
        ),
        (status::FAILED, config::VIRTIO_CONFIG_S_FAILED),
    ];
    for (ours, theirs) in pairs {
        assert_eq!(u32::from(ours), theirs);
    }
}

#[test]
fn ring_flags_are_the_kernels() {
    use ring::descriptor_flags;
    use ring::event_flags;
    let pairs = [
        (descriptor_flags::NEXT, vring::VRING_DESC_F_NEXT),
        (descriptor_flags::WRITE, vring::VRING_DESC_F_WRITE),
        (descriptor_flags::INDIRECT, vring::VRING_DESC_F_INDIRECT),
        (
            descriptor_flags::AVAIL,
            1 << vring::VRING_PACKED_DESC_F_AVAIL,
        ),
        (descriptor_flags::USED, 1 << vring::VRING_PACKED_DESC_F_USED),
        (ring::avail::NO_INTERRUPT, vring::VRING_AVAIL_F_NO_INTERRUPT),
        (ring::used::NO_NOTIFY, vring::VRING_USED_F_NO_NOTIFY),
        (event_flags::ENABLE, vring::VRING_PACKED_EVENT_FLAG_ENABLE),
        (event_flags::DISABLE, vring::VRING_PACKED_EVENT_FLAG_DISABLE),
        (event_flags::DESC, vring::VRING_PACKED_EVENT_FLAG_DESC),
    ];
    for (ours, theirs) in pairs {
        assert_eq!(u32::from(ours), theirs);
    }
}

#[test]
fn ring_layouts_are_the_kernels() {
    assert_eq!(
        size_of::<ring::Descriptor>(),
        size_of::<vring::vring_desc>()
    );
    assert_eq!(
        offset_of!(ring::Descriptor, len),
        offset_of!(vring::vring_desc, len)
    );
    assert_eq!(
        offset_of!(ring::Descriptor, flags),
        offset_of!(vring::vring_desc, flags)
    );
    assert_eq!(
        offset_of!(ring::Descriptor, next),
        offset_of!(vring::vring_desc, next)
    );
    assert_eq!(
        size_of::<ring::PackedDescriptor>(),
        size_of::<vring::vring_packed_desc>()
    );
    assert_eq!(
        offset_of!(ring::PackedDescriptor, id),
        offset_of!(vring::vring_packed_desc, id)
    );
    assert_eq!(
        offset_of!(ring::PackedDescriptor, flags),
        offset_of!(vring::vring_packed_desc, flags)
    );
    assert_eq!(
        size_of::<ring::UsedElement>(),
        size_of::<vring::vring_used_elem>()
    );
    assert_eq!(
        offset_of!(ring::UsedElement, len),
        offset_of!(vring::vring_used_elem, len)
    );
    let event = size_of::<vring::vring_packed_desc_event>();
    assert_eq!(size_of::<ring::EventSuppression>(), event);
    assert_eq!(ring::avail::IDX, offset_of!(vring::vring_avail, idx));
    assert_eq!(ring::avail::RING, offset_of!(vring::vring_avail, ring));
    assert_eq!(ring::used::IDX, offset_of!(vring::vring_used, idx));
    assert_eq!(ring::used::RING, offset_of!(vring::vring_used, ring));
    assert_eq!(
        ring::split_alignment::DESCRIPTORS as u32,
        vring::VRING_DESC_ALIGN_SIZE
    );
    assert_eq!(
        ring::split_alignment::DRIVER as u32,
        vring::VRING_AVAIL_ALIGN_SIZE
    );
    assert_eq!(
        ring::split_alignment::DEVICE as u32,
        vring::VRING_USED_ALIGN_SIZE
    );
    assert_eq!(ring::avail::used_event(256), 4 + 2 * 256);
    assert_eq!(ring::used::avail_event(256), 4 + 8 * 256);
}

#[test]
fn block_configuration_has_the_kernels_layout() {
    type Theirs = blk::virtio_blk_config;
    same_offsets!(
        block::Config,
        Theirs,
        capacity = capacity,
        size_max = size_max,
        seg_max = seg_max,
        geometry = geometry,
        blk_size = blk_size,
        topology = physical_block_exp,
        writeback = wce,
        num_queues = num_queues,
        max_discard_sectors = max_discard_sectors,
        max_discard_seg = max_discard_seg,
        discard_sector_alignment = discard_sector_alignment,
        max_write_zeroes_sectors = max_write_zeroes_sectors,
        max_write_zeroes_seg = max_write_zeroes_seg,
        write_zeroes_may_unmap = write_zeroes_may_unmap,
        max_secure_erase_sectors = max_secure_erase_sectors,
        max_secure_erase_seg = max_secure_erase_seg,
        secure_erase_sector_alignment = secure_erase_sector_alignment,
        zoned = zoned,
    );
    let topology = offset_of!(block::Config, topology);
    let in_topology = [
        (
            offset_of!(block::Topology, alignment_offset),
            offset_of!(Theirs, alignment_offset),
        ),
        (
            offset_of!(block::Topology, min_io_size),
            offset_of!(Theirs, min_io_size),
        ),
        (
            offset_of!(block::Topology, opt_io_size),
            offset_of!(Theirs, opt_io_size),
        ),
    ];
    for (ours, theirs) in in_topology {
        assert_eq!(topology + ours, theirs);
    }
    assert_eq!(size_of::<block::Config>(), size_of::<Theirs>());
    assert_eq!(
        block::CONFIG_WRITEBACK_OFFSET,
        offset_of!(block::Config, writeback)
    );
    assert_eq!(block::CONFIG_SIZE_UNZONED, offset_of!(block::Config, zoned));
}

#[test]
fn block_requests_have_the_kernels_layout_and_numbers() {
    same_offsets!(
        block::RequestHeader,
        blk::virtio_blk_outhdr,
        request_type = type_,
        reserved = ioprio,
        sector = sector
    );
    assert_eq!(
        size_of::<block::RequestHeader>(),
        size_of::<blk::virtio_blk_outhdr>()
    );
    same_offsets!(
        block::DiscardWriteZeroes,
        blk::virtio_blk_discard_write_zeroes,
        sector = sector,
        num_sectors = num_sectors,
        flags = flags
    );
    let range = size_of::<blk::virtio_blk_discard_write_zeroes>();
    assert_eq!(size_of::<block::DiscardWriteZeroes>(), range);
    assert_eq!(
        block::RANGE_FLAG_UNMAP,
        blk::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
    );
    assert_eq!(size_of::<block::Lifetime>(), 6);
    assert_eq!(block::ID_SIZE as u32, blk::VIRTIO_BLK_ID_BYTES);
    let pairs = [
        (block::request_type::IN, blk::VIRTIO_BLK_T_IN),
        (block::request_type::OUT, blk::VIRTIO_BLK_T_OUT),
        (block::request_type::FLUSH, blk::VIRTIO_BLK_T_FLUSH),
        (block::request_type::GET_ID, blk::VIRTIO_BLK_T_GET_ID),
        (block::request_type::DISCARD, blk::VIRTIO_BLK_T_DISCARD),
        (
            block::request_type::WRITE_ZEROES,
            blk::VIRTIO_BLK_T_WRITE_ZEROES,
        ),
        (
            block::request_type::SECURE_ERASE,
            blk::VIRTIO_BLK_T_SECURE_ERASE,
        ),
        (u32::from(block::status::OK), blk::VIRTIO_BLK_S_OK),
        (u32::from(block::status::IOERR), blk::VIRTIO_BLK_S_IOERR),
        (u32::from(block::status::UNSUPP), blk::VIRTIO_BLK_S_UNSUPP),
    ];
    for (ours, theirs) in pairs {
        assert_eq!(ours, theirs);
    }
}

#[test]
fn common_configuration_fields_follow_each_other() {
    use pci::common::*;
    let fields = [
        (DEVICE_FEATURE_SELECT, 4),
        (DEVICE_FEATURE, 4),
        (DRIVER_FEATURE_SELECT, 4),
        (DRIVER_FEATURE, 4),
        (CONFIG_MSIX_VECTOR, 2),
        (NUM_QUEUES, 2),
        (DEVICE_STATUS, 1),
        (CONFIG_GENERATION, 1),
        (QUEUE_SELECT, 2),
        (QUEUE_SIZE, 2),
        (QUEUE_MSIX_VECTOR, 2),
        (QUEUE_ENABLE, 2),
        (QUEUE_NOTIFY_OFF, 2),
        (QUEUE_DESC, 8),
        (QUEUE_DRIVER, 8),
        (QUEUE_DEVICE, 8),
        (QUEUE_NOTIF_CONFIG_DATA, 2),
        (QUEUE_RESET, 2),
        (ADMIN_QUEUE_INDEX, 2),
        (ADMIN_QUEUE_NUM, 2),
    ];
    let mut end = 0;
    for (offset, size) in fields {
        assert_eq!(offset, end);
        end += size;
    }
    assert_eq!(SIZE, end);
}

#[test]
fn notification_data_round_trips() {
    for value in [0, 1, 0xffff, 0x1_0000, 0x8000_0000, u32::MAX, 0x1234_5678] {
        assert_eq!(pci::NotificationData::decode(value).encode(), value);
    }
    let data = pci::NotificationData::decode(0x8003_0001);
    assert_eq!((data.queue, data.next), (1, 0x8003));
}
