//! Block devices, where the machine lets us make one (loop devices need root).

use std::process::Command;

use super::rig::pattern;
use super::*;
use crate::BlockDevice;
use crate::BlockSpec;
use crate::CacheMode;
use crate::EngineChoice;
use device_model::Device;
use virtio_spec::block::request_type::*;
use virtio_spec::block::status::*;

/// A loop device over an image; detached when dropped.
struct Loop {
    path: String,
    image: tempfile::NamedTempFile,
}

impl Loop {
    fn new(bytes: u64) -> Option<Self> {
        Self::with(bytes, &[])
    }

    /// One that `losetup` makes with further `flags`.
    fn with(bytes: u64, flags: &[&str]) -> Option<Self> {
        let image = tempfile::NamedTempFile::new().expect("an image");
        image.as_file().set_len(bytes).expect("its size");
        let made = Command::new("losetup")
            .args(["--find", "--show"])
            .args(flags)
            .arg(image.path())
            .output();
        match made {
            Ok(output) if output.status.success() => Some(Self {
                path: String::from_utf8_lossy(&output.stdout).trim().to_owned(),
                image,
            }),
            other => {
                println!("SKIPS ITSELF block_device: no loop device ({other:?}), needs root");
                None
            }
        }
    }

    fn spec(&self, engine: EngineChoice, cache: CacheMode) -> BlockSpec {
        BlockSpec {
            engine,
            cache,
            ..BlockSpec::image(&self.path)
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .args(["--detach", &self.path])
            .status();
    }
}

#[test]
fn a_block_device_is_read_written_zeroed_and_discarded() {
    let Some(device) = Loop::new(4 << 20) else {
        return;
    };
    for engine in [EngineChoice::Uring, EngineChoice::Sync] {
        for cache in [
            CacheMode::Writeback,
            CacheMode::None,
            CacheMode::Writethrough,
        ] {
            let mut rig = Rig::new(device.spec(engine, cache));
            assert_eq!(rig.device.size(), 4 << 20);
            let data = pattern(1, 64 << 10);
            assert_eq!(rig.write(128, &data), OK, "{engine:?} {cache:?}");
            assert_eq!(rig.read(128, 64 << 10), data);
            assert_eq!(rig.flush(), OK);
            for (kind, flags) in [(WRITE_ZEROES, 0), (WRITE_ZEROES, 1), (DISCARD, 0)] {
                assert_eq!(rig.write(128, &data), OK);
                assert_eq!(
                    rig.ranges(kind, &[(136, 8, flags), (152, 16, flags)]),
                    OK,
                    "{engine:?} {cache:?} {kind}"
                );
                let mut expected = data.clone();
                expected[8 * 512..16 * 512].fill(0);
                expected[24 * 512..40 * 512].fill(0);
                assert!(
                    rig.read(128, 64 << 10) == expected,
                    "{engine:?} {cache:?} {kind} {flags}"
                );
            }
            assert_eq!(rig.request(IN, 8192, &[], 512).status, IOERR);
        }
    }
}

#[test]
fn a_block_device_that_grew_is_used_after_the_resize() {
    let Some(device) = Loop::new(1 << 20) else {
        return;
    };
    let mut rig = Rig::new(device.spec(EngineChoice::Auto, CacheMode::Writeback));
    device.image.as_file().set_len(2 << 20).expect("growth");
    let grown = Command::new("losetup")
        .args(["--set-capacity", &device.path])
        .status();
    assert!(grown.expect("losetup").success());
    assert_eq!(rig.device.resize().expect("a resize"), 2 << 20);
    assert_eq!(rig.write(4000, &[1; 512]), OK);
}

#[test]
fn a_block_device_has_one_writer() {
    let Some(device) = Loop::new(1 << 20) else {
        return;
    };
    let spec = BlockSpec {
        lock_wait_ms: 0,
        ..device.spec(EngineChoice::Auto, CacheMode::Writeback)
    };
    let _first = Rig::new(spec.clone());
    let second = BlockDevice::open(spec).expect("it opens");
    assert!(second.start_queue(0, rig::DRIVER).is_err());
}

#[test]
fn discards_and_zeroing_are_cut_to_the_sectors_of_the_device() {
    let Some(device) = Loop::with(1 << 20, &["--sector-size", "4096"]) else {
        return;
    };
    for engine in [EngineChoice::Uring, EngineChoice::Sync] {
        for cache in [
            CacheMode::Writeback,
            CacheMode::None,
            CacheMode::Writethrough,
        ] {
            let mut rig = Rig::new(device.spec(engine, cache));
            let data = pattern(3, 32 << 10);
            // Sectors of 512 bytes: within one of the device's, over a border, with whole ones between.
            for (sector, count) in [
                (1_usize, 2_usize),
                (7, 2),
                (3, 30),
                (8, 9),
                (15, 17),
                (16, 8),
            ] {
                let bytes = (sector * 512)..((sector + count) * 512);
                for (kind, flags) in [(WRITE_ZEROES, 0), (WRITE_ZEROES, 1), (DISCARD, 0)] {
                    assert_eq!(rig.write(0, &data), OK);
                    let range = (sector as u64, count as u32, flags);
                    assert_eq!(
                        rig.ranges(kind, &[range]),
                        OK,
                        "{engine:?} {cache:?} {kind} {flags} {sector}+{count}"
                    );
                    let mut expected = data.clone();
                    let zeroed = if kind == DISCARD {
                        let (start, end) = (bytes.start.next_multiple_of(4096), bytes.end);
                        start..(end - end % 4096).max(start)
                    } else {
                        bytes.clone()
                    };
                    expected[zeroed].fill(0);
                    assert!(
                        rig.read(0, 32 << 10) == expected,
                        "{engine:?} {cache:?} {kind} {flags} {sector}+{count}"
                    );
                }
            }
            assert_eq!(rig.flush(), OK);
        }
    }
}

#[test]
fn a_device_of_larger_sectors_is_served_through_the_page_cache() {
    let Some(device) = Loop::with(1 << 20, &["--sector-size", "4096"]) else {
        return;
    };
    for engine in [EngineChoice::Uring, EngineChoice::Sync] {
        let mut rig = Rig::new(device.spec(engine, CacheMode::None));
        assert_eq!(rig.write(0, &pattern(1, 8192)), OK);
        assert_eq!(rig.write(3, &[9; 512]), OK, "{engine:?}");
        let mut expected = pattern(1, 8192);
        expected[3 * 512..4 * 512].fill(9);
        assert!(rig.read(0, 8192) == expected, "{engine:?}");
        assert_eq!(rig.read(3, 512), [9; 512], "{engine:?}");
        assert_eq!(rig.flush(), OK);
        assert_eq!(
            std::fs::read(device.image.path()).expect("the image")[..8192],
            expected
        );
    }
}

#[test]
fn a_sector_size_that_grows_under_us_is_followed() {
    for engine in [EngineChoice::Uring, EngineChoice::Sync] {
        let Some(device) = Loop::new(1 << 20) else {
            return;
        };
        let mut rig = Rig::new(device.spec(engine, CacheMode::None));
        assert_eq!(rig.write(3, &[1; 512]), OK);
        let set = Command::new("losetup")
            .args(["--sector-size", "4096", &device.path])
            .output();
        if !set.is_ok_and(|output| output.status.success()) {
            println!(
                "SKIPS ITSELF block_device: the sector size of a loop device in use cannot be changed"
            );
            return;
        }
        assert_eq!(rig.write(4, &[2; 512]), OK, "{engine:?}");
        assert_eq!(rig.read(3, 512), [1; 512], "{engine:?}");
        assert_eq!(rig.read(4, 512), [2; 512], "{engine:?}");
    }
}

#[test]
fn a_readonly_device_is_refused_for_writing_and_served_for_reading() {
    let Some(device) = Loop::with(1 << 20, &["--read-only"]) else {
        return;
    };
    let spec = device.spec(EngineChoice::Auto, CacheMode::Writeback);
    let refused = BlockDevice::open(spec.clone()).expect_err("it cannot be written");
    assert!(refused.to_string().contains("--readonly"), "{refused}");
    let mut rig = Rig::new(BlockSpec {
        readonly: true,
        ..spec
    });
    assert_eq!(rig.read(0, 512), [0; 512]);
}
