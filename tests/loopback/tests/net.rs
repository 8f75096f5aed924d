//! Storms of frames between two real drivers through the real backend's switch, in all ring formats, with offloads that one side has and
//! the other has not, and with resets, by seed.
//!
//! Rule: every byte that was sent arrives once and unharmed, or a counter says why not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
mod net_parts;

use driver_fakes::Random;
use net_backend::Fabric;
use net_backend::NetSpec;
use net_driver::WANTED_FEATURES;
use net_parts::Side;
use net_parts::frames::Kind;
use net_parts::frames::Plan;
use virtio_spec::feature;
use virtio_spec::net::feature::*;

const RING_BITS: u64 = feature::RING_AND_TRANSPORT;
const LARGE_GUEST: u64 = GUEST_TSO4 | GUEST_TSO6 | GUEST_USO4 | GUEST_USO6;
/// All that the tests use: not the VLAN filter, which would drop tagged frames, nor coalescing reports.
const ALL: u64 = WANTED_FEATURES & !RING_BITS & !(CTRL_VLAN | RSC_EXT | STANDBY);

const RINGS: [u64; 6] = [
    0,
    feature::RING_EVENT_IDX | feature::RING_INDIRECT_DESC,
    feature::RING_INDIRECT_DESC | feature::IN_ORDER,
    feature::RING_PACKED,
    feature::RING_PACKED | feature::RING_INDIRECT_DESC | feature::RING_EVENT_IDX,
    feature::RING_PACKED | feature::RING_INDIRECT_DESC | feature::IN_ORDER,
];

#[derive(Clone, Copy, Debug)]
struct Setting {
    seed: u64,
    /// Features of both sides.
    features: [u64; 2],
    rounds: u64,
    /// A side resets one time in this many rounds; 0: never.
    reset_one_in: u64,
}

struct Storm {
    sides: [Side; 2],
    random: Random,
    setting: Setting,
    next: u32,
    /// What was sent, by sender: base and length.
    sent: [Vec<(u32, usize)>; 2],
}

fn spec() -> NetSpec {
    NetSpec {
        queue_pairs: net_parts::PAIRS,
        queue_size: 256,
        ..NetSpec::on_switch("lan")
    }
}

impl Storm {
    fn new(setting: Setting) -> Self {
        let fabric = Fabric::default();
        let side = |name, seed, features| Side::new(name, seed, &fabric, spec(), features);
        let sides = [
            side("one", setting.seed, setting.features[0]),
            side("two", setting.seed + 1000, setting.features[1]),
        ];
        for (side, features) in sides.iter().zip(setting.features) {
            let lacking = features & RING_BITS & !side.driver.features();
            assert_eq!(lacking, 0, "ring features that the backend lacks");
        }
        Self {
            sides,
            random: Random::new(setting.seed),
            setting,
            next: 4,
            sent: [Vec::new(), Vec::new()],
        }
    }

    /// A frame that `from` may send.
    fn plan(&mut self, from: usize) -> Plan {
        let features = self.sides[from].driver.features();
        let random = &mut self.random;
        let kind = [Kind::Udp4, Kind::Udp6, Kind::Tcp4, Kind::Tcp6][random.index(4)];
        let cut = match kind {
            Kind::Tcp4 => HOST_TSO4,
            Kind::Tcp6 => HOST_TSO6,
            Kind::Udp4 | Kind::Udp6 => HOST_USO,
        };
        let large = features & cut != 0 && random.one_in(3);
        let (len, mss) = match large {
            true => {
                let mss = 4 * (100 + random.below(250)) as u16;
                let len = usize::from(mss) + 1 + random.index(30_000);
                // The last piece names its place too.
                let short = (1..4).contains(&(len % usize::from(mss)));
                (len + if short { 4 } else { 0 }, Some(mss))
            }
            false => (4 + random.index(1400), None),
        };
        let partial = large || features & CSUM != 0 && random.one_in(2);
        let plan = Plan {
            kind,
            to: self.sides[1 - from].mac(),
            from: self.sides[from].mac(),
            base: self.next,
            len,
            vlan: random.one_in(5).then_some(7),
            partial,
            mss,
        };
        self.next += (len as u32).next_multiple_of(4) + 4;
        plan
    }

    /// Sends a few frames, no more than the other side surely has buffers for.
    fn burst(&mut self, from: usize) {
        let pair = self.random.index(self.sides[from].transmit.len());
        let other = &self.sides[1 - from];
        let mut credit = other
            .receive
            .iter()
            .map(|q| q.in_flight())
            .min()
            .unwrap_or(0);
        let (buffer, mergeable) = (other.buffer, other.driver.info().mergeable);
        for _ in 0..1 + self.random.below(8) {
            let plan = self.plan(from);
            // Cut or whole, in buffers of which each may be begun anew.
            let pieces = plan
                .mss
                .map_or(1, |mss| plan.len.div_ceil(usize::from(mss)));
            let whole = (plan.len + 100).div_ceil(if mergeable { buffer } else { usize::MAX });
            let need = (pieces + whole) as u16;
            if need > credit {
                break;
            }
            let headroom = self.random.one_in(2);
            if self.sides[from].send(pair, &plan, headroom) {
                credit -= need;
                self.sent[from].push((plan.base, plan.len));
            }
        }
        self.sides[from].kick();
    }

    fn round(&mut self) {
        let from = self.random.index(2);
        self.burst(from);
        if self.setting.reset_one_in > 0 && self.random.one_in(self.setting.reset_one_in) {
            let who = self.random.index(2);
            self.sides[who].reset();
        }
        self.sides[from].serve();
        self.sides[1 - from].collect();
        if self.random.one_in(2) {
            self.sides[from].collect();
        }
        let pair = self.random.index(2);
        match self.random.below(4) {
            0 => drop(self.sides[from].receive[pair].arm()),
            1 => self.sides[from].receive[pair].disarm(),
            2 => drop(self.sides[from].transmit[pair].arm()),
            _ => self.sides[from].transmit[pair].disarm(),
        }
    }

    fn run(mut self) {
        for _ in 0..self.setting.rounds {
            self.round();
        }
        for _ in 0..3 {
            for side in &mut self.sides {
                side.kick();
                side.serve();
            }
            for side in &mut self.sides {
                side.collect();
            }
        }
        for from in 0..2 {
            let to = &self.sides[1 - from];
            for &(base, len) in &self.sent[from] {
                let arrived = to.arrived.of(base, len);
                let lost = arrived == 0 && self.sides[from].lost.contains(&(base, len));
                assert!(
                    arrived == len || lost,
                    "{arrived} of {len} bytes at {base}: {:?} {:?}",
                    self.setting,
                    to.device.metrics().frames
                );
            }
            assert!(!self.sent[from].is_empty());
        }
        let [one, two] = self.sides;
        one.finish();
        two.finish();
    }
}

/// The large frames that a side takes and the partial checksums, switched off bit by bit.
fn offload_sets() -> [u64; 6] {
    [
        ALL,
        ALL & !LARGE_GUEST,
        ALL & !GUEST_CSUM,
        ALL & !CSUM,
        ALL & !(MRG_RXBUF | HASH_REPORT),
        ALL & !(MRG_RXBUF | LARGE_GUEST | HOST_TSO4 | HOST_TSO6 | HOST_USO),
    ]
}

#[test]
fn frames_pass_both_ways_unharmed_in_every_ring_format() {
    for (seed, ring) in RINGS.into_iter().enumerate() {
        for way in [ALL, ALL & !MRG_RXBUF] {
            Storm::new(Setting {
                seed: seed as u64,
                features: [way | ring; 2],
                rounds: 60,
                reset_one_in: 0,
            })
            .run();
        }
    }
}

#[test]
fn ports_with_different_rings_and_offloads_understand_each_other() {
    for (at, one) in offload_sets().into_iter().enumerate() {
        for (nth, two) in offload_sets().into_iter().enumerate() {
            let seed = (at * 6 + nth) as u64;
            Storm::new(Setting {
                seed,
                features: [one | RINGS[nth], two | RINGS[(at + nth) % 6]],
                rounds: 40,
                reset_one_in: 0,
            })
            .run();
        }
    }
}

#[test]
fn resets_in_mid_traffic_lose_nothing_but_what_was_never_taken() {
    for seed in 0..12 {
        let ring = RINGS[seed as usize % 6];
        Storm::new(Setting {
            seed,
            features: [ALL | ring, ALL & !HASH_REPORT | RINGS[2]],
            rounds: 80,
            reset_one_in: 9,
        })
        .run();
    }
}
