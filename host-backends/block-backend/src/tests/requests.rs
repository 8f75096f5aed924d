//! Each shape of request, in each ring format and engine.

use super::rig::BORDER;
use super::rig::CANARY;
use super::rig::DRIVER;
use super::rig::pattern;
use super::*;
use crate::BlockSpec;
use crate::EngineChoice;
use virtio_spec::block::request_type::*;
use virtio_spec::block::status::*;
use virtio_spec::feature as ring;
use virtqueue::Segment;

const SIZE: usize = 1 << 20;

/// The same disk served every way there is.
fn everywhere(check: impl Fn(&mut Rig)) {
    for features in [DRIVER, DRIVER | ring::RING_PACKED] {
        check(&mut Rig::with(BlockSpec::memory(SIZE as u64), features));
        for engine in [EngineChoice::Uring, EngineChoice::Sync] {
            let image = image_of(&vec![0; SIZE]);
            let spec = BlockSpec {
                engine,
                ..BlockSpec::image(image.path())
            };
            check(&mut Rig::with(spec, features));
        }
    }
}

#[test]
fn what_was_written_is_read() {
    everywhere(|rig| {
        for (sector, len) in [(0, 512), (1, 4096), (8, 4096), (100, 65536), (2047, 512)] {
            let data = pattern(sector as u8, len);
            assert_eq!(rig.write(sector, &data), OK);
            assert_eq!(rig.read(sector, len), data);
        }
    });
}

#[test]
fn fresh_memory_reads_as_zero() {
    everywhere(|rig| assert_eq!(rig.read(64, 8192), vec![0; 8192]));
}

#[test]
fn neighbours_of_a_write_stay() {
    everywhere(|rig| {
        assert_eq!(rig.write(0, &[1; 3 * 512]), OK);
        assert_eq!(rig.write(1, &[2; 512]), OK);
        let mut expected = vec![1; 3 * 512];
        expected[512..1024].fill(2);
        assert_eq!(rig.read(0, 3 * 512), expected);
    });
}

#[test]
fn flush_succeeds() {
    everywhere(|rig| {
        assert_eq!(rig.write(0, &[1; 512]), OK);
        assert_eq!(rig.flush(), OK);
    });
}

#[test]
fn many_requests_at_once_come_back_once_each() {
    everywhere(|rig| {
        let mut ids = Vec::new();
        for sector in 0..20_u64 {
            let readable = [
                rig.header(OUT, sector),
                rig.place(&pattern(sector as u8, 512)),
            ];
            let status = [rig.room(1)];
            ids.push(rig.add(&readable, &status));
        }
        for id in ids {
            assert_eq!(rig.wait(id).status, OK);
        }
        for sector in 0..20_u64 {
            assert_eq!(rig.read(sector, 512), pattern(sector as u8, 512));
        }
        assert_eq!(rig.queue.in_flight(), 0);
    });
}

#[test]
fn in_order_rings_complete_in_order() {
    let image = image_of(&vec![0; SIZE]);
    let spec = BlockSpec {
        in_order: true,
        engine: EngineChoice::Uring,
        ..BlockSpec::image(image.path())
    };
    let mut rig = Rig::with(spec, DRIVER | ring::IN_ORDER);
    for round in 0..50_u64 {
        let flush = [rig.header(FLUSH, 0)];
        let status = [rig.room(1)];
        let first = rig.add(&flush, &status);
        assert_eq!(rig.write(round, &[round as u8; 512]), OK);
        assert_eq!(rig.wait(first).status, OK);
    }
}

#[test]
fn the_serial_is_padded_with_nuls() {
    let spec = BlockSpec {
        serial: Some("disk 1".to_owned()),
        ..BlockSpec::memory(4096)
    };
    let answer = Rig::new(spec).request(GET_ID, 0, &[], 20);
    assert_eq!((answer.status, answer.written), (OK, 21));
    assert_eq!(answer.data, b"disk 1\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
}

#[test]
fn a_serial_of_twenty_characters_fits() {
    let spec = BlockSpec {
        serial: Some("x".repeat(20)),
        ..BlockSpec::memory(4096)
    };
    assert_eq!(Rig::new(spec).request(GET_ID, 0, &[], 20).data, [b'x'; 20]);
}

// REGRESSIONS 15 (CVE-2024-7730): an answer never exceeds the room for it.
#[test]
fn a_serial_is_cut_to_the_room_for_it() {
    let spec = BlockSpec {
        serial: Some("0123456789".to_owned()),
        ..BlockSpec::memory(4096)
    };
    let mut rig = Rig::new(spec);
    let readable = [rig.header(GET_ID, 0)];
    let (first, second) = (rig.room(64), rig.room(1));
    let data = Segment { len: 4, ..first };
    let answer = rig.send(&readable, &[data, second]);
    assert_eq!((answer.status, answer.written), (OK, 5));
    let mut after = [0; 64];
    rig.memory.read(first.addr, &mut after).expect("memory");
    assert_eq!(&after[..4], b"0123");
    assert_eq!(after[4..], [CANARY; 60]);
}

// REGRESSIONS 37 (CVE-2022-2132): the head may be cut anywhere.
#[test]
fn a_head_may_be_split_at_any_byte() {
    let mut rig = Rig::new(BlockSpec::memory(SIZE as u64));
    assert_eq!(rig.write(3, &pattern(9, 512)), OK);
    let head = rig.header(IN, 3);
    for at in 1..16 {
        let parts = [
            Segment {
                addr: head.addr,
                len: at,
            },
            Segment {
                addr: head.addr + u64::from(at),
                len: 16 - at,
            },
        ];
        let room = [rig.room(512), rig.room(1)];
        let answer = rig.send(&parts, &room);
        assert_eq!(
            (answer.status, answer.data),
            (OK, pattern(9, 512)),
            "split at {at}"
        );
    }
}

#[test]
fn a_head_of_single_bytes_with_data_behind_it_is_understood() {
    let mut rig = Rig::new(BlockSpec::memory(SIZE as u64));
    let head = rig.header(OUT, 5);
    let mut readable: Vec<_> = (0..15)
        .map(|at| Segment {
            addr: head.addr + at,
            len: 1,
        })
        .collect();
    // The last byte of the head and the data share a descriptor.
    let mut tail = vec![0; 1];
    tail.extend(pattern(4, 512));
    readable.push(rig.place(&tail));
    let status = [rig.room(1)];
    assert_eq!(rig.send(&readable, &status).status, OK);
    assert_eq!(rig.read(5, 512), pattern(4, 512));
}

#[test]
fn data_and_status_may_share_a_descriptor() {
    let mut rig = Rig::new(BlockSpec::memory(SIZE as u64));
    let head = [rig.header(IN, 0)];
    let room = [rig.room(513)];
    let answer = rig.send(&head, &room);
    assert_eq!(
        (answer.status, answer.written, answer.data),
        (OK, 513, vec![0; 512])
    );
}

#[test]
fn data_may_be_in_many_odd_pieces() {
    let mut rig = Rig::new(BlockSpec::memory(SIZE as u64));
    let data = pattern(1, 4096);
    assert_eq!(rig.write(0, &data), OK);
    let head = [rig.header(IN, 0)];
    let mut room: Vec<_> = [1_usize, 511, 513, 1000, 2071]
        .iter()
        .map(|len| rig.room(*len))
        .collect();
    room.push(rig.room(1));
    let answer = rig.send(&head, &room);
    assert_eq!(
        (answer.status, answer.written, answer.data),
        (OK, 4097, data)
    );
}

// REGRESSIONS 23 and 24 (CVE-2019-18960, CVE-2018-1059): neighbours in guest memory are no neighbours in ours.
#[test]
fn a_buffer_across_two_regions_is_served_whole() {
    everywhere(|rig| {
        let data = pattern(7, 8192);
        rig.memory
            .write(BORDER - 4096, &data)
            .expect("memory across the border");
        let across = Segment {
            addr: BORDER - 4096,
            len: 8192,
        };
        let readable = [rig.header(OUT, 0), across];
        let status = [rig.room(1)];
        assert_eq!(rig.send(&readable, &status).status, OK);
        assert_eq!(rig.read(0, 8192), data);
        rig.memory
            .write(across.addr, &[CANARY; 8192])
            .expect("memory");
        let head = [rig.header(IN, 0)];
        let room = [across, rig.room(1)];
        assert_eq!(rig.send(&head, &room).status, OK);
        let mut back = vec![0; 8192];
        rig.memory.read(across.addr, &mut back).expect("memory");
        assert_eq!(back, data);
    });
}

#[test]
fn a_head_across_two_regions_is_read_whole() {
    let mut rig = Rig::new(BlockSpec::memory(SIZE as u64));
    let head = rig.header(IN, 1);
    let mut bytes = [0; 16];
    rig.memory.read(head.addr, &mut bytes).expect("memory");
    for before in 1..16 {
        rig.memory
            .write(BORDER - before, &bytes)
            .expect("memory across the border");
        let room = [rig.room(512), rig.room(1)];
        let answer = rig.send(
            &[Segment {
                addr: BORDER - before,
                len: 16,
            }],
            &room,
        );
        assert_eq!((answer.status, answer.data), (OK, vec![0; 512]));
    }
}

#[test]
fn a_transfer_of_nothing_is_fine() {
    everywhere(|rig| {
        assert_eq!(rig.request(IN, 0, &[], 0).status, OK);
        assert_eq!(rig.request(OUT, 0, &[], 0).status, OK);
    });
}

#[test]
fn surplus_buffers_of_the_other_direction_are_left_alone() {
    let mut rig = Rig::new(BlockSpec::memory(SIZE as u64));
    // A write with room for an answer that there is not, and a read with data that nobody asked for.
    let answer = rig.request(OUT, 0, &[3; 512], 64);
    assert_eq!((answer.status, answer.written), (OK, 1));
    assert_eq!(answer.data, vec![CANARY; 64]);
    let answer = rig.request(IN, 0, &[9; 512], 512);
    assert_eq!((answer.status, answer.data), (OK, vec![3; 512]));
}

#[test]
fn counters_count_what_happened() {
    let mut rig = Rig::new(BlockSpec::memory(SIZE as u64));
    rig.write(0, &[1; 1024]);
    rig.read(0, 512);
    rig.flush();
    rig.ranges(DISCARD, &[(0, 1, 0)]);
    rig.ranges(WRITE_ZEROES, &[(0, 1, 0)]);
    rig.request(77, 0, &[], 0);
    let metrics = rig.device.metrics();
    assert_eq!((metrics.writes, metrics.written_bytes), (1, 1024));
    assert_eq!((metrics.reads, metrics.read_bytes), (1, 512));
    assert_eq!(
        (metrics.flushes, metrics.discards, metrics.write_zeroes),
        (1, 1, 1)
    );
    assert_eq!(
        (metrics.refused, metrics.io_errors, metrics.no_status),
        (1, 0, 0)
    );
}
