//! Discard and write-zeroes, right and wrong.

use super::*;
use crate::BlockSpec;
use crate::EngineChoice;
use std::os::unix::fs::MetadataExt;
use virtio_spec::block::request_type::*;
use virtio_spec::block::status::*;

const SECTORS: u64 = 4096;
const UNMAP: u32 = 1;

fn rigs() -> Vec<(Rig, Option<tempfile::NamedTempFile>)> {
    let mut all = vec![(Rig::new(BlockSpec::memory(SECTORS * 512)), None)];
    for engine in [EngineChoice::Uring, EngineChoice::Sync] {
        let image = image_of(&vec![0; SECTORS as usize * 512]);
        let spec = BlockSpec {
            engine,
            ..BlockSpec::image(image.path())
        };
        all.push((Rig::new(spec), Some(image)));
    }
    all
}

#[test]
fn zeroed_ranges_read_as_zero_and_neighbours_stay() {
    for (mut rig, _image) in rigs() {
        for flags in [0, UNMAP] {
            assert_eq!(rig.write(0, &[9; 64 * 512]), OK);
            assert_eq!(
                rig.ranges(WRITE_ZEROES, &[(3, 10, flags), (40, 1, flags)]),
                OK
            );
            let mut expected = vec![9; 64 * 512];
            expected[3 * 512..13 * 512].fill(0);
            expected[40 * 512..41 * 512].fill(0);
            assert_eq!(rig.read(0, 64 * 512), expected);
        }
    }
}

#[test]
fn discarded_ranges_give_their_space_back() {
    for (mut rig, image) in rigs() {
        assert_eq!(rig.write(0, &vec![9; 1 << 20]), OK);
        assert_eq!(rig.flush(), OK);
        assert_eq!(rig.ranges(DISCARD, &[(0, 1024, 0), (1024, 1024, 0)]), OK);
        if let Some(image) = image {
            // The image has 4096 sectors, of which half are left.
            let blocks = image.as_file().metadata().expect("the image").blocks();
            assert_eq!(blocks, 2048);
        }
        assert_eq!(rig.read(0, 1 << 20), vec![0; 1 << 20]);
    }
}

#[test]
fn a_discarded_place_can_be_written_again() {
    for (mut rig, _image) in rigs() {
        for round in 1..4 {
            assert_eq!(rig.write(8, &[round; 4096]), OK);
            assert_eq!(rig.read(8, 4096), [round; 4096]);
            assert_eq!(rig.ranges(DISCARD, &[(8, 8, 0)]), OK);
            assert_eq!(rig.read(8, 4096), [0; 4096]);
        }
    }
}

#[test]
fn thirty_two_ranges_are_served_and_thirty_three_are_not() {
    let mut rig = Rig::new(BlockSpec::memory(SECTORS * 512));
    assert_eq!(rig.write(0, &[1; 66 * 512]), OK);
    let ranges: Vec<_> = (0..33).map(|at| (at * 2, 1, 0)).collect();
    assert_eq!(rig.ranges(WRITE_ZEROES, &ranges), IOERR);
    assert_eq!(rig.read(0, 512), [1; 512]);
    assert_eq!(rig.ranges(WRITE_ZEROES, &ranges[..32]), OK);
    assert_eq!(rig.read(62 * 512 / 512, 512), [0; 512]);
    assert_eq!(rig.read(63, 512), [1; 512]);
}

// REGRESSIONS 22: sector + count wraps, times 512 wraps.
#[test]
fn ranges_outside_the_disk_fail() {
    for kind in [DISCARD, WRITE_ZEROES] {
        let mut rig = Rig::new(BlockSpec::memory(SECTORS * 512));
        assert_eq!(rig.write(0, &[1; 512]), OK);
        for (sector, sectors) in [
            (SECTORS, 1),
            (SECTORS - 1, 2),
            (0, SECTORS as u32 + 1),
            (0, u32::MAX),
            (u64::MAX, 1),
            (u64::MAX - 1, 2),
            (u64::MAX / 512, 1),
            (1 << 55, 1),
            ((1 << 55) - 1, 1),
            (1 << 63, 1 << 21),
        ] {
            assert_eq!(
                rig.ranges(kind, &[(sector, sectors, 0)]),
                IOERR,
                "{sector}+{sectors}"
            );
        }
        assert_eq!(rig.read(0, 512), [1; 512]);
    }
}

#[test]
fn one_bad_range_spoils_the_whole_request() {
    let mut rig = Rig::new(BlockSpec::memory(SECTORS * 512));
    assert_eq!(rig.write(0, &[1; 1024]), OK);
    assert_eq!(
        rig.ranges(WRITE_ZEROES, &[(0, 1, 0), (SECTORS, 1, 0)]),
        IOERR
    );
    assert_eq!(rig.read(0, 1024), [1; 1024]);
}

#[test]
fn unknown_flags_are_unsupported() {
    let mut rig = Rig::new(BlockSpec::memory(SECTORS * 512));
    for flags in [2, 3, 0x8000_0000, u32::MAX] {
        assert_eq!(rig.ranges(WRITE_ZEROES, &[(0, 1, flags)]), UNSUPP);
        assert_eq!(rig.ranges(DISCARD, &[(0, 1, flags)]), UNSUPP);
    }
    // A discard has no unmap flag: unmapping is what it does.
    assert_eq!(rig.ranges(DISCARD, &[(0, 1, UNMAP)]), UNSUPP);
    assert_eq!(rig.ranges(DISCARD, &[(0, 1, 0)]), OK);
}

#[test]
fn ranges_that_are_cut_off_fail() {
    let mut rig = Rig::new(BlockSpec::memory(SECTORS * 512));
    for len in [0, 1, 8, 15, 17, 31, 33] {
        assert_eq!(
            rig.request(DISCARD, 0, &vec![0; len], 0).status,
            IOERR,
            "{len} bytes"
        );
    }
}

#[test]
fn ranges_may_be_split_at_any_byte() {
    let mut rig = Rig::new(BlockSpec::memory(SECTORS * 512));
    for at in 1..32 {
        assert_eq!(rig.write(0, &[1; 2048]), OK);
        let head = rig.header(WRITE_ZEROES, 0);
        let mut bytes = [0; 32];
        bytes[8] = 1;
        bytes[16] = 2;
        bytes[24] = 1;
        let parts = [head, rig.place(&bytes[..at]), rig.place(&bytes[at..])];
        let status = [rig.room(1)];
        assert_eq!(rig.send(&parts, &status).status, OK);
        assert_eq!(rig.read(0, 512), [0; 512]);
        assert_eq!(rig.read(1, 512), [1; 512]);
        assert_eq!(rig.read(2, 512), [0; 512]);
    }
}

#[test]
fn ranges_of_no_sectors_do_nothing() {
    let mut rig = Rig::new(BlockSpec::memory(SECTORS * 512));
    assert_eq!(rig.write(0, &[1; 512]), OK);
    assert_eq!(rig.ranges(DISCARD, &[(0, 0, 0)]), OK);
    assert_eq!(rig.ranges(WRITE_ZEROES, &[(0, 0, 0), (0, 0, 0)]), OK);
    assert_eq!(rig.read(0, 512), [1; 512]);
}
