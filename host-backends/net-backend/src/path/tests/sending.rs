//! Chains of the transmit queue in every shape.

use std::sync::Arc;

use virtio_spec::feature as ring;
use virtio_spec::net::Header;
use virtio_spec::net::feature as net;
use virtqueue::Segment;
use zerocopy::IntoBytes;

use crate::path::tests::rig::BORDER;
use crate::path::tests::rig::Guest;
use crate::path::tests::rig::MERGEABLE;
use crate::path::tests::rig::PLAIN;
use crate::path::tests::rig::REGION;
use crate::path::tests::rig::frame;
use crate::switch::Switch;

fn guests(a: u64, b: u64) -> (Guest, Guest) {
    let switch = Arc::new(Switch::new("test"));
    let a = Guest::on_switch(&switch, 1, a);
    (a, Guest::on_switch(&switch, 2, b))
}

/// A frame with a plain header of `size` bytes.
fn with_header(size: usize, frame: &[u8]) -> Vec<u8> {
    let mut bytes = Header::default().as_bytes().to_vec();
    bytes.resize(size, 0);
    bytes.extend_from_slice(frame);
    bytes
}

#[test]
fn row_8_headers_of_each_size_meet_each_other() {
    for packed in [0, ring::RING_PACKED, ring::RING_PACKED | ring::IN_ORDER] {
        for from in [0, net::HASH_REPORT] {
            for to in [0, net::HASH_REPORT] {
                for mergeable in [0, net::MRG_RXBUF] {
                    let (mut a, mut b) =
                        guests(PLAIN | packed | from, PLAIN | packed | to | mergeable);
                    for len in [14, 60, 300, 301, 1514] {
                        b.post(&[2000]);
                        a.send_all(&[frame(1, 2, len)]);
                        let got = b.got();
                        assert_eq!(got.len(), 1);
                        assert_eq!(got[0].frame, frame(1, 2, len));
                        assert_eq!(got[0].header.num_buffers.get(), 1);
                        assert!(
                            got[0].hash.iter().all(|byte| *byte == 0),
                            "no hash was set up"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn row_37_a_header_split_at_any_byte_is_read() {
    for features in [PLAIN, PLAIN | net::HASH_REPORT] {
        let (mut a, mut b) = guests(features, MERGEABLE);
        let size = if features & net::HASH_REPORT == 0 {
            12
        } else {
            20
        };
        let sent = frame(1, 2, 400);
        let bytes = with_header(size, &sent);
        let mut expected = 0;
        for first in 1..size + 16 {
            for second in [1, 2, 7] {
                let (head, rest) = bytes.split_at(first);
                let (middle, rest) = rest.split_at(second);
                let parts = [head, middle, rest].map(|part| a.place(part));
                b.post(&[512]);
                a.queue_chain(&parts, &[]);
                a.run();
                expected += 1;
                let got = b.got();
                assert_eq!((a.sent, got.len()), (expected, 1), "{first} {second}");
                assert_eq!(got[0].frame, sent);
            }
        }
    }
}

#[test]
fn row_37_a_frame_in_pieces_of_one_byte_is_read() {
    let (mut a, mut b) = guests(PLAIN, MERGEABLE);
    let sent = frame(1, 2, 48);
    let bytes = with_header(12, &sent);
    let parts: Vec<Segment> = bytes.iter().map(|byte| a.place(&[*byte])).collect();
    b.post(&[512]);
    a.queue_chain(&parts, &[]);
    a.run();
    assert_eq!(b.got()[0].frame, sent);
}

#[test]
fn row_37_a_chain_shorter_than_header_and_frame_is_dropped() {
    let (mut a, mut b) = guests(PLAIN, MERGEABLE);
    b.post(&[512]);
    for len in 1..26 {
        let part = a.place(&with_header(12, &frame(1, 2, 20))[..len]);
        a.queue_chain(&[part], &[]);
        a.run();
    }
    assert_eq!((a.sent, a.totals().transmit.bad_lengths), (25, 25));
    a.send_all(&[frame(1, 2, 14)]);
    assert_eq!(b.got().len(), 1, "the queue goes on");
}

#[test]
fn row_23_a_frame_across_two_regions_is_sent_whole() {
    let (mut a, mut b) = guests(PLAIN, MERGEABLE);
    let sent = frame(1, 2, 1000);
    let bytes = with_header(12, &sent);
    for before in [1, 5, 11, 12, 13, 300, 320, 511, 1011] {
        let addr = BORDER - before;
        a.memory.write(addr, &bytes).expect("memory");
        b.post(&[1500]);
        a.queue_chain(
            &[Segment {
                addr,
                len: bytes.len() as u32,
            }],
            &[],
        );
        a.run();
        assert_eq!(b.got()[0].frame, sent, "{before}");
    }
}

#[test]
fn row_32_addresses_that_are_no_memory_cost_their_frame_and_nothing_else() {
    let (mut a, mut b) = guests(PLAIN, MERGEABLE);
    let sent = frame(1, 2, 600);
    let bytes = with_header(12, &sent);
    for _ in 0..16 {
        b.post(&[1024]);
    }
    let hole = |addr| Segment { addr, len: 612 };
    let end = BORDER + REGION;
    let mut bad = 0;
    for addr in [
        0,
        0x1000,
        end,
        end - 100,
        end - 611,
        u64::MAX - 700,
        u64::MAX - 100,
    ] {
        a.queue_chain(&[hole(addr)], &[]);
        let good = a.place(&bytes);
        a.queue_chain(&[good], &[]);
        bad += 1;
    }
    // Only what lies behind the first bytes is missing.
    let head = a.place(&bytes[..400]);
    a.queue_chain(&[head, hole(end)], &[]);
    a.run();
    assert_eq!(a.sent, 2 * bad + 1);
    let got = b.got();
    assert_eq!(got.len(), bad);
    assert!(got.iter().all(|got| got.frame == sent));
    let lost = a.totals().transmit.bad_chains + b.totals().receive.bad_sources;
    assert_eq!(lost, bad as u64 + 1);
}

#[test]
fn a_chain_with_parts_to_write_to_is_dropped_and_not_written_to() {
    let (mut a, mut b) = guests(PLAIN, MERGEABLE);
    b.post(&[512]);
    let readable = a.place(&with_header(12, &frame(1, 2, 64)));
    let writable = a.room(64);
    a.queue_chain(&[readable], &[writable]);
    a.queue_chain(&[], &[writable]);
    a.run();
    assert_eq!((a.sent, a.totals().transmit.bad_chains), (2, 2));
    assert!(b.got().is_empty());
    a.send_all(&[frame(1, 2, 64)]);
    assert_eq!(b.got().len(), 1);
}

#[test]
fn frames_of_every_size_arrive_as_they_were_sent() {
    let (mut a, mut b) = guests(MERGEABLE, MERGEABLE);
    let lengths = (14..700)
        .chain(1490..1530)
        .chain([9014, 65_535, 65_549, 65_557]);
    for len in lengths {
        let sent = frame(1, 2, len);
        let buffers = (len + 12).div_ceil(2048);
        for _ in 0..buffers {
            b.post(&[2048]);
        }
        a.send_all(std::slice::from_ref(&sent));
        let got = b.got();
        assert_eq!(got.len(), 1, "{len}");
        assert_eq!(usize::from(got[0].header.num_buffers.get()), buffers);
        assert!(got[0].frame == sent, "{len}");
        a.recycle();
        b.recycle();
    }
    let too_long = frame(1, 2, 65_558);
    a.send_all(&[too_long]);
    assert_eq!(a.totals().transmit.bad_lengths, 1);
}

#[test]
fn a_ring_of_more_frames_than_a_burst_is_emptied_in_order() {
    for packed in [0, ring::RING_PACKED, ring::IN_ORDER] {
        let (mut a, mut b) = guests(PLAIN | packed, PLAIN | packed);
        for round in 0..10 {
            for _ in 0..64 {
                b.post(&[256]);
            }
            let frames: Vec<Vec<u8>> = (0..64).map(|nth| frame(1, 2, 20 + nth + round)).collect();
            a.send_all(&frames);
            let got: Vec<Vec<u8>> = b.got().into_iter().map(|got| got.frame).collect();
            assert!(got == frames);
        }
        assert_eq!(a.sent, 640);
    }
}
