//! Headers and frames that do not belong together.
//!
//! Rule: each is refused by name, and nothing that is accepted comes out malformed.

use proptest::prelude::*;
use virtio_spec::net::Header;
use virtio_spec::net::gso;
use virtio_spec::net::header_flags;

use super::Plan;
use super::cut;
use super::segments::plans;
use crate::offload::MAX_SEGMENTS;
use crate::offload::Refusal;
use crate::offload::Segmenter;
use crate::offload::complete;

#[test]
fn large_frames_are_refused_when_header_and_frame_disagree() {
    let plan = Plan::tcp4();
    let frame = plan.frame();
    let good = plan.header();
    let with = |change: fn(&mut Header)| {
        let mut header = good;
        change(&mut header);
        cut(&header, &frame, 128, false).err()
    };
    assert_eq!(with(|_| {}), None);
    assert_eq!(with(|h| h.gso_size = 0.into()), Some(Refusal::Size));
    assert_eq!(with(|h| h.gso_size = 1.into()), Some(Refusal::Size));
    assert_eq!(with(|h| h.flags = 0), Some(Refusal::Checksum));
    assert_eq!(with(|h| h.csum_start = 35.into()), Some(Refusal::Checksum));
    assert_eq!(with(|h| h.gso_type = gso::TCPV6), Some(Refusal::Headers));
    assert_eq!(with(|h| h.gso_type = gso::UDP_L4), Some(Refusal::Headers));
    assert_eq!(with(|h| h.gso_type = gso::UDP), Some(Refusal::Kind));
    assert_eq!(with(|h| h.gso_type = gso::ECN), Some(Refusal::Kind));
    assert_eq!(
        with(|h| h.gso_type = 0x20 | gso::TCPV4),
        Some(Refusal::Kind)
    );
    assert_eq!(with(|h| h.hdr_len = 0xffff.into()), None, "only a hint");
    let udp = Plan::udp6();
    let mut header = udp.header();
    header.gso_type |= gso::ECN;
    assert_eq!(
        cut(&header, &udp.frame(), 128, false).err(),
        Some(Refusal::Kind)
    );
}

#[test]
fn large_frames_with_broken_headers_are_refused() {
    // 3342 bytes of IP: without the high byte of the length, 14.
    let plan = Plan {
        payload: 3290,
        ..Plan::tcp4()
    };
    let good = plan.frame();
    let with = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        cut(&plan.header(), &frame, 128, false).err()
    };
    for (at, value, what) in [
        (14, 0x44, "IPv4 header of 16 bytes"),
        (14, 0x65, "IPv6 in an IPv4 frame"),
        (16, 0, "ends within its headers"),
        (16, 0xff, "longer than the frame"),
        (20, 0x20, "a fragment"),
        (21, 1, "a later fragment"),
        (46, 0x40, "TCP header of 16 bytes"),
        (12, 0x88, "no IP"),
    ] {
        assert_eq!(with(at, value), Some(Refusal::Headers), "{what}");
    }
    for owned in 0..plan.headers() {
        let refused = cut(&plan.header(), &good, owned, false).err();
        assert_eq!(refused, Some(Refusal::Headers), "{owned} bytes of head");
    }
}

#[test]
fn segments_are_bounded() {
    let mut plan = Plan {
        size: 48,
        payload: 65_000,
        ..Plan::tcp4()
    };
    let frames = cut(&plan.header(), &plan.frame(), 128, false).unwrap();
    assert_eq!(frames.len(), 65_000usize.div_ceil(48));
    assert!(frames.len() <= MAX_SEGMENTS);
    plan.size = 47;
    assert_eq!(
        cut(&plan.header(), &plan.frame(), 128, false).err(),
        Some(Refusal::Size)
    );
}

#[test]
fn a_tail_that_is_shorter_than_announced_ends_the_frame() {
    let plan = Plan::tcp4();
    let frame = plan.frame();
    let (head, tail) = frame.split_at(100);
    let mut segmenter = Segmenter::new(&plan.header(), head, tail.len(), false).unwrap();
    let mut out = Vec::new();
    assert!(segmenter.next(head, tail, &mut out).unwrap().is_ok());
    let refused = segmenter.next(head, &tail[..1100], &mut out).unwrap();
    assert_eq!(refused, Err(Refusal::Memory));
    assert!(segmenter.next(head, tail, &mut out).is_none());
}

prop_compose! {
    fn headers()(
        flags in 0u8..4,
        gso_type in prop_oneof![Just(0), Just(1), Just(3), Just(4), Just(5), Just(0x81), any::<u8>()],
        (hdr_len, gso_size) in (any::<u16>(), any::<u16>()),
        (csum_start, csum_offset) in (prop_oneof![0u16..120, any::<u16>()], prop_oneof![0u16..30, any::<u16>()]),
    ) -> Header {
        Header {
            flags,
            gso_type,
            hdr_len: hdr_len.into(),
            gso_size: gso_size.into(),
            csum_start: csum_start.into(),
            csum_offset: csum_offset.into(),
            num_buffers: 0.into(),
        }
    }
}

proptest! {
    #[test]
    fn noise_is_refused_or_cut_within_bounds(
        header in headers(),
        frame in proptest::collection::vec(any::<u8>(), 0..400),
        owned in 0usize..400,
    ) {
        let owned = owned.min(frame.len());
        if let Ok(frames) = cut(&header, &frame, owned, header.flags & 2 != 0) {
            prop_assert!(frames.len() <= MAX_SEGMENTS);
        }
        let (head, tail) = frame.split_at(owned);
        let mut head = head.to_vec();
        let mut header = header;
        if complete(&mut header, &mut head, tail).is_ok() {
            prop_assert_eq!(header.flags & header_flags::NEEDS_CSUM, 0);
        }
    }

    #[test]
    fn a_good_frame_with_a_bad_byte_is_refused_or_cut_within_bounds(
        plan in plans(),
        at in 0usize..120,
        value in any::<u8>(),
        header in headers(),
        own_header in any::<bool>(),
    ) {
        let mut frame = plan.frame();
        if let Some(byte) = frame.get_mut(at) {
            *byte = value;
        }
        let header = if own_header { plan.header() } else { header };
        if let Ok(frames) = cut(&header, &frame, 256, false) {
            let sum: usize = frames.iter().map(|(_, frame)| frame.len()).sum();
            prop_assert!(sum <= frame.len() + frames.len() * 256);
        }
    }
}
