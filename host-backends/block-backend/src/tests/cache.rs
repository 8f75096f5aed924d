//! When a write is durable: what the driver negotiated and what the operator said.

use super::rig::DRIVER;
use super::*;
use crate::BlockSpec;
use crate::CacheMode;
use crate::EngineChoice;
use device_model::Device;
use device_model::DeviceRecord;
use device_model::InflightRegion;
use std::os::fd::AsFd;
use virtio_spec::block::CONFIG_WRITEBACK_OFFSET;
use virtio_spec::block::feature as block;
use virtio_spec::block::status::*;
use virtio_spec::feature as ring;

const WCE: u32 = CONFIG_WRITEBACK_OFFSET as u32;
const PLAIN: u64 = ring::VERSION_1;

fn disk(cache: CacheMode) -> (tempfile::NamedTempFile, std::sync::Arc<crate::BlockDevice>) {
    let image = image_of(&vec![0; 1 << 20]);
    let spec = BlockSpec {
        cache,
        ..BlockSpec::image(image.path())
    };
    (
        image,
        crate::BlockDevice::open(spec).expect("the disk opens"),
    )
}

fn writeback_field(device: &crate::BlockDevice) -> u8 {
    let mut field = [9];
    device.read_config(WCE, &mut field);
    field[0]
}

#[test]
fn a_driver_that_cannot_flush_gets_write_through() {
    for cache in [
        CacheMode::None,
        CacheMode::Writeback,
        CacheMode::Writethrough,
    ] {
        let (_image, device) = disk(cache);
        device.acked(PLAIN);
        assert!(device.is_write_through(), "{cache:?}");
    }
}

#[test]
fn a_driver_that_flushes_gets_what_the_operator_said() {
    for (cache, through) in [
        (CacheMode::None, false),
        (CacheMode::Writeback, false),
        (CacheMode::Writethrough, true),
        (CacheMode::Unsafe, false),
    ] {
        let (_image, device) = disk(cache);
        device.acked(PLAIN | block::FLUSH);
        assert_eq!(device.is_write_through(), through, "{cache:?}");
        device.acked(PLAIN | block::FLUSH | block::CONFIG_WCE);
        assert_eq!(device.is_write_through(), through, "{cache:?}");
        assert_eq!(writeback_field(&device), u8::from(!through));
    }
}

#[test]
fn config_wce_without_flush_starts_write_through() {
    let (_image, device) = disk(CacheMode::Writeback);
    device.acked(PLAIN | block::CONFIG_WCE);
    assert!(device.is_write_through());
    assert_eq!(writeback_field(&device), 0);
}

#[test]
fn the_driver_switches_the_cache_by_config() {
    let (_image, device) = disk(CacheMode::Writeback);
    device.acked(DRIVER);
    device.write_config(WCE, &[0]).expect("a switch");
    assert!(device.is_write_through());
    assert_eq!(writeback_field(&device), 0);
    device.write_config(WCE, &[1]).expect("a switch");
    assert!(!device.is_write_through());
}

#[test]
fn a_reset_forgets_the_switch() {
    let (_image, device) = disk(CacheMode::Writeback);
    device.acked(DRIVER);
    device.write_config(WCE, &[0]).expect("a switch");
    device.reset();
    assert_eq!(writeback_field(&device), 1);
}

/// Room for the choice in front of an in-flight area, and the same place again for the next life.
fn place() -> DeviceRecord {
    let bytes = disk(CacheMode::Writeback).1.record_bytes();
    let area = InflightRegion::create(1, 16, None, bytes).expect("an area");
    InflightRegion::from_fd(area.fd.as_fd(), area.offset, area.size, 1, 16)
        .expect("its mapping")
        .device()
        .expect("a record")
}

#[test]
fn the_end_of_a_session_does_not_forget_the_switch() {
    let (_image, device) = disk(CacheMode::Writeback);
    device.acked(DRIVER);
    device.write_config(WCE, &[0]).expect("a switch");
    device.session_ended();
    device.acked(DRIVER);
    assert!(device.is_write_through());
    assert_eq!(writeback_field(&device), 0);
    // A record without a choice is another driver's.
    device.session_ended();
    device.keep_in(Some(place()));
    device.acked(DRIVER);
    assert!(!device.is_write_through());
}

#[test]
fn the_switch_outlives_the_process_in_the_record() {
    for (value, cache) in [(0, CacheMode::Writeback), (1, CacheMode::Writethrough)] {
        let place = place();
        let (_image, device) = disk(cache);
        // Front-ends hand the record in before or after the driver writes.
        device.acked(DRIVER);
        if value == 0 {
            device.keep_in(Some(place.clone()));
        }
        device.write_config(WCE, &[value]).expect("a switch");
        device.keep_in(Some(place.clone()));
        let (_image, next) = disk(cache);
        next.acked(DRIVER);
        next.keep_in(Some(place.clone()));
        assert_eq!(
            (writeback_field(&next), next.is_write_through()),
            (value, value == 0)
        );
        // The record of a driver that was reset holds nothing.
        next.reset();
        let (_image, last) = disk(cache);
        last.keep_in(Some(place));
        last.acked(DRIVER);
        assert_eq!(writeback_field(&last), 1 - value);
    }
}

#[test]
fn a_driver_that_cannot_flush_gets_no_write_cache_from_before() {
    let place = place();
    assert!(place.store(&[1]));
    let (_image, device) = disk(CacheMode::Writeback);
    device.acked(PLAIN | block::CONFIG_WCE);
    device.keep_in(Some(place));
    assert!(device.is_write_through());
}

#[test]
fn a_record_that_is_no_choice_is_none() {
    for bytes in [&[2_u8][..], &[0xff], &[]] {
        let place = place();
        assert!(place.store(bytes));
        let (_image, device) = disk(CacheMode::Writeback);
        device.acked(DRIVER);
        device.keep_in(Some(place));
        assert!(!device.is_write_through(), "{bytes:?}");
    }
}

#[test]
fn the_switch_moves_to_another_host() {
    for choice in [None, Some(0), Some(1)] {
        let (_image, source) = disk(CacheMode::Writeback);
        source.acked(DRIVER);
        if let Some(value) = choice {
            source.write_config(WCE, &[value]).expect("a switch");
        }
        let state = source.save_state().expect("a state");
        let (_image, target) = disk(CacheMode::Writeback);
        target.load_state(&state).expect("it loads");
        // The target's in-flight area is a new one.
        let place = place();
        target.keep_in(Some(place.clone()));
        target.acked(DRIVER);
        assert_eq!(writeback_field(&target), choice.unwrap_or(1), "{choice:?}");
        assert_eq!(place.load(), choice.map(|value| vec![value]));
    }
}

#[test]
fn bytes_that_are_no_state_change_nothing() {
    let (_image, device) = disk(CacheMode::Writeback);
    device.acked(DRIVER);
    device.write_config(WCE, &[0]).expect("a switch");
    for bad in [&[][..], &[1], &[1, 3], &[2, 1], &[1, 1, 1], &[0; 64]] {
        assert!(device.load_state(bad).is_err(), "{bad:?}");
        assert!(device.is_write_through());
    }
}

#[test]
fn the_switch_needs_its_feature() {
    let (_image, device) = disk(CacheMode::Writeback);
    device.acked(PLAIN | block::FLUSH);
    assert!(device.write_config(WCE, &[0]).is_err());
    assert!(!device.is_write_through());
}

#[test]
fn no_other_field_can_be_written() {
    let (_image, device) = disk(CacheMode::Writeback);
    device.acked(DRIVER);
    let before = config_of(&device);
    for offset in (0..96).filter(|offset| *offset != WCE) {
        assert!(device.write_config(offset, &[0]).is_err(), "byte {offset}");
    }
    for (offset, data) in [
        (WCE, &[2_u8][..]),
        (WCE, &[0xff]),
        (WCE, &[]),
        (WCE, &[0, 0]),
        (WCE - 1, &[0, 0]),
        (u32::MAX, &[0]),
    ] {
        assert!(
            device.write_config(offset, data).is_err(),
            "{offset}: {data:?}"
        );
    }
    assert_eq!(config_of(&device), before);
}

fn config_of(device: &crate::BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; 96];
    device.read_config(0, &mut bytes);
    bytes
}

#[test]
fn writes_work_in_every_mode_and_engine() {
    for cache in [
        CacheMode::None,
        CacheMode::Writeback,
        CacheMode::Writethrough,
        CacheMode::Unsafe,
    ] {
        for engine in [EngineChoice::Uring, EngineChoice::Sync] {
            for features in [DRIVER, PLAIN] {
                let image = image_of(&vec![0; 1 << 20]);
                let spec = BlockSpec {
                    cache,
                    engine,
                    ..BlockSpec::image(image.path())
                };
                let mut rig = Rig::with(spec, features);
                assert_eq!(rig.write(8, &[3; 4096]), OK, "{cache:?} {engine:?}");
                assert_eq!(rig.flush(), OK);
                assert_eq!(rig.ranges(13, &[(8, 4, 0)]), OK);
                let mut expected = vec![3; 4096];
                expected[..2048].fill(0);
                assert_eq!(rig.read(8, 4096), expected);
                drop(rig);
                let content = std::fs::read(image.path()).expect("the image");
                assert_eq!(content[4096..8192], expected);
            }
        }
    }
}
