//! A network card under the real server: pairs, filters, announcements and MTU as front-ends ask for them. One rule: each
//! test is one promise.

use anyhow::Result;
use net_backend::Fabric;
use net_backend::NetSpec;
use protocol::Machine;
use protocol::ServedCard;
use protocol::eventually;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use vhost_user_protocol::BackendMessage;
use vhost_user_protocol::ConfigSpace;
use vhost_user_protocol::FrontendMessage as M;
use vhost_user_protocol::Reply;
use virtio_spec::feature::RING_EVENT_IDX;
use virtio_spec::feature::RING_PACKED;
use virtio_spec::feature::VERSION_1;
use virtio_spec::net::feature;
use virtqueue::Segment;

const RING: u64 = VERSION_1 | RING_EVENT_IDX;
const PAIRS: u64 = feature::MQ | feature::CTRL_VQ;
const A: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0xa];
const B: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0xb];

fn card(name: &str, fabric: &Fabric) -> Result<ServedCard> {
    let spec = NetSpec {
        queue_pairs: 2,
        mtu: Some(9000),
        ..NetSpec::on_switch("lan")
    };
    ServedCard::new(name, spec, fabric)
}

/// A frame to `to` with `mark` in its payload.
fn frame(to: [u8; 6], from: [u8; 6], mark: u8, len: usize) -> Vec<u8> {
    let mut bytes = [&to[..], &from, &[0x88, 0xb5]].concat();
    bytes.resize(len, mark);
    bytes
}

/// Two cards on one switch, each with a machine whose first `enabled` pairs run.
struct Pair {
    a: Machine,
    b: Machine,
    cards: [ServedCard; 2],
}

fn machines(features: u64, enabled: usize) -> Result<Pair> {
    let fabric = Fabric::default();
    let cards = [card("a", &fabric)?, card("b", &fabric)?];
    let mut a = Machine::new(&cards[0], features, 2)?;
    let mut b = Machine::new(&cards[1], features, 2)?;
    for pair in 0..enabled {
        a.enable(pair, true)?;
        b.enable(pair, true)?;
    }
    let mut both = Pair { a, b, cards };
    // Each sends until it is heard, so that the switch knows where they are: a ring is served from a moment after it was
    // enabled, and what is sent to it before is lost as on a cable.
    both.a.greet(0, &both.b, &frame([0xff; 6], A, 0, 60))?;
    both.b.wait_for(0, &frame([0xff; 6], A, 0, 60))?;
    both.b.greet(0, &both.a, &frame(A, B, 0, 60))?;
    both.a.wait_for(0, &frame(A, B, 0, 60))?;
    Ok(both)
}

#[test]
fn the_control_queue_comes_on_top_of_the_pairs() -> Result<()> {
    let served = card("a", &Fabric::default())?;
    let mut frontend = served.connect()?;
    frontend.negotiate(RING)?;
    assert_eq!(frontend.number(&M::GetQueueNum)?, 5);
    Ok(())
}

#[test]
fn frames_cross_the_switch_between_two_front_ends_in_split_and_packed_rings() -> Result<()> {
    for features in [RING, RING | RING_PACKED, RING | feature::MRG_RXBUF] {
        let mut both = machines(features, 1)?;
        for mark in 1..50 {
            for len in [60, 1514, 61] {
                both.a.send(0, &frame(B, A, mark, len))?;
                assert_eq!(both.b.next_frame(0)?, frame(B, A, mark, len));
            }
            both.b.enable(0, true)?;
        }
    }
    Ok(())
}

#[test]
fn frames_go_to_enabled_pairs_only_while_the_front_end_keeps_the_control_queue() -> Result<()> {
    let mut both = machines(RING | PAIRS, 2)?;
    assert!(eventually(|| both.cards[1].card.active_pairs() == 2));
    both.b.enable(1, false)?;
    assert_eq!(both.cards[1].card.active_pairs(), 1);
    for mark in 1..10 {
        both.a.send(1, &frame(B, A, mark, 60))?;
        both.b.wait_for(0, &frame(B, A, mark, 60))?;
    }
    assert!(both.b.is_quiet(1));
    both.b.enable(1, true)?;
    assert!(eventually(|| both.cards[1].card.active_pairs() == 2));
    both.a.greet(1, &both.b, &frame(B, A, 99, 60))?;
    both.b.wait_for(1, &frame(B, A, 99, 60))?;
    Ok(())
}

#[test]
fn pairs_are_the_drivers_word_once_it_has_the_control_queue() -> Result<()> {
    let mut both = machines(RING | PAIRS | feature::CTRL_RX, 2)?;
    let mut control = both.b.describe(4)?;
    both.b.frontend.enable(&control, true)?;
    assert!(eventually(|| both.cards[1].card.active_pairs() == 1));
    let (request, answer) = (both.b.guest.buffer(2), both.b.guest.buffer(3));
    let mut ask = |bytes: &[u8]| -> Result<u8> {
        both.b.guest.memory.write(request, bytes)?;
        let readable = Segment {
            addr: request,
            len: u32::try_from(bytes.len())?,
        };
        let room = Segment {
            addr: answer,
            len: 1,
        };
        let added = control.driver.add(&[readable], &[room], None);
        added.map_err(|error| anyhow::anyhow!("{error}"))?;
        control.publish();
        control.wait(1)?;
        let mut ack = [0xff];
        both.b.guest.memory.read(answer, &mut ack)?;
        Ok(ack[0])
    };
    assert_eq!(ask(&[4, 0, 2, 0])?, 0);
    assert_eq!(ask(&[4, 0, 3, 0])?, 1);
    assert_eq!(ask(&[4, 0, 0, 0])?, 1);
    assert_eq!(ask(&[99, 0])?, 1);
    assert_eq!(ask(&[0, 0, 0])?, 0);
    assert_eq!(both.cards[1].card.active_pairs(), 2);
    let stranger = [2, 0, 0, 0, 0, 9];
    both.a.send(0, &frame(stranger, A, 1, 60))?;
    both.a.send(0, &frame([0xff; 6], A, 2, 60))?;
    both.b.wait_for(0, &frame([0xff; 6], A, 2, 60))?;
    Ok(())
}

#[test]
fn an_announcement_tells_the_other_machines_where_the_station_is() -> Result<()> {
    let mut both = machines(RING, 1)?;
    let [a, b, c, d, e, f] = A;
    let wire = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
    both.a.frontend.must(&M::SendRarp(wire), &[])?;
    let heard = both.b.next_frame(0)?;
    assert_eq!(heard[..6], [0xff; 6]);
    assert_eq!(heard[6..12], A);
    assert_eq!(heard[12..14], [0x80, 0x35]);
    Ok(())
}

#[test]
fn the_front_ends_mtu_bounds_what_is_sent() -> Result<()> {
    let mut both = machines(RING | feature::MTU, 1)?;
    for nonsense in [0, 67, 65536, u64::MAX] {
        let answer = both.a.frontend.ask(&M::NetSetMtu(nonsense), &[])?;
        assert_ne!(answer, 0, "{nonsense}");
    }
    both.a.frontend.must(&M::NetSetMtu(1400), &[])?;
    let dropped = || both.cards[0].card.metrics().frames.transmit.bad_lengths;
    assert_eq!(dropped(), 0);
    // The ring that is being served learns of it at its next round.
    let start = std::time::Instant::now();
    while dropped() == 0 {
        assert!(start.elapsed() < protocol::DEADLINE);
        both.a.send(0, &frame(B, A, 1, 1500))?;
    }
    let before = dropped();
    both.a.send(0, &frame(B, A, 1, 1500))?;
    assert_eq!(dropped(), before + 1);
    both.a.send(0, &frame(B, A, 2, 1414))?;
    both.b.wait_for(0, &frame(B, A, 2, 1414))?;
    Ok(())
}

/// The status field of the configuration, as the front-end reads it.
fn status(machine: &mut Machine) -> Result<[u8; 2]> {
    let question = ConfigSpace {
        offset: 6,
        size: 2,
        flags: 0,
        data: vec![0; 2],
    };
    match machine.frontend.get(&M::GetConfig(question))? {
        Reply::Config(config) => Ok([config.data[0], config.data[1]]),
        other => anyhow::bail!("{other:?}"),
    }
}

#[test]
fn a_pulled_cable_is_told_to_the_front_end_and_stops_frames() -> Result<()> {
    let mut both = machines(RING | feature::STATUS, 1)?;
    let (mut told, theirs) = UnixStream::pair()?;
    told.set_read_timeout(Some(protocol::DEADLINE))?;
    let frontend = &mut both.b.frontend;
    frontend.must(&M::SetBackendReqFd, &[theirs.as_fd()])?;
    drop(theirs);
    let mut changed = || -> Result<()> {
        let mut bytes = [0; 12];
        told.read_exact(&mut bytes)?;
        assert_eq!(bytes.as_slice(), BackendMessage::ConfigChange.encode(false));
        Ok(())
    };
    assert_eq!(status(&mut both.b)?, [1, 0]);
    both.cards[1].card.set_link(false);
    changed()?;
    assert_eq!(status(&mut both.b)?, [0, 0]);
    let lost = || both.cards[1].card.metrics().frames.receive.link_down;
    let before = lost();
    both.a.send(0, &frame(B, A, 1, 60))?;
    assert!(eventually(|| lost() == before + 1));
    both.cards[1].card.set_link(true);
    changed()?;
    assert_eq!(status(&mut both.b)?, [1, 0]);
    both.a.send(0, &frame(B, A, 2, 60))?;
    assert_eq!(both.b.next_frame(0)?, frame(B, A, 2, 60));
    Ok(())
}

#[test]
fn a_machine_that_vanishes_leaves_the_others_network_whole() -> Result<()> {
    let fabric = Fabric::default();
    let cards = [card("a", &fabric)?, card("b", &fabric)?];
    let mut a = Machine::new(&cards[0], RING, 1)?;
    a.enable(0, true)?;
    for round in 0..5 {
        let mut b = Machine::new(&cards[1], RING, 1)?;
        b.enable(0, true)?;
        b.greet(0, &a, &frame(A, B, round, 60))?;
        a.wait_for(0, &frame(A, B, round, 60))?;
        drop(b);
        a.send(0, &frame(B, A, round, 60))?;
        a.enable(0, true)?;
    }
    Ok(())
}
