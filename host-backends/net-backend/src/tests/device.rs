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
use crate::rarp;

fn config(device: &NetDevice) -> Config {
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
    let shown = config(&device);
    assert_eq!(shown.mac, [0x52, 0x54, 0, 0, 0, 1]);
    assert_eq!(shown.status.get(), status::LINK_UP);
    assert_eq!(shown.max_virtqueue_pairs.get(), 4);
    assert_eq!(shown.mtu.get(), 9000);
    assert_eq!((shown.speed.get(), shown.duplex), (10_000, 0));
    assert_eq!(shown.rss_max_key_size, 40);
    assert_eq!(shown.rss_max_indirection_table_length.get(), 512);
    assert_eq!(shown.supported_hash_types.get(), 0x3f);
    let plain = config(&card(spec()));
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

#[test]
fn the_control_queue_is_after_all_pairs_or_after_the_first() {
    let device = card(spec());
    assert_eq!(device.queue_count(), 9);
    let all = device.features();
    let single = all & !(feature::MQ | feature::RSS);
    for (features, index) in [(all, 8), (single, 2), (all & !feature::MQ, 8)] {
        device.acked(features);
        assert!(device.start_queue(index, features).is_ok(), "{index}");
        let commands = device.metrics().control_commands_total;
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
    assert_eq!(config(&device).status.get(), 0);
    device.reset();
    assert!(!device.link_up(), "a reset of the driver mends no cable");
    device.set_link(true);
    assert_eq!(changes.load(Ordering::SeqCst), 2);
    assert_eq!(config(&device).status.get(), status::LINK_UP);
}

#[test]
fn the_mtu_that_a_driver_was_promised_stays_until_it_starts_anew() {
    let device = card(spec());
    assert!(device.change_mtu(9000).expect("a sound MTU"));
    assert_eq!(config(&device).mtu.get(), 9000);
    device.acked(device.features());
    assert_eq!(device.port().state().mtu, 9000);
    assert!(!device.change_mtu(4000).expect("a sound MTU"));
    assert_eq!(config(&device).mtu.get(), 9000);
    assert_eq!(device.port().state().mtu, 9000);
    device.reset();
    assert_eq!(config(&device).mtu.get(), 4000);
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
