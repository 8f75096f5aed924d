//! Disks that change their size while they are used.

use super::*;
use crate::BlockSpec;
use device_model::Device;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use virtio_spec::block::status::*;

fn watched(rig: &Rig) -> Arc<AtomicU32> {
    let count = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&count);
    rig.device.on_config_change(Arc::new(move || {
        seen.fetch_add(1, Ordering::Relaxed);
    }));
    count
}

fn capacity(rig: &Rig) -> u64 {
    let mut bytes = [0; 8];
    rig.device.read_config(0, &mut bytes);
    u64::from_le_bytes(bytes)
}

#[test]
fn a_grown_image_is_used_after_the_resize() {
    let image = image_of(&[1; 4096]);
    let mut rig = Rig::new(BlockSpec::image(image.path()));
    let told = watched(&rig);
    image.as_file().set_len(8192).expect("growth");
    assert_eq!(rig.write(8, &[2; 512]), IOERR);
    assert_eq!(rig.device.resize().expect("a resize"), 8192);
    assert_eq!((told.load(Ordering::Relaxed), capacity(&rig)), (1, 16));
    assert_eq!(rig.write(8, &[2; 512]), OK);
    assert_eq!(rig.read(8, 512), [2; 512]);
    assert_eq!(rig.write(16, &[2; 512]), IOERR);
}

#[test]
fn a_shrunk_image_is_bounded_after_the_resize() {
    let image = image_of(&[1; 8192]);
    let mut rig = Rig::new(BlockSpec::image(image.path()));
    let told = watched(&rig);
    image.as_file().set_len(4096).expect("shrinkage");
    assert_eq!(rig.device.resize().expect("a resize"), 4096);
    assert_eq!(told.load(Ordering::Relaxed), 1);
    assert_eq!(rig.write(8, &[2; 512]), IOERR);
    assert_eq!(image.as_file().metadata().expect("the image").len(), 4096);
    assert_eq!(rig.read(7, 512), [1; 512]);
}

#[test]
fn a_resize_without_a_change_tells_nobody() {
    let image = image_of(&[1; 8192]);
    let rig = Rig::new(BlockSpec::image(image.path()));
    let told = watched(&rig);
    assert_eq!(rig.device.resize().expect("a resize"), 8192);
    assert_eq!(told.load(Ordering::Relaxed), 0);
}

#[test]
fn a_memory_disk_takes_the_size_it_is_given() {
    let mut rig = Rig::new(BlockSpec::memory(4096));
    let told = watched(&rig);
    assert_eq!(rig.write(0, &[1; 512]), OK);
    assert_eq!(rig.device.resize_to(1 << 20).expect("a resize"), 1 << 20);
    assert_eq!(rig.write(2047, &[2; 512]), OK);
    assert_eq!(rig.read(0, 512), [1; 512]);
    assert_eq!(rig.device.resize_to(4096).expect("a resize"), 4096);
    assert_eq!(rig.request(0, 2047, &[], 512).status, IOERR);
    assert_eq!(rig.device.resize_to(1 << 20).expect("a resize"), 1 << 20);
    assert_eq!(rig.read(2047, 512), [0; 512]);
    assert_eq!(told.load(Ordering::Relaxed), 3);
}

#[test]
fn wrong_sizes_are_refused() {
    let rig = Rig::new(BlockSpec::memory(4096));
    for bytes in [0, 1, 511, 4097, u64::MAX, 1 << 63] {
        assert!(rig.device.resize_to(bytes).is_err(), "{bytes}");
    }
    assert_eq!(rig.device.size(), 4096);
    let image = image_of(&[0; 4096]);
    let rig = Rig::new(BlockSpec::image(image.path()));
    assert!(rig.device.resize_to(8192).is_err());
    assert_eq!(image.as_file().metadata().expect("the image").len(), 4096);
}
