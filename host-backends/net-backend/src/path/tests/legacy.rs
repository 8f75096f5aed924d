//! Drivers of every kind side by side: the header has 10, 12 or 20 bytes by what was negotiated, and all of them talk.

use std::sync::Arc;

use host_os::sync::lock;
use net_link::Offloads;
use virtio_spec::net::Header;
use virtio_spec::net::feature as net;
use virtio_spec::net::header_size;
use zerocopy::IntoBytes;

use crate::path::tests::rig::FakeLink;
use crate::path::tests::rig::Guest;
use crate::path::tests::rig::LEGACY;
use crate::path::tests::rig::MERGEABLE;
use crate::path::tests::rig::OFFLOADS;
use crate::path::tests::rig::PLAIN;
use crate::path::tests::rig::frame;
use crate::path::tests::rig::large_frame;
use crate::switch::Switch;

/// What drivers accept that has a say in the header, and the size of theirs.
const DRIVERS: [(u64, usize); 7] = [
    (LEGACY, 10),
    (LEGACY | net::MRG_RXBUF, 12),
    (PLAIN, 12),
    (MERGEABLE, 12),
    (PLAIN | net::HASH_REPORT, 20),
    (MERGEABLE | net::HASH_REPORT, 20),
    (LEGACY | net::MRG_RXBUF | net::HASH_REPORT, 20),
];

/// `num_buffers` that a driver sees.
fn buffers(size: usize) -> u16 {
    u16::from(size > 10)
}

#[test]
fn every_kind_of_driver_sends_to_every_kind_by_a_switch() {
    for (sends, sent_size) in DRIVERS {
        for (receives, got_size) in DRIVERS {
            assert_eq!(
                (header_size(sends), header_size(receives)),
                (sent_size, got_size)
            );
            let switch = Arc::new(Switch::new("test"));
            let mut a = Guest::on_switch(&switch, 1, sends);
            let mut b = Guest::on_switch(&switch, 2, receives);
            for len in [14, 15, 60, 298, 299, 300, 301, 302, 311, 1514] {
                b.post(&[2048]);
                a.send_all(&[frame(1, 2, len)]);
                let got = b.got();
                assert_eq!(got.len(), 1, "{sends:#x} to {receives:#x}, {len} bytes");
                assert_eq!(got[0].frame, frame(1, 2, len));
                assert_eq!(got[0].header.flags, 0);
                assert_eq!(got[0].header.num_buffers.get(), buffers(got_size));
            }
        }
    }
}

#[test]
fn a_header_of_any_size_may_be_split_at_any_byte_in_either_direction() {
    for (features, size) in DRIVERS {
        let switch = Arc::new(Switch::new("test"));
        let mut a = Guest::on_switch(&switch, 1, features);
        let mut b = Guest::on_switch(&switch, 2, features);
        for at in 1..size + 14 {
            // A legacy driver gives the header a descriptor of its own (sec. 5.1.6.6).
            let bytes = a.with_header(&Header::default(), &frame(1, 2, 200));
            let (first, second) = bytes.split_at(at);
            let parts = [a.place(first), a.place(second)];
            a.queue_chain(&parts, &[]);
            b.post(&[at, 400]);
            a.run();
            let got = b.got();
            assert_eq!(got.len(), 1, "{features:#x} at {at}");
            assert_eq!(got[0].frame, frame(1, 2, 200), "{features:#x} at {at}");
        }
        // Too short for a header and an address.
        for len in 0..size + 14 {
            let before = a.totals().transmit.bad_lengths;
            let part = a.place(&vec![0; len.max(1)]);
            a.queue_chain(&[part], &[]);
            a.run();
            assert_eq!(a.totals().transmit.bad_lengths, before + 1, "{len}");
        }
    }
}

#[test]
fn used_lengths_count_the_header_that_was_negotiated() {
    for (features, size) in DRIVERS {
        let switch = Arc::new(Switch::new("test"));
        let mut a = Guest::on_switch(&switch, 1, PLAIN);
        let mut b = Guest::on_switch(&switch, 2, features);
        for len in [14, 60, 301, 1000] {
            b.post(&[size + len]);
            a.send_all(&[frame(1, 2, len)]);
            assert_eq!(b.buffers()[0].len(), size + len, "exactly full");
        }
        if features & net::MRG_RXBUF == 0 {
            b.post(&[size + 59]);
            a.send_all(&[frame(1, 2, 60)]);
            assert_eq!(b.totals().receive.too_small, 1);
        }
    }
}

#[test]
fn checksums_and_large_frames_reach_drivers_of_every_kind() {
    for (features, size) in DRIVERS {
        let switch = Arc::new(Switch::new("test"));
        let mut a = Guest::on_switch(&switch, 1, LEGACY | OFFLOADS);
        let mut b = Guest::on_switch(&switch, 2, features | OFFLOADS);
        let mut c = Guest::on_switch(&switch, 3, features);
        let (header, mut large) = large_frame(1, 2);
        for _ in 0..4 {
            b.post(&[4096]);
            c.post(&[2048]);
        }
        a.queue_frame(&header, &large);
        large[5] = 3;
        a.queue_frame(&header, &large);
        a.run();
        let whole = b.got();
        assert_eq!(whole.len(), 1, "{features:#x}");
        assert_eq!(whole[0].frame, large_frame(1, 2).1);
        let mut seen = whole[0].header;
        assert_eq!(seen.num_buffers.get(), buffers(size));
        seen.num_buffers = 0.into();
        assert_eq!(seen, header);
        let cut: Vec<usize> = c.got().iter().map(|got| got.frame.len()).collect();
        assert_eq!(cut, [1054; 3], "{features:#x}");
    }
}

#[test]
fn every_kind_of_driver_works_on_a_link_whose_header_has_12_bytes() {
    for (features, size) in DRIVERS {
        for offloads in [0, OFFLOADS] {
            let link = FakeLink::new(Offloads::ALL);
            let wire = Arc::clone(&link.wire);
            let mut guest = Guest::on_link(link, features | offloads);
            for len in [14, 60, 1000, 1514] {
                guest.send_all(&[frame(1, 9, len)]);
                let sent = std::mem::take(&mut lock(&wire).sent);
                assert_eq!(sent, [[&[0; 12][..], &frame(1, 9, len)].concat()]);
                let arrived = [Header::default().as_bytes(), &frame(9, 1, len)].concat();
                for at in [1, size - 1, size, size + 1, size + 14] {
                    lock(&wire).waiting.push_back(arrived.clone());
                    guest.post(&[at, size + len - at + 1]);
                    guest.run();
                    let got = guest.got();
                    assert_eq!(got.len(), 1, "{features:#x}, {len} bytes, split at {at}");
                    assert_eq!(got[0].frame, frame(9, 1, len), "{features:#x} at {at}");
                    assert_eq!(got[0].header.num_buffers.get(), buffers(size));
                }
            }
        }
    }
}

#[test]
fn a_legacy_driver_gets_offloads_from_a_link_and_frames_for_which_it_has_no_room_are_dropped() {
    let link = FakeLink::new(Offloads::ALL);
    let wire = Arc::clone(&link.wire);
    let mut guest = Guest::on_link(link, LEGACY | OFFLOADS);
    let (header, large) = large_frame(9, 1);
    let arrived = [header.as_bytes(), &large].concat();
    for _ in 0..2 {
        lock(&wire).waiting.push_back(arrived.clone());
    }
    guest.post(&[1000]);
    guest.run();
    assert_eq!(guest.totals().receive.too_small, 2);
    lock(&wire).waiting.push_back(arrived);
    guest.recycle_all();
    guest.run();
    assert!(guest.buffers().is_empty());
    assert_eq!(guest.totals().receive.too_small, 3);
    // The buffer that was too small for these is the next small frame's.
    let small = [Header::default().as_bytes(), &frame(9, 1, 60)].concat();
    lock(&wire).waiting.push_back(small);
    guest.run();
    assert_eq!(guest.got()[0].frame, frame(9, 1, 60));
    lock(&wire)
        .waiting
        .push_back([header.as_bytes(), &large].concat());
    guest.post(&[4096]);
    guest.run();
    let got = guest.got();
    assert_eq!(got[0].frame, large);
    assert_eq!(got[0].header, header);
}
