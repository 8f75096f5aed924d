//! Requests that reach outside the disk, or are cut wrongly: refused, nothing changed.

use super::rig::CANARY;
use super::*;
use crate::BlockSpec;
use crate::CacheMode;
use virtio_spec::block::request_type::*;
use virtio_spec::block::status::*;

const SECTORS: u64 = 64;

fn rig() -> Rig {
    Rig::new(BlockSpec::memory(SECTORS * 512))
}

/// A refused read must leave the guest's buffer as it was.
fn read_fails(rig: &mut Rig, sector: u64, len: usize) {
    let answer = rig.request(IN, sector, &[], len);
    assert_eq!(
        (answer.status, answer.written),
        (IOERR, 1),
        "read of {len} at {sector}"
    );
    // REGRESSIONS 13 (CVE-2024-8612).
    assert_eq!(answer.data, vec![CANARY; len]);
}

// REGRESSIONS 22 (Cloud Hypervisor 8388): the arithmetic of sectors does not wrap.
#[test]
fn reads_past_the_end_fail() {
    let mut rig = rig();
    for sector in [
        SECTORS,
        SECTORS + 1,
        1 << 32,
        (1 << 55) - 1,
        1 << 55,
        1 << 63,
        u64::MAX / 512,
        u64::MAX,
    ] {
        read_fails(&mut rig, sector, 512);
    }
    read_fails(&mut rig, SECTORS - 1, 1024);
    read_fails(&mut rig, 0, (SECTORS as usize + 1) * 512);
    assert_eq!(rig.read(SECTORS - 1, 512), [0; 512]);
}

#[test]
fn writes_past_the_end_fail_and_do_not_grow_the_image() {
    let image = image_of(&vec![1; SECTORS as usize * 512]);
    let mut rig = Rig::new(BlockSpec::image(image.path()));
    for sector in [SECTORS, 1 << 55, u64::MAX / 512, u64::MAX - 1, u64::MAX] {
        assert_eq!(rig.write(sector, &[2; 512]), IOERR);
    }
    assert_eq!(rig.write(SECTORS - 1, &[2; 1024]), IOERR);
    let content = std::fs::read(image.path()).expect("the image");
    assert_eq!(content, vec![1; SECTORS as usize * 512]);
}

#[test]
fn lengths_that_are_no_whole_blocks_fail() {
    let mut rig = rig();
    for len in [1, 511, 513, 1000] {
        read_fails(&mut rig, 0, len);
        assert_eq!(rig.write(0, &vec![1; len]), IOERR);
    }
}

#[test]
fn disks_of_4096_byte_blocks_refuse_single_sectors() {
    let spec = BlockSpec {
        block_size: 4096,
        ..BlockSpec::memory(SECTORS * 512)
    };
    let mut rig = Rig::new(spec);
    read_fails(&mut rig, 0, 512);
    read_fails(&mut rig, 1, 4096);
    assert_eq!(rig.write(7, &[1; 4096]), IOERR);
    assert_eq!(rig.write(8, &[1; 4096]), OK);
    assert_eq!(rig.read(8, 4096), [1; 4096]);
}

#[test]
fn unknown_types_are_unsupported() {
    let mut rig = rig();
    // Zone commands, SECURE_ERASE and GET_LIFETIME are not offered.
    for kind in [
        2,
        3,
        5,
        9,
        GET_LIFETIME,
        SECURE_ERASE,
        15,
        16,
        18,
        20,
        22,
        24,
        26,
        0x8000_0000,
        u32::MAX,
    ] {
        let answer = rig.request(kind, 0, &[], 32);
        assert_eq!((answer.status, answer.written), (UNSUPP, 1), "type {kind}");
        assert_eq!(answer.data, [CANARY; 32]);
    }
}

#[test]
fn a_read_only_disk_is_never_written() {
    let image = image_of(&[7; 4096]);
    let spec = BlockSpec {
        readonly: true,
        ..BlockSpec::image(image.path())
    };
    let mut rig = Rig::new(spec);
    assert_eq!(rig.write(0, &[1; 512]), IOERR);
    assert_eq!(rig.ranges(DISCARD, &[(0, 1, 0)]), IOERR);
    assert_eq!(rig.ranges(WRITE_ZEROES, &[(0, 1, 0)]), IOERR);
    assert_eq!(rig.flush(), OK);
    assert_eq!(rig.read(0, 4096), [7; 4096]);
    assert_eq!(std::fs::read(image.path()).expect("the image"), [7; 4096]);
}

#[test]
fn a_read_only_image_needs_no_write_permission() {
    use std::os::unix::fs::PermissionsExt;
    let image = image_of(&[7; 4096]);
    std::fs::set_permissions(image.path(), std::fs::Permissions::from_mode(0o400))
        .expect("permissions");
    for cache in [CacheMode::Writeback, CacheMode::None] {
        let spec = BlockSpec {
            readonly: true,
            cache,
            ..BlockSpec::image(image.path())
        };
        assert_eq!(Rig::new(spec).read(0, 512), [7; 512]);
    }
}

#[test]
fn a_disk_without_discard_does_not_discard() {
    let spec = BlockSpec {
        discard: false,
        write_zeroes: false,
        ..BlockSpec::memory(4096)
    };
    let mut rig = Rig::new(spec);
    assert_eq!(rig.write(0, &[1; 512]), OK);
    assert_eq!(rig.ranges(DISCARD, &[(0, 1, 0)]), UNSUPP);
    assert_eq!(rig.ranges(WRITE_ZEROES, &[(0, 1, 0)]), UNSUPP);
    assert_eq!(rig.read(0, 512), [1; 512]);
}
