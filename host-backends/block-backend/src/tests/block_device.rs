//! Block devices, where the machine lets us make one (loop devices need root).

use std::process::Command;

use super::rig::pattern;
use super::*;
use crate::BlockDevice;
use crate::BlockSpec;
use crate::CacheMode;
use crate::EngineChoice;
use virtio_spec::block::request_type::*;
use virtio_spec::block::status::*;

/// A loop device over an image; detached when dropped.
struct Loop {
    path: String,
    image: tempfile::NamedTempFile,
}

impl Loop {
    fn new(bytes: u64) -> Option<Self> {
        let image = tempfile::NamedTempFile::new().expect("an image");
        image.as_file().set_len(bytes).expect("its size");
        let made = Command::new("losetup")
            .args(["--find", "--show"])
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
    let _first = BlockDevice::open(spec.clone()).expect("the first writer");
    assert!(BlockDevice::open(spec).is_err());
}
