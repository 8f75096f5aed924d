//! Network and balloon as PCI functions over a scripted backend: layout, driver-written configuration, what survives the
//! backend. Rule: what counts is what the guest reads and what the backend is told.

use std::time::Duration;

use vhost_user_protocol::ConfigSpace;
use vhost_user_protocol::FrontendMessage as Message;
use vhost_user_protocol::Reply;
use vhost_user_protocol::Request;
use vhost_user_protocol::feature::protocol;
use virtio_spec::balloon;
use virtio_spec::feature;
use virtio_spec::net;
use virtio_spec::pci::cap_type;
use virtio_spec::pci::common;
use virtio_spec::status;

use super::fake::FakeBackend;
use super::fake::Turn;
use super::pci::Guest;
use super::pci::MSIX_ENABLE;
use super::support::eventually;
use crate::Error;
use crate::pci::FrontendSpec;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// For backends that have none.
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn net_config(pairs: u16, status: u16, mtu: u16) -> Vec<u8> {
    let mut config = vec![0; size_of::<net::Config>()];
    config[..6].copy_from_slice(&MAC);
    config[6..8].copy_from_slice(&status.to_le_bytes());
    config[8..10].copy_from_slice(&pairs.to_le_bytes());
    config[10..12].copy_from_slice(&mtu.to_le_bytes());
    config
}

/// A network backend with `queues` queues, whose configuration says `pairs`.
fn net_backend(queues: u64, pairs: u16) -> FakeBackend {
    let backend = FakeBackend::new();
    backend.set(|facts| {
        facts.features |= net::feature::MAC
            | net::feature::STATUS
            | net::feature::MQ
            | net::feature::RSS
            | net::feature::MTU
            | net::feature::CTRL_VQ;
        facts.queues = queues;
        facts.config = net_config(pairs, 1, 1500);
    });
    backend
}

fn net_guest(backend: &FakeBackend) -> Guest {
    Guest::with(&FrontendSpec::net(backend.path(), OWN_MAC)).unwrap()
}

fn balloon_backend() -> FakeBackend {
    let backend = FakeBackend::new();
    backend.set(|facts| {
        facts.features |= balloon::feature::STATS_VQ
            | balloon::feature::FREE_PAGE_HINT
            | balloon::feature::PAGE_POISON
            | balloon::feature::PAGE_REPORTING;
        facts.queues = 5;
        facts.config = vec![0; 16];
    });
    backend
}

fn balloon_guest(backend: &FakeBackend) -> Guest {
    Guest::with(&FrontendSpec::balloon(backend.path())).unwrap()
}

fn offered(guest: &mut Guest) -> u64 {
    let mut features = 0;
    for half in [1u32, 0] {
        guest.set_common(common::DEVICE_FEATURE_SELECT, &half.to_le_bytes());
        let word = u32::from_le_bytes(guest.common(common::DEVICE_FEATURE));
        features = features << 32 | u64::from(word);
    }
    features
}

fn queues(guest: &mut Guest) -> u16 {
    u16::from_le_bytes(guest.common(common::NUM_QUEUES))
}

fn start(guest: &mut Guest, features: u64, queues: &[u16]) {
    guest.negotiate(feature::VERSION_1 | features);
    guest.enable_msix(MSIX_ENABLE);
    guest.set_common(common::CONFIG_MSIX_VECTOR, &0u16.to_le_bytes());
    for queue in queues {
        guest.set_up_queue(*queue, *queue + 1);
    }
    guest.set_status(status::DRIVER_OK);
    assert_eq!(guest.status() & status::DEVICE_NEEDS_RESET, 0);
}

fn set_configs(backend: &FakeBackend, connection: usize) -> Vec<(u32, Vec<u8>)> {
    let heard = backend.heard(connection);
    let sets = heard.into_iter().filter_map(|message| match message {
        Message::SetConfig(config) => Some((config.offset, config.data)),
        _ => None,
    });
    sets.collect()
}

#[test]
fn a_network_has_all_queues_of_its_backend_and_an_ethernet_class() {
    let backend = net_backend(9, 4);
    let mut guest = net_guest(&backend);
    assert_eq!(guest.config(0), [0xf4, 0x1a, 0x41, 0x10]);
    assert_eq!(guest.config(9), [0, 0, 2]);
    assert_eq!(queues(&mut guest), 9);
    assert_ne!(offered(&mut guest) & net::feature::MQ, 0);
    assert_eq!(guest.read(cap_type::DEVICE, 0), MAC);
    assert_eq!(guest.read(cap_type::DEVICE, 8), [4, 0, 0xdc, 5]);
    // One pair and, as there is no MQ, the control queue at 2.
    start(&mut guest, net::feature::CTRL_VQ, &[0, 1, 2]);
    for queue in [0, 1, 2] {
        backend.wait_for_kick(queue);
    }
    assert!(!backend.kicked(3));
}

#[test]
fn pairs_that_the_backend_has_no_queues_for_are_not_offered() {
    for (backend_queues, pairs, multiple) in [
        (9, 4, true),
        (8, 4, false),
        (3, 1, true),
        (3, 2, false),
        (9, 0, false),
        (255, 127, true),
        (9, 0xffff, false),
        (0xffff, 0x8000, false),
    ] {
        let backend = net_backend(backend_queues, pairs);
        let mut guest = net_guest(&backend);
        let offer = offered(&mut guest);
        let what = format!("{backend_queues} queues, {pairs} pairs");
        assert_eq!(offer & net::feature::MQ != 0, multiple, "{what}");
        assert_eq!(offer & net::feature::RSS != 0, multiple, "{what}");
        assert_ne!(offer & net::feature::CTRL_VQ, 0, "{what}");
    }
}

#[test]
fn nothing_of_a_networks_configuration_can_be_written() {
    let backend = net_backend(3, 1);
    let mut guest = net_guest(&backend);
    start(&mut guest, net::feature::CTRL_VQ, &[0, 1, 2]);
    for offset in 0..24 {
        guest.write(cap_type::DEVICE, offset, &[0xff]);
    }
    guest.write(cap_type::DEVICE, 0, &[0xff; 4]);
    assert!(!backend.heard_any(0, Request::SetConfig));
    assert_eq!(guest.read(cap_type::DEVICE, 0), MAC);
}

#[test]
fn a_link_that_goes_down_is_seen_at_once() {
    let backend = net_backend(3, 1);
    let mut guest = net_guest(&backend);
    start(&mut guest, net::feature::STATUS, &[0, 1]);
    backend.announce_config(net_config(1, 0, 1500));
    eventually("the interrupt", || guest.take(0) == 1);
    assert_eq!(guest.read(cap_type::DEVICE, 6), [0, 0]);
}

#[test]
fn after_its_return_a_network_may_have_another_link_and_mtu_but_no_other_address() {
    let backend = net_backend(3, 1);
    let mut guest = net_guest(&backend);
    start(
        &mut guest,
        net::feature::MAC | net::feature::STATUS,
        &[0, 1],
    );
    backend.set(|facts| facts.config = net_config(1, 0, 9000));
    backend.die();
    eventually("the return", || {
        guest.device.session().health().reconnects == 1
    });
    eventually("the change", || {
        guest.read(cap_type::DEVICE, 6) == [0, 0, 1, 0, 0x28, 0x23]
    });
    backend.set(|facts| facts.config[5] = 8);
    backend.die();
    eventually("the refusal", || {
        let error = guest.device.session().health().last_error;
        error.is_some_and(|error| error.contains("byte 5 differs"))
    });
    backend.set(|facts| facts.config[5] = 7);
    eventually("the return", || {
        guest.device.session().health().reconnects == 2
    });
}

#[test]
fn the_network_learns_after_a_return_where_the_guest_is() {
    let backend = net_backend(3, 1);
    let mut guest = net_guest(&backend);
    start(&mut guest, net::feature::MAC, &[0, 1]);
    assert!(!backend.heard_any(0, Request::SendRarp));
    backend.die();
    eventually("the announcement", || {
        backend.heard(1).iter().any(
            |message| matches!(message, Message::SendRarp(mac) if mac.to_le_bytes()[..6] == MAC),
        )
    });
    // One that does not know how says so, and serves all the same.
    backend.set(|facts| {
        facts.script = Box::new(|_, message| match message {
            Message::SendRarp(_) => Turn::Refuse,
            _ => Turn::Answer,
        });
    });
    backend.die();
    eventually("the return", || {
        guest.device.session().health().reconnects == 2
    });
}

#[test]
fn an_mtu_is_told_before_the_configuration_is_read_and_again_after_a_return() {
    let backend = net_backend(3, 1);
    let spec = FrontendSpec {
        mtu: Some(9000),
        ..FrontendSpec::net(backend.path(), OWN_MAC)
    };
    let guest = Guest::with(&spec).unwrap();
    let told = |connection: usize| {
        let heard = backend.heard(connection);
        let at = |request| heard.iter().position(|m| m.request() == request);
        assert!(at(Request::NetSetMtu).unwrap() < at(Request::GetConfig).unwrap());
        heard.contains(&Message::NetSetMtu(9000))
    };
    assert!(told(0));
    backend.die();
    eventually("the return", || {
        guest.device.session().health().reconnects == 1
    });
    assert!(told(1));
}

#[test]
fn an_mtu_for_a_backend_that_takes_none_is_an_error() {
    let backend = net_backend(3, 1);
    let spec = FrontendSpec {
        mtu: Some(9000),
        ..FrontendSpec::net(backend.path(), OWN_MAC)
    };
    backend.set(|facts| {
        facts.script = Box::new(|_, message| match message {
            Message::NetSetMtu(_) => Turn::Refuse,
            _ => Turn::Answer,
        });
    });
    let refused = Guest::with(&spec).err().unwrap();
    assert!(matches!(refused, Error::Refused(Request::NetSetMtu)));
    backend.set(|facts| facts.protocol &= !protocol::NET_MTU);
    let missing = Guest::with(&spec).err().unwrap();
    assert!(missing.to_string().contains("NET_MTU"), "{missing}");
}

#[test]
fn a_shorter_configuration_is_taken_and_its_length_stays() {
    let backend = net_backend(3, 1);
    backend.set(|facts| {
        facts.config.truncate(12);
        facts.script = Box::new(|_, message| match message {
            Message::GetConfig(config) if config.size > 12 => {
                Turn::Raw(Reply::Empty.encode(Request::GetConfig), 0)
            }
            _ => Turn::Answer,
        });
    });
    let mut guest = net_guest(&backend);
    assert_eq!(guest.read(cap_type::DEVICE, 8), [1, 0, 0xdc, 5]);
    assert_eq!(guest.read(cap_type::DEVICE, 12), [0; 8]);
    backend.die();
    eventually("the return", || {
        guest.device.session().health().reconnects == 1
    });
    let sizes: Vec<_> = backend
        .heard(1)
        .into_iter()
        .filter_map(|message| match message {
            Message::GetConfig(config) => Some(config.size),
            _ => None,
        })
        .collect();
    assert_eq!(sizes, [12]);
}

/// A backend that lies about the size of its configuration.
#[test]
fn configurations_of_hostile_sizes_are_refused() {
    for (size, bytes) in [(16, 17), (16, 15), (0, 16), (0xffff_ffff, 16), (16, 0)] {
        let backend = balloon_backend();
        backend.set(|facts| {
            facts.script = Box::new(move |_, message| match message {
                Message::GetConfig(config) => {
                    let lie = Reply::Config(ConfigSpace {
                        size,
                        data: vec![1; bytes],
                        ..config.clone()
                    });
                    Turn::Raw(lie.encode(Request::GetConfig), 0)
                }
                _ => Turn::Answer,
            });
        });
        let spec = FrontendSpec {
            connect_timeout: Duration::from_millis(50),
            ..FrontendSpec::balloon(backend.path())
        };
        assert!(Guest::with(&spec).is_err(), "{size} {bytes}");
    }
}

#[test]
fn a_balloon_has_five_queues_and_a_driver_may_use_the_first_few() {
    let features = balloon::feature::STATS_VQ;
    for (count, accepted) in [(2, 0), (3, features), (5, 0x3c | features)] {
        let backend = balloon_backend();
        let mut guest = balloon_guest(&backend);
        assert_eq!(guest.config(0), [0xf4, 0x1a, 0x45, 0x10]);
        assert_eq!(queues(&mut guest), 5);
        let used: Vec<u16> = (0..count).collect();
        let accepted = accepted & offered(&mut guest);
        start(&mut guest, accepted, &used);
        for queue in 0..count {
            backend.wait_for_kick(queue.into());
        }
        for queue in count..5 {
            assert!(!backend.kicked(queue.into()));
        }
        guest.set_status(0);
        let heard = backend.heard(0);
        let stops = heard
            .iter()
            .filter(|message| message.request() == Request::GetVringBase);
        assert_eq!(stops.count(), usize::from(count));
    }
}

/// REGRESSIONS row 11, on the wire: the backend goes while the driver sends and orders things.
#[test]
fn row_11_a_backend_that_goes_away_while_the_guest_sends_is_waited_for() {
    let mut backend = net_backend(3, 1);
    let mut guest = net_guest(&backend);
    start(&mut guest, net::feature::CTRL_VQ, &[0, 1, 2]);
    for queue in [0, 1, 2] {
        backend.wait_for_kick(queue);
    }
    for round in 1..=5 {
        backend.vanish();
        for queue in [1u16, 2] {
            let at = 4 * u64::from(queue);
            guest.write(cap_type::NOTIFY, at, &queue.to_le_bytes());
        }
        assert_eq!(guest.status() & status::DEVICE_NEEDS_RESET, 0);
        backend.listen();
        for queue in [0, 1, 2] {
            backend.wait_for_kick(queue);
        }
        eventually("the return", || {
            guest.device.session().health().reconnects == round
        });
        for vector in [1, 2, 3] {
            eventually("the interrupt", || guest.take(vector) > 0);
        }
    }
}

#[test]
fn a_new_target_reaches_the_driver_however_often_it_changes() {
    let backend = balloon_backend();
    let mut guest = balloon_guest(&backend);
    start(&mut guest, 0, &[0, 1]);
    for target in 1..=200u8 {
        let mut config = vec![0; 16];
        config[0] = target;
        backend.announce_config(config);
    }
    let mut interrupts = 0;
    eventually("the last target", || {
        interrupts += guest.take(0);
        guest.read(cap_type::DEVICE, 0) == [200, 0, 0, 0]
    });
    assert!((1..=200).contains(&interrupts), "{interrupts}");
}

#[test]
fn a_driver_writes_actual_and_with_the_feature_the_poison_and_nothing_else() {
    let backend = balloon_backend();
    let mut guest = balloon_guest(&backend);
    start(&mut guest, 0, &[0, 1]);
    for (offset, len) in [
        (0, 4),
        (8, 4),
        (12, 4),
        (4, 1),
        (4, 2),
        (4, 8),
        (5, 4),
        (16, 4),
        (0xffc, 4),
    ] {
        guest.write(cap_type::DEVICE, offset, &[0xff; 8][..len]);
    }
    assert_eq!(set_configs(&backend, 0), []);
    guest.write(cap_type::DEVICE, 4, &[1, 2, 3, 4]);
    assert_eq!(set_configs(&backend, 0), [(4, vec![1, 2, 3, 4])]);
    // With the feature it comes before DRIVER_OK, when the backend does not know the features yet.
    let backend = balloon_backend();
    backend.set(|facts| {
        let mut features = 0;
        facts.script = Box::new(move |_, message| match message {
            Message::SetFeatures(now) => {
                features = *now;
                Turn::Answer
            }
            Message::SetConfig(_) if features & balloon::feature::PAGE_POISON == 0 => Turn::Refuse,
            _ => Turn::Answer,
        });
    });
    let mut guest = balloon_guest(&backend);
    guest.negotiate(feature::VERSION_1 | balloon::feature::PAGE_POISON);
    guest.write(cap_type::DEVICE, 12, &[0xaa; 4]);
    assert_eq!(guest.read(cap_type::DEVICE, 12), [0xaa; 4]);
    guest.set_status(status::DRIVER_OK);
    let heard = backend.heard(0);
    let at = |request| heard.iter().rposition(|m| m.request() == request);
    assert!(at(Request::SetFeatures).unwrap() < at(Request::SetConfig).unwrap());
    assert_eq!(set_configs(&backend, 0).last(), Some(&(12, vec![0xaa; 4])));
}

#[test]
fn a_balloons_size_survives_the_backend_and_ends_with_the_driver() {
    let mut backend = balloon_backend();
    let mut guest = balloon_guest(&backend);
    start(&mut guest, 0, &[0, 1]);
    guest.write(cap_type::DEVICE, 4, &[5, 0, 0, 0]);
    backend.vanish();
    // Written to nobody; the next is told.
    guest.write(cap_type::DEVICE, 4, &[6, 0, 0, 0]);
    assert_eq!(guest.read(cap_type::DEVICE, 4), [6, 0, 0, 0]);
    backend.listen();
    eventually("the return", || {
        guest.device.session().health().reconnects == 1
    });
    assert_eq!(set_configs(&backend, 1), [(4, vec![6, 0, 0, 0])]);
    assert_eq!(guest.read(cap_type::DEVICE, 4), [6, 0, 0, 0]);
    guest.set_status(0);
    assert_eq!(
        guest.read(cap_type::DEVICE, 4),
        [0; 4],
        "the backend's word"
    );
    backend.die();
    eventually("the return", || {
        guest.device.session().health().reconnects == 2
    });
    assert_eq!(set_configs(&backend, 2), []);
}

#[test]
fn a_backend_that_refuses_what_was_written_is_served_by_all_the_same() {
    let backend = balloon_backend();
    let mut guest = balloon_guest(&backend);
    start(&mut guest, 0, &[0, 1]);
    guest.write(cap_type::DEVICE, 4, &[5, 0, 0, 0]);
    backend.set(|facts| {
        facts.script = Box::new(|_, message| match message {
            Message::SetConfig(_) => Turn::Refuse,
            _ => Turn::Answer,
        });
    });
    backend.die();
    eventually("the return", || {
        guest.device.session().health().reconnects == 1
    });
    backend.wait_for_kick(1);
    assert_eq!(guest.read(cap_type::DEVICE, 4), [0; 4]);
}

#[test]
fn a_backend_that_dies_at_a_configuration_write_is_told_by_the_next() {
    let backend = balloon_backend();
    backend.set(|facts| {
        facts.script = Box::new(|connection, message| match message {
            Message::SetConfig(_) if connection == 0 => Turn::Close,
            _ => Turn::Answer,
        });
    });
    let mut guest = balloon_guest(&backend);
    start(&mut guest, 0, &[0, 1]);
    guest.write(cap_type::DEVICE, 4, &[9, 0, 0, 0]);
    eventually("the return", || {
        guest.device.session().health().reconnects == 1
    });
    assert_eq!(set_configs(&backend, 1), [(4, vec![9, 0, 0, 0])]);
}

#[test]
fn a_backend_without_a_configuration_space_has_one_pair_and_the_front_ends_address() {
    let backend = net_backend(1, 0);
    backend.set(|facts| facts.protocol &= !protocol::CONFIG);
    let mut guest = net_guest(&backend);
    assert_eq!(queues(&mut guest), 2);
    assert_eq!(guest.read(cap_type::DEVICE, 0), OWN_MAC);
    let offer = offered(&mut guest);
    assert_ne!(offer & net::feature::MAC, 0);
    let hidden = net::feature::MQ | net::feature::CTRL_VQ | net::feature::STATUS;
    assert_eq!(offer & hidden, 0);
    backend.set(|facts| facts.features &= !net::feature::MAC);
    start(&mut guest, net::feature::MAC, &[0, 1]);
    backend.die();
    eventually("the return", || {
        guest.device.session().health().reconnects == 1
    });
    // What the backend did not offer it is not told.
    let told = |connection: usize| {
        let heard = backend.heard(connection);
        heard.iter().rev().find_map(|message| match message {
            Message::SetFeatures(features) => Some(*features),
            _ => None,
        })
    };
    assert_eq!(told(1).unwrap() & net::feature::MAC, 0);
    assert!(backend.heard_any(1, Request::SendRarp));
    assert!(!backend.heard_any(1, Request::GetConfig));
}
