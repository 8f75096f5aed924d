//! A network device that lies: in lengths, numbers of buffers, headers, answers, configuration and rings.
//!
//! Rule: a lie costs the frame or, in the ring, a reset; every buffer comes back once, memory that is not part of a buffer stays as it is,
//! and the device works again afterwards.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod rig;

use std::collections::BTreeSet;

use driver_fakes::FakeBuffer;
use driver_fakes::FakeInterrupts;
use driver_fakes::FakePlatform;
use driver_fakes::NetHabits;
use driver_fakes::Random;
use driver_fakes::Registers;
use net_driver::Checksum;
use net_driver::Command;
use net_driver::CommandError;
use net_driver::Discard;
use net_driver::Error;
use net_driver::FRAME_MAX;
use net_driver::NetDriver;
use net_driver::Refusal;
use net_driver::ResetProgress;
use rig::*;
use virtio_pci::Error as Pci;
use virtio_spec::feature;
use virtio_spec::net;
use virtio_spec::net::Header;
use virtio_spec::net::feature::*;
use virtio_spec::net::gso;
use virtio_spec::net::header_flags;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;

const RINGS: [u64; 4] = [
    0,
    feature::RING_PACKED,
    feature::RING_INDIRECT_DESC | feature::RING_EVENT_IDX,
    feature::RING_PACKED | feature::RING_INDIRECT_DESC | feature::IN_ORDER,
];

fn lying(seed: u64, features: u64, habits: NetHabits) -> Rig {
    let mut rig = rig(seed, features);
    rig.device.habits = habits;
    rig
}

#[test]
fn a_frame_in_no_buffer_or_in_more_than_there_are_is_discarded() {
    for ring in RINGS {
        for (said, reason) in [
            (0, Discard::NoBuffers),
            (2, Discard::MissingBuffers),
            (33, Discard::MissingBuffers),
            (0x8000, Discard::MissingBuffers),
            (0xffff, Discard::MissingBuffers),
        ] {
            let habits = NetHabits {
                num_buffers: Some(said),
                ..NetHabits::default()
            };
            let mut rig = lying(3, NET_FEATURES | ring, habits);
            rig.post(0, 4, 2048, 0);
            assert!(rig.deliver(0, Header::default(), &frame(100, 1)));
            let got = rig.got(0);
            assert_eq!((got.frame, got.cookies), (Err(reason), vec![0]));
            assert!(got.bytes.is_empty());
            assert!(rig.poll(0).unwrap().is_none());
            assert_eq!(rig.receive[0].counters().bad_buffers, 1);
            rig.device.habits = NetHabits::default();
            assert!(rig.deliver(0, Header::default(), &frame(100, 2)));
            assert_eq!(rig.got(0).bytes, frame(100, 2));
            rig.finish();
        }
    }
}

#[test]
fn a_frame_that_claims_the_buffers_of_others_takes_them_along_and_no_more() {
    let mut rig = rig(3, NET_FEATURES);
    rig.post(0, 6, 2048, 0);
    rig.device.habits.num_buffers = Some(3);
    assert!(rig.deliver(0, Header::default(), &frame(100, 1)));
    rig.device.habits.num_buffers = None;
    assert!(rig.deliver(0, Header::default(), &frame(100, 2)));
    assert!(rig.deliver(0, Header::default(), &frame(100, 3)));
    assert!(rig.deliver(0, Header::default(), &frame(100, 4)));
    let got = rig.got(0);
    assert_eq!(got.cookies, [0, 1, 2]);
    // Headers of 20 bytes included: to the driver the rest is data.
    assert_eq!(got.frame.unwrap().len, 100 + 120 + 120);
    assert_eq!(rig.got(0).bytes, frame(100, 4));
    rig.finish();
}

#[test]
fn lengths_that_are_too_short_or_beyond_the_buffer_do_no_harm() {
    for ring in RINGS {
        for way in [NET_FEATURES, NET_FEATURES & !MRG_RXBUF] {
            let mut rig = rig(3, way | ring);
            let buffer = rig.driver.info().buffer_min.max(2048);
            let header = rig.driver.info().header_size as u32;
            for claim in [
                0,
                1,
                11,
                12,
                19,
                header,
                header + 13,
                header + 14,
                2048,
                0x1_0000,
                u32::MAX,
            ] {
                rig.post(0, 1, buffer, 7);
                rig.device.habits.first_written = Some(claim);
                assert!(rig.deliver(0, Header::default(), &frame(1000, 1)));
                let got = rig.got(0);
                assert_eq!(got.cookies, [7]);
                if claim < header + 14 {
                    assert_eq!(got.frame, Err(Discard::TooShort), "{claim}");
                    assert!(got.bytes.is_empty());
                } else {
                    let len = claim.min(buffer as u32) - header;
                    assert_eq!(got.frame.unwrap().len, len);
                    assert_eq!(got.bytes.len(), len as usize);
                }
            }
            rig.device.habits = NetHabits::default();
            rig.works();
            rig.finish();
        }
    }
}

#[test]
fn further_buffers_that_are_empty_or_overfull_do_no_harm() {
    for ring in RINGS {
        let mut rig = rig(3, NET_FEATURES | ring);
        let size = rig.driver.info().buffer_min;
        for claim in [0, 1, size as u32, u32::MAX] {
            rig.post(0, 4, size, 0);
            rig.device.habits.rest_written = Some(claim);
            assert!(rig.deliver(0, Header::default(), &frame(size * 3, 1)));
            let got = rig.got(0);
            assert_eq!(got.cookies, [0, 1, 2, 3]);
            match claim {
                0 => assert_eq!(got.frame, Err(Discard::EmptyBuffer)),
                _ => {
                    let rest = claim.min(size as u32) * 3;
                    assert_eq!(got.frame.unwrap().len, size as u32 - 20 + rest);
                }
            }
        }
        rig.device.habits = NetHabits::default();
        rig.works();
        rig.finish();
    }
}

#[test]
fn a_frame_longer_than_any_is_discarded() {
    let mut rig = rig(3, NET_FEATURES);
    rig.post(0, 3, 40_000, 0);
    assert!(rig.deliver(0, Header::default(), &frame(FRAME_MAX, 1)));
    assert_eq!(rig.got(0).bytes.len(), FRAME_MAX);
    rig.reset();
    rig.restart().unwrap();
    rig.post(0, 3, 40_000, 0);
    assert!(rig.deliver(0, Header::default(), &frame(FRAME_MAX + 1, 1)));
    let got = rig.got(0);
    assert_eq!((got.frame, got.cookies.len()), (Err(Discard::TooLong), 2));
    rig.finish();
}

/// RELIABILITY row 50 (CVE-2015-3215): a malformed frame brought a guest down.
#[test]
fn row_50_no_received_header_or_frame_harms_the_driver() {
    let mut random = Random::new(50);
    let interesting = [0, 1, 13, 14, 34, 54, 0x7fff, 0x8000, 0xfffe, 0xffff_u16];
    for round in 0..60 {
        let mask = match random.below(4) {
            0 => u64::MAX,
            1 => !MRG_RXBUF,
            2 => !(GUEST_CSUM | HASH_REPORT),
            _ => random.next_u64(),
        };
        let ring = RINGS[random.index(4)] | feature::RING_INDIRECT_DESC;
        // A random set may have lost what others build on: then it is the driver that has to notice.
        let mut rig = rig(round, NET_FEATURES & (mask | CTRL_VQ | MQ) | ring);
        let size = rig.driver.info().buffer_min.max(600);
        for _ in 0..60 {
            rig.post(0, 2, size, 1);
            let mut header =
                Header::read_from_bytes(&random.next_u64().to_le_bytes().repeat(2)[..12]).unwrap();
            for field in [
                &mut header.csum_start,
                &mut header.csum_offset,
                &mut header.gso_size,
            ] {
                if random.one_in(2) {
                    *field = interesting[random.index(interesting.len())].into();
                }
            }
            if random.one_in(2) {
                header.gso_type = [0, 1, 3, 4, 5, 0x80, 0x81, 0x85][random.index(8)];
                header.flags = random.below(8) as u8;
            }
            rig.device.habits = NetHabits {
                num_buffers: random.one_in(3).then(|| random.below(4) as u16),
                first_written: random
                    .one_in(4)
                    .then(|| random.next_u64() as u32 >> random.below(32)),
                rest_written: random
                    .one_in(4)
                    .then(|| random.next_u64() as u32 >> random.below(32)),
                ..NetHabits::default()
            };
            let len = 14 + random.index(size);
            rig.deliver(0, header, &frame(len, 1));
            while let Some(got) = rig.poll(0).unwrap() {
                let Ok(frame) = got.frame else {
                    assert!(got.bytes.is_empty());
                    continue;
                };
                assert_eq!(frame.len as usize, got.bytes.len());
                if let Checksum::Partial(at) = frame.checksum {
                    assert!(usize::from(at.start) + usize::from(at.offset) + 2 <= got.bytes.len());
                }
                assert!(frame.segmentation.is_none_or(|s| s.size > 0));
            }
            rig.reset();
            rig.restart().unwrap();
        }
        rig.device.habits = NetHabits::default();
        rig.works();
        rig.finish();
    }
}

#[test]
fn offloads_that_were_not_negotiated_are_discarded() {
    let large = |kind: u8| Header {
        flags: header_flags::NEEDS_CSUM,
        gso_type: kind,
        gso_size: 1000.into(),
        csum_start: 34.into(),
        csum_offset: if kind == gso::UDP_L4 { 6 } else { 16 }.into(),
        ..Header::default()
    };
    for (kind, taken) in [
        (gso::TCPV4, GUEST_TSO4),
        (gso::TCPV6, GUEST_TSO6),
        (gso::UDP_L4, GUEST_USO4 | GUEST_USO6),
        (gso::UDP, NET_FEATURES),
        (gso::TCPV4 | gso::UDP_TUNNEL_IPV4, NET_FEATURES),
    ] {
        let mut rig = rig(3, NET_FEATURES & !taken | CTRL_VQ | MRG_RXBUF | GUEST_CSUM);
        rig.post(0, 2, 4096, 0);
        assert!(rig.deliver(0, large(kind), &frame(3000, 1)));
        assert_eq!(rig.got(0).frame, Err(Discard::BadHeader), "{kind:#x}");
        assert_eq!(rig.receive[0].counters().bad_header, 1);
        rig.finish();
    }
}

#[test]
fn what_the_device_claims_to_have_written_into_a_sent_frame_does_not_matter() {
    for ring in RINGS {
        let mut rig = rig(3, NET_FEATURES | ring);
        rig.device.habits.sent_written = u32::MAX;
        rig.works();
        rig.finish();
    }
}

#[test]
fn answers_that_are_missing_or_unknown_are_errors() {
    let mut rig = rig(3, NET_FEATURES);
    for (ack, error) in [
        (1, CommandError::Refused),
        (2, CommandError::BadAnswer(2)),
        (0xff, CommandError::BadAnswer(0xff)),
    ] {
        rig.device.habits.ack = Some(ack);
        let answer = rig.command(&Command::Pairs(2));
        assert_eq!(answer.result, Err(error));
        assert_eq!(rig.driver.active_pairs(), 1);
    }
    rig.device.habits = NetHabits {
        forgets_ack: true,
        ..NetHabits::default()
    };
    let answer = rig.command(&Command::ReadCoalescing(0));
    assert_eq!(answer.result, Err(CommandError::BadAnswer(0xff)));
    let counters = rig.control.as_ref().unwrap().counters();
    assert_eq!((counters.refused, counters.bad_answers), (1, 3));
    rig.device.habits = NetHabits::default();
    assert_eq!(rig.command(&Command::Pairs(2)).result, Ok(None));
    rig.finish();
}

#[test]
fn configurations_that_no_device_has_are_refused() {
    let with = |change: &dyn Fn(&mut net::Config)| {
        let mut config = config();
        change(&mut config);
        refused(registers(NET_FEATURES, config))
    };
    for pairs in [0, 0x8001, 0xffff] {
        let error = with(&|config| config.max_virtqueue_pairs = pairs.into());
        assert_eq!(error, Error::BadConfig);
    }
    for mtu in [0, 1, 67] {
        assert_eq!(with(&|config| config.mtu = mtu.into()), Error::BadConfig);
    }
    for key in [0, 39] {
        assert_eq!(
            with(&|config| config.rss_max_key_size = key),
            Error::BadConfig
        );
    }
    for table in [0, 127] {
        let error = with(&|config| config.rss_max_indirection_table_length = table.into());
        assert_eq!(error, Error::BadConfig);
    }
    // More pairs than there are queues: the control queue would lie outside.
    for pairs in [3, 0x8000] {
        let error = with(&|config| config.max_virtqueue_pairs = pairs.into());
        assert_eq!(error, Error::NoQueue);
    }
}

#[test]
fn a_configuration_that_is_too_short_for_its_features_is_refused() {
    for len in 0..24 {
        let mut registers = registers(NET_FEATURES, config());
        registers.config.truncate(len);
        let error = refused(registers);
        let short = Error::Transport(virtio_pci::Error::ConfigOutOfRange);
        // A structure without a length is none at all.
        let none = Error::Transport(virtio_pci::Error::BadCapability);
        assert!(error == short || error == none, "{len}: {error:?}");
    }
}

#[test]
fn an_extreme_mtu_or_address_is_dealt_with() {
    let mut extreme = config();
    extreme.mtu = 65535.into();
    extreme.mac = [0xff; 6];
    extreme.speed = 0xffff_ffff.into();
    extreme.duplex = 7;
    let mut rig = rig_with(3, registers(NET_FEATURES, extreme));
    let info = rig.driver.info();
    assert_eq!((info.mac, info.mtu), (None, Some(65535)));
    assert_eq!((info.link.speed, info.link.duplex), (None, None));
    rig.works();
    rig.finish();
}

#[test]
fn a_configuration_that_changes_into_nonsense_changes_nothing() {
    let mut rig = rig(3, NET_FEATURES);
    let before = rig.driver.info();
    let mtu = std::mem::offset_of!(net::Config, mtu);
    let pairs = std::mem::offset_of!(net::Config, max_virtqueue_pairs);
    for (at, value) in [
        (mtu, 0),
        (mtu, 9000),
        (pairs, 0),
        (pairs, 1),
        (pairs, 0xffff_u16),
    ] {
        let old = rig.function.registers().config[at..at + 2].to_vec();
        rig.function
            .registers()
            .change_config(at, &value.to_le_bytes());
        assert_eq!(
            rig.driver.config_changed(&rig.platform),
            Err(Error::BadConfig)
        );
        assert_eq!(rig.driver.info(), before);
        rig.function.registers().change_config(at, &old);
    }
    rig.function.registers().lies.unstable_generation = true;
    let unstable = Error::Transport(virtio_pci::Error::ConfigUnstable);
    assert_eq!(rig.driver.config_changed(&rig.platform), Err(unstable));
    rig.function.registers().lies.unstable_generation = false;
    rig.function.registers().lies.needs_reset = true;
    assert!(
        rig.driver
            .config_changed(&rig.platform)
            .unwrap()
            .needs_reset
    );
    rig.function.registers().lies.needs_reset = false;
    rig.works();
    rig.finish();
}

#[test]
fn registers_that_lie_end_the_start_with_an_error() {
    let lies: [&dyn Fn(&mut Registers); 9] = [
        &|registers| {
            registers.status = 0x0f;
            registers.lies.never_resets = true;
        },
        &|registers| registers.lies.gone = true,
        &|registers| registers.lies.refuses_features = true,
        &|registers| registers.lies.unstable_generation = true,
        &|registers| registers.lies.queue_size = Some(0),
        &|registers| registers.lies.queue_size = Some(1),
        &|registers| registers.lies.never_enables = true,
        &|registers| registers.lies.no_vectors = true,
        &|registers| registers.lies.notify_offset = Some(0xffff),
    ];
    for lie in lies {
        let mut registers = registers(NET_FEATURES, config());
        lie(&mut registers);
        refused(registers);
    }
    for count in [0, 1, 2, 4] {
        let mut registers = registers(NET_FEATURES, config());
        registers.lies.queue_count = Some(count);
        assert_eq!(refused(registers), Error::NoQueue);
    }
    let mut odd = registers(NET_FEATURES, config());
    odd.lies.queue_count = Some(0xffff);
    let mut rig = rig_with(3, odd);
    rig.works();
    rig.finish();
}

#[test]
fn features_that_change_between_reads_are_never_half_agreed() {
    let (mut agreed, mut refused) = (BTreeSet::new(), 0);
    for seed in 0..40 {
        let platform = FakePlatform::new(seed);
        let mut registers = registers(NET_FEATURES, config());
        registers.lies.changing_features = Some(seed);
        let function = function(registers);
        let started = NetDriver::start(&platform, function, &FakeInterrupts(3), options());
        match started {
            Ok(started) => {
                let features = started.driver.features();
                assert!(features & CTRL_VQ != 0 || features & (MQ | CTRL_RX | RSS) == 0);
                assert_eq!(started.control.is_some(), features & CTRL_VQ != 0);
                agreed.insert(features);
            }
            Err(failure) => {
                assert_eq!(failure.error, Error::Transport(Pci::FeaturesRefused));
                platform.release_all(failure.memory);
                refused += 1;
            }
        }
    }
    // The device takes away what a driver cannot do without, but seldom.
    assert!(agreed.len() > 10, "{} sets of features", agreed.len());
    assert!(refused < 20, "{refused} starts of 40 failed");
    assert!(agreed.iter().any(|features| features & CTRL_VQ == 0));
}

/// Posts and sends, lets the device write `lie` into a queue's rings, and expects a broken queue and a clean way back.
fn broken_by(features: u64, queue: u16, lie: impl FnOnce(&Rig)) {
    let mut rig = rig(3, NET_FEATURES | features);
    rig.post(0, 3, 2048, 0);
    for cookie in 10..13 {
        let sent = rig.transmit[0].submit(&rig.platform, send(frame(60, 1), cookie));
        sent.map_err(|rejected| rejected.reason).unwrap();
    }
    rig.transmit[0].kick();
    lie(&rig);
    let error = if queue == 0 {
        let error = rig.poll(0).err();
        let buffer = FakeBuffer::zeroed(2048);
        let refused = rig.receive[0].post(&rig.platform, buffer, 9).unwrap_err();
        assert_eq!(refused.reason, Refusal::Broken);
        assert_eq!(
            rig.poll(0).err(),
            error,
            "the queue forgot that it is broken"
        );
        error
    } else {
        let error = rig.transmit[0].poll(&rig.platform).err();
        let refused = rig.transmit[0].submit(&rig.platform, send(frame(60, 1), 9));
        assert_eq!(refused.unwrap_err().reason, Refusal::Broken);
        error
    };
    assert!(
        matches!(error, Some(Error::Ring(_) | Error::Broken)),
        "{error:?}"
    );
    let (receive, transmit) = rig.reset();
    assert_eq!(receive, BTreeSet::from([0, 1, 2]));
    assert_eq!(transmit, BTreeSet::from([10, 11, 12]));
    rig.restart().unwrap();
    rig.works();
    rig.finish();
}

fn split_used(rig: &Rig, queue: u16, index: u16, elements: &[(u32, u32)]) {
    let used = rig.device.rings(queue).unwrap().device;
    for (at, (id, len)) in elements.iter().enumerate() {
        used.write(4 + at * 8, &id.to_le_bytes());
        used.write(8 + at * 8, &len.to_le_bytes());
    }
    used.write(2, &index.to_le_bytes());
}

fn packed_used(rig: &Rig, queue: u16, id: u16, len: u32) {
    let ring = rig.device.rings(queue).unwrap().descriptors;
    ring.write(8, &len.to_le_bytes());
    ring.write(12, &id.to_le_bytes());
    ring.write(14, &(1_u16 << 15 | 1 << 7).to_le_bytes());
}

#[test]
fn used_ids_and_indices_that_lie_break_the_queue_and_nothing_else() {
    let indirect = feature::RING_INDIRECT_DESC;
    for queue in [0, 1] {
        for id in [31, 32, 0xffff, 0x1_0000, u32::MAX] {
            broken_by(indirect, queue, |rig| {
                split_used(rig, queue, 1, &[(id, 100)])
            });
        }
        for index in [4, 33, 0x8000, 0xffff] {
            broken_by(indirect, queue, |rig| {
                split_used(rig, queue, index, &[(0, 100)])
            });
        }
        for id in [31, 32, 0x8000, 0xffff] {
            broken_by(indirect | feature::RING_PACKED, queue, |rig| {
                packed_used(rig, queue, id, 100);
            });
        }
    }
}

#[test]
fn a_length_in_the_ring_beyond_the_buffer_is_cut() {
    for features in [0, feature::RING_PACKED] {
        let mut rig = rig(3, NET_FEATURES | feature::RING_INDIRECT_DESC | features);
        rig.post(0, 1, 2048, 0);
        match features {
            0 => split_used(&rig, 0, 1, &[(0, u32::MAX)]),
            _ => packed_used(&rig, 0, 0, u32::MAX),
        }
        // What nobody wrote are the platform's filling bytes, which say that there are more buffers.
        let got = rig.got(0);
        assert_eq!(
            (got.frame, got.cookies),
            (Err(Discard::MissingBuffers), vec![0])
        );
        assert_eq!(rig.receive[0].overruns(), 1);
        rig.reset();
        rig.restart().unwrap();
        rig.works();
        rig.finish();
    }
}

#[test]
fn a_ring_that_breaks_in_the_middle_of_a_frame_returns_what_it_had_first() {
    let mut rig = rig(3, NET_FEATURES | feature::RING_INDIRECT_DESC);
    rig.post(0, 3, 2048, 0);
    rig.device.habits.num_buffers = Some(3);
    assert!(rig.deliver(0, Header::default(), &frame(100, 1)));
    split_used(&rig, 0, 3, &[(0, 120), (0, 120), (1, 120)]);
    let got = rig.got(0);
    assert_eq!(
        (got.frame, got.cookies),
        (Err(Discard::MissingBuffers), vec![0])
    );
    assert!(rig.poll(0).is_err());
    let (receive, _) = rig.reset();
    assert_eq!(receive, BTreeSet::from([1, 2]));
    rig.device.habits = NetHabits::default();
    rig.restart().unwrap();
    rig.works();
    rig.finish();
}

#[test]
fn random_writes_into_what_the_device_may_write_lose_no_buffer() {
    let mut random = Random::new(17);
    for round in 0..500 {
        let sets = ring_feature_sets();
        let mut rig = rig(round, NET_FEATURES | sets[random.index(sets.len())]);
        let (mut posted, mut sent) = (BTreeSet::new(), BTreeSet::new());
        for cookie in 0..4 {
            rig.post(0, 1, 512, cookie);
            posted.insert(cookie);
            let queue = &mut rig.transmit[0];
            if queue
                .submit(&rig.platform, send(frame(60, 1), cookie))
                .is_ok()
            {
                sent.insert(cookie);
            }
        }
        rig.transmit[0].kick();
        let control = rig.control.as_mut().unwrap();
        control.submit(&Command::Pairs(2), 1).unwrap();
        if random.one_in(2) {
            rig.device.serve();
            rig.deliver(0, Header::default(), &frame(300 + random.index(1000), 1));
        }
        for _ in 0..1 + random.below(12) {
            let rings = rig.device.rings([0, 1, 4][random.index(3)]).unwrap();
            let area = if random.one_in(2) {
                rings.device
            } else {
                rings.descriptors
            };
            area.write(random.index(area.len()), &[random.next_u64() as u8]);
        }
        for _ in 0..20 {
            if let Ok(Some(got)) = rig.poll(0) {
                for cookie in got.cookies {
                    assert!(posted.remove(&cookie), "received twice");
                }
            }
            if let Ok(Some(back)) = rig.transmit[0].poll(&rig.platform) {
                assert!(sent.remove(&back.cookie), "sent twice");
            }
            let _ = rig.control.as_mut().unwrap().poll();
            let _ = rig.receive[0].arm() | rig.transmit[0].arm();
        }
        let (receive, transmit) = rig.reset();
        assert_eq!((receive, transmit), (posted, sent));
        rig.restart().unwrap();
        rig.works();
        rig.finish();
    }
}

#[test]
fn a_reset_in_mid_traffic_returns_arrived_frames_as_arrived_and_the_rest_unused() {
    for ring in ring_feature_sets() {
        let mut rig = rig(11, NET_FEATURES | ring);
        rig.post(0, 6, 2048, 0);
        for seed in 0..3 {
            assert!(rig.deliver(0, Header::default(), &frame(100, seed)));
        }
        rig.driver.begin_reset(&rig.platform);
        let ResetProgress::Done(proof) = rig.driver.poll_reset(&rig.platform) else {
            panic!("pending")
        };
        let (mut arrived, mut unused) = (0, 0);
        while let Some(received) = rig.receive[0]
            .take_outstanding(&rig.platform, &proof)
            .unwrap()
        {
            match received.frame {
                Ok(_) => arrived += 1,
                Err(reason) => {
                    assert_eq!(reason, Discard::Reset);
                    unused += 1;
                }
            }
        }
        assert_eq!((arrived, unused), (3, 3));
        rig.proof = Some(proof);
        rig.restart().unwrap();
        rig.works();
        rig.finish();
    }
}

#[test]
fn one_queue_is_reset_while_the_others_go_on() {
    let mut rig = rig(11, NET_FEATURES | feature::RING_RESET);
    rig.post(0, 2, 2048, 0);
    rig.post(1, 2, 2048, 5);
    let queue = &mut rig.receive[0];
    rig.driver.begin_queue_reset(&rig.platform, queue).unwrap();
    let ResetProgress::Done(proof) = rig.driver.poll_queue_reset(queue) else {
        panic!("pending")
    };
    let other = rig.receive[1].take_outstanding(&rig.platform, &proof);
    assert_eq!(other.err(), Some(Error::NotQuiesced));
    let mut back = 0;
    while rig.receive[0]
        .take_outstanding(&rig.platform, &proof)
        .unwrap()
        .is_some()
    {
        back += 1;
    }
    assert_eq!(back, 2);
    let queue = &mut rig.receive[0];
    rig.driver.restart_queue(proof, queue).unwrap();
    rig.works();
    assert!(rig.deliver(1, Header::default(), &frame(60, 1)));
    assert_eq!(rig.got(1).cookies, [5]);
    assert_eq!(rig.function.registers().resets, 1);
    rig.finish();
}

#[test]
fn a_device_that_never_finishes_its_reset_is_cut_off_before_buffers_come_back() {
    let mut rig = rig(11, NET_FEATURES);
    rig.post(0, 1, 2048, 1);
    rig.function.registers().lies.never_resets = true;
    rig.driver.begin_reset(&rig.platform);
    let pending = rig.driver.poll_reset(&rig.platform);
    assert!(matches!(pending, ResetProgress::Pending));
    rig.platform.advance_us(virtio_pci::RESET_TIMEOUT_US + 1);
    let ResetProgress::GaveUp(proof) = rig.driver.poll_reset(&rig.platform) else {
        panic!("still waiting")
    };
    assert_eq!(
        rig.function.config_space()[4] & 4,
        0,
        "bus mastering is still on"
    );
    let back = rig.receive[0]
        .take_outstanding(&rig.platform, &proof)
        .unwrap()
        .unwrap();
    assert_eq!(back.frame, Err(Discard::Reset));
    drop(back);
    rig.function.registers().lies.never_resets = false;
    rig.finish();
}

#[test]
fn a_device_that_comes_back_as_another_one_is_refused() {
    let changes: [&dyn Fn(&mut Registers); 3] = [
        &|registers| registers.offered &= !MRG_RXBUF,
        &|registers| {
            let mtu = std::mem::offset_of!(net::Config, mtu);
            registers.change_config(mtu, 1400_u16.as_bytes());
        },
        &|registers| {
            let key = std::mem::offset_of!(net::Config, rss_max_key_size);
            registers.change_config(key, &[52]);
        },
    ];
    for change in changes {
        let mut rig = rig(11, NET_FEATURES);
        rig.reset();
        change(&mut rig.function.registers());
        assert_eq!(rig.restart(), Err(Error::Changed));
        rig.finish();
    }
}
