//! What the driver ordered, over the death of the process that carried it out.

use std::os::fd::AsFd;

use device_model::Device;
use device_model::DeviceRecord;
use device_model::InflightRegion;
use virtio_spec::net::feature;

use super::control::all_requests;
use super::control::rss;
use super::control_rig::Rig;
use super::control_rig::card;
use super::control_rig::spec;
use super::rss::KEY;
use crate::rss::SUPPORTED_TYPES;

const OK: u8 = 0;
const RX: u8 = 0;
const MAC: u8 = 1;
const VLAN: u8 = 2;
const MQ: u8 = 4;
const COALESCING: u8 = 6;

/// The place that a front-end keeps for the card.
fn place() -> DeviceRecord {
    let bytes = card(spec()).record_bytes();
    let area = InflightRegion::create(9, 64, None, bytes).expect("an area");
    let region = InflightRegion::from_fd(area.fd.as_fd(), area.offset, area.size, 9, 64);
    region.expect("the area").device().expect("a place")
}

/// A driver with these features at a new card that is given `place`, with its control queue and two pairs running.
struct Life {
    rig: Rig,
    queues: Vec<Box<dyn device_model::QueueHandler>>,
}

impl Life {
    fn with(place: &DeviceRecord, features: u64) -> Self {
        let device = card(spec());
        device.acked(features);
        device.keep_in(Some(place.clone()));
        let queues = (0..4).map(|index| device.start_queue(index, features).expect("a queue"));
        let queues = queues.collect();
        Self {
            rig: Rig::on(device, features),
            queues,
        }
    }

    fn new(place: &DeviceRecord) -> Self {
        Self::with(place, card(spec()).features())
    }

    /// Everything that orders change, as text.
    fn state(&mut self) -> String {
        let state = self.rig.device.port().state();
        let frame: Vec<u8> = (0..100)
            .map(|at| match at {
                12 => 8,
                13 => 0,
                14 => 0x45,
                23 => 17,
                _ => at,
            })
            .collect();
        let hash = state.hasher.as_ref().map(|hasher| hasher.frame(&frame));
        let steered = state.steering.as_ref().map(|steering| {
            let hash = steering.hasher().frame(&frame);
            (hash, steering.pair(hash), steering.highest_pair())
        });
        let moderation: Vec<Vec<u8>> = (0..4_u8)
            .map(|queue| {
                let request = self.rig.place(&[COALESCING, 3, queue, 0, 0, 0]);
                let answer = self.rig.place(&[0xa5; 9]);
                assert_eq!(self.rig.chain(&[request], &[answer]), 9);
                self.rig.read(answer)
            })
            .collect();
        format!(
            "{} {:?} {:?} {hash:?} {steered:?} {moderation:?}",
            state.active_pairs, state.offloads, state.receive
        )
    }

    fn order(&mut self, class: u8, command: u8, body: &[u8]) {
        assert_eq!(self.rig.ask(class, command, body), OK, "{class} {command}");
    }
}

#[test]
fn what_a_driver_ordered_is_as_before_in_the_cards_next_life() {
    let place = place();
    let mut life = Life::new(&place);
    for (class, command, body) in all_requests() {
        if (class, command) == (COALESCING, 3) {
            continue;
        }
        life.order(class, command, &body);
        let before = life.state();
        drop(life);
        life = Life::new(&place);
        assert_eq!(life.state(), before, "{class} {command}");
    }
}

#[test]
fn later_orders_win_over_earlier_ones_in_the_next_life_too() {
    let two = rss(SUPPORTED_TYPES, &[0, 1], 1, 2, &KEY);
    let mut other = KEY;
    other[0] ^= 1;
    let orders: [(u8, u8, Vec<u8>); 14] = [
        (MQ, 1, two.clone()),
        (MQ, 0, vec![4, 0]),
        (MQ, 2, super::control::hash(SUPPORTED_TYPES, &other)),
        (MQ, 1, two),
        (MQ, 0, vec![3, 0]),
        (VLAN, 0, vec![9, 0]),
        (VLAN, 0, vec![10, 0]),
        (VLAN, 1, vec![9, 0]),
        (VLAN, 1, vec![10, 0]),
        (RX, 0, vec![0]),
        (RX, 0, vec![1]),
        (COALESCING, 2, vec![1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]),
        (COALESCING, 0, vec![7, 0, 0, 0, 7, 0, 0, 0]),
        (COALESCING, 2, vec![3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0]),
    ];
    let place = place();
    let mut life = Life::new(&place);
    for (class, command, body) in orders {
        life.order(class, command, &body);
        let before = life.state();
        assert_eq!(Life::new(&place).state(), before, "{class} {command}");
    }
}

#[test]
fn every_vlan_and_the_longest_table_have_room() {
    let place = place();
    let mut life = Life::new(&place);
    for vlan in 0..4096_u16 {
        life.order(VLAN, 0, &vlan.to_le_bytes());
    }
    let addresses: u32 = 2700;
    let mut table = vec![0; 4];
    table.extend(addresses.to_le_bytes());
    table.resize(8 + 6 * addresses as usize, 1);
    life.order(MAC, 0, &table);
    for queue in 0..4 {
        life.order(COALESCING, 2, &[queue, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
    }
    let before = life.state();
    assert_eq!(Life::new(&place).state(), before);
}

#[test]
fn a_driver_that_gave_no_orders_still_has_the_control_queue() {
    let place = place();
    drop(Life::new(&place));
    let device = card(spec());
    device.acked(device.features());
    device.keep_in(Some(place));
    let features = device.features();
    let queues: Vec<_> = (0..4)
        .map(|index| device.start_queue(index, features).expect("a queue"))
        .collect();
    assert_eq!(device.active_pairs(), 1, "not those that run");
    drop(queues);
}

#[test]
fn orders_count_before_the_control_queue_runs_again() {
    let place = place();
    let mut life = Life::new(&place);
    life.order(RX, 0, &[0]);
    life.order(MQ, 0, &[2, 0]);
    drop(life);
    let device = card(spec());
    device.acked(device.features());
    device.keep_in(Some(place));
    let queue = device.start_queue(0, device.features()).expect("a queue");
    assert_eq!(device.active_pairs(), 2);
    assert!(!device.port().state().receive.is_open());
    drop(queue);
}

#[test]
fn another_driver_does_not_inherit() {
    let place = place();
    let mut life = Life::new(&place);
    let fresh = Life::new(&self::place()).state();
    life.order(MQ, 0, &[3, 0]);
    let features = card(spec()).features();
    let other = Life::with(&place, features & !feature::CTRL_RX_EXTRA);
    assert_eq!(other.rig.device.active_pairs(), 1);
    drop(other);
    // The same driver again, but the card was given to another in between.
    assert_eq!(Life::new(&place).state(), fresh);
}

#[test]
fn a_reset_ends_what_was_ordered() {
    let place = place();
    let mut life = Life::new(&place);
    let fresh = life.state();
    life.order(MQ, 0, &[3, 0]);
    life.rig.device.reset();
    drop(life);
    assert_eq!(Life::new(&place).state(), fresh);
}

#[test]
fn the_end_of_a_session_does_not_end_what_was_ordered() {
    let place = place();
    let mut life = Life::new(&place);
    life.order(MQ, 0, &[3, 0]);
    let before = life.state();
    life.rig.device.keep_in(None);
    life.rig.device.reset();
    assert_eq!(life.rig.device.active_pairs(), 1);
    drop(life);
    assert_eq!(Life::new(&place).state(), before);
}

#[test]
fn a_queue_that_starts_anew_loses_its_moderation_for_good() {
    let place = place();
    let mut life = Life::new(&place);
    let fresh = life.state();
    life.order(COALESCING, 2, &[1, 0, 0, 0, 9, 0, 0, 0, 9, 0, 0, 0]);
    assert_ne!(life.state(), fresh);
    let device = &life.rig.device;
    life.queues.remove(1);
    device.queue_ended(1);
    let queue = device.start_queue(1, device.features()).expect("a queue");
    life.queues.insert(1, queue);
    assert_eq!(life.state(), fresh);
    assert_eq!(Life::new(&place).state(), fresh);
}

#[test]
fn a_queue_that_only_pauses_keeps_its_moderation() {
    let place = place();
    let mut life = Life::new(&place);
    life.order(COALESCING, 2, &[1, 0, 0, 0, 9, 0, 0, 0, 9, 0, 0, 0]);
    let before = life.state();
    life.queues.remove(1);
    // The driver knows nothing of the pause and goes on with its orders.
    life.order(COALESCING, 2, &[0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0]);
    life.order(COALESCING, 2, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let device = &life.rig.device;
    let queue = device.start_queue(1, device.features()).expect("a queue");
    let moderator = queue.moderator().expect("a moderator");
    assert_eq!(moderator.limits(), (9, 9));
    life.queues.insert(1, queue);
    assert_eq!(life.state(), before);
    assert_eq!(Life::new(&place).state(), before);
}

#[test]
fn interrupts_are_held_back_as_ordered_in_this_life_and_the_next() {
    let place = place();
    let mut life = Life::new(&place);
    let limits = |life: &Life| -> Vec<(u32, u32)> {
        let moderators = life.queues.iter().map(|queue| queue.moderator());
        let limits = moderators.map(|moderator| moderator.expect("a moderator").limits());
        limits.collect()
    };
    assert_eq!(limits(&life), [(0, 0); 4]);
    life.order(COALESCING, 1, &[7, 0, 0, 0, 9, 0, 0, 0]);
    assert_eq!(limits(&life), [(7, 9), (0, 0), (7, 9), (0, 0)]);
    life.order(COALESCING, 2, &[1, 0, 0, 0, 3, 0, 0, 0, 0, 1, 0, 0]);
    let ordered = [(7, 9), (3, 256), (7, 9), (0, 0)];
    assert_eq!(limits(&life), ordered);
    assert_eq!(limits(&Life::new(&place)), ordered);
    let none = card(spec()).features() & !(feature::NOTF_COAL | feature::VQ_NOTF_COAL);
    let other = Life::with(&place, none);
    assert!(other.queues.iter().all(|queue| queue.moderator().is_none()));
}

#[test]
fn records_that_lie_are_taken_as_a_drivers_word_and_no_more() {
    let place = place();
    let fresh = Life::new(&place).state();
    let features = card(spec()).features().to_le_bytes();
    let order = |bytes: &[u8]| {
        let len = u16::try_from(bytes.len()).expect("short");
        [&len.to_le_bytes()[..], bytes].concat()
    };
    let lies: Vec<Vec<u8>> = vec![
        vec![],
        features[..7].to_vec(),
        vec![0xff; 64 << 10],
        [&features[..], &[0xff, 0xff]].concat(),
        [&features[..], &[5]].concat(),
        [&features[..], &order(&[])].concat(),
        [&features[..], &order(&[MQ])].concat(),
        [&features[..], &order(&[MQ, 0, 0, 0])].concat(),
        [&features[..], &order(&[MQ, 0, 5, 0])].concat(),
        [&features[..], &order(&[MQ, 1, 0xff, 0xff, 0xff])].concat(),
        [&features[..], &order(&[99, 99])].concat(),
        [&features[..], &order(&[3, 0])].concat(),
        [&features[..], &order(&[COALESCING, 3, 0, 0, 0, 0])].concat(),
        [
            &features[..],
            &order(&[COALESCING, 2, 99, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]),
        ]
        .concat(),
    ];
    for lie in lies {
        assert!(place.store(&lie));
        assert_eq!(Life::new(&place).state(), fresh, "{lie:?}");
    }
    let mixed = [&features[..], &order(&[99, 99]), &order(&[MQ, 0, 2, 0])].concat();
    assert!(place.store(&mixed));
    assert_eq!(Life::new(&place).rig.device.active_pairs(), 2);
}
