//! Chains that no sane driver makes: each comes back, nothing else is touched, the queue goes on or says that it is broken.

use super::rig::BORDER;
use super::rig::CANARY;
use super::rig::DRIVER;
use super::rig::MEMORY;
use super::rig::REGION;
use super::*;
use crate::BlockSpec;
use crate::EngineChoice;
use virtio_spec::block::request_type::*;
use virtio_spec::block::status::*;
use virtio_spec::feature as ring;
use virtqueue::Segment;

fn rig() -> Rig {
    Rig::new(BlockSpec::memory(1 << 20))
}

/// The disk still serves an honest request.
fn still_works(rig: &mut Rig) {
    assert_eq!(rig.write(1, &[6; 512]), OK);
    assert_eq!(rig.read(1, 512), [6; 512]);
}

/// Where there is no memory.
const HOLES: [u64; 6] = [
    0,
    4096,
    MEMORY - 1,
    BORDER + REGION,
    1 << 40,
    u64::MAX - 600,
];

#[test]
fn a_chain_without_room_for_a_status_comes_back_empty() {
    let mut rig = rig();
    let readable = [rig.header(OUT, 0), rig.place(&[1; 512])];
    assert_eq!(rig.send(&readable, &[]).written, 0);
    let head = [rig.header(FLUSH, 0)];
    assert_eq!(rig.send(&head, &[]).written, 0);
    assert_eq!(rig.device.metrics().no_status, 2);
    assert_eq!(rig.read(0, 512), [0; 512]);
    still_works(&mut rig);
}

#[test]
fn a_chain_shorter_than_its_head_fails() {
    let mut rig = rig();
    for len in 1..16 {
        let head = rig.header(IN, 0);
        let room = [rig.room(512), rig.room(1)];
        let answer = rig.send(&[Segment { len, ..head }], &room);
        assert_eq!((answer.status, answer.written), (IOERR, 1), "{len} bytes");
        assert_eq!(answer.data, [CANARY; 512]);
    }
    let room = [rig.room(1)];
    let answer = rig.send(&[], &room);
    assert_eq!((answer.status, answer.written), (IOERR, 1));
    still_works(&mut rig);
}

// REGRESSIONS 4 and 14: descriptors that point to no memory.
#[test]
fn a_head_in_a_hole_fails() {
    let mut rig = rig();
    for addr in HOLES {
        let room = [rig.room(512), rig.room(1)];
        assert_eq!(
            rig.send(&[Segment { addr, len: 16 }], &room).status,
            IOERR,
            "{addr:#x}"
        );
    }
    let across_the_end = Segment {
        addr: BORDER + REGION - 8,
        len: 16,
    };
    let room = [rig.room(512), rig.room(1)];
    assert_eq!(rig.send(&[across_the_end], &room).status, IOERR);
    still_works(&mut rig);
}

#[test]
fn data_in_a_hole_fails_and_moves_nothing() {
    let mut rig = rig();
    assert_eq!(rig.write(0, &[1; 1024]), OK);
    for addr in HOLES {
        let hole = Segment { addr, len: 512 };
        let (head, room) = ([rig.header(IN, 0)], [rig.room(512), hole, rig.room(1)]);
        let id = rig.add(&head, &room);
        rig.wait(id);
        let mut first = [0; 512];
        rig.memory.read(room[0].addr, &mut first).expect("memory");
        assert_eq!(first, [CANARY; 512], "{addr:#x}");
        let (out, status) = (
            [rig.header(OUT, 0), rig.place(&[9; 512]), hole],
            [rig.room(1)],
        );
        assert_eq!(rig.send(&out, &status).status, IOERR, "{addr:#x}");
    }
    assert_eq!(rig.read(0, 1024), [1; 1024]);
    assert_eq!(rig.device.metrics().io_errors, 12);
    still_works(&mut rig);
}

#[test]
fn a_status_in_a_hole_is_counted_and_the_chain_comes_back() {
    let mut rig = rig();
    for addr in HOLES {
        let head = [rig.header(FLUSH, 0)];
        assert_eq!(
            rig.send(&head, &[Segment { addr, len: 1 }]).written,
            0,
            "{addr:#x}"
        );
    }
    still_works(&mut rig);
}

#[test]
fn ranges_in_a_hole_fail() {
    let mut rig = rig();
    let (out, status) = (
        [
            rig.header(DISCARD, 0),
            Segment {
                addr: 4096,
                len: 16,
            },
        ],
        [rig.room(1)],
    );
    assert_eq!(rig.send(&out, &status).status, IOERR);
    still_works(&mut rig);
}

struct Nowhere;

impl crate::request::Source for Nowhere {
    fn read(&self, _addr: u64, out: &mut [u8]) -> bool {
        out.fill(0);
        true
    }
}

#[test]
fn a_transfer_whose_used_length_would_wrap_fails() {
    let limits = crate::request::Limits {
        size: 1 << 40,
        block_size: 512,
        readonly: false,
        discard: true,
        write_zeroes: true,
    };
    let head = [Segment {
        addr: MEMORY,
        len: 16,
    }];
    let huge = Segment {
        addr: MEMORY,
        len: u32::MAX - 511,
    };
    let tail = Segment {
        addr: MEMORY,
        len: 512,
    };
    let mut parsed = crate::request::Parsed::default();
    let fits = parsed.parse(
        &head,
        &[huge, Segment { len: 1, ..tail }],
        &Nowhere,
        &limits,
    );
    assert!(fits.is_ok(), "{fits:?}");
    let wraps = parsed.parse(&head, &[huge, tail, tail], &Nowhere, &limits);
    assert_eq!(wraps, Err(crate::request::Refusal::OutOfBounds));
}

// REGRESSIONS 14 (CVE-2024-3446): data that lands on what describes it.
#[test]
fn a_read_onto_its_own_head_and_ring_does_no_harm() {
    let mut rig = rig();
    let head = rig.header(IN, 0);
    let room = [
        Segment {
            addr: head.addr & !511,
            len: 512,
        },
        rig.room(1),
    ];
    assert_eq!(rig.send(&[head], &room).status, OK);
    // Onto the descriptor table of the ring itself: what it said was read before.
    let head = rig.header(IN, 0);
    let room = [
        Segment {
            addr: MEMORY,
            len: 1024,
        },
        rig.room(1),
    ];
    let id = rig.add(&[head], &room);
    rig.kick();
    let _ = id;
    assert_eq!(rig.device.metrics().reads, 2);
}

// REGRESSIONS 20 (CVE-2026-45782): the same head again while its request is under way.
#[test]
fn a_head_that_is_offered_twice_does_not_share_a_slot() {
    let image = image_of(&vec![0; 1 << 20]);
    let spec = BlockSpec {
        engine: EngineChoice::Uring,
        ..BlockSpec::image(image.path())
    };
    for copies in 2..10_u16 {
        let mut rig = Rig::with(spec.clone(), ring::VERSION_1);
        let (out, status) = ([rig.header(OUT, 0), rig.place(&[1; 512])], [rig.room(1)]);
        let head = rig.add(&out, &status);
        let _ = rig.driver.publish();
        // The available ring of the split layout: flags, idx, then the heads.
        let available = MEMORY + 0x4000;
        for at in 0..copies {
            rig.memory
                .write(available + 4 + 2 * u64::from(at), &head.to_le_bytes())
                .expect("memory");
        }
        rig.memory
            .write(available + 2, &copies.to_le_bytes())
            .expect("memory");
        let ran = rig.handler.run(&mut rig.queue, &rig.memory);
        let drained = rig.handler.drain(&mut rig.queue, &rig.memory);
        assert!(drained.is_ok() && rig.handler.in_flight() == 0);
        // Either each came after the one before was over, or the ring is broken and says so.
        let writes = rig.device.metrics().writes;
        assert!(
            ran.is_err() || writes == u64::from(copies),
            "{copies}: {writes}"
        );
        drop(rig);
    }
    still_works(&mut Rig::new(spec));
}

// REGRESSIONS 39: descriptors and rings that are garbage, or change at any time.
#[test]
fn garbage_in_ring_and_buffers_never_panics() {
    for features in [DRIVER, DRIVER | ring::RING_PACKED] {
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        for _ in 0..300 {
            let device =
                crate::BlockDevice::open(BlockSpec::memory(1 << 20)).expect("the disk opens");
            let mut rig = Rig::on(device, features);
            for _ in 0..4 {
                let (out, room) = (
                    [rig.header(random.next() as u32 % 16, random.next() % 4096)],
                    [rig.room(512), rig.room(1)],
                );
                rig.add(&out, &room);
            }
            let _ = rig.driver.publish();
            for _ in 0..8 {
                let area = [0, 0x4000, 0x8000, 0x10000][random.next() as usize % 4];
                let addr = MEMORY + area + random.next() % 128;
                rig.memory
                    .write(addr, &random.next().to_le_bytes())
                    .expect("memory");
                if rig.handler.run(&mut rig.queue, &rig.memory).is_err() {
                    break;
                }
            }
            let _ = rig.handler.drain(&mut rig.queue, &rig.memory);
            assert_eq!(rig.handler.in_flight(), 0);
        }
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
