//! Frames that say who sends them, truthfully and otherwise.
//!
//! Rule: for each thing a frame can claim there is one that claims another's.

use std::net::IpAddr;

use proptest::prelude::*;

use super::Filter;
use super::Spoof;
use crate::HEAD_BYTES;
use crate::MacAddress;

const OWN: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const OTHER: [u8; 6] = [0x52, 0x54, 0, 9, 9, 9];
const OWN4: [u8; 4] = [10, 0, 0, 2];
const OTHER4: [u8; 4] = [10, 0, 0, 99];
const OWN6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const OTHER6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 99];
const LINK_LOCAL: [u8; 16] = [
    0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x50, 0x54, 0, 0xff, 0xfe, 1, 2, 3,
];

fn strict() -> Filter {
    let addresses = vec![IpAddr::from(OWN4), IpAddr::from(OWN6)];
    Filter::new(MacAddress(OWN), addresses)
}

fn by_mac() -> Filter {
    Filter::new(MacAddress(OWN), Vec::new())
}

fn ethernet(source: [u8; 6], ethertype: u16, inside: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(source);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(inside);
    frame
}

fn arp(operation: u8, sender: ([u8; 6], [u8; 4]), target: ([u8; 6], [u8; 4])) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation];
    packet.extend(sender.0);
    packet.extend(sender.1);
    packet.extend(target.0);
    packet.extend(target.1);
    packet
}

fn ipv4(source: [u8; 4], fragment: u16, protocol: u8, inside: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, u8::try_from(20 + inside.len()).unwrap(), 0, 0];
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source);
    packet.extend([255; 4]);
    packet.extend(inside);
    packet
}

fn ipv6(source: [u8; 16], next: u8, inside: &[u8]) -> Vec<u8> {
    let mut packet = vec![
        0x60,
        0,
        0,
        0,
        0,
        u8::try_from(inside.len()).unwrap(),
        next,
        255,
    ];
    packet.extend(source);
    packet.extend([0xff; 16]);
    packet.extend(inside);
    packet
}

fn neighbour(kind: u8, target: [u8; 16], option: u8, address: [u8; 6]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target);
    message.extend([option, 1]);
    message.extend(address);
    message
}

fn arp_frame(sender: ([u8; 6], [u8; 4]), target: ([u8; 6], [u8; 4])) -> Vec<u8> {
    ethernet(OWN, 0x0806, &arp(1, sender, target))
}

fn v4(source: [u8; 4]) -> Vec<u8> {
    ethernet(OWN, 0x0800, &ipv4(source, 0, 17, &[0; 8]))
}

fn v6(source: [u8; 16], next: u8, inside: &[u8]) -> Vec<u8> {
    ethernet(OWN, 0x86dd, &ipv6(source, next, inside))
}

#[test]
fn the_ethernet_source_is_the_guests() {
    for filter in [strict(), by_mac()] {
        let frame = ethernet(OTHER, 0x0800, &ipv4(OWN4, 0, 17, &[0; 8]));
        assert_eq!(filter.check(&frame), Err(Spoof::Mac));
        assert_eq!(filter.check(&v4(OWN4)), Ok(()));
    }
}

#[test]
fn arp_speaks_for_the_guest_only() {
    let none = ([0; 6], [0; 4]);
    for (sender, target, wants) in [
        ((OWN, OWN4), (OTHER, OTHER4), Ok(())),
        ((OTHER, OWN4), (OTHER, OTHER4), Err(Spoof::Mac)),
        ((OWN, OTHER4), (OTHER, OWN4), Err(Spoof::Ip)),
        ((OWN, [0; 4]), (none.0, OWN4), Ok(())),
        ((OWN, [0; 4]), (none.0, OTHER4), Err(Spoof::Ip)),
    ] {
        let frame = arp_frame(sender, target);
        assert_eq!(strict().check(&frame), wants, "{sender:?} {target:?}");
    }
    assert_eq!(by_mac().check(&arp_frame((OWN, OTHER4), none)), Ok(()));
    assert_eq!(
        by_mac().check(&arp_frame((OTHER, OWN4), none)),
        Err(Spoof::Mac)
    );
    let mut odd = arp_frame((OWN, OWN4), none);
    odd[18] = 8;
    assert_eq!(
        strict().check(&odd),
        Err(Spoof::Malformed),
        "addresses of other lengths"
    );
}

#[test]
fn rarp_announces_the_guest_only() {
    let rarp = |sender, target| {
        let packet = arp(3, (sender, [0; 4]), (target, [0; 4]));
        ethernet(OWN, 0x8035, &packet)
    };
    for filter in [strict(), by_mac()] {
        assert_eq!(filter.check(&rarp(OWN, OWN)), Ok(()));
        assert_eq!(filter.check(&rarp(OTHER, OWN)), Err(Spoof::Mac));
        assert_eq!(filter.check(&rarp(OWN, OTHER)), Err(Spoof::Mac));
    }
}

#[test]
fn ip_sources_are_the_guests() {
    let filter = strict();
    assert_eq!(filter.check(&v4(OTHER4)), Err(Spoof::Ip));
    assert_eq!(filter.check(&v4([0; 4])), Err(Spoof::Ip));
    assert_eq!(by_mac().check(&v4(OTHER4)), Ok(()));
    for (source, wants) in [
        (OWN6, Ok(())),
        (LINK_LOCAL, Ok(())),
        (OTHER6, Err(Spoof::Ip)),
        ([0; 16], Err(Spoof::Ip)),
    ] {
        assert_eq!(filter.check(&v6(source, 17, &[0; 8])), wants, "{source:?}");
    }
    // Every fragment has a source of its own.
    for part in [0x2000, 0x2001, 1] {
        let own = ethernet(OWN, 0x0800, &ipv4(OWN4, part, 17, &[0; 8]));
        let other = ethernet(OWN, 0x0800, &ipv4(OTHER4, part, 17, &[0; 8]));
        assert_eq!(filter.check(&own), Ok(()));
        assert_eq!(filter.check(&other), Err(Spoof::Ip));
    }
}

#[test]
fn a_guest_without_an_address_may_ask_for_one() {
    let discover = [0, 68, 0, 67, 0, 8, 0, 0];
    let frame = |ports: &[u8], part| ethernet(OWN, 0x0800, &ipv4([0; 4], part, 17, ports));
    assert_eq!(strict().check(&frame(&discover, 0)), Ok(()));
    assert_eq!(strict().check(&frame(&discover, 0x2000)), Err(Spoof::Ip));
    assert_eq!(
        strict().check(&frame(&[0, 67, 0, 68, 0, 8, 0, 0], 0)),
        Err(Spoof::Ip)
    );
    for kind in [133, 131, 143] {
        let frame = v6([0; 16], 58, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(strict().check(&frame), Ok(()));
    }
}

#[test]
fn neighbour_discovery_claims_the_guests_addresses_only() {
    let check = |filter: &Filter, source, message: &[u8]| filter.check(&v6(source, 58, message));
    let filter = strict();
    for (source, message, wants) in [
        (OWN6, neighbour(135, OTHER6, 1, OWN), Ok(())),
        (OWN6, neighbour(135, OTHER6, 1, OTHER), Err(Spoof::Mac)),
        (OWN6, neighbour(136, OWN6, 2, OWN), Ok(())),
        (OWN6, neighbour(136, LINK_LOCAL, 2, OWN), Ok(())),
        (OWN6, neighbour(136, OTHER6, 2, OWN), Err(Spoof::Ip)),
        (OWN6, neighbour(136, OWN6, 2, OTHER), Err(Spoof::Mac)),
        ([0; 16], neighbour(135, OWN6, 14, [0; 6]), Ok(())),
        ([0; 16], neighbour(135, OTHER6, 14, [0; 6]), Err(Spoof::Ip)),
        ([0; 16], neighbour(136, OWN6, 2, OWN), Err(Spoof::Ip)),
        (
            LINK_LOCAL,
            neighbour(134, [0; 16], 1, OWN),
            Err(Spoof::Forbidden),
        ),
        (
            LINK_LOCAL,
            neighbour(137, [0; 16], 1, OWN),
            Err(Spoof::Forbidden),
        ),
        (OWN6, vec![128, 0, 0, 0, 0, 0, 0, 0], Ok(())),
    ] {
        assert_eq!(
            check(&filter, source, &message),
            wants,
            "{source:?} {message:?}"
        );
    }
    assert_eq!(
        check(&by_mac(), OTHER6, &neighbour(136, OTHER6, 2, OWN)),
        Ok(())
    );
    assert_eq!(
        check(&by_mac(), OTHER6, &neighbour(136, OTHER6, 2, OTHER)),
        Err(Spoof::Mac)
    );
    let mut endless = neighbour(136, OWN6, 2, OWN);
    endless[25] = 0;
    assert_eq!(
        check(&filter, OWN6, &endless),
        Err(Spoof::Malformed),
        "an option of no length"
    );
    endless.truncate(25);
    assert_eq!(
        check(&filter, OWN6, &endless),
        Err(Spoof::Malformed),
        "half an option"
    );
}

#[test]
fn neighbour_discovery_does_not_hide_in_extension_headers_and_fragments() {
    let lie = neighbour(136, OTHER6, 2, OWN);
    let behind =
        |header: &[u8], first: u8, message: &[u8]| v6(OWN6, first, &[header, message].concat());
    let options = [58, 0, 1, 4, 0, 0, 0, 0];
    assert_eq!(strict().check(&behind(&options, 60, &lie)), Err(Spoof::Ip));
    assert_eq!(strict().check(&behind(&options, 0, &lie)), Err(Spoof::Ip));
    let truth = neighbour(136, OWN6, 2, OWN);
    assert_eq!(strict().check(&behind(&options, 60, &truth)), Ok(()));
    for filter in [strict(), by_mac()] {
        for (part, wants) in [
            ([58, 0, 0, 1, 0, 0, 0, 1], Err(Spoof::Malformed)),
            ([58, 0, 0, 0, 0, 0, 0, 1], Err(Spoof::Malformed)),
            // The middle of something that happens to begin like an advertisement.
            ([58, 0, 0, 8, 0, 0, 0, 1], Ok(())),
        ] {
            assert_eq!(filter.check(&behind(&part, 44, &truth)), wants, "{part:?}");
        }
        // The message's type in another fragment than its headers.
        let chain = [60, 0, 0, 1, 0, 0, 0, 1, 58, 0, 1, 4, 0, 0, 0, 0];
        assert_eq!(
            filter.check(&behind(&chain, 44, &[])),
            Err(Spoof::Malformed)
        );
    }
    let mut long = Vec::new();
    for _ in 0..12 {
        long.extend([60, 0, 1, 4, 0, 0, 0, 0]);
    }
    assert_eq!(
        strict().check(&behind(&long, 60, &lie)),
        Err(Spoof::Malformed)
    );
}

#[test]
fn vlan_tags_hide_nothing() {
    let tagged = |tags: usize, inner: &[u8]| {
        let mut frame = inner[..12].to_vec();
        for _ in 0..tags {
            frame.extend([0x81, 0, 0, 5]);
        }
        frame.extend(&inner[12..]);
        frame
    };
    for tags in 0..=2 {
        assert_eq!(strict().check(&tagged(tags, &v4(OWN4))), Ok(()));
        assert_eq!(strict().check(&tagged(tags, &v4(OTHER4))), Err(Spoof::Ip));
    }
    for filter in [strict(), by_mac()] {
        assert_eq!(filter.check(&tagged(3, &v4(OWN4))), Err(Spoof::Malformed));
    }
}

#[test]
fn what_is_neither_ip_nor_arp_passes_only_without_addresses() {
    let frame = ethernet(OWN, 0x88cc, &[0; 46]);
    assert_eq!(by_mac().check(&frame), Ok(()));
    assert_eq!(strict().check(&frame), Err(Spoof::Forbidden));
}

#[test]
fn frames_cut_short_anywhere_are_refused() {
    let none = ([0; 6], [0; 4]);
    let discovery = v6(OWN6, 58, &neighbour(136, OWN6, 2, OWN));
    for frame in [arp_frame((OWN, OWN4), none), v4(OWN4), discovery] {
        assert_eq!(strict().check(&frame), Ok(()));
        for length in 0..34.min(frame.len()) {
            let refused = strict().check(&frame[..length]);
            assert_eq!(refused, Err(Spoof::Malformed), "{length} of {frame:?}");
        }
    }
}

proptest! {
    #[test]
    fn noise_is_judged_and_no_more(mut frame in proptest::collection::vec(any::<u8>(), 0..300), kind in 0usize..6) {
        if let Some(start) = frame.get_mut(6..14) {
            let ethertype = [0x0800u16, 0x86dd, 0x0806, 0x8035, 0x8100, 0x1234][kind];
            start.copy_from_slice(&[&OWN[..], &ethertype.to_be_bytes()].concat());
        }
        let strict = strict().check(&frame);
        let by_mac = by_mac().check(&frame);
        // What the stricter filter lets through, the other does too.
        prop_assert!(strict.is_err() || by_mac.is_ok());
    }

    #[test]
    fn what_is_delivered_is_what_was_looked_at(frame in proptest::collection::vec(any::<u8>(), 300..400)) {
        let filter = strict();
        let whole = filter.check(&frame);
        prop_assert_eq!(filter.check(&frame[..HEAD_BYTES]).is_ok(), whole.is_ok());
    }
}
