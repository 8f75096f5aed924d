//! Tests of the pure parts: headers and commands. The whole driver meets devices in `driver-fakes` and `loopback`.
//!
//! Rule: what a check lets pass is compared with what the specification allows, over all values that matter.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use virtio_spec::net::HASH_HEADER_SIZE;
use virtio_spec::net::HashHeader;
use virtio_spec::net::Header;
use virtio_spec::net::control;
use virtio_spec::net::feature::*;
use virtio_spec::net::gso;
use virtio_spec::net::header_flags as flags;
use virtio_spec::net::rss::hash_type;
use zerocopy::IntoBytes;

use crate::*;

const ALL: u64 = WANTED_FEATURES;

fn wire(header: Header) -> [u8; HASH_HEADER_SIZE] {
    let whole = HashHeader {
        header,
        hash_value: 0x1234_5678.into(),
        hash_report: 2.into(),
        padding: 0.into(),
    };
    whole.as_bytes().try_into().unwrap()
}

fn parse(features: u64, header: Header, len: u32) -> Result<Frame, Discard> {
    header::parse(features, &wire(header), len)
}

fn partial(start: u16, offset: u16) -> Header {
    Header {
        flags: flags::NEEDS_CSUM,
        csum_start: start.into(),
        csum_offset: offset.into(),
        ..Header::default()
    }
}

fn large(kind: u8, size: u16) -> Header {
    let offset = if kind & !gso::ECN == gso::UDP_L4 {
        6
    } else {
        16
    };
    Header {
        gso_type: kind,
        gso_size: size.into(),
        hdr_len: 54.into(),
        ..partial(34, offset)
    }
}

#[test]
fn a_plain_header_is_a_plain_frame() {
    let frame = parse(0, Header::default(), 60).unwrap();
    assert_eq!((frame.len, frame.checksum), (60, Checksum::Unknown));
    assert_eq!((frame.segmentation, frame.hash), (None, None));
    assert_eq!(frame.coalesced, None);
}

#[test]
fn every_combination_of_flags_and_gso_types_is_sound_or_discarded() {
    for features in [0, GUEST_CSUM, GUEST_CSUM | GUEST_TSO4, ALL, ALL & !RSC_EXT] {
        for flag in 0..=u8::MAX {
            for kind in 0..=u8::MAX {
                let header = Header {
                    flags: flag,
                    ..large(kind, 1000)
                };
                let parsed = parse(features, header, 3000);
                let known = Header {
                    flags: flag & 7,
                    ..header
                };
                assert_eq!(parsed, parse(features, known, 3000), "unknown flags");
                let Ok(frame) = parsed else {
                    continue;
                };
                let kinds = [gso::NONE, gso::TCPV4, gso::TCPV6, gso::UDP_L4];
                assert!(kinds.contains(&(kind & !gso::ECN)), "{kind:#x}");
                if frame.checksum != Checksum::Unknown {
                    assert_ne!(features & GUEST_CSUM, 0);
                }
                if let Some(segmentation) = frame.segmentation {
                    let need = match segmentation.kind {
                        SegmentKind::Tcp4 => GUEST_TSO4,
                        SegmentKind::Tcp6 => GUEST_TSO6,
                        SegmentKind::Udp => GUEST_USO4 | GUEST_USO6,
                    };
                    assert_ne!(features & need, 0);
                    assert!(frame.checksum != Checksum::Unknown || frame.coalesced.is_some());
                }
                assert!(frame.coalesced.is_none() || features & RSC_EXT != 0);
                assert_eq!(frame.hash.is_some(), features & HASH_REPORT != 0);
            }
        }
    }
}

#[test]
fn checksum_fields_are_inside_the_frame_or_the_frame_is_discarded() {
    let values = [
        0, 1, 13, 14, 15, 34, 58, 59, 60, 61, 1000, 0x7fff, 0xfffe, 0xffff,
    ];
    for len in [14, 15, 16, 60, 1514, 65549, 65597] {
        for start in values {
            for offset in values {
                let inside = start >= 14 && u32::from(start) + u32::from(offset) + 2 <= len;
                let frame = parse(ALL, partial(start, offset), len);
                assert_eq!(frame.is_ok(), inside, "{start} {offset} in {len}");
            }
        }
    }
}

#[test]
fn a_large_frame_needs_a_size_a_checksum_and_its_transport_header() {
    assert!(parse(ALL, large(gso::TCPV4, 1448), 3000).is_ok());
    assert!(parse(ALL, large(gso::TCPV4, 0), 3000).is_err());
    assert!(parse(ALL, large(gso::TCPV4, 1448), 53).is_err());
    assert!(parse(ALL, large(gso::TCPV4, 1448), 54).is_ok());
    assert!(parse(ALL, large(gso::UDP_L4, 1448), 41).is_err());
    assert!(parse(ALL, large(gso::UDP_L4, 1448), 42).is_ok());
    assert!(parse(ALL, large(gso::UDP_L4 | gso::ECN, 1448), 3000).is_err());
    assert!(
        parse(ALL, large(gso::UDP, 1448), 3000).is_err(),
        "fragmentation is not wanted"
    );
    let no_checksum = Header {
        flags: 0,
        ..large(gso::TCPV4, 1448)
    };
    assert!(parse(ALL, no_checksum, 3000).is_err());
    let wrong_place = Header {
        csum_offset: 6.into(),
        ..large(gso::TCPV4, 1448)
    };
    assert!(parse(ALL, wrong_place, 3000).is_err());
    let ecn = parse(ALL, large(gso::TCPV6 | gso::ECN, 1), 3000).unwrap();
    assert_eq!(
        ecn.segmentation,
        Some(Segmentation {
            kind: SegmentKind::Tcp6,
            size: 1,
            ecn: true
        })
    );
    let alone = Header {
        gso_type: gso::ECN,
        ..Header::default()
    };
    assert_eq!(parse(ALL, alone, 60).unwrap().segmentation, None);
}

#[test]
fn coalescing_is_reported_instead_of_a_checksum() {
    let header = Header {
        flags: flags::RSC_INFO | flags::NEEDS_CSUM,
        gso_type: gso::TCPV4,
        gso_size: 1448.into(),
        csum_start: 0xffff.into(),
        csum_offset: 3.into(),
        ..Header::default()
    };
    let frame = parse(ALL, header, 3000).unwrap();
    assert_eq!(frame.checksum, Checksum::Unknown);
    let coalesced = frame.coalesced.unwrap();
    assert_eq!((coalesced.segments, coalesced.duplicate_acks), (0xffff, 3));
    assert!(parse(ALL & !RSC_EXT, header, 3000).is_err());
}

#[test]
fn an_unknown_hash_is_no_hash() {
    for report in 0..=u16::MAX {
        let whole = HashHeader {
            hash_report: report.into(),
            hash_value: 7.into(),
            ..HashHeader::default()
        };
        let bytes = whole.as_bytes().try_into().unwrap();
        let frame = header::parse(HASH_REPORT, &bytes, 60).unwrap();
        assert_eq!(frame.hash.is_some(), (1..=9).contains(&report));
    }
}

fn offload(kind: Option<SegmentKind>, size: u16, header_len: u16) -> Offload {
    let offset = if kind == Some(SegmentKind::Udp) {
        6
    } else {
        16
    };
    Offload {
        checksum: Some(ChecksumAt { start: 34, offset }),
        segmentation: kind.map(|kind| Segmentation {
            kind,
            size,
            ecn: false,
        }),
        header_len,
    }
}

#[test]
fn what_the_driver_sends_the_driver_would_accept() {
    let kinds = [
        None,
        Some(SegmentKind::Tcp4),
        Some(SegmentKind::Tcp6),
        Some(SegmentKind::Udp),
    ];
    for features in [0, CSUM, CSUM | HOST_TSO4, ALL] {
        for kind in kinds {
            for plain in [true, false] {
                let asked = match plain {
                    true => Offload::default(),
                    false => offload(kind, 1448, 54),
                };
                let len = if asked.segmentation.is_some() {
                    5000
                } else {
                    600
                };
                let Ok(header) = header::build(features, Some(1500), len, &asked) else {
                    assert!(!plain && features != ALL, "{features:#x} {asked:?}");
                    continue;
                };
                // Sec. 5.1.6.2.1: of a sent frame only the checksum is told by a flag, and no buffers are counted.
                assert_eq!(header.num_buffers.get(), 0);
                let completes = asked.checksum.is_some();
                assert_eq!(header.flags, if completes { flags::NEEDS_CSUM } else { 0 });
                assert!(!completes || features & CSUM != 0);
                if asked.segmentation.is_none() {
                    assert_eq!((header.gso_type, header.gso_size.get()), (gso::NONE, 0));
                }
                if plain {
                    assert_eq!(header, Header::default());
                }
                let frame = parse(ALL, header, len as u32).unwrap();
                assert_eq!(frame.segmentation, asked.segmentation);
                let checksum = asked.checksum.map_or(Checksum::Unknown, Checksum::Partial);
                assert_eq!(frame.checksum, checksum);
            }
        }
    }
}

#[test]
fn offloads_that_were_not_negotiated_are_refused() {
    let plain = Offload::default();
    assert_eq!(header::build(0, None, 60, &plain), Ok(Header::default()));
    let refuse = |features, asked: &Offload| header::build(features, None, 5000, asked).err();
    assert_eq!(refuse(0, &offload(None, 0, 0)), Some(Refusal::Unsupported));
    for (kind, feature) in [
        (SegmentKind::Tcp4, HOST_TSO4),
        (SegmentKind::Tcp6, HOST_TSO6),
        (SegmentKind::Udp, HOST_USO),
    ] {
        let asked = offload(Some(kind), 1000, 60);
        assert_eq!(refuse(ALL & !feature, &asked), Some(Refusal::Unsupported));
        assert_eq!(refuse(ALL, &asked), None);
    }
    let mut ecn = offload(Some(SegmentKind::Tcp4), 1000, 60);
    ecn.segmentation.as_mut().unwrap().ecn = true;
    assert_eq!(refuse(ALL & !HOST_ECN, &ecn), Some(Refusal::Unsupported));
    assert_eq!(refuse(ALL, &ecn), None);
}

#[test]
fn offloads_that_do_not_fit_the_frame_are_refused() {
    let refuse = |len, asked: &Offload| header::build(ALL, None, len, asked).err();
    assert_eq!(refuse(51, &offload(None, 0, 0)), Some(Refusal::BadOffload));
    assert_eq!(refuse(52, &offload(None, 0, 0)), None);
    let tcp = |size, header_len| offload(Some(SegmentKind::Tcp4), size, header_len);
    assert_eq!(refuse(5000, &tcp(0, 54)), Some(Refusal::BadOffload));
    assert_eq!(refuse(5000, &tcp(1448, 53)), Some(Refusal::BadOffload));
    assert_eq!(refuse(60, &tcp(1448, 61)), Some(Refusal::BadOffload));
    let mut bare = tcp(1448, 54);
    bare.checksum = None;
    assert_eq!(refuse(5000, &bare), Some(Refusal::BadOffload));
    assert_eq!(refuse(13, &Offload::default()), Some(Refusal::TooSmall));
}

#[test]
fn only_a_frame_that_will_be_cut_may_exceed_the_mtu() {
    let build = |len, asked: &Offload| header::build(ALL, Some(1500), len, asked).err();
    assert_eq!(build(1518, &Offload::default()), None);
    assert_eq!(build(1519, &Offload::default()), Some(Refusal::TooLarge));
    let tcp = offload(Some(SegmentKind::Tcp4), 1448, 54);
    assert_eq!(build(FRAME_MAX as u64, &tcp), None);
    assert_eq!(build(FRAME_MAX as u64 + 1, &tcp), Some(Refusal::TooLarge));
    assert_eq!(build(u64::MAX, &tcp), Some(Refusal::TooLarge));
}

#[test]
fn features_without_their_foundation_are_not_wanted() {
    let lone = |feature| consistent(feature) == 0;
    for feature in [
        GUEST_TSO4,
        GUEST_ECN,
        HOST_TSO4,
        HOST_ECN,
        HOST_USO,
        GUEST_USO4,
        CTRL_RX,
        MQ,
        RSS,
        CTRL_RX_EXTRA,
        GUEST_ANNOUNCE,
        HASH_REPORT,
        RSC_EXT,
        CTRL_GUEST_OFFLOADS,
        NOTF_COAL,
    ] {
        assert!(lone(feature), "{feature:#x}");
    }
    assert_eq!(consistent(ALL), ALL);
    let chain = GUEST_TSO4 | GUEST_ECN;
    assert_eq!(
        consistent(chain),
        0,
        "what one rule takes away, the next one misses"
    );
    assert_eq!(consistent(CTRL_VQ | CTRL_RX_EXTRA), CTRL_VQ);
}

fn limits(features: u64) -> command::Limits {
    command::Limits {
        features,
        info: NetInfo {
            mac: None,
            mtu: None,
            link: Link {
                up: true,
                speed: None,
                duplex: None,
            },
            announce: false,
            pairs_max: 8,
            rss: Some(RssInfo {
                key_max: 40,
                table_max: 128,
                hash_types: hash_type::ALL & !hash_type::UDP_EX,
            }),
            header_size: 12,
            mergeable: true,
            buffer_min: 268,
        },
        pairs: 4,
    }
}

fn encode(command: &Command<'_>) -> Result<command::Encoded, Refusal> {
    command::encode(&limits(ALL), command)
}

#[test]
fn commands_that_were_not_negotiated_are_refused() {
    let coalescing = Coalescing::default();
    let rss = RssConfig {
        hash_types: hash_type::IPV4,
        unclassified: 0,
        table: &[0, 1],
        transmit_queues: 1,
        key: &[0; 40],
    };
    let hash = HashConfig {
        hash_types: hash_type::IPV4,
        key: &[],
    };
    let table = Command::MacTable {
        unicast: &[],
        multicast: &[],
    };
    let commands = [
        (Command::Receive(ReceiveMode::Promiscuous, true), CTRL_RX),
        (
            Command::Receive(ReceiveMode::NoUnicast, true),
            CTRL_RX_EXTRA,
        ),
        (Command::SetMac([2, 0, 0, 0, 0, 1]), CTRL_MAC_ADDR),
        (Command::SetMac([2, 0, 0, 0, 0, 1]), CTRL_RX),
        (table, CTRL_RX),
        (Command::AddVlan(1), CTRL_VLAN),
        (Command::RemoveVlan(1), CTRL_VLAN),
        (Command::Rss(rss), RSS),
        (Command::Hash(hash), HASH_REPORT),
        (Command::AnnounceAck, GUEST_ANNOUNCE),
        (Command::Pairs(2), MQ),
        (Command::GuestOffloads(0), CTRL_GUEST_OFFLOADS),
        (Command::CoalesceReceive(coalescing), NOTF_COAL),
        (Command::CoalesceTransmit(coalescing), NOTF_COAL),
        (Command::CoalesceQueue(0, coalescing), VQ_NOTF_COAL),
        (Command::ReadCoalescing(0), VQ_NOTF_COAL),
    ];
    for (command, feature) in commands {
        assert!(encode(&command).is_ok(), "{command:?}");
        let without = command::encode(&limits(ALL & !feature), &command);
        assert_eq!(without.err(), Some(Refusal::Unsupported), "{command:?}");
    }
}

#[test]
fn commands_have_the_layout_of_the_specification() {
    let bytes = |command: &Command<'_>| encode(command).unwrap().bytes().to_vec();
    assert_eq!(
        bytes(&Command::Receive(ReceiveMode::NoBroadcast, true)),
        [0, 5, 1]
    );
    let table = Command::MacTable {
        unicast: &[[2, 0, 0, 0, 0, 1]],
        multicast: &[],
    };
    assert_eq!(
        bytes(&table),
        [1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    );
    assert_eq!(bytes(&Command::AddVlan(0x123)), [2, 0, 0x23, 1]);
    assert_eq!(bytes(&Command::AnnounceAck), [3, 0]);
    assert_eq!(bytes(&Command::Pairs(3)), [4, 0, 3, 0]);
    assert_eq!(
        bytes(&Command::GuestOffloads(2)),
        [5, 0, 2, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(bytes(&Command::ReadCoalescing(7)), [6, 3, 7, 0, 0, 0]);
    let rss = RssConfig {
        hash_types: hash_type::TCPV4,
        unclassified: 1,
        table: &[0, 3],
        transmit_queues: 4,
        key: &[9; 40],
    };
    let mut expected = alloc::vec![4, 1, 2, 0, 0, 0, 1, 0, 1, 0, 0, 0, 3, 0, 4, 0, 40];
    expected.extend([9; 40]);
    assert_eq!(bytes(&Command::Rss(rss)), expected);
    let hash = HashConfig {
        hash_types: hash_type::IPV4,
        key: &[7],
    };
    let expected = [4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 7];
    assert_eq!(bytes(&Command::Hash(hash)), expected);
}

#[test]
fn command_values_out_of_range_are_refused() {
    let refused = |command: &Command<'_>| encode(command).err();
    for command in [
        Command::AddVlan(control::VLANS),
        Command::RemoveVlan(0xffff),
        Command::Pairs(0),
        Command::Pairs(5),
        Command::SetMac([0; 6]),
        Command::SetMac([1, 0, 0, 0, 0, 0]),
        Command::GuestOffloads(1 << 63),
        Command::GuestOffloads(GUEST_UFO),
        Command::ReadCoalescing(8),
        Command::MacTable {
            unicast: &[[1; 6]],
            multicast: &[],
        },
        Command::MacTable {
            unicast: &[],
            multicast: &[[2; 6]],
        },
    ] {
        assert_eq!(refused(&command), Some(Refusal::OutOfRange), "{command:?}");
    }
    let macs = [[2, 0, 0, 0, 0, 1]; 400];
    let table = Command::MacTable {
        unicast: &macs,
        multicast: &[],
    };
    assert_eq!(refused(&table), Some(Refusal::TooLarge));
}

#[test]
fn scaling_that_the_device_cannot_do_is_refused() {
    let good = RssConfig {
        hash_types: hash_type::IPV4,
        unclassified: 0,
        table: &[0, 1, 2, 3],
        transmit_queues: 4,
        key: &[0; 40],
    };
    assert!(encode(&Command::Rss(good)).is_ok());
    let (long, odd, far) = ([0; 256], [0; 3], [0, 4]);
    for bad in [
        RssConfig {
            hash_types: hash_type::UDP_EX,
            ..good
        },
        RssConfig {
            unclassified: 4,
            ..good
        },
        RssConfig {
            table: &long,
            ..good
        },
        RssConfig {
            table: &odd,
            ..good
        },
        RssConfig { table: &[], ..good },
        RssConfig {
            table: &far,
            ..good
        },
        RssConfig {
            transmit_queues: 0,
            ..good
        },
        RssConfig {
            transmit_queues: 5,
            ..good
        },
        RssConfig {
            key: &[0; 41],
            ..good
        },
        RssConfig {
            key: &[0; 256],
            ..good
        },
    ] {
        let error = encode(&Command::Rss(bad)).err();
        assert_eq!(error, Some(Refusal::OutOfRange), "{bad:?}");
    }
}
