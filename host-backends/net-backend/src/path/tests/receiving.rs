//! Buffers of the receive queue in every shape, and too few of them.

use std::sync::Arc;

use virtio_spec::feature as ring;
use virtio_spec::net::feature as net;
use virtqueue::Segment;

use crate::path::room::LOOKED_AT;
use crate::path::room::MAX_PARTS;
use crate::path::tests::rig::BORDER;
use crate::path::tests::rig::CANARY;
use crate::path::tests::rig::Guest;
use crate::path::tests::rig::MERGEABLE;
use crate::path::tests::rig::PLAIN;
use crate::path::tests::rig::REGION;
use crate::path::tests::rig::frame;
use crate::switch::Switch;

fn guests(b: u64) -> (Guest, Guest) {
    let switch = Arc::new(Switch::new("test"));
    let a = Guest::on_switch(&switch, 1, MERGEABLE);
    (a, Guest::on_switch(&switch, 2, b))
}

#[test]
fn row_7_a_header_split_at_any_byte_and_across_regions_is_written() {
    for features in [PLAIN, MERGEABLE, MERGEABLE | net::HASH_REPORT] {
        let (mut a, mut b) = guests(features);
        for first in 1..40 {
            b.post(&[first, 3, 1, 500]);
            a.send_all(&[frame(1, 2, 200)]);
            let got = b.got();
            assert_eq!(got.len(), 1, "{first}");
            assert_eq!(got[0].frame, frame(1, 2, 200));
            assert_eq!(got[0].header.num_buffers.get(), 1);
        }
        for before in [1, 11, 12, 13, 19, 20, 21, 211] {
            let part = Segment {
                addr: BORDER - before,
                len: 512,
            };
            b.memory.write(part.addr, &[CANARY; 512]).expect("memory");
            b.post_parts(&[], &[part]);
            a.send_all(&[frame(1, 2, 200)]);
            assert_eq!(b.got()[0].frame, frame(1, 2, 200), "{before}");
        }
    }
}

#[test]
fn row_13_used_lengths_are_what_was_written_and_the_rest_is_untouched() {
    // The rig looks at the canary behind every used length.
    for features in [PLAIN, MERGEABLE] {
        let (mut a, mut b) = guests(features);
        for len in [14, 60, 299, 300, 301, 1000] {
            b.post(&[1500]);
            a.send_all(&[frame(1, 2, len)]);
            let buffers = b.buffers();
            assert_eq!(buffers.len(), 1);
            assert_eq!(buffers[0].len(), 12 + len);
        }
    }
}

#[test]
fn row_15_a_frame_larger_than_its_only_buffer_is_dropped_and_the_buffer_stays() {
    let (mut a, mut b) = guests(PLAIN);
    b.post(&[100]);
    a.send_all(&[frame(1, 2, 89)]);
    assert!(b.buffers().is_empty());
    assert_eq!(b.totals().receive.too_small, 1);
    a.send_all(&[frame(1, 2, 88)]);
    assert_eq!(b.got()[0].frame, frame(1, 2, 88), "the same buffer, whole");
}

#[test]
fn frames_of_a_neighbour_beyond_the_mtu_are_dropped() {
    let (mut a, mut b) = guests(MERGEABLE | net::MTU);
    b.port.update(|state| state.mtu = 1000);
    let most = 1000 + crate::port::ETHERNET_ROOM;
    b.post(&[2000]);
    a.send_all(&[frame(1, 2, most + 1)]);
    assert!(b.buffers().is_empty());
    assert_eq!(b.totals().receive.too_long, 1);
    a.send_all(&[frame(1, 2, most)]);
    assert!(b.got()[0].frame == frame(1, 2, most));
}

#[test]
fn frames_are_spread_over_as_many_buffers_as_they_need() {
    for packed in [0, ring::RING_PACKED, ring::IN_ORDER] {
        let (mut a, mut b) = guests(MERGEABLE | packed);
        for len in [14, 88, 89, 187, 188, 189, 300, 301, 900, 2500] {
            let buffers = (len + 12_usize).div_ceil(100);
            for _ in 0..buffers + 1 {
                b.post(&[40, 60]);
            }
            a.send_all(&[frame(1, 2, len)]);
            let used = b.buffers();
            assert_eq!(used.len(), buffers, "{len}: the last one is left");
            let count = u16::from_le_bytes([used[0][10], used[0][11]]);
            assert_eq!(usize::from(count), buffers);
            assert_eq!(used.concat()[12..], frame(1, 2, len));
            for _ in 0..2 {
                // What was left takes the next frame.
                a.send_all(&[frame(1, 2, 50)]);
            }
            assert_eq!(b.got().len(), 1);
        }
    }
}

#[test]
fn too_few_buffers_for_a_frame_are_left_for_the_next() {
    for packed in [0, ring::RING_PACKED, ring::IN_ORDER] {
        let (mut a, mut b) = guests(MERGEABLE | packed);
        for _ in 0..3 {
            b.post(&[100]);
        }
        a.send_all(&[frame(1, 2, 300)]);
        assert!(b.buffers().is_empty(), "none is used in part");
        assert_eq!(b.totals().receive.starved, 1);
        b.post(&[100]);
        a.send_all(&[frame(1, 2, 300)]);
        let got = b.got();
        assert_eq!((got.len(), got[0].header.num_buffers.get()), (1, 4));
        assert_eq!(got[0].frame, frame(1, 2, 300));
    }
}

#[test]
fn buffers_too_small_for_any_frame_come_back_empty_and_the_next_is_used() {
    let (mut a, mut b) = guests(PLAIN);
    for len in [1, 11, 12, 25] {
        b.post(&[len]);
    }
    b.post(&[500]);
    a.send_all(&[frame(1, 2, 64)]);
    let buffers = b.buffers();
    assert_eq!(buffers.len(), 5);
    assert!(buffers[..4].iter().all(Vec::is_empty));
    assert_eq!(buffers[4][12..], frame(1, 2, 64));
    assert_eq!(b.totals().receive.bad_chains, 4);
}

#[test]
fn buffers_of_one_byte_are_merged_too() {
    let (mut a, mut b) = guests(MERGEABLE);
    for _ in 0..60 {
        b.post(&[1]);
    }
    a.send_all(&[frame(1, 2, 40)]);
    let bytes = b.buffers();
    assert_eq!(bytes.len(), 52);
    assert_eq!(bytes.concat()[10..12], [52, 0]);
    assert_eq!(bytes.concat()[12..], frame(1, 2, 40));
}

/// What one frame of `len` bytes from `a` made the device look at.
fn looks_for(a: &mut Guest, len: usize) -> usize {
    let before = LOOKED_AT.get();
    a.send_all(&[frame(1, 2, len)]);
    LOOKED_AT.get() - before
}

#[test]
fn the_look_for_tiny_buffers_passes_each_at_most_twice() {
    let switch = Arc::new(Switch::new("test"));
    let mut a = Guest::on_switch(&switch, 1, MERGEABLE);
    let mut b = Guest::with_rings(&switch, 2, MERGEABLE, 1024);
    for _ in 0..1024 {
        b.post(&[1]);
    }
    // Nothing is held at first; later the rest of a batch is.
    for len in [500, 200, 200] {
        let chains = len + 12;
        let steps = looks_for(&mut a, len);
        assert!(
            (chains..=2 * chains + 64).contains(&steps),
            "{len}: {steps}"
        );
        let buffers = b.buffers();
        assert_eq!(buffers.len(), chains);
        assert_eq!(buffers.concat()[12..], frame(1, 2, len));
    }
    // Too few are left: after the one short wait for more, each frame costs one look.
    looks_for(&mut a, 1000);
    for _ in 0..3 {
        let steps = looks_for(&mut a, 1000);
        assert!(steps <= 2 * 1024, "{steps}");
    }
    assert!(b.buffers().is_empty());
}

#[test]
fn a_frame_is_not_spread_over_any_number_of_tiny_buffers() {
    let switch = Arc::new(Switch::new("test"));
    let mut a = Guest::on_switch(&switch, 1, MERGEABLE);
    let mut b = Guest::with_rings(&switch, 2, MERGEABLE, 4096);
    for _ in 0..4000 {
        b.post(&[1]);
    }
    let steps = looks_for(&mut a, MAX_PARTS);
    assert!(steps <= MAX_PARTS + 64, "{steps}");
    assert_eq!(b.totals().receive.too_small, 1);
    assert!(b.buffers().is_empty());
    looks_for(&mut a, MAX_PARTS - 12);
    assert_eq!(b.buffers().concat()[12..], frame(1, 2, MAX_PARTS - 12));
}

#[test]
fn readable_parts_of_a_receive_buffer_are_not_written_to() {
    for features in [PLAIN, MERGEABLE] {
        let (mut a, mut b) = guests(features);
        let readable = b.room(64);
        let writable = b.room(500);
        b.post_parts(&[readable], &[writable]);
        b.post_parts(&[readable], &[]);
        b.post(&[500]);
        a.send_all(&[frame(1, 2, 64), frame(1, 2, 65)]);
        let buffers = b.buffers();
        assert_eq!(buffers.len(), 3);
        assert_eq!(buffers[0][12..], frame(1, 2, 64));
        assert!(buffers[1].is_empty(), "nothing to write to");
        assert_eq!(buffers[2][12..], frame(1, 2, 65));
        let mut bytes = [0; 64];
        b.memory.read(readable.addr, &mut bytes).expect("memory");
        assert_eq!(bytes, [CANARY; 64]);
    }
}

#[test]
fn row_32_buffers_that_are_no_memory_cost_a_frame_and_nothing_else() {
    for features in [PLAIN, MERGEABLE, PLAIN | ring::RING_PACKED] {
        let (mut a, mut b) = guests(features);
        let end = BORDER + REGION;
        let mut bad = 0;
        for addr in [0, 0x1000, end, end - 50, u64::MAX - 600] {
            b.post_parts(&[], &[Segment { addr, len: 500 }]);
            b.post(&[500]);
            bad += 1;
        }
        for _ in 0..2 * bad {
            a.send_all(&[frame(1, 2, 64)]);
        }
        let buffers = b.buffers();
        assert_eq!(buffers.len(), 2 * bad);
        assert_eq!(
            buffers.iter().filter(|buffer| buffer.is_empty()).count(),
            bad
        );
        assert_eq!(b.totals().receive.bad_chains, bad as u64);
        assert_eq!(b.totals().receive.frames, bad as u64);
    }
}

#[test]
fn row_25_a_flood_while_the_receiver_starves_is_dropped_and_it_recovers() {
    let (mut a, mut b) = guests(MERGEABLE);
    for _ in 0..20 {
        for _ in 0..50 {
            a.queue_frame(&virtio_spec::net::Header::default(), &frame(1, 2, 60));
        }
        a.run();
        a.recycle();
    }
    assert_eq!((a.sent, b.totals().receive.starved), (1000, 1000));
    for _ in 0..64 {
        b.post(&[256]);
    }
    let frames: Vec<Vec<u8>> = (0..64).map(|nth| frame(1, 2, 60 + nth)).collect();
    a.send_all(&frames);
    let got: Vec<Vec<u8>> = b.got().into_iter().map(|got| got.frame).collect();
    assert!(got == frames);
    assert_eq!(b.totals().receive.starved, 1000);
}

#[test]
fn a_starved_receiver_is_waited_for_once() {
    let (mut a, b) = guests(MERGEABLE);
    let start = std::time::Instant::now();
    for _ in 0..200 {
        a.send_all(&[frame(1, 2, 60)]);
        a.recycle();
    }
    let spent = start.elapsed();
    assert_eq!(b.totals().receive.starved, 200);
    assert!(spent < std::time::Duration::from_millis(500), "{spent:?}");
}

#[test]
fn frames_that_the_driver_does_not_want_use_no_buffer() {
    let (mut a, mut b) = guests(MERGEABLE);
    b.port.update(|state| {
        state.receive.modes.promiscuous = false;
        state.receive.modes.no_broadcast = true;
    });
    b.post(&[500]);
    let mut broadcast = frame(1, 2, 60);
    broadcast[..6].fill(0xff);
    a.send_all(&[broadcast, frame(1, 9, 60)]);
    assert!(b.buffers().is_empty());
    assert_eq!(b.totals().receive.filtered, 2);
    b.port.update(|state| state.link_up = false);
    a.send_all(&[frame(1, 2, 60)]);
    assert_eq!(b.totals().receive.link_down, 1);
    b.port.update(|state| state.link_up = true);
    a.send_all(&[frame(1, 2, 60)]);
    assert_eq!(b.got().len(), 1);
}
