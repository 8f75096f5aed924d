//! The device face: features, configuration, queues, changes while it runs.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use device_model::Device;
use net_link::LinkSpec;
use virtio_spec::net::Config;
use virtio_spec::net::feature;
use virtio_spec::net::status;
use zerocopy::FromBytes;

use super::control_rig::card;
use super::control_rig::spec;
use crate::Duplex;
use crate::FeatureMask;
use crate::LinkChoice;
use crate::NetDevice;
use crate::NetSpec;
use crate::config;
use crate::rarp;

fn space(device: &NetDevice) -> Config {
    let mut bytes = vec![0; device.config_size() as usize];
    device.read_config(0, &mut bytes);
    Config::read_from_bytes(&bytes).expect("a configuration")
}

/// Counts how often the driver is told of a change.
fn changes(device: &NetDevice) -> Arc<AtomicU32> {
    let count = Arc::new(AtomicU32::new(0));
    let theirs = Arc::clone(&count);
    device.on_config_change(Arc::new(move || {
        theirs.fetch_add(1, Ordering::SeqCst);
    }));
    count
}

#[test]
fn the_configuration_shows_what_was_asked_for() {
    let device = card(NetSpec {
        mtu: Some(9000),
        speed: Some(10_000),
        duplex: Duplex::Half,
        ..spec()
    });
    let shown = space(&device);
    assert_eq!(shown.mac, [0x52, 0x54, 0, 0, 0, 1]);
    assert_eq!(shown.status.get(), status::LINK_UP);
    assert_eq!(shown.max_virtqueue_pairs.get(), 4);
    assert_eq!(shown.mtu.get(), 9000);
    assert_eq!((shown.speed.get(), shown.duplex), (10_000, 0));
    assert_eq!(shown.rss_max_key_size, 40);
    assert_eq!(shown.rss_max_indirection_table_length.get(), 512);
    assert_eq!(shown.supported_hash_types.get(), 0x3f);
    let plain = space(&card(spec()));
    assert_eq!(plain.mtu.get(), 1500);
    assert_eq!((plain.speed.get(), plain.duplex), (u32::MAX, 0xff));
}

#[test]
fn the_configuration_reads_the_same_in_any_pieces_and_takes_no_write() {
    let device = card(spec());
    let mut whole = vec![0; device.config_size() as usize];
    device.read_config(0, &mut whole);
    for from in 0..whole.len() {
        for to in from..=whole.len() {
            let mut part = vec![0xff; to - from];
            device.read_config(from as u32, &mut part);
            assert_eq!(part, whole[from..to]);
        }
    }
    for offset in 0..device.config_size() {
        assert!(device.write_config(offset, &[1]).is_err());
    }
}

#[test]
fn all_features_are_on_offer_by_default() {
    let offered = card(spec()).features();
    let all = [
        feature::CSUM,
        feature::GUEST_CSUM,
        feature::HOST_TSO4,
        feature::GUEST_TSO6,
        feature::HOST_ECN,
        feature::HOST_USO,
        feature::GUEST_USO4,
        feature::MRG_RXBUF,
        feature::MQ,
        feature::CTRL_VQ,
        feature::RSS,
        feature::HASH_REPORT,
        feature::MTU,
        feature::GUEST_ANNOUNCE,
        feature::VQ_NOTF_COAL,
        feature::SPEED_DUPLEX,
        feature::CTRL_GUEST_OFFLOADS,
    ];
    assert!(all.iter().all(|bit| offered & bit != 0));
    assert_eq!(offered & (feature::HOST_UFO | feature::GUEST_UFO), 0);
}

#[test]
fn features_follow_the_switches() {
    type Change = fn(&mut NetSpec);
    let large = feature::HOST_TSO4 | feature::GUEST_TSO6 | feature::HOST_ECN;
    let small = feature::HOST_USO | feature::GUEST_USO6;
    let cases: [(Change, u64); 7] = [
        (|spec| spec.tso = false, large),
        (|spec| spec.uso = false, small),
        (
            |spec| spec.ecn = false,
            feature::HOST_ECN | feature::GUEST_ECN,
        ),
        (|spec| spec.csum = false, large | small | feature::CSUM),
        (|spec| spec.rss = false, feature::RSS | feature::HASH_REPORT),
        (|spec| spec.mergeable = false, feature::MRG_RXBUF),
        (|spec| spec.queue_pairs = 1, feature::MQ),
    ];
    for (change, gone) in cases {
        let mut spec = spec();
        change(&mut spec);
        assert_eq!(card(spec.clone()).features() & gone, 0, "{spec:?}");
    }
    let masked = NetSpec {
        feature_mask: Some(FeatureMask(feature::MAC)),
        ..spec()
    };
    let version_1 = 1 << 32;
    assert_eq!(card(masked).features(), feature::MAC | version_1);
}

/// What sec. 5.1.3.1 asks: the first needs one of the others.
fn requirements() -> Vec<(u64, u64)> {
    use virtio_spec::net::feature::*;
    let by_control = [
        CTRL_RX,
        CTRL_VLAN,
        CTRL_RX_EXTRA,
        GUEST_ANNOUNCE,
        MQ,
        CTRL_MAC_ADDR,
        CTRL_GUEST_OFFLOADS,
        NOTF_COAL,
        VQ_NOTF_COAL,
        RSS,
        HASH_REPORT,
    ];
    let mut needs: Vec<_> = by_control.iter().map(|bit| (*bit, CTRL_VQ)).collect();
    for bit in [GUEST_TSO4, GUEST_TSO6, GUEST_USO4, GUEST_USO6] {
        needs.push((bit, GUEST_CSUM));
    }
    for bit in [HOST_TSO4, HOST_TSO6, HOST_USO] {
        needs.push((bit, CSUM));
    }
    needs.push((GUEST_ECN, GUEST_TSO4 | GUEST_TSO6));
    needs.push((HOST_ECN, HOST_TSO4 | HOST_TSO6));
    needs
}

#[test]
fn no_choice_of_switches_and_masks_offers_a_feature_that_lacks_another() {
    let needs = requirements();
    let all = config::features(&spec());
    let single = (0..64).map(|bit| 1 << bit).filter(|bit| all & bit != 0);
    let masks: Vec<u64> = single.flat_map(|bit| [bit, !bit]).collect();
    let masks = || masks.iter().copied().map(Some).chain([None]);
    for switches in 0..1 << 10 {
        let on = |nth: u32| switches & 1 << nth != 0;
        let chosen = NetSpec {
            packed: on(0),
            in_order: on(1),
            csum: on(2),
            tso: on(3),
            uso: on(4),
            ecn: on(5),
            mergeable: on(6),
            control_queue: on(7),
            rss: on(8),
            queue_pairs: if on(9) { 4 } else { 1 },
            ..spec()
        };
        for mask in masks() {
            let feature_mask = mask.map(FeatureMask);
            let offered = config::features(&NetSpec {
                feature_mask,
                ..chosen.clone()
            });
            for (bit, needed) in &needs {
                assert!(
                    offered & bit == 0 || offered & needed != 0,
                    "{bit:#x} without {needed:#x} for {mask:x?} and {chosen:?}"
                );
            }
            assert_eq!(offered & !mask.unwrap_or(u64::MAX) & !(1 << 32), 0);
        }
    }
}

#[test]
fn only_a_legacy_driver_without_the_command_for_it_writes_its_address() {
    let device = card(spec());
    let address = [2, 0, 0, 0, 0, 9];
    let write = |features: u64| {
        device.acked(features);
        let bytes = address.iter().enumerate();
        let written = bytes.filter(|(at, byte)| device.write_config(*at as u32, &[**byte]).is_ok());
        (written.count(), device.mac())
    };
    let before = device.mac();
    let version_1 = 1 << 32;
    for features in [
        feature::MAC | version_1,
        feature::MAC | feature::CTRL_VQ | feature::CTRL_MAC_ADDR,
        feature::STATUS,
    ] {
        assert_eq!(write(features), (0, before), "{features:#x}");
    }
    assert_eq!(write(feature::MAC).0, 6);
    assert_eq!(device.mac().0, address);
    for (offset, len) in [(5, 2), (6, 1), (u32::MAX, 1), (0, 7)] {
        assert!(device.write_config(offset, &vec![0; len]).is_err());
    }
}

#[test]
fn the_control_queue_is_after_all_pairs_or_after_the_first() {
    let device = card(spec());
    assert_eq!(device.queue_count(), 9);
    let all = device.features();
    let single = all & !(feature::MQ | feature::RSS);
    for (features, index) in [(all, 8), (single, 2), (all & !feature::MQ, 8)] {
        device.acked(features);
        assert!(device.start_queue(index, features).is_ok(), "{index}");
        let commands = device.metrics().control.commands;
        assert_eq!(commands, 0);
        device.reset();
    }
    for (features, index) in [
        (all, 9),
        (all, 100),
        (all & !feature::CTRL_VQ, 8),
        (all, u16::MAX),
    ] {
        assert!(device.start_queue(index, features).is_err(), "{index}");
    }
    let without = NetSpec {
        queue_pairs: 1,
        control_queue: false,
        ..spec()
    };
    assert_eq!(card(without).queue_count(), 2);
}

#[test]
fn pairs_in_use_are_those_that_run_when_the_front_end_keeps_the_control_queue() {
    let device = card(NetSpec {
        link: LinkChoice::Switch("lan".to_owned()),
        ..spec()
    });
    let features = device.features();
    device.acked(features);
    assert_eq!(device.active_pairs(), 1);
    let start = |index| device.start_queue(index, features).expect("a handler");
    let mut running: Vec<_> = (0..8).map(start).collect();
    assert_eq!(device.active_pairs(), 4);
    running.truncate(4);
    assert_eq!(device.active_pairs(), 2);
    let control = start(8);
    assert_eq!(device.active_pairs(), 1, "one until the driver says more");
    running.extend((4..8).map(start));
    assert_eq!(device.active_pairs(), 1);
    drop((running, control));
    device.reset();
    let _only = start(0);
    assert_eq!(device.active_pairs(), 1);
}

#[test]
fn features_said_again_leave_the_drivers_choices() {
    let device = card(spec());
    let features = device.features();
    device.acked(features);
    device
        .port()
        .update(|state| state.offloads = net_link::Offloads::NONE);
    device.acked(features);
    assert_eq!(device.port().state().offloads, net_link::Offloads::NONE);
    device.reset();
    device.acked(features);
    assert!(device.port().state().offloads.csum);
}

#[test]
fn link_changes_are_told_once_each() {
    let device = card(spec());
    let changes = changes(&device);
    assert!(device.link_up());
    device.set_link(true);
    assert_eq!(changes.load(Ordering::SeqCst), 0);
    device.set_link(false);
    device.set_link(false);
    assert_eq!(changes.load(Ordering::SeqCst), 1);
    assert_eq!(space(&device).status.get(), 0);
    device.reset();
    assert!(!device.link_up(), "a reset of the driver mends no cable");
    device.set_link(true);
    assert_eq!(changes.load(Ordering::SeqCst), 2);
    assert_eq!(space(&device).status.get(), status::LINK_UP);
}

#[test]
fn the_mtu_that_a_driver_was_promised_stays_until_it_starts_anew() {
    let device = card(spec());
    assert!(device.change_mtu(9000).expect("a sound MTU"));
    assert_eq!(space(&device).mtu.get(), 9000);
    device.acked(device.features());
    assert_eq!(device.port().state().mtu, 9000);
    assert!(!device.change_mtu(4000).expect("a sound MTU"));
    assert_eq!(space(&device).mtu.get(), 9000);
    assert_eq!(device.port().state().mtu, 9000);
    device.reset();
    assert_eq!(space(&device).mtu.get(), 4000);
    assert!(device.change_mtu(1279).is_err());
    device.acked(device.features() & !feature::MTU);
    assert_eq!(device.port().state().mtu, u16::MAX);
}

#[test]
fn the_front_ends_mtu_counts_unless_no_network_has_it() {
    let device = card(spec());
    device.acked(device.features());
    assert!(device.set_mtu(1400).is_ok());
    assert_eq!(device.port().state().mtu, 1400);
    for mtu in [0, 1, 67] {
        assert!(device.set_mtu(mtu).is_err());
    }
    assert_eq!(device.port().state().mtu, 1400);
    device.acked(device.features());
    assert_eq!(device.port().state().mtu, 1400, "it may come first");
    device.reset();
    device.acked(device.features());
    assert_eq!(device.port().state().mtu, u16::MAX, "nobody named one");
}

#[test]
fn a_station_is_announced_by_a_reverse_arp_request() {
    let mac = [2, 0, 0, 0, 0, 9];
    let frame = rarp::announcement(mac);
    assert_eq!(frame[..6], [0xff; 6]);
    assert_eq!(frame[6..12], mac);
    assert_eq!(frame[12..22], [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    assert_eq!(frame[22..28], mac);
    assert_eq!(frame[28..32], [0; 4]);
    assert_eq!(frame[32..38], mac);
    assert_eq!(frame[38..], [0; 22]);
}

#[test]
fn cards_of_one_name_have_one_address_and_others_another() {
    let of = |name: &str| {
        let spec = NetSpec::on(LinkSpec::Null);
        let device = NetDevice::open(name, spec, &crate::Fabric::default());
        device.expect("a card").mac()
    };
    assert_eq!(of("a"), of("a"));
    assert_ne!(of("a"), of("b"));
    assert!(of("a").is_station());
}
