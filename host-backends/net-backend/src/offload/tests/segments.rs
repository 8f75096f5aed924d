//! Segmentation, looked at field by field.
//!
//! Rule: what must hold for every frame is a property; what a field must be is an example.

use net_link::Offloads;
use proptest::prelude::*;
use virtio_spec::net::Header;
use virtio_spec::net::gso;
use virtio_spec::net::header_flags;

use super::Plan;
use super::cut;
use super::slow_sum;
use crate::offload::Work;
use crate::offload::work;

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

prop_compose! {
    pub(super) fn plans()(
        (v6, tcp, tags, flags) in (any::<bool>(), any::<bool>(), 0usize..3, any::<u8>()),
        (options, extensions) in (0usize..11, 0usize..5),
        (sequence, id) in (any::<u32>(), any::<u16>()),
        (size, payload) in (48u16..3000, 0usize..20_000),
    ) -> Plan {
        Plan {
            v6,
            tcp,
            tags,
            options: if tcp { options * 4 } else { 0 },
            extensions: if v6 { extensions * 8 } else { 0 },
            flags,
            sequence,
            id,
            size,
            payload,
        }
    }
}

proptest! {
    #[test]
    fn segments_are_whole_frames_that_carry_all_bytes_once(plan in plans(), owned in 0usize..400) {
        let frame = plan.frame();
        let owned = owned.max(plan.headers());
        let frames = cut(&plan.header(), &frame, owned, false).unwrap();
        let mut payload = Vec::new();
        for (header, whole) in &frames {
            prop_assert_eq!(header.as_slice(), &[0u8; 12][..]);
            let part = &whole[plan.headers()..];
            prop_assert!(part.len() <= usize::from(plan.size));
            payload.extend_from_slice(part);
            let inner = whole.len() - plan.transport_at();
            let mut summed = plan.pseudo_header(whole, inner);
            summed.extend_from_slice(&whole[plan.transport_at()..]);
            prop_assert_eq!(slow_sum(&summed), 0xffff, "the checksum of the transport");
            let network = 14 + plan.tags * 4;
            if plan.v6 {
                prop_assert_eq!(usize::from(be16(whole, network + 4)), whole.len() - network - 40);
            } else {
                prop_assert_eq!(usize::from(be16(whole, network + 2)), whole.len() - network);
                prop_assert_eq!(slow_sum(&whole[network..network + 20]), 0xffff);
            }
        }
        prop_assert_eq!(&payload[..], &frame[plan.headers()..]);
    }

    #[test]
    fn partial_checksums_are_those_that_complete_to_the_whole(plan in plans(), owned in 0usize..400) {
        let frame = plan.frame();
        let owned = owned.max(plan.headers());
        let whole = cut(&plan.header(), &frame, owned, false).unwrap();
        let partial = cut(&plan.header(), &frame, owned, true).unwrap();
        prop_assert_eq!(whole.len(), partial.len());
        for ((_, whole), (header, mut partial)) in whole.into_iter().zip(partial) {
            use zerocopy::FromBytes;
            let mut header = Header::read_from_bytes(&header).unwrap();
            prop_assert_eq!(header.flags, header_flags::NEEDS_CSUM);
            crate::offload::complete(&mut header, &mut partial, [].as_slice()).unwrap();
            prop_assert_eq!(whole, partial);
        }
    }
}

#[test]
fn sequence_identification_and_flags_run_on() {
    let plan = Plan {
        flags: 0x80 | 0x10 | 0x08 | 0x01,
        ..Plan::tcp4()
    };
    let frames = cut(&plan.header(), &plan.frame(), 128, false).unwrap();
    let seen: Vec<_> = frames
        .iter()
        .map(|(_, frame)| {
            let sequence = u32::from_be_bytes(frame[38..42].try_into().unwrap());
            (sequence, be16(frame, 18), frame[47], frame.len() - 66)
        })
        .collect();
    assert_eq!(
        seen,
        [
            (0xffff_ff00, 0xfffe, 0x90, 1000),
            (0x0000_02e8, 0xffff, 0x10, 1000),
            (0x0000_06d0, 0x0000, 0x10, 1000),
            (0x0000_0ab8, 0x0001, 0x19, 500),
        ],
        "CWR on the first only, FIN and PSH on the last only"
    );
}

#[test]
fn what_lies_behind_the_ip_packet_is_not_sent() {
    let plan = Plan {
        payload: 10,
        ..Plan::tcp4()
    };
    let mut frame = plan.frame();
    frame.extend([0xee; 30]);
    let frames = cut(&plan.header(), &frame, 80, false).unwrap();
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].1.len(), plan.headers() + 10);
}

#[test]
fn a_large_frame_without_payload_is_one_segment() {
    let plan = Plan {
        payload: 0,
        ..Plan::udp6()
    };
    let frames = cut(&plan.header(), &plan.frame(), 400, false).unwrap();
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].1.len(), plan.headers());
}

#[test]
fn work_is_what_the_receiver_does_not_do() {
    let header = |flags, gso_type| Header {
        flags,
        gso_type,
        ..Header::default()
    };
    let needs = header_flags::NEEDS_CSUM;
    let without = |change: fn(&mut Offloads)| {
        let mut accepts = Offloads::ALL;
        change(&mut accepts);
        accepts
    };
    let no_ecn = without(|o| o.ecn = false);
    for (header, accepts, wants) in [
        (header(0, 0), Offloads::NONE, Work::None),
        (header(needs, 0), Offloads::NONE, Work::Checksum),
        (header(needs, 0), Offloads::ALL, Work::None),
        (header(needs, gso::TCPV4), Offloads::ALL, Work::None),
        (
            header(needs, gso::TCPV4),
            without(|o| o.tso4 = false),
            Work::Segment,
        ),
        (
            header(needs, gso::TCPV4),
            without(|o| o.tso6 = false),
            Work::None,
        ),
        (
            header(needs, gso::TCPV6),
            without(|o| o.tso6 = false),
            Work::Segment,
        ),
        (header(needs, gso::TCPV6 | gso::ECN), no_ecn, Work::Segment),
        (header(needs, gso::TCPV6), no_ecn, Work::None),
        (
            header(needs, gso::UDP_L4),
            without(|o| o.uso = false),
            Work::Segment,
        ),
        (header(needs, gso::UDP), Offloads::ALL, Work::Segment),
        (header(0, 77), Offloads::ALL, Work::Segment),
    ] {
        assert_eq!(work(&header, accepts), wants, "{header:?} {accepts:?}");
    }
}
