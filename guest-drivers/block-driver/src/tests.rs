//! Tests of the pure parts: cutting buffers into requests, and checking requests. The whole driver meets devices in `driver-fakes` and
//! `loopback`.

use alloc::vec::Vec;

use driver_platform::DeviceRange;
use driver_platform::Direction;

use crate::DiskInfo;
use crate::Operation;
use crate::Refusal;
use crate::check::Payload;
use crate::check::plan;
use crate::segments::Limits;
use crate::segments::Segments;

fn limits(size_max: u32, seg_max: usize, block: u32) -> Limits {
    Limits {
        size_max,
        seg_max,
        block,
        total_max: 1000,
    }
}

/// Cuts pieces of the given lengths, laid out one after the other, and returns the bytes of each request. Checks that the requests cover
/// the buffer exactly and keep the limits.
fn cut(pieces: &[u32], limits: &Limits) -> Result<Vec<u64>, Refusal> {
    let mut segments = Segments::new(1000, 1000).unwrap();
    let mut addr = 0x1000;
    for &len in pieces {
        segments.push(DeviceRange { addr, len }, limits);
        addr += u64::from(len);
    }
    segments.cut(addr - 0x1000, limits)?;
    let mut at = 0x1000;
    for &cut in segments.cuts() {
        let own = segments.of(cut);
        assert!(own.len() <= limits.seg_max, "too many segments");
        for segment in own {
            assert_eq!(segment.addr, at, "a gap or an overlap");
            assert!(segment.len > 0 && segment.len <= limits.size_max);
            at += u64::from(segment.len);
        }
        assert_eq!(
            own.iter()
                .map(|segment| u64::from(segment.len))
                .sum::<u64>(),
            cut.bytes
        );
    }
    assert_eq!(at, addr, "not all of the buffer");
    Ok(segments.cuts().iter().map(|cut| cut.bytes).collect())
}

#[test]
fn a_buffer_within_the_limits_is_one_request() {
    assert_eq!(
        cut(&[4096, 4096], &limits(u32::MAX, 2, 512)),
        Ok(alloc::vec![8192])
    );
}

#[test]
fn long_pieces_are_cut_by_the_segment_size() {
    assert_eq!(cut(&[8192], &limits(4096, 2, 512)), Ok(alloc::vec![8192]));
    assert_eq!(
        cut(&[8192], &limits(4096, 1, 512)),
        Ok(alloc::vec![4096, 4096])
    );
}

#[test]
fn requests_end_at_block_borders_even_inside_a_piece() {
    assert_eq!(
        cut(&[700, 700, 648], &limits(u32::MAX, 2, 512)),
        Ok(alloc::vec![1024, 1024])
    );
    assert_eq!(
        cut(&[100, 412, 512], &limits(u32::MAX, 2, 512)),
        Ok(alloc::vec![512, 512])
    );
}

#[test]
fn a_block_in_more_pieces_than_a_request_may_have_is_refused() {
    assert_eq!(
        cut(&[100, 100, 312], &limits(u32::MAX, 2, 512)),
        Err(Refusal::TooLarge)
    );
}

#[test]
fn every_way_to_scatter_a_small_buffer_is_covered_or_refused() {
    // All compositions of 8 units of 256 bytes.
    for mask in 0..1_u32 << 7 {
        let mut pieces = alloc::vec![256];
        for bit in 0..7 {
            match (mask >> bit & 1, pieces.last_mut()) {
                (0, Some(last)) => *last += 256,
                _ => pieces.push(256),
            }
        }
        for seg_max in 1..5 {
            for size_max in [512, 768, u32::MAX] {
                let _ = cut(&pieces, &limits(size_max, seg_max, 512));
                let _ = cut(&pieces, &limits(size_max, seg_max, 1024));
            }
        }
    }
}

fn disk() -> DiskInfo {
    DiskInfo {
        capacity_sectors: 1000,
        block_size: 512,
        physical_block_size: 4096,
        read_only: false,
        flush: true,
        write_cache_switch: false,
        size_max: 4096,
        seg_max: 4,
        queues: 1,
        max_discard_sectors: 100,
        discard_alignment_sectors: 1,
        max_write_zeroes_sectors: 100,
        write_zeroes_may_unmap: false,
        max_transfer: 4096,
    }
}

#[test]
fn sums_of_sectors_cannot_overflow() {
    for sector in [u64::MAX, u64::MAX - 1, 1 << 63, 1000] {
        let read = plan(&disk(), 1000, Operation::Read { sector }, Some(512));
        assert_eq!(read.err(), Some(Refusal::OutOfRange));
        let discard = plan(
            &disk(),
            1000,
            Operation::Discard {
                sector,
                sectors: u64::MAX,
            },
            None,
        );
        assert_eq!(discard.err(), Some(Refusal::OutOfRange));
    }
}

#[test]
fn unmap_is_asked_for_only_where_the_device_may_do_it() {
    let operation = Operation::WriteZeroes {
        sector: 0,
        sectors: 8,
        unmap: true,
    };
    let flags = |info: &DiskInfo| match plan(info, 1000, operation, None).map(|plan| plan.payload) {
        Ok(Payload::Range { flags, .. }) => flags,
        other => panic!("{other:?}"),
    };
    assert_eq!(flags(&disk()), 0);
    assert_eq!(
        flags(&DiskInfo {
            write_zeroes_may_unmap: true,
            ..disk()
        }),
        1
    );
}

#[test]
fn a_raw_request_goes_where_its_type_says() {
    let direction = |request_type| {
        plan(
            &disk(),
            1000,
            Operation::Raw {
                request_type,
                sector: u64::MAX,
            },
            Some(512),
        )
        .map(|plan| plan.payload)
    };
    assert_eq!(direction(0), Ok(Payload::Data(Direction::FromDevice)));
    assert_eq!(direction(1), Ok(Payload::Data(Direction::ToDevice)));
}

#[test]
fn a_serial_without_an_end_is_twenty_bytes() {
    assert_eq!(crate::Serial([b'x'; 20]).as_bytes().len(), 20);
    assert_eq!(crate::Serial([0; 20]).as_bytes(), b"");
}
