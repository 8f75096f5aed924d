//! Each command of the control queue, right and wrong.

use device_model::Device;
use net_link::Offloads;
use virtio_spec::net::feature;
use virtio_spec::net::status;
use virtqueue::Segment;

use super::control_rig::BORDER;
use super::control_rig::CANARY;
use super::control_rig::Rig;
use super::rss::KEY;
use crate::MacAddress;
use crate::control::MAX_REQUEST;
use crate::receive_filter::Modes;
use crate::rss::SUPPORTED_TYPES;
use crate::rss::TABLE_ENTRIES;

const OK: u8 = 0;
const ERR: u8 = 1;

const RX: u8 = 0;
const MAC: u8 = 1;
const VLAN: u8 = 2;
const ANNOUNCE: u8 = 3;
const MQ: u8 = 4;
const OFFLOADS: u8 = 5;
const COALESCING: u8 = 6;

/// A well-formed request of each kind: class, command, body.
pub fn all_requests() -> Vec<(u8, u8, Vec<u8>)> {
    let coalesce = [3, 0, 0, 0, 9, 0, 0, 0];
    let mut requests: Vec<(u8, u8, Vec<u8>)> = (0..6).map(|mode| (RX, mode, vec![1])).collect();
    requests.extend([
        (MAC, 0, table(&[[2; 6]], &[[3; 6]])),
        (MAC, 1, vec![2, 0, 0, 0, 0, 7]),
        (VLAN, 0, vec![7, 0]),
        (VLAN, 1, vec![7, 0]),
        (ANNOUNCE, 0, vec![]),
        (MQ, 0, vec![2, 0]),
        (MQ, 1, rss(SUPPORTED_TYPES, &[0, 1, 2, 3], 0, 4, &KEY)),
        (MQ, 2, hash(SUPPORTED_TYPES, &KEY)),
        (OFFLOADS, 0, feature::GUEST_CSUM.to_le_bytes().to_vec()),
        (COALESCING, 0, coalesce.to_vec()),
        (COALESCING, 1, coalesce.to_vec()),
        (COALESCING, 2, [&[0, 0, 0, 0][..], &coalesce].concat()),
        (COALESCING, 3, vec![0, 0, 0, 0]),
    ]);
    requests
}

fn table(unicast: &[[u8; 6]], multicast: &[[u8; 6]]) -> Vec<u8> {
    let part = |addresses: &[[u8; 6]]| {
        let mut bytes = (addresses.len() as u32).to_le_bytes().to_vec();
        bytes.extend(addresses.concat());
        bytes
    };
    [part(unicast), part(multicast)].concat()
}

pub fn rss(types: u32, table: &[u16], unclassified: u16, transmit: u16, key: &[u8]) -> Vec<u8> {
    let mut bytes = types.to_le_bytes().to_vec();
    bytes.extend((table.len() as u16).wrapping_sub(1).to_le_bytes());
    bytes.extend(unclassified.to_le_bytes());
    bytes.extend(table.iter().flat_map(|pair| pair.to_le_bytes()));
    bytes.extend(transmit.to_le_bytes());
    bytes.push(key.len() as u8);
    bytes.extend(key);
    bytes
}

pub fn hash(types: u32, key: &[u8]) -> Vec<u8> {
    let mut bytes = types.to_le_bytes().to_vec();
    bytes.extend([0; 8]);
    bytes.push(key.len() as u8);
    bytes.extend(key);
    bytes
}

/// A rig whose first receive and transmit queue have started, as far as the control queue knows.
fn rig() -> Rig {
    let rig = Rig::new();
    rig.device.control().queue_started(0);
    rig.device.control().queue_started(1);
    rig
}

fn status_of(rig: &Rig) -> u16 {
    let mut bytes = [0; 2];
    rig.device.read_config(6, &mut bytes);
    u16::from_le_bytes(bytes)
}

#[test]
fn every_command_is_obeyed() {
    let mut rig = rig();
    for (class, command, body) in all_requests() {
        let answer = rig.place(&[CANARY; 12]);
        let request = rig.place(&[&[class, command], &body[..]].concat());
        let room = Segment { len: 9, ..answer };
        let written = rig.chain(&[request], &[room]);
        let bytes = rig.read(answer);
        assert_eq!(bytes[0], OK, "{class} {command}");
        assert!(bytes[written as usize..].iter().all(|byte| *byte == CANARY));
    }
    let metrics = rig.device.metrics();
    assert_eq!(metrics.control.commands, all_requests().len() as u64);
    assert_eq!(metrics.control.refused, 0);
}

#[test]
fn requests_of_any_other_length_are_refused() {
    for (class, command, body) in all_requests() {
        let mut rig = rig();
        for len in 0..body.len() {
            assert_eq!(
                rig.ask(class, command, &body[..len]),
                ERR,
                "{class} {command} {len}"
            );
        }
        for more in [1, 2, 3, 6, 64] {
            let body = [&body[..], &vec![0; more]].concat();
            assert_eq!(
                rig.ask(class, command, &body),
                ERR,
                "{class} {command} +{more}"
            );
        }
        assert_eq!(rig.ask(class, command, &body), OK, "{class} {command}");
    }
}

#[test]
fn unknown_classes_and_commands_are_refused() {
    let mut rig = rig();
    let known: Vec<_> = all_requests()
        .iter()
        .map(|known| (known.0, known.1))
        .collect();
    for class in 0..=255 {
        for command in [0, 1, 2, 3, 4, 5, 6, 7, 128, 255] {
            if known.contains(&(class, command)) {
                continue;
            }
            for body in [&[][..], &[0], &[0; 2], &[0; 8], &[0; 12], &[1; 64]] {
                assert_eq!(rig.ask(class, command, body), ERR, "{class} {command}");
            }
        }
    }
    for len in [0, 1] {
        let short = rig.place(&[0; 2][..len.max(1)]);
        let readable = [short];
        assert_eq!(rig.send(&readable[..len]), ERR);
    }
}

#[test]
fn commands_that_were_not_negotiated_do_not_exist() {
    let needs = |class, command| match (class, command) {
        (RX, 0 | 1) | (MAC, 0) => feature::CTRL_RX,
        (RX, _) => feature::CTRL_RX_EXTRA,
        (MAC, _) => feature::CTRL_MAC_ADDR,
        (VLAN, _) => feature::CTRL_VLAN,
        (ANNOUNCE, _) => feature::GUEST_ANNOUNCE,
        (MQ, 0) => feature::MQ,
        (MQ, 1) => feature::RSS,
        (MQ, _) => feature::HASH_REPORT,
        (OFFLOADS, _) => feature::CTRL_GUEST_OFFLOADS,
        (_, 0 | 1) => feature::NOTF_COAL,
        _ => feature::VQ_NOTF_COAL,
    };
    for (class, command, body) in all_requests() {
        let mut rig = Rig::without(needs(class, command));
        rig.device.control().queue_started(0);
        assert_eq!(rig.ask(class, command, &body), ERR, "{class} {command}");
    }
}

#[test]
fn requests_may_be_split_at_any_byte_and_across_regions() {
    for (class, command, body) in all_requests() {
        let mut rig = rig();
        let request = [&[class, command], &body[..]].concat();
        for at in 1..request.len() {
            let parts = [rig.place(&request[..at]), rig.place(&request[at..])];
            assert_eq!(rig.send(&parts), OK, "{class} {command} at {at}");
            let whole = rig.place_at(BORDER - at as u64, &request);
            assert_eq!(rig.send(&[whole]), OK, "{class} {command} over {at}");
        }
        if request.len() <= 60 {
            let bytes: Vec<_> = request.iter().map(|byte| rig.place(&[*byte])).collect();
            assert_eq!(rig.send(&bytes), OK, "{class} {command}");
        }
    }
}

#[test]
fn answers_may_be_split_and_are_cut_to_the_room_for_them() {
    let mut rig = rig();
    let body = [0, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0];
    assert_eq!(rig.ask(COALESCING, 2, &body), OK);
    let request = rig.place(&[COALESCING, 3, 0, 0, 0, 0]);
    let expected = [OK, 3, 0, 0, 0, 9, 0, 0, 0];
    for len in 1..=expected.len() {
        let room = rig.place(&[CANARY; 16]);
        let head = Segment { len: 1, ..room };
        let rest = Segment {
            addr: room.addr + 1,
            len: (len as u32 - 1).max(1),
        };
        let writable = [head, rest];
        let writable = &writable[..if len == 1 { 1 } else { 2 }];
        assert_eq!(rig.chain(&[request], writable), len as u32);
        let bytes = rig.read(room);
        assert_eq!(bytes[..len], expected[..len]);
        assert!(bytes[len..].iter().all(|byte| *byte == CANARY));
    }
}

#[test]
fn requests_in_holes_or_without_room_for_an_answer_break_nothing() {
    let mut rig = rig();
    let hole = Segment { addr: 0, len: 3 };
    assert_eq!(rig.send(&[hole]), ERR);
    let request = rig.place(&[RX, 0, 0]);
    assert_eq!(rig.chain(&[request], &[]), 0);
    assert!(rig.filter().modes.promiscuous, "unanswered, so not done");
    assert_eq!(rig.chain(&[request], &[hole]), 0);
    assert_eq!(rig.device.metrics().control.unanswered, 1);
    let past_the_end = Segment {
        addr: u64::MAX - 1,
        len: 3,
    };
    assert_eq!(rig.send(&[past_the_end]), ERR);
    assert_eq!(rig.ask(RX, 0, &[1]), OK);
}

#[test]
fn requests_longer_than_any_use_are_refused_unread() {
    let mut rig = rig();
    let long = Segment {
        addr: BORDER,
        len: MAX_REQUEST as u32 + 1,
    };
    assert_eq!(rig.send(&[long]), ERR);
    let endless = Segment {
        addr: BORDER,
        len: u32::MAX,
    };
    assert_eq!(rig.send(&[endless]), ERR);
}

#[test]
fn receive_modes_are_set_one_by_one_and_other_values_are_refused() {
    let mut rig = rig();
    assert_eq!(rig.ask(RX, 0, &[0]), OK);
    assert_eq!(rig.filter().modes, Modes::default());
    for mode in 0..6 {
        assert_eq!(rig.ask(RX, mode, &[1]), OK);
    }
    let modes = rig.filter().modes;
    assert!(modes.promiscuous && modes.all_multicast && modes.all_unicast);
    assert!(modes.no_multicast && modes.no_unicast && modes.no_broadcast);
    for value in [2, 0x80, 0xff] {
        assert_eq!(rig.ask(RX, 0, &[value]), ERR);
    }
}

#[test]
fn address_tables_are_taken_whole_and_lengths_that_lie_are_refused() {
    let mut rig = rig();
    assert_eq!(rig.ask(RX, 0, &[0]), OK);
    let other = [2, 0, 0, 0, 0, 9];
    assert_eq!(rig.ask(MAC, 0, &table(&[other], &[])), OK);
    assert!(rig.filter().admits(&[other, [2; 6]].concat()));
    for entries in [2_u32, 0x8000_0000, 0xaaaa_aaab, 0xffff_ffff] {
        let mut lie = table(&[other], &[]);
        lie[..4].copy_from_slice(&entries.to_le_bytes());
        assert_eq!(rig.ask(MAC, 0, &lie), ERR, "{entries}");
        let mut lie = table(&[], &[other]);
        lie[4..8].copy_from_slice(&entries.to_le_bytes());
        assert_eq!(rig.ask(MAC, 0, &lie), ERR, "{entries}");
    }
    assert!(rig.filter().admits(&[other, [2; 6]].concat()), "as before");
    assert_eq!(
        rig.ask(MAC, 0, &table(&[[4; 6]; 1000], &[[3; 6]; 1000])),
        OK
    );
    assert!(rig.filter().admits(&[[6; 6], [2; 6]].concat()));
}

#[test]
fn the_address_shows_in_the_configuration_and_groups_are_refused() {
    let mut rig = rig();
    assert_eq!(rig.ask(MAC, 1, &[2, 0, 0, 0, 0, 7]), OK);
    assert_eq!(rig.device.mac(), MacAddress([2, 0, 0, 0, 0, 7]));
    let mut shown = [0; 6];
    rig.device.read_config(0, &mut shown);
    assert_eq!(shown, [2, 0, 0, 0, 0, 7]);
    assert_eq!(rig.ask(MAC, 1, &[1, 0, 0, 0, 0, 7]), ERR);
    assert_eq!(rig.ask(MAC, 1, &[0; 6]), ERR);
    assert_eq!(rig.ask(MAC, 1, &[0xff; 6]), ERR);
    rig.device.reset();
    assert_eq!(rig.device.mac().to_string(), "52:54:00:00:00:01");
}

#[test]
fn vlans_past_the_last_are_refused() {
    let mut rig = rig();
    for id in [0_u16, 1, 4095] {
        assert_eq!(rig.ask(VLAN, 0, &id.to_le_bytes()), OK);
        assert_eq!(rig.ask(VLAN, 1, &id.to_le_bytes()), OK);
    }
    for id in [4096_u16, 0x8000, 0xffff] {
        assert_eq!(rig.ask(VLAN, 0, &id.to_le_bytes()), ERR);
        assert_eq!(rig.ask(VLAN, 1, &id.to_le_bytes()), ERR);
    }
}

#[test]
fn an_announcement_is_wanted_until_it_is_acknowledged() {
    let mut rig = rig();
    assert_eq!(status_of(&rig), status::LINK_UP);
    assert_eq!(rig.ask(ANNOUNCE, 0, &[]), OK);
    rig.device.set_link(false);
    assert_eq!(status_of(&rig), 0);
    rig.device.set_link(true);
    assert_eq!(status_of(&rig), status::LINK_UP | status::ANNOUNCE);
    assert_eq!(rig.ask(ANNOUNCE, 0, &[]), OK);
    assert_eq!(status_of(&rig), status::LINK_UP);
}

#[test]
fn pairs_are_between_one_and_the_cards() {
    let mut rig = rig();
    assert_eq!(
        rig.device.active_pairs(),
        1,
        "one until the driver says more"
    );
    for (pairs, answer) in [
        (4_u16, OK),
        (1, OK),
        (3, OK),
        (0, ERR),
        (5, ERR),
        (0xffff, ERR),
    ] {
        assert_eq!(rig.ask(MQ, 0, &pairs.to_le_bytes()), answer, "{pairs}");
    }
    assert_eq!(rig.device.active_pairs(), 3);
}

#[test]
fn rss_is_set_up_and_ended_by_a_number_of_pairs() {
    let mut rig = rig();
    let body = rss(SUPPORTED_TYPES, &[0, 1, 2, 1], 2, 2, &KEY);
    assert_eq!(rig.ask(MQ, 1, &body), OK);
    assert_eq!(rig.device.active_pairs(), 3, "the table's pairs are in use");
    let state = rig.device.port().state();
    assert!(state.steering.is_some() && state.hasher.is_some());
    assert_eq!(rig.ask(MQ, 0, &[4, 0]), OK);
    let state = rig.device.port().state();
    assert!(state.steering.is_none() && state.hasher.is_some());
    assert_eq!(rig.ask(MQ, 2, &hash(0, &[])), OK);
    assert!(rig.device.port().state().hasher.is_none());
}

#[test]
fn row_9_rss_tables_that_name_other_queues_are_refused() {
    let mut rig = rig();
    let good = |table: &[u16]| rss(SUPPORTED_TYPES, table, 0, 4, &KEY);
    for bad in [4_u16, 5, 0x7fff, 0x8000, 0x8001, 0xffff] {
        for at in 0..4 {
            let mut table = [0; 4];
            table[at] = bad;
            assert_eq!(rig.ask(MQ, 1, &good(&table)), ERR, "{bad} at {at}");
        }
        let unclassified = rss(SUPPORTED_TYPES, &[0], bad, 4, &KEY);
        assert_eq!(rig.ask(MQ, 1, &unclassified), ERR, "{bad}");
    }
    for transmit in [0, 5, 0xffff] {
        let body = rss(SUPPORTED_TYPES, &[0], 0, transmit, &KEY);
        assert_eq!(rig.ask(MQ, 1, &body), ERR, "{transmit}");
    }
    assert!(rig.device.port().state().steering.is_none());
}

#[test]
fn row_9_rss_tables_of_other_lengths_are_refused() {
    let mut rig = rig();
    let of = |entries: usize| rss(SUPPORTED_TYPES, &vec![0; entries], 0, 4, &KEY);
    for entries in [1, 2, 4, 128, TABLE_ENTRIES] {
        assert_eq!(rig.ask(MQ, 1, &of(entries)), OK, "{entries}");
        for mask in [0_u16, 2, 4, 6, 100, 511, 512, 1023, 0x7fff, 0xffff] {
            if usize::from(mask) + 1 != entries {
                let mut lie = of(entries);
                lie[4..6].copy_from_slice(&mask.to_le_bytes());
                assert_eq!(rig.ask(MQ, 1, &lie), ERR, "{entries} {mask}");
            }
        }
    }
    for entries in [3, 5, 127, TABLE_ENTRIES * 2] {
        assert_eq!(rig.ask(MQ, 1, &of(entries)), ERR, "{entries}");
    }
}

#[test]
fn row_9_hash_keys_and_types_that_are_not_offered_are_refused() {
    let mut rig = rig();
    for len in 0..=40 {
        assert_eq!(rig.ask(MQ, 2, &hash(1, &KEY[..len])), OK, "{len}");
    }
    for len in [41_usize, 42, 52, 255] {
        assert_eq!(rig.ask(MQ, 2, &hash(1, &vec![1; len])), ERR, "{len}");
        assert_eq!(
            rig.ask(MQ, 1, &rss(1, &[0], 0, 1, &vec![1; len])),
            ERR,
            "{len}"
        );
        let mut lie = hash(1, &KEY);
        lie[12] = len as u8;
        assert_eq!(rig.ask(MQ, 2, &lie), ERR, "{len}");
    }
    for bit in 6..32 {
        assert_eq!(rig.ask(MQ, 2, &hash(1 << bit, &KEY)), ERR, "{bit}");
        assert_eq!(
            rig.ask(MQ, 1, &rss(1 << bit, &[0], 0, 1, &KEY)),
            ERR,
            "{bit}"
        );
    }
}

#[test]
fn offloads_are_those_negotiated_and_no_others() {
    let mut rig = Rig::without(feature::GUEST_USO4);
    let set = |rig: &mut Rig, bits: u64| rig.ask(OFFLOADS, 0, &bits.to_le_bytes());
    let csum = feature::GUEST_CSUM;
    assert_eq!(set(&mut rig, 0), OK);
    assert_eq!(rig.device.port().state().offloads, Offloads::NONE);
    assert_eq!(set(&mut rig, csum | feature::GUEST_TSO6), OK);
    let offloads = rig.device.port().state().offloads;
    assert!(offloads.csum && offloads.tso6 && !offloads.tso4 && !offloads.uso);
    assert_eq!(set(&mut rig, feature::GUEST_TSO4), OK);
    let offloads = rig.device.port().state().offloads;
    assert_eq!(offloads, Offloads::NONE, "nothing without checksums");
    for bit in 0..64 {
        let known = feature::GUEST_OFFLOADS & !feature::GUEST_UFO & !feature::GUEST_USO4;
        let expected = if known & 1 << bit != 0 { OK } else { ERR };
        assert_eq!(set(&mut rig, 1 << bit), expected, "{bit}");
    }
}

#[test]
fn moderation_is_kept_for_each_queue_and_only_for_queues_that_run() {
    let mut rig = rig();
    let setting = |queue: u16, packets: u8| {
        let [low, high] = queue.to_le_bytes();
        vec![low, high, 0, 0, packets, 0, 0, 0, 0, 0, 0, 0]
    };
    assert_eq!(rig.ask(COALESCING, 0, &[5, 0, 0, 0, 0, 0, 0, 0]), OK);
    assert_eq!(rig.ask(COALESCING, 2, &setting(0, 7)), OK);
    for (queue, packets) in [(0, 7), (1, 5)] {
        let request = rig.place(&[COALESCING, 3, queue, 0, 0, 0]);
        let room = rig.place(&[CANARY; 9]);
        assert_eq!(rig.chain(&[request], &[room]), 9);
        assert_eq!(rig.read(room)[..2], [OK, packets]);
    }
    for queue in [2, 7, 8, 9, 0xffff] {
        assert_eq!(rig.ask(COALESCING, 2, &setting(queue, 1)), ERR, "{queue}");
        assert_eq!(
            rig.ask(COALESCING, 3, &setting(queue, 0)[..4]),
            ERR,
            "{queue}"
        );
    }
    rig.device.control().queue_started(1);
    let ask = |rig: &mut Rig| {
        let request = rig.place(&[COALESCING, 3, 1, 0, 0, 0]);
        let room = rig.place(&[CANARY; 9]);
        rig.chain(&[request], &[room]);
        rig.read(room)[1]
    };
    assert_eq!(ask(&mut rig), 5, "a queue starts with what was set for all");
}
