//! What makes a card useless is told and shown, with the mend, and shown no more when it is over.

use std::sync::Arc;

use host_os::sync::lock;
use net_link::Offloads;
use virtio_spec::net::Header;
use virtio_spec::net::feature as net;
use zerocopy::IntoBytes;

use crate::ConditionKind;
use crate::ConditionKind as Kind;
use crate::MacAddress;
use crate::filter::Filter;
use crate::limit::Limits;
use crate::path::tests::rig::FakeLink;
use crate::path::tests::rig::Guest;
use crate::path::tests::rig::MERGEABLE;
use crate::path::tests::rig::PLAIN;
use crate::path::tests::rig::frame;
use crate::path::tests::rig::mac;
use crate::port::Policy;
use crate::switch::Switch;

fn kinds(guest: &Guest) -> Vec<ConditionKind> {
    let all = guest.port.conditions();
    all.into_iter().map(|condition| condition.kind).collect()
}

/// The condition of `kind`, in words.
fn words(guest: &Guest, kind: Kind) -> String {
    let all = guest.port.conditions();
    let found = all.into_iter().find(|condition| condition.kind == kind);
    found.expect("the condition").message
}

/// Sends until no more than `enough` bursts of one frame are dropped; the condition must be there then, and a frame that
/// gets through ends it.
fn until_told(guest: &mut Guest, kind: Kind, enough: usize, mut bad: impl FnMut(&mut Guest)) {
    for sent in 0..enough {
        assert!(!kinds(guest).contains(&kind), "{kind:?} after {sent}");
        bad(guest);
        guest.recycle_all();
    }
    assert_eq!(kinds(guest), [kind]);
}

#[test]
fn a_filter_that_drops_everything_is_told_with_the_first_frame() {
    let link = FakeLink::new(Offloads::ALL);
    let wire = Arc::clone(&link.wire);
    let mut policy = Policy::default();
    policy.filter = Some(Filter::new(MacAddress(mac(1)), Vec::new()));
    let mut guest = Guest::on_link_with(link, MERGEABLE, policy);
    guest.send_all(&[frame(7, 9, 60)]);
    assert!(lock(&wire).sent.is_empty());
    let said = words(&guest, Kind::Spoofed);
    for part in [
        "All frames",
        "mac=02:00:00:00:00:01",
        "mac = 02:00:00:00:00:07",
    ] {
        assert!(said.contains(part), "{said}");
    }
    // Nor may its driver take that address.
    assert!(!guest.port.hold_address(MacAddress(mac(7))));
    assert!(guest.port.hold_address(MacAddress(mac(1))));
    guest.port.release();
    assert_eq!(kinds(&guest), []);
}

#[test]
fn frames_that_are_all_dropped_for_one_reason_become_a_condition_until_one_passes() {
    let switch = Arc::new(Switch::new("test"));
    let mut a = Guest::on_switch(&switch, 1, MERGEABLE);
    let _b = Guest::on_switch(&switch, 2, MERGEABLE);
    let good = |a: &mut Guest| a.send_all(&[frame(1, 2, 60)]);
    let large = Header {
        gso_type: 1,
        ..Header::default()
    };
    until_told(&mut a, Kind::SentHeaders, 16, |a| {
        a.queue_frame(&large, &frame(1, 2, 60));
        a.run();
    });
    good(&mut a);
    assert_eq!(kinds(&a), []);
    a.port.update(|state| state.mtu = 1500);
    until_told(&mut a, Kind::SentLengths, 16, |a| {
        a.send_all(&[frame(1, 2, 2000)]);
    });
    assert!(words(&a, Kind::SentLengths).contains("1500"));
    good(&mut a);
    until_told(&mut a, Kind::Nowhere, 16, |a| {
        a.send_all(&[frame(1, 1, 60)])
    });
    good(&mut a);
    until_told(&mut a, Kind::SentChains, 16, |a| {
        let part = a.room(100);
        a.queue_chain(&[part], &[part]);
        a.run();
    });
    good(&mut a);
    a.port.update(|state| state.link_up = false);
    until_told(&mut a, Kind::Unplugged, 16, |a| {
        a.send_all(&[frame(1, 2, 60)])
    });
    a.port.update(|state| state.link_up = true);
    good(&mut a);
    assert_eq!(kinds(&a), []);
    // A few among many that pass are no condition.
    for _ in 0..40 {
        a.send_all(&[frame(1, 2, 2000), frame(1, 2, 60)]);
        a.recycle_all();
    }
    assert_eq!(kinds(&a), []);
}

#[test]
fn a_guest_that_gets_nothing_is_told_of_by_the_reason() {
    let switch = Arc::new(Switch::new("test"));
    let mut a = Guest::on_switch(&switch, 1, MERGEABLE);
    let mut b = Guest::on_switch(&switch, 2, PLAIN | net::MTU);
    let mut send = |len: usize, count: usize| {
        for _ in 0..count {
            a.send_all(&[frame(1, 2, len)]);
            a.recycle_all();
        }
    };
    send(60, 255);
    assert_eq!(kinds(&b), []);
    send(60, 1);
    assert_eq!(kinds(&b), [Kind::Starved], "rings that are never filled");
    b.post(&[512]);
    send(60, 1);
    assert_eq!((b.got().len(), kinds(&b)), (1, vec![]));
    b.post(&[100]);
    send(200, 16);
    assert_eq!(kinds(&b), [Kind::SmallBuffers]);
    send(60, 1);
    assert_eq!((b.got().len(), kinds(&b)), (1, vec![]));
    b.port.update(|state| state.mtu = 1000);
    b.post(&[4000]);
    send(1400, 16);
    assert_eq!(kinds(&b), [Kind::ReceivedLengths]);
    assert!(words(&b, Kind::ReceivedLengths).contains("1000"));
    send(900, 1);
    assert_eq!((b.got().len(), kinds(&b)), (1, vec![]));
}

#[test]
fn a_link_that_takes_nothing_is_told_of() {
    let link = FakeLink::new(Offloads::ALL);
    let wire = Arc::clone(&link.wire);
    lock(&wire).room = Some(0);
    let mut guest = Guest::on_link(link, MERGEABLE);
    until_told(&mut guest, Kind::LinkRefuses, 16, |guest| {
        guest.send_all(&[frame(1, 9, 60)]);
    });
    lock(&wire).room = None;
    guest.send_all(&[frame(1, 9, 60)]);
    assert_eq!(kinds(&guest), []);
    // Frames from outside end what was the matter with that direction.
    lock(&wire)
        .waiting
        .push_back([Header::default().as_bytes(), &frame(9, 1, 60)].concat());
    guest.post(&[512]);
    guest.run();
    assert_eq!((guest.got().len(), kinds(&guest)), (1, vec![]));
}

#[test]
fn a_limit_below_a_frame_a_second_is_told_of_when_it_is_set() {
    let guest = Guest::on_link(FakeLink::new(Offloads::ALL), MERGEABLE);
    for (bytes, told) in [(0, false), (1, true), (1513, true), (1514, false)] {
        let packets = 1;
        guest.port.set_limits(Limits { bytes, packets });
        assert_eq!(kinds(&guest).contains(&Kind::RateLimit), told, "{bytes}");
    }
}
