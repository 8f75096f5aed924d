//! What the disk shows of itself.

use super::rig::DRIVER;
use super::*;
use crate::BlockDevice;
use crate::BlockSpec;
use device_model::Device;
use virtio_spec::block::Config;
use virtio_spec::block::feature as block;
use virtio_spec::feature as ring;
use zerocopy::FromBytes;

fn config_of(device: &BlockDevice) -> Config {
    let mut bytes = [0xff; size_of::<Config>()];
    device.read_config(0, &mut bytes);
    Config::read_from_bytes(&bytes).expect("a configuration space")
}

#[test]
fn the_configuration_says_what_was_asked_for() {
    let spec = BlockSpec {
        num_queues: 4,
        queue_size: 128,
        block_size: 4096,
        physical_block_size: 16384,
        optimal_io_size: 65536,
        ..BlockSpec::memory(1 << 20)
    };
    let device = BlockDevice::open(spec).expect("the disk opens");
    let config = config_of(&device);
    assert_eq!(config.capacity.get(), 2048);
    assert_eq!(config.blk_size.get(), 4096);
    assert_eq!(config.topology.physical_block_exp, 2);
    assert_eq!(config.topology.opt_io_size.get(), 16);
    assert_eq!(config.num_queues.get(), 4);
    assert_eq!(config.seg_max.get(), 126);
    assert!(config.size_max.get() >= 4096);
    assert_eq!(config.max_discard_seg.get(), 32);
    assert_eq!(config.write_zeroes_may_unmap, 1);
    assert_eq!(config.writeback, 1);
    assert_eq!((config.unused0, config.unused1), (0, [0; 3]));
    assert_eq!((device.queue_count(), device.queue_size_max()), (4, 128));
    assert_eq!(device.device_id(), 2);
}

#[test]
fn offered_features_follow_the_specification() {
    let offered = |spec: BlockSpec| BlockDevice::open(spec).expect("the disk opens").features();
    let usual = offered(BlockSpec::memory(4096));
    for bit in [
        ring::VERSION_1,
        ring::RING_PACKED,
        ring::RING_EVENT_IDX,
        ring::RING_INDIRECT_DESC,
        ring::RING_RESET,
        block::SIZE_MAX,
        block::SEG_MAX,
        block::BLK_SIZE,
        block::TOPOLOGY,
        block::FLUSH,
        block::CONFIG_WCE,
        block::DISCARD,
        block::WRITE_ZEROES,
    ] {
        assert_eq!(usual & bit, bit, "bit {}", bit.ilog2());
    }
    let never = block::ZONED
        | block::SECURE_ERASE
        | block::LIFETIME
        | block::GEOMETRY
        | ring::ACCESS_PLATFORM;
    assert_eq!(usual & never, 0);
    assert_eq!(usual & (block::RO | block::MQ | ring::IN_ORDER), 0);
    let readonly = offered(BlockSpec {
        readonly: true,
        num_queues: 2,
        packed: false,
        in_order: true,
        ..BlockSpec::memory(4096)
    });
    assert_eq!(
        readonly & (block::RO | block::MQ | ring::IN_ORDER),
        block::RO | block::MQ | ring::IN_ORDER
    );
    assert_eq!(
        readonly & (block::DISCARD | block::WRITE_ZEROES | block::CONFIG_WCE | ring::RING_PACKED),
        0
    );
}

#[test]
fn reads_past_the_configuration_yield_zeroes() {
    let device = BlockDevice::open(BlockSpec::memory(4096)).expect("the disk opens");
    for offset in [94, 96, 100, u32::MAX] {
        let mut bytes = [0xff; 8];
        device.read_config(offset, &mut bytes);
        assert_eq!(bytes, [0; 8]);
    }
}

#[test]
fn queues_that_do_not_exist_do_not_start() {
    let rig = Rig::new(BlockSpec::memory(4096));
    for index in [1, 255, u16::MAX] {
        assert!(rig.device.start_queue(index, DRIVER).is_err());
    }
}

#[test]
fn config_reads_may_start_and_end_anywhere() {
    let device = BlockDevice::open(BlockSpec::memory(512 * 0x0102_0304)).expect("the disk opens");
    let mut whole = [0; 96];
    device.read_config(0, &mut whole);
    for (from, len) in [(0, 1), (3, 7), (20, 40), (95, 1)] {
        let mut part = vec![0; len];
        device.read_config(from as u32, &mut part);
        assert_eq!(part, whole[from..from + len]);
    }
    assert_eq!(whole[..4], [4, 3, 2, 1]);
}
