//! What a real driver asks of the real network backend, and what the host does to the link: shown by which frames arrive, and where.
//!
//! Rule: a command counts from its answer on, and nothing of it outlives a reset.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod net_parts;

use net_backend::Fabric;
use net_backend::NetSpec;
use net_driver::Coalescing;
use net_driver::Command;
use net_driver::HashConfig;
use net_driver::ReceiveMode;
use net_driver::RssConfig;
use net_driver::WANTED_FEATURES;
use net_parts::Side;
use net_parts::frames::Kind;
use net_parts::frames::Mac;
use net_parts::frames::Plan;
use virtio_spec::net;
use virtio_spec::net::feature::*;
use virtio_spec::net::rss::hash_type;

const ALL: u64 = WANTED_FEATURES & !(RSC_EXT | STANDBY);
const GROUP: Mac = [1, 0, 0x5e, 0, 0, 5];
const BROADCAST: Mac = [0xff; 6];
const OTHER: Mac = [2, 0, 0, 0, 0, 0x77];

/// Two guests; the first one sends, the second one is what the tests are about.
struct Pair {
    from: Side,
    to: Side,
    next: u32,
}

fn pair_with(spec: &NetSpec, features: u64) -> Pair {
    let fabric = Fabric::default();
    let spec = || NetSpec {
        queue_pairs: net_parts::PAIRS,
        queue_size: 256,
        ..spec.clone()
    };
    Pair {
        from: Side::new("one", 1, &fabric, spec(), ALL),
        to: Side::new("two", 2, &fabric, spec(), features),
        next: 4,
    }
}

fn pair(features: u64) -> Pair {
    pair_with(&NetSpec::on_switch("lan"), features)
}

impl Pair {
    fn plan(&mut self, to: Mac) -> Plan {
        self.next += 1000;
        Plan {
            kind: Kind::Udp4,
            to,
            from: self.from.mac(),
            base: self.next,
            len: 100,
            vlan: None,
            partial: false,
            mss: None,
        }
    }

    /// Sends one frame; returns whether it arrived.
    fn pass(&mut self, sender: usize, plan: &Plan) -> bool {
        assert!(self.from.send(sender, plan, false));
        self.from.kick();
        self.from.serve();
        self.from.collect();
        self.to.collect_for(plan.to);
        match self.to.arrived.of(plan.base, plan.len) {
            0 => false,
            len if len == plan.len => true,
            len => panic!("{len} bytes"),
        }
    }

    fn arrives(&mut self, to: Mac, vlan: Option<u16>) -> bool {
        let plan = Plan {
            vlan,
            ..self.plan(to)
        };
        self.pass(0, &plan)
    }

    fn done(&mut self, command: &Command<'_>) {
        assert_eq!(self.to.command(command).result, Ok(None), "{command:?}");
    }

    fn mode(&mut self, mode: ReceiveMode, on: bool) {
        self.done(&Command::Receive(mode, on));
    }

    fn finish(self) {
        self.from.finish();
        self.to.finish();
    }
}

#[test]
fn receive_modes_and_addresses_decide_what_arrives() {
    let mut pair = pair(ALL);
    let own = pair.to.mac();
    let what = |pair: &mut Pair| [own, OTHER, GROUP, BROADCAST].map(|to| pair.arrives(to, None));
    pair.mode(ReceiveMode::Promiscuous, true);
    assert_eq!(what(&mut pair), [true; 4]);
    pair.mode(ReceiveMode::Promiscuous, false);
    assert_eq!(what(&mut pair), [true, false, false, true]);
    pair.mode(ReceiveMode::AllMulticast, true);
    assert_eq!(what(&mut pair), [true, false, true, true]);
    pair.mode(ReceiveMode::AllUnicast, true);
    assert_eq!(what(&mut pair), [true; 4]);
    pair.mode(ReceiveMode::NoUnicast, true);
    assert_eq!(what(&mut pair), [false, false, true, true]);
    pair.mode(ReceiveMode::NoMulticast, true);
    pair.mode(ReceiveMode::NoBroadcast, true);
    assert_eq!(what(&mut pair), [false; 4]);
    for mode in [
        ReceiveMode::AllMulticast,
        ReceiveMode::AllUnicast,
        ReceiveMode::NoUnicast,
        ReceiveMode::NoMulticast,
        ReceiveMode::NoBroadcast,
    ] {
        pair.mode(mode, false);
    }
    pair.done(&Command::MacTable {
        unicast: &[OTHER],
        multicast: &[GROUP],
    });
    assert_eq!(what(&mut pair), [true; 4]);
    pair.done(&Command::MacTable {
        unicast: &[],
        multicast: &[],
    });
    assert_eq!(what(&mut pair), [true, false, false, true]);
    pair.done(&Command::SetMac(OTHER));
    assert_eq!(what(&mut pair), [false, true, false, true]);
    pair.to.reset();
    assert_eq!(pair.to.mac(), own, "the address is the host's again");
    assert_eq!(
        what(&mut pair),
        [true; 4],
        "everything until the first command"
    );
    pair.finish();
}

#[test]
fn vlans_arrive_once_they_were_added() {
    let mut pair = pair(ALL);
    let own = pair.to.mac();
    pair.done(&Command::AddVlan(7));
    assert!(pair.arrives(own, Some(7)) && pair.arrives(own, None));
    assert!(!pair.arrives(own, Some(8)));
    pair.done(&Command::AddVlan(8));
    assert!(pair.arrives(own, Some(8)));
    pair.done(&Command::RemoveVlan(7));
    assert!(!pair.arrives(own, Some(7)) && pair.arrives(own, Some(8)));
    pair.finish();
}

/// The queue that received last, by its counter.
fn where_from(pair: &Pair, before: [u64; 2]) -> usize {
    let now = frames_of(pair);
    assert_eq!(now[0] + now[1], before[0] + before[1] + 1);
    usize::from(now[1] > before[1])
}

fn frames_of(pair: &Pair) -> [u64; 2] {
    [0, 1].map(|queue| pair.to.receive[queue].counters().frames)
}

#[test]
fn frames_come_to_the_pairs_in_use() {
    let mut pair = pair(ALL);
    let own = pair.to.mac();
    for (pairs, expected) in [(1, [0, 0]), (2, [0, 1]), (1, [0, 0])] {
        pair.done(&Command::Pairs(pairs));
        for (sender, expected) in expected.into_iter().enumerate() {
            let before = frames_of(&pair);
            let plan = pair.plan(own);
            assert!(pair.pass(sender, &plan));
            assert_eq!(where_from(&pair, before), expected, "of {pairs}");
        }
    }
    pair.finish();
}

#[test]
fn scaling_steers_by_the_hash_that_the_frame_reports() {
    let mut pair = pair(ALL);
    let own = pair.to.mac();
    let key: Vec<u8> = (0..40_u8).map(|at| at.wrapping_mul(7) + 1).collect();
    let table = [0, 1, 1, 0, 1, 0, 0, 1];
    pair.done(&Command::Rss(RssConfig {
        hash_types: hash_type::ALL & pair.to.driver.info().rss.unwrap().hash_types,
        unclassified: 1,
        table: &table,
        transmit_queues: 2,
        key: &key,
    }));
    let mut seen = [0; 2];
    for kind in [Kind::Udp4, Kind::Udp6, Kind::Tcp4, Kind::Tcp6] {
        let before = frames_of(&pair);
        let plan = Plan {
            kind,
            ..pair.plan(own)
        };
        assert!(pair.pass(0, &plan));
        let hash = pair.to.last_hash.expect("no hash");
        let queue = where_from(&pair, before);
        assert_eq!(
            queue,
            usize::from(table[hash.value as usize % 8]),
            "{kind:?}"
        );
        seen[queue] += 1;
        // The same flow from elsewhere comes to the same place.
        let plan = Plan {
            kind,
            ..pair.plan(own)
        };
        let before = frames_of(&pair);
        assert!(pair.pass(1, &plan));
        assert_eq!(pair.to.last_hash, Some(hash));
        assert_eq!(where_from(&pair, before), queue);
    }
    assert_eq!(seen[0] + seen[1], 4);
    pair.finish();
}

#[test]
fn hashes_are_reported_without_scaling_too() {
    let mut pair = pair(ALL & !RSS);
    let own = pair.to.mac();
    assert!(pair.arrives(own, None));
    assert_eq!(pair.to.last_hash, None, "nothing was asked for");
    pair.done(&Command::Hash(HashConfig {
        hash_types: hash_type::UDPV4,
        key: &[3; 40],
    }));
    assert!(pair.arrives(own, None));
    let hash = pair.to.last_hash.unwrap();
    assert_eq!(hash.report, net::rss::hash_report::UDPV4);
    let plan = Plan {
        kind: Kind::Tcp4,
        ..pair.plan(own)
    };
    assert!(pair.pass(0, &plan));
    assert_eq!(pair.to.last_hash, None, "TCP was not asked for");
    pair.finish();
}

#[test]
fn receive_offloads_can_be_switched_off_and_on() {
    let mut pair = pair(ALL);
    let own = pair.to.mac();
    let all = pair.to.driver.features() & GUEST_OFFLOADS;
    for (set, partial, large) in [
        (all, true, true),
        (0, false, false),
        (GUEST_CSUM, true, false),
        (all, true, true),
    ] {
        pair.done(&Command::GuestOffloads(set));
        let before = (pair.to.arrived.partial, pair.to.arrived.large);
        let plan = Plan {
            partial: true,
            ..pair.plan(own)
        };
        assert!(pair.pass(0, &plan));
        assert_eq!(pair.to.arrived.partial > before.0, partial, "{set:#x}");
        let plan = Plan {
            kind: Kind::Tcp6,
            len: 9000,
            partial: true,
            mss: Some(1400),
            ..pair.plan(own)
        };
        pair.next += 10_000;
        assert!(pair.pass(1, &plan));
        assert_eq!(pair.to.arrived.large > before.1, large, "{set:#x}");
    }
    pair.finish();
}

#[test]
fn coalescing_is_kept_by_queue_and_forgotten_at_a_reset() {
    let mut pair = pair(ALL);
    let of = |max_packets, max_usecs| Coalescing {
        max_packets,
        max_usecs,
    };
    let read = |pair: &mut Pair, queue| {
        let answer = pair.to.command(&Command::ReadCoalescing(queue));
        answer.result.unwrap().unwrap()
    };
    pair.done(&Command::CoalesceReceive(of(8, 100)));
    pair.done(&Command::CoalesceTransmit(of(16, 200)));
    pair.done(&Command::CoalesceQueue(2, of(1, 2)));
    assert_eq!(read(&mut pair, 0), of(8, 100));
    assert_eq!(read(&mut pair, 1), of(16, 200));
    assert_eq!(read(&mut pair, 2), of(1, 2));
    assert_eq!(read(&mut pair, 3), of(16, 200));
    pair.to.reset();
    assert_eq!(read(&mut pair, 2), of(0, 0));
    pair.finish();
}

#[test]
fn a_pulled_cable_is_seen_and_lets_nothing_through() {
    let mut pair = pair(ALL);
    let own = pair.to.mac();
    assert!(pair.to.driver.info().link.up);
    pair.to.device.set_link(false);
    let change = pair.to.look();
    assert!(!change.link.unwrap().up && !change.announce);
    assert!(!pair.arrives(own, None));
    pair.to.device.set_link(true);
    let change = pair.to.look();
    assert!(change.link.unwrap().up && change.announce);
    pair.done(&Command::AnnounceAck);
    let change = pair.to.look();
    assert!(!change.announce && change.link.is_none());
    assert!(pair.arrives(own, None));
    pair.finish();
}

#[test]
fn a_driver_without_a_control_queue_works_too() {
    let mut pair = pair(ALL & !CTRL_VQ);
    assert!(pair.to.control.is_none());
    let own = pair.to.mac();
    assert!(pair.arrives(own, None) && pair.arrives(OTHER, Some(9)));
    pair.to.reset();
    assert!(pair.arrives(own, None));
    pair.finish();
}

#[test]
fn jumbo_frames_pass_and_what_exceeds_the_mtu_is_refused_by_the_driver() {
    let spec = NetSpec {
        mtu: Some(9000),
        ..NetSpec::on_switch("lan")
    };
    let mut pair = pair_with(&spec, ALL & !MRG_RXBUF & !GUEST_CSUM);
    assert_eq!(pair.to.driver.info().mtu, Some(9000));
    let own = pair.to.mac();
    let plan = Plan {
        len: 9000 - 28,
        ..pair.plan(own)
    };
    pair.next += 10_000;
    assert!(pair.pass(0, &plan));
    let plan = Plan {
        len: 9000 - 28 + 8,
        ..pair.plan(own)
    };
    assert!(!pair.from.send(0, &plan, false));
    pair.finish();
}

/// RELIABILITY row 25 (CVE-2020-16843): a flood that found no buffers froze the device.
#[test]
fn row_25_a_flood_without_buffers_is_dropped_and_afterwards_all_is_well() {
    let mut pair = pair(ALL);
    let own = pair.to.mac();
    let mut sent = 0;
    for _ in 0..2000 {
        let plan = pair.plan(own);
        assert!(pair.from.send(0, &plan, false), "the sender is stuck");
        sent += 1;
        if sent % 32 == 0 {
            pair.from.kick();
            pair.from.serve();
            pair.from.collect();
        }
    }
    pair.from.kick();
    pair.from.serve();
    pair.from.collect();
    assert_eq!(pair.from.transmit[0].in_flight(), 0);
    pair.to.collect();
    let got = pair.to.arrived.frames;
    let starved = pair.to.device.metrics().frames.receive.starved;
    assert!(got > 0 && starved > 0);
    assert_eq!(got + starved, sent);
    for _ in 0..100 {
        assert!(pair.arrives(own, None));
    }
    pair.finish();
}
