//! The network driver with a device that keeps the rules.
//!
//! Rule: what arrives is what was sent, to the byte, in every ring format and with every way to lay out buffers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod rig;

use driver_fakes::FakeBuffer;
use driver_fakes::FakeInterrupts;
use driver_fakes::FakePlatform;
use driver_fakes::NetHabits;
use driver_fakes::Random;
use net_driver::Checksum;
use net_driver::ChecksumAt;
use net_driver::Coalescing;
use net_driver::Command;
use net_driver::CommandError;
use net_driver::ConfigChange;
use net_driver::Duplex;
use net_driver::NetDriver;
use net_driver::Offload;
use net_driver::Options;
use net_driver::ReceiveMode;
use net_driver::Refusal;
use net_driver::RssConfig;
use net_driver::SegmentKind;
use net_driver::Segmentation;
use rig::*;
use virtio_spec::feature;
use virtio_spec::net;
use virtio_spec::net::Header;
use virtio_spec::net::feature::*;
use virtio_spec::net::gso;
use virtio_spec::net::header_flags;
use virtio_spec::net::rss::hash_type;

/// Features of a frame's way, each of which changes how buffers look.
fn way_sets() -> [u64; 4] {
    [
        NET_FEATURES,
        NET_FEATURES & !MRG_RXBUF,
        NET_FEATURES & !HASH_REPORT,
        NET_FEATURES & !(HASH_REPORT | MRG_RXBUF),
    ]
}

#[test]
fn frames_of_all_sizes_pass_both_ways_in_every_ring_format() {
    for ring in ring_feature_sets() {
        for way in way_sets() {
            let mut rig = rig(ring ^ way, ring | way);
            let (len, count) = match way & MRG_RXBUF {
                0 => (65609, 1),
                _ => (2048, 30),
            };
            for size in [14, 15, 60, 500, 1514] {
                rig.post(0, 1, len, 1);
                assert!(rig.deliver(0, Header::default(), &frame(size, 1)));
                let got = rig.got(0);
                assert_eq!(got.frame.unwrap().len as usize, size);
                assert_eq!(got.frame.unwrap().hash.is_some(), way & HASH_REPORT != 0);
                assert_eq!((got.bytes, got.cookies), (frame(size, 1), vec![1]));
                let sent = rig.transmit[0].submit(&rig.platform, send(frame(size, 2), 2));
                sent.map_err(|rejected| rejected.reason).unwrap();
                rig.transmit[0].kick();
                rig.device.serve();
                assert_eq!(rig.device.sent.pop_front().unwrap().frame, frame(size, 2));
                let back = rig.transmit[0].poll(&rig.platform).unwrap().unwrap();
                assert_eq!((back.cookie, back.taken), (2, true));
                assert_eq!(back.buffer.data, frame(size, 2));
            }
            let ring_can = ring & feature::RING_INDIRECT_DESC != 0;
            if ring_can {
                rig.post(0, count, len, 10);
                let header = Header {
                    flags: header_flags::NEEDS_CSUM,
                    gso_type: gso::TCPV4,
                    gso_size: 1448.into(),
                    csum_start: 34.into(),
                    csum_offset: 16.into(),
                    ..Header::default()
                };
                let large = frame(50_000, 3);
                assert!(rig.deliver(0, header, &large));
                let got = rig.got(0);
                assert_eq!(got.bytes, large);
                assert!(got.frame.unwrap().segmentation.is_some());
                assert_eq!(got.cookies.len(), if count == 1 { 1 } else { 25 });
            }
            rig.finish();
        }
    }
}

#[test]
fn a_frame_at_every_border_of_small_buffers_arrives_whole() {
    for packed in [
        0,
        feature::RING_PACKED,
        feature::RING_PACKED | feature::IN_ORDER,
    ] {
        let mut rig = rig(5, NET_FEATURES | packed | feature::RING_INDIRECT_DESC);
        let size = rig.driver.info().buffer_min;
        for len in (size * 3 - 40..size * 3 + 40).chain([14, size - 20, size - 19]) {
            rig.post(0, 4, size, 0);
            assert!(rig.deliver(0, Header::default(), &frame(len, 9)));
            let got = rig.got(0);
            assert_eq!(got.bytes, frame(len, 9));
            let used = (len + 20).div_ceil(size);
            assert_eq!(got.cookies, (0..used as u64).collect::<Vec<_>>());
            rig.reset();
            rig.restart().unwrap();
        }
        rig.finish();
    }
}

#[test]
fn what_is_asked_of_the_device_stands_in_the_header() {
    let mut rig = rig(7, NET_FEATURES | feature::RING_INDIRECT_DESC);
    let kinds = [
        (SegmentKind::Tcp4, gso::TCPV4, 16),
        (SegmentKind::Tcp6, gso::TCPV6, 16),
        (SegmentKind::Udp, gso::UDP_L4, 6),
    ];
    for (kind, wire, offset) in kinds {
        for ecn in [false, true] {
            let mut request = send(frame(9000, 5), 1);
            request.offload = Offload {
                checksum: Some(ChecksumAt { start: 54, offset }),
                segmentation: Some(Segmentation {
                    kind,
                    size: 1400,
                    ecn,
                }),
                header_len: 74,
            };
            let sent = rig.transmit[0].submit(&rig.platform, request);
            if ecn && kind == SegmentKind::Udp {
                assert_eq!(sent.unwrap_err().reason, Refusal::BadOffload);
                continue;
            }
            sent.map_err(|rejected| rejected.reason).unwrap();
            rig.transmit[0].kick();
            rig.device.serve();
            let sent = rig.device.sent.pop_front().unwrap();
            let expected = Header {
                flags: header_flags::NEEDS_CSUM,
                gso_type: wire | if ecn { gso::ECN } else { 0 },
                hdr_len: 74.into(),
                gso_size: 1400.into(),
                csum_start: 54.into(),
                csum_offset: offset.into(),
                num_buffers: 0.into(),
            };
            assert_eq!(sent.header, expected);
            assert_eq!(sent.frame, frame(9000, 5));
            assert!(rig.transmit[0].poll(&rig.platform).unwrap().is_some());
        }
    }
    assert_eq!(rig.transmit[0].counters().large, 5);
    rig.finish();
}

#[test]
fn a_header_in_the_headroom_saves_a_descriptor() {
    for way in way_sets() {
        let mut rig = rig(7, way & !feature::RING_INDIRECT_DESC);
        let size = rig.driver.info().header_size;
        let mut request = send([vec![0xee; size], frame(400, 5)].concat(), 1);
        request.headroom = true;
        rig.transmit[0].submit(&rig.platform, request).unwrap();
        let free = rig.transmit[0].free_descriptors();
        assert_eq!(free, 31, "a piece of 412 bytes and nothing else");
        rig.transmit[0].kick();
        rig.device.serve();
        let sent = rig.device.sent.pop_front().unwrap();
        assert_eq!(
            (sent.header, sent.frame),
            (Header::default(), frame(400, 5))
        );
        let mut short = send(vec![0; size + 13], 2);
        short.headroom = true;
        let refused = rig.transmit[0].submit(&rig.platform, short).unwrap_err();
        assert_eq!(refused.reason, Refusal::TooSmall);
        let mut none = send(vec![0; size - 1], 2);
        none.headroom = true;
        let refused = rig.transmit[0].submit(&rig.platform, none).unwrap_err();
        assert_eq!(refused.reason, Refusal::TooSmall);
        assert!(rig.transmit[0].poll(&rig.platform).unwrap().is_some());
        rig.finish();
    }
}

#[test]
fn the_room_beyond_the_mtu_is_for_a_vlan_tag_alone() {
    let mut rig = rig(7, NET_FEATURES);
    assert_eq!(rig.driver.info().mtu, Some(1500));
    let size = rig.driver.info().header_size;
    for (len, kind, passes) in [
        (1514, [8, 0], true),
        (1515, [8, 0], false),
        (1518, [8, 0], false),
        (1515, [0x81, 0], true),
        (1518, [0x88, 0xa8], true),
        (1519, [0x81, 0], false),
    ] {
        let mut bytes = frame(len, 1);
        bytes[12..14].copy_from_slice(&kind);
        for headroom in [false, true] {
            let room = if headroom { size } else { 0 };
            let mut request = send([vec![0; room], bytes.clone()].concat(), 1);
            request.headroom = headroom;
            let sent = rig.transmit[0].submit(&rig.platform, request);
            let reason = sent.err().map(|rejected| rejected.reason);
            let expected = (!passes).then_some(Refusal::TooLarge);
            assert_eq!(reason, expected, "{len} {kind:?} {headroom}");
            if passes {
                rig.transmit[0].kick();
                rig.device.serve();
                assert_eq!(rig.device.sent.pop_front().unwrap().frame, bytes);
                assert!(rig.transmit[0].poll(&rig.platform).unwrap().is_some());
            }
        }
    }
    rig.finish();
}

#[test]
fn what_the_device_says_of_a_checksum_reaches_the_shell() {
    let mut rig = rig(7, NET_FEATURES);
    rig.post(0, 3, 2048, 0);
    let partial = Header {
        flags: header_flags::NEEDS_CSUM,
        csum_start: 34.into(),
        csum_offset: 6.into(),
        ..Header::default()
    };
    let valid = Header {
        flags: header_flags::DATA_VALID,
        ..Header::default()
    };
    let at = ChecksumAt {
        start: 34,
        offset: 6,
    };
    for (header, checksum) in [
        (partial, Checksum::Partial(at)),
        (valid, Checksum::Valid),
        (Header::default(), Checksum::Unknown),
    ] {
        assert!(rig.deliver(0, header, &frame(60, 1)));
        assert_eq!(rig.got(0).frame.unwrap().checksum, checksum);
    }
    rig.finish();
}

#[test]
fn pairs_beyond_those_in_use_take_nothing() {
    let mut rig = rig(7, NET_FEATURES);
    let refused = rig.transmit[1].submit(&rig.platform, send(frame(60, 1), 1));
    assert_eq!(refused.unwrap_err().reason, Refusal::Inactive);
    assert_eq!(rig.command(&Command::Pairs(2)).result, Ok(None));
    assert_eq!(rig.driver.active_pairs(), 2);
    rig.transmit[1]
        .submit(&rig.platform, send(frame(60, 1), 1))
        .unwrap();
    rig.transmit[1].kick();
    rig.device.serve();
    assert_eq!(rig.device.sent.pop_front().unwrap().pair, 1);
    assert!(rig.transmit[1].poll(&rig.platform).unwrap().is_some());
    // Fewer pairs hold from the moment when they are asked for (sec. 5.1.6.5.5).
    let control = rig.control.as_mut().unwrap();
    control.submit(&Command::Pairs(1), 9).unwrap();
    let refused = rig.transmit[1].submit(&rig.platform, send(frame(60, 1), 1));
    assert_eq!(refused.unwrap_err().reason, Refusal::Inactive);
    rig.device.serve();
    assert_eq!(
        rig.control
            .as_mut()
            .unwrap()
            .poll()
            .unwrap()
            .unwrap()
            .cookie,
        9
    );
    rig.post(1, 1, 2048, 4);
    assert!(rig.deliver(1, Header::default(), &frame(60, 2)));
    assert_eq!(rig.got(1).cookies, [4]);
    rig.reset();
    rig.restart().unwrap();
    assert_eq!(rig.driver.active_pairs(), 1, "a reset forgets the command");
    rig.finish();
}

#[test]
fn commands_reach_the_device_in_order_and_are_answered_one_by_one() {
    for ring in [0, feature::RING_PACKED, feature::RING_INDIRECT_DESC] {
        let mut rig = rig(7, NET_FEATURES | ring);
        let control = rig.control.as_mut().unwrap();
        let macs = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
        let table = Command::MacTable {
            unicast: &macs,
            multicast: &[[1, 0, 0x5e, 0, 0, 1]],
        };
        let rss = Command::Rss(RssConfig {
            hash_types: hash_type::TCPV4,
            unclassified: 0,
            table: &[0, 1],
            transmit_queues: 2,
            key: &[1; 40],
        });
        let commands = [
            Command::Receive(ReceiveMode::Promiscuous, true),
            table,
            Command::SetMac([2, 0, 0, 0, 0, 9]),
            Command::AddVlan(7),
            Command::RemoveVlan(7),
            rss,
            Command::GuestOffloads(GUEST_CSUM),
            Command::CoalesceReceive(Coalescing {
                max_packets: 8,
                max_usecs: 50,
            }),
        ];
        for (cookie, command) in commands.iter().enumerate() {
            control.submit(command, cookie as u64).unwrap();
        }
        assert_eq!(control.submit(&commands[0], 99), Err(Refusal::Busy));
        rig.device.serve();
        for cookie in 0..commands.len() as u64 {
            let answer = control.poll().unwrap().unwrap();
            assert_eq!((answer.cookie, answer.result), (cookie, Ok(None)));
        }
        assert!(control.poll().unwrap().is_none());
        assert_eq!(
            rig.driver.active_pairs(),
            2,
            "scaling sets the queues in use"
        );
        let given: Vec<(u8, u8)> = rig.device.commands.iter().map(|c| c.what).collect();
        assert_eq!(
            given,
            [
                (0, 0),
                (1, 0),
                (1, 1),
                (2, 0),
                (2, 1),
                (4, 1),
                (5, 0),
                (6, 1)
            ]
        );
        assert_eq!(rig.device.commands[1].payload.len(), 4 + 12 + 4 + 6);
        assert_eq!(rig.device.commands[5].payload.len(), 8 + 4 + 3 + 40);
        rig.finish();
    }
}

#[test]
fn coalescing_of_a_queue_can_be_read_back() {
    let mut rig = rig(7, NET_FEATURES);
    rig.device.coalescing = (16, 250);
    let answer = rig.command(&Command::ReadCoalescing(1));
    let expected = Coalescing {
        max_packets: 16,
        max_usecs: 250,
    };
    assert_eq!(answer.result, Ok(Some(expected)));
    rig.device.habits.ack = Some(1);
    let answer = rig.command(&Command::ReadCoalescing(1));
    assert_eq!(
        answer.result,
        Err(CommandError::Refused),
        "the values do not count then"
    );
    rig.finish();
}

#[test]
fn link_changes_speed_and_announcements_are_noticed() {
    let mut rig = rig(7, NET_FEATURES);
    let link = rig.driver.info().link;
    assert_eq!((link.up, link.speed), (true, Some(10_000)));
    assert_eq!(link.duplex, Some(Duplex::Full));
    assert_eq!(rig.driver.info().mac, Some(ADDRESS));
    assert_eq!(rig.driver.info().mtu, Some(1500));
    let nothing = rig.driver.config_changed(&rig.platform).unwrap();
    assert_eq!(nothing, ConfigChange::default());
    rig.device.set_status(0);
    let change = rig.driver.config_changed(&rig.platform).unwrap();
    assert!(!change.link.unwrap().up);
    rig.device
        .set_status(net::status::LINK_UP | net::status::ANNOUNCE);
    let change = rig.driver.config_changed(&rig.platform).unwrap();
    assert!(change.link.unwrap().up && change.announce);
    assert_eq!(rig.command(&Command::AnnounceAck).result, Ok(None));
    rig.device.set_status(net::status::LINK_UP);
    let change = rig.driver.config_changed(&rig.platform).unwrap();
    assert_eq!(change, ConfigChange::default());
    rig.finish();
}

#[test]
fn a_device_with_nothing_but_frames_works() {
    for ring in ring_feature_sets() {
        let mut rig = rig_with(3, {
            let mut registers = registers(ring, config());
            registers.queues.truncate(2);
            registers
        });
        assert!(rig.control.is_none());
        let info = rig.driver.info();
        assert_eq!((info.mac, info.mtu, info.pairs_max), (None, None, 1));
        assert_eq!((info.header_size, info.buffer_min), (12, 1526));
        assert!(info.link.up && info.link.speed.is_none());
        rig.works();
        rig.finish();
    }
}

#[test]
fn buffers_have_the_sizes_of_the_specification() {
    let min = |features| {
        let rig = rig(3, features);
        let min = rig.driver.info().buffer_min;
        rig.finish();
        min
    };
    assert_eq!(min(0), 1526);
    assert_eq!(min(CTRL_VQ | HASH_REPORT), 1534);
    assert_eq!(min(GUEST_CSUM | GUEST_TSO4), 65601);
    assert_eq!(min(GUEST_CSUM | GUEST_USO6 | CTRL_VQ | HASH_REPORT), 65609);
    let mut jumbo = config();
    jumbo.mtu = 9000.into();
    let mut rig = rig_with(3, registers(MTU, jumbo));
    assert_eq!(rig.driver.info().buffer_min, 12 + 14 + 4 + 9000);
    let small = FakeBuffer::zeroed(9029);
    let refused = rig.receive[0].post(&rig.platform, small, 1).unwrap_err();
    assert_eq!((refused.reason, refused.request.1), (Refusal::TooSmall, 1));
    rig.finish();
}

#[test]
fn a_full_ring_gives_the_frame_back_and_goes_on_later() {
    for ring in ring_feature_sets() {
        let mut rig = rig(9, NET_FEATURES | ring);
        let mut cookie = 0;
        loop {
            let submitted = rig.transmit[0].submit(&rig.platform, send(frame(300, 1), cookie));
            match submitted {
                Ok(()) => cookie += 1,
                Err(rejected) => {
                    assert_eq!(rejected.reason, Refusal::Busy);
                    assert_eq!(rejected.request.buffer.data, frame(300, 1));
                    break;
                }
            }
        }
        assert!((10..=32).contains(&cookie), "{cookie} frames fit");
        rig.transmit[0].kick();
        assert_eq!(rig.device.serve() as u64, cookie);
        for expected in 0..cookie {
            let back = rig.transmit[0].poll(&rig.platform).unwrap().unwrap();
            assert_eq!(back.cookie, expected);
        }
        rig.works();
        rig.finish();
    }
}

#[test]
fn a_frame_in_too_many_pieces_is_refused_and_not_left_mapped() {
    let platform = FakePlatform::new(5);
    let function = function(registers(NET_FEATURES, config()));
    let options = Options {
        transmit_segments: 2,
        ..options()
    };
    let started = NetDriver::start(&platform, function, &FakeInterrupts(1), options);
    let mut started = started.unwrap_or_else(|failure| panic!("{}", failure.error));
    let mut refused = 0;
    for _ in 0..200 {
        let mut request = send(frame(40_000, 1), 1);
        request.offload = Offload {
            checksum: Some(ChecksumAt {
                start: 34,
                offset: 16,
            }),
            segmentation: Some(Segmentation {
                kind: SegmentKind::Tcp4,
                size: 1448,
                ecn: false,
            }),
            header_len: 54,
        };
        match started.transmit[0].submit(&platform, request) {
            Err(rejected) if rejected.reason == Refusal::TooLarge => refused += 1,
            Err(rejected) => assert_eq!(rejected.reason, Refusal::Busy),
            Ok(()) => {}
        }
    }
    assert!(refused > 100);
    let out = u64::from(started.transmit[0].in_flight());
    assert_eq!(platform.mapped(), out);
    started.driver.begin_stop(&platform);
    let net_driver::ResetProgress::Done(proof) = started.driver.poll_reset(&platform) else {
        panic!("pending")
    };
    while started.transmit[0]
        .take_outstanding(&platform, &proof)
        .unwrap()
        .is_some()
    {}
    assert_eq!(platform.mapped(), 0);
}

#[test]
fn exhausted_mapping_space_loses_nothing() {
    let mut rig = rig(9, NET_FEATURES | feature::RING_INDIRECT_DESC);
    rig.platform.exhausted_one_in = 3;
    let (mut busy, mut cookie) = (0, 0);
    for _ in 0..60 {
        let queue = &mut rig.transmit[0];
        match queue.submit(&rig.platform, send(frame(200, 1), cookie)) {
            Ok(()) => cookie += 1,
            Err(rejected) => {
                assert_eq!(rejected.reason, Refusal::Busy);
                busy += 1;
            }
        }
        let buffer = FakeBuffer::zeroed(2048);
        let own = 1000 + busy + cookie;
        if rig.receive[0].post(&rig.platform, buffer, own).is_err() {
            busy += 1;
        }
        rig.transmit[0].kick();
        rig.device.serve();
        while rig.transmit[0].poll(&rig.platform).unwrap().is_some() {}
    }
    assert!(busy > 10);
    assert_eq!(rig.device.sent.len() as u64, cookie);
    rig.finish();
}

#[test]
fn frames_that_are_returned_late_and_in_any_order_come_back_once() {
    let mut random = Random::new(4);
    for ring in ring_feature_sets() {
        // A device that promises the order cannot mix it.
        let in_order = ring & feature::IN_ORDER != 0;
        let mut rig = rig(ring, NET_FEATURES | ring);
        rig.device.habits = NetHabits {
            reorders: !in_order,
            delays_one_in: 3,
            ..NetHabits::default()
        };
        let mut out = std::collections::BTreeMap::new();
        let mut cookie = 0;
        for _ in 0..60 {
            for _ in 0..random.below(6) {
                let bytes = frame(14 + random.index(1500), cookie as u8);
                let queue = &mut rig.transmit[0];
                if queue
                    .submit(&rig.platform, send(bytes.clone(), cookie))
                    .is_ok()
                {
                    out.insert(cookie, bytes);
                    cookie += 1;
                }
            }
            rig.transmit[0].kick();
            rig.device.serve();
            while let Some(back) = rig.transmit[0].poll(&rig.platform).unwrap() {
                assert_eq!(out.remove(&back.cookie), Some(back.buffer.data.clone()));
            }
            assert_eq!(usize::from(rig.transmit[0].in_flight()), out.len());
        }
        let sent = rig.device.sent.len() as u64;
        assert_eq!((sent, rig.transmit[0].counters().frames), (cookie, cookie));
        rig.finish();
    }
}
