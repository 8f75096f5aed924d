//! Two guests, each with its driver and its workers in a thread of its own, sending to each other at the same time.
//!
//! Rule: what arrives is unharmed and arrives once; what does not arrive was counted by the receiver's card.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod net_parts;

use std::sync::Barrier;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use driver_fakes::Random;
use net_backend::Fabric;
use net_backend::NetSpec;
use net_driver::WANTED_FEATURES;
use net_parts::Side;
use net_parts::frames::Kind;
use net_parts::frames::Mac;
use net_parts::frames::Plan;
use virtio_spec::feature;
use virtio_spec::net::feature::*;

const ALL: u64 = WANTED_FEATURES & !feature::RING_AND_TRANSPORT & !(CTRL_VLAN | RSC_EXT | STANDBY);
const FRAMES: usize = 3000;

/// Rounds that one side may be ahead of the other: few enough that the buffers of a guest whose thread waits for a CPU
/// take what is sent meanwhile.
const AHEAD: u64 = 4;

/// How far both sides are.
#[derive(Default)]
struct Progress {
    /// Sides that have sent everything.
    done: AtomicU64,
    rounds: [AtomicU64; 2],
}

impl Progress {
    /// Whether side `me` may begin another round; if so it has.
    fn begin(&self, me: usize) -> bool {
        let [mine, theirs] = [me, 1 - me].map(|side| self.rounds[side].load(Ordering::Acquire));
        if mine > theirs + AHEAD {
            return false;
        }
        self.rounds[me].store(mine + 1, Ordering::Release);
        true
    }
}

/// Side `me` sends and receives until both have sent everything; returns base and length of what was sent.
fn work(side: &mut Side, me: usize, to: Mac, progress: &Progress) -> Vec<(u32, usize)> {
    let seed = [10, 20][me];
    let mut random = Random::new(seed);
    let from = side.mac();
    let mut sent = Vec::new();
    let mut base = 4;
    while progress.done.load(Ordering::Acquire) < 2 {
        let frames = if progress.begin(me) {
            random.below(5)
        } else {
            0
        };
        for _ in 0..frames {
            if sent.len() >= FRAMES {
                break;
            }
            let large = random.one_in(20);
            let plan = Plan {
                kind: [Kind::Udp4, Kind::Tcp6, Kind::Tcp4][random.index(3)],
                to,
                from,
                base,
                len: if large {
                    12_000
                } else {
                    4 + random.index(1400)
                },
                vlan: None,
                partial: large || random.one_in(2),
                mss: large.then_some(1200),
            };
            if side.send(random.index(2), &plan, random.one_in(2)) {
                sent.push((base, plan.len));
                base += (plan.len as u32).next_multiple_of(4) + 4;
                if sent.len() == FRAMES {
                    progress.done.fetch_add(1, Ordering::AcqRel);
                }
            }
        }
        side.kick();
        side.serve();
        side.collect();
        std::thread::yield_now();
    }
    sent
}

fn both_at_once(features: [u64; 2]) {
    let fabric = Fabric::default();
    let spec = || NetSpec {
        queue_pairs: net_parts::PAIRS,
        queue_size: 256,
        ..NetSpec::on_switch("lan")
    };
    let mut one = Side::new("one", 1, &fabric, spec(), features[0]);
    let mut two = Side::new("two", 2, &fabric, spec(), features[1]);
    let (first, second) = (one.mac(), two.mac());
    let (start, progress) = (Barrier::new(2), Progress::default());
    let (from_one, from_two) = std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            start.wait();
            work(&mut two, 1, first, &progress)
        });
        start.wait();
        let sent = work(&mut one, 0, second, &progress);
        (sent, other.join().unwrap())
    });
    for side in [&mut one, &mut two] {
        side.kick();
        side.serve();
    }
    for (to, sent) in [(&mut two, from_one), (&mut one, from_two)] {
        to.collect();
        let missing = sent
            .iter()
            .filter(|(base, len)| to.arrived.of(*base, *len) != *len)
            .count();
        let starved = to.device.metrics().frames.receive.starved;
        assert!(
            missing as u64 <= starved,
            "{missing} are missing, {starved} counted"
        );
        assert!(missing < FRAMES / 2, "{missing} of {FRAMES} are missing");
    }
    one.finish();
    two.finish();
}

#[test]
fn two_guests_that_send_at_the_same_time_harm_nothing_of_each_other() {
    let indirect = feature::RING_INDIRECT_DESC;
    let packed = indirect | feature::RING_PACKED;
    for features in [
        [ALL | indirect, ALL | packed | feature::IN_ORDER],
        [
            ALL | feature::RING_EVENT_IDX,
            ALL & !GUEST_CSUM | feature::RING_PACKED,
        ],
    ] {
        both_at_once(features);
    }
}
