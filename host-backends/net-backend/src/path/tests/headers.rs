//! Every header field against every frame length: what passes is true of the frame.

use net_link::Offloads;
use virtio_spec::net::Header;
use virtio_spec::net::feature as net;

use crate::MacAddress;
use crate::path::header::Lie;
use crate::path::header::Rules;
use crate::path::tests::rig::Guest;
use crate::path::tests::rig::MERGEABLE;
use crate::path::tests::rig::OFFLOADS;
use crate::path::tests::rig::frame;
use crate::port::PortState;
use crate::switch::Switch;

fn rules(offloads: Offloads, mtu: u16) -> Rules {
    let mut state = PortState::new(MacAddress([2, 0, 0, 0, 0, 1]));
    state.mtu = mtu;
    let mut rules = Rules::new(&state);
    rules.offloads = offloads;
    rules
}

fn header(flags: u8, gso_type: u8, numbers: [u16; 4]) -> Header {
    let [hdr_len, gso_size, csum_start, csum_offset] = numbers;
    Header {
        flags,
        gso_type,
        hdr_len: hdr_len.into(),
        gso_size: gso_size.into(),
        csum_start: csum_start.into(),
        csum_offset: csum_offset.into(),
        num_buffers: 0xffff.into(),
    }
}

/// What any receiver may rely on.
fn assert_sound(header: &Header, len: usize, offloads: Offloads) {
    assert!((14..=65_557).contains(&len));
    assert_eq!(header.num_buffers.get(), 0);
    assert_eq!(header.flags & !1, 0, "flags of other features");
    let [start, offset] = [header.csum_start.get(), header.csum_offset.get()].map(usize::from);
    if header.flags == 1 {
        assert!(offloads.csum && start >= 14 && start + offset + 2 <= len);
    } else {
        assert_eq!((start, offset), (0, 0));
    }
    let kind = match header.gso_type {
        0 => {
            assert_eq!((header.gso_size.get(), header.hdr_len.get()), (0, 0));
            return;
        }
        1 => offloads.tso4,
        4 => offloads.tso6,
        5 => offloads.uso,
        0x81 => offloads.tso4 && offloads.ecn,
        0x84 => offloads.tso6 && offloads.ecn,
        _ => false,
    };
    assert!(kind && header.flags == 1 && header.gso_size.get() >= 8);
    assert!(usize::from(header.hdr_len.get()) <= len);
}

#[test]
fn row_38_every_combination_of_offload_fields_is_true_of_the_frame_or_refused() {
    let lengths = [0_u16, 13, 14, 15, 54, 60, 1514, 9014, 65_535];
    let without_ecn = Offloads {
        ecn: false,
        ..Offloads::ALL
    };
    let mut passed = 0;
    for offloads in [Offloads::ALL, Offloads::NONE, without_ecn] {
        let rules = rules(offloads, 1500);
        for len in lengths {
            let edges = [
                0,
                14,
                34,
                len.saturating_sub(2),
                len,
                len.saturating_add(1),
                0xffff,
            ];
            for gso_type in 0..=255 {
                for flags in [0, 1, 2, 5, 0xff] {
                    for start in edges {
                        for (offset, size, hdr_len) in [
                            (0, 1448, 54),
                            (16, 0, 0),
                            (6, 7, 42),
                            (0xffff, 8, 0xffff),
                            (16, 0xffff, len),
                            (16, 1448, len.saturating_add(1)),
                        ] {
                            let header = header(flags, gso_type, [hdr_len, size, start, offset]);
                            let len = usize::from(len);
                            if let Ok(checked) = rules.check(&header, len) {
                                assert_sound(&checked, len, offloads);
                                passed += 1;
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(passed > 1000, "{passed} passed");
}

#[test]
fn frames_of_every_length_pass_only_between_ethernet_header_and_limit() {
    let large = header(1, 1, [54, 1448, 34, 16]);
    for mtu in [68, 1500, 9000, 65_535] {
        let rules = rules(Offloads::ALL, mtu);
        let most = (usize::from(mtu) + 22).min(65_557);
        for len in 0..=65_570 {
            let plain = rules.check(&Header::default(), len);
            assert_eq!(plain.is_ok(), (14..=most).contains(&len), "{mtu} {len}");
            let cut = rules.check(&large, len);
            // The checksum's place has to be in the frame.
            assert_eq!(cut.is_ok(), (52..=65_557).contains(&len), "{mtu} {len}");
        }
    }
}

#[test]
fn a_frame_beyond_the_mtu_is_refused_unless_it_is_to_be_cut() {
    let rules = rules(Offloads::ALL, 1500);
    assert_eq!(rules.check(&Header::default(), 1523), Err(Lie::Length));
    assert!(rules.check(&Header::default(), 1522).is_ok());
    assert!(rules.check(&header(1, 1, [54, 1448, 34, 16]), 9000).is_ok());
}

#[test]
fn segmentation_without_its_parts_is_refused() {
    let rules = rules(Offloads::ALL, 1500);
    let bad = [
        (header(0, 1, [54, 1448, 34, 16]), Lie::Segmentation),
        (header(1, 1, [54, 0, 34, 16]), Lie::Segmentation),
        (header(1, 3, [54, 1448, 34, 16]), Lie::Offload),
        (header(1, 0x85, [54, 1448, 34, 6]), Lie::Offload),
        (header(1, 0x20, [54, 1448, 34, 16]), Lie::Offload),
        (header(1, 0x61, [54, 1448, 34, 16]), Lie::Offload),
    ];
    for (header, lie) in bad {
        assert_eq!(rules.check(&header, 9000), Err(lie), "{header:?}");
    }
}

#[test]
fn the_ecn_bit_alone_and_a_wrong_header_length_cost_no_frame() {
    for offloads in [Offloads::ALL, Offloads::NONE] {
        let alone = header(0, 0x80, [54, 1448, 34, 16]);
        let checked = rules(offloads, 1500).check(&alone, 1514);
        assert_eq!(checked, Ok(Header::default()));
        assert_eq!(
            rules(offloads, 1500).check(&alone, 1523),
            Err(Lie::Length),
            "it is not to be cut"
        );
    }
    let rules = rules(Offloads::ALL, 1500);
    let summed = rules.check(&header(1, 0x80, [54, 1448, 34, 16]), 1514);
    let summed = summed.expect("a checksum to complete");
    assert_eq!((summed.flags, summed.gso_type), (1, 0));
    for hdr_len in [0, 1, 54, 9000, 9001, 0xffff] {
        let checked = rules.check(&header(1, 1, [hdr_len, 1448, 34, 16]), 9000);
        let checked = checked.expect("a frame to cut");
        assert_eq!(checked.hdr_len.get(), hdr_len.min(9000));
    }
}

/// Frames with lies among good ones: these arrive, those are counted, all chains come back.
#[test]
fn row_38_a_lie_costs_its_frame_and_nothing_else() {
    let switch = std::sync::Arc::new(Switch::new("test"));
    let mut a = Guest::on_switch(&switch, 1, MERGEABLE | OFFLOADS);
    let mut b = Guest::on_switch(&switch, 2, MERGEABLE | OFFLOADS);
    for _ in 0..16 {
        b.post(&[2048]);
    }
    let lies = [
        header(1, 0, [0, 0, 0xffff, 0]),
        header(1, 0, [0, 0, 34, 0xffff]),
        header(1, 0, [0, 0, 99, 0]),
        header(1, 1, [54, 0, 34, 16]),
        header(0, 1, [54, 1448, 34, 16]),
        header(1, 3, [54, 1448, 34, 16]),
        header(1, 0x20, [54, 1448, 34, 16]),
        header(1, 0xff, [54, 1448, 34, 16]),
    ];
    let plain = frame(1, 2, 100);
    for lie in &lies {
        a.queue_frame(lie, &plain);
        a.queue_frame(&Header::default(), &plain);
    }
    a.run();
    assert_eq!(a.sent, 2 * lies.len());
    assert_eq!(a.totals().transmit.bad_headers, lies.len() as u64);
    let got = b.got();
    assert_eq!(got.len(), lies.len());
    assert!(got.iter().all(|got| got.frame == plain));
}

#[test]
fn offloads_that_were_not_negotiated_are_refused() {
    let switch = std::sync::Arc::new(Switch::new("test"));
    let mut a = Guest::on_switch(&switch, 1, MERGEABLE | net::CSUM);
    let mut b = Guest::on_switch(&switch, 2, MERGEABLE | OFFLOADS);
    b.post(&[4096]);
    for gso_type in [1, 4, 5, 0x81] {
        a.queue_frame(&header(1, gso_type, [54, 1448, 34, 16]), &frame(1, 2, 2000));
    }
    a.queue_frame(&header(1, 0, [0, 0, 34, 16]), &frame(1, 2, 2000));
    a.run();
    assert_eq!((a.sent, a.totals().transmit.bad_headers), (5, 4));
    let got = b.got();
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].header, header(1, 0, [0, 0, 34, 16]).with_buffers(1));
}

trait WithBuffers {
    fn with_buffers(self, count: u16) -> Self;
}

impl WithBuffers for Header {
    fn with_buffers(mut self, count: u16) -> Self {
        self.num_buffers = count.into();
        self
    }
}
