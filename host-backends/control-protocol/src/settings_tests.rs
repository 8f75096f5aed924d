//! Sets right and wrong.

use super::*;
use serde_json::json;

fn changes(value: Value) -> Changes {
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_set_is_read_as_the_devices_own_type() {
    let net: NetSettings = changes(json!({"link": "down", "mtu": 1400, "capture": "on"}))
        .read()
        .unwrap();
    let expected = NetSettings {
        link: Some(LinkState::Down),
        mtu: Some(1400),
        capture: Some(Toggle(true)),
        ..NetSettings::default()
    };
    assert_eq!(net, expected);
    let balloon: BalloonSettings =
        changes(json!({"target": "512M", "floor": 4096, "policy": "dry-run", "inhibit": false}))
            .read()
            .unwrap();
    assert_eq!(balloon.target, Some(Bytes(512 << 20)));
    assert_eq!(balloon.floor, Some(Bytes(4096)));
    assert_eq!(balloon.policy, Some(Policy::DryRun));
    assert_eq!(balloon.inhibit, Some(Toggle(false)));
}

#[test]
fn each_wrong_key_is_named() {
    let wrong = changes(
        json!({"link": "sideways", "mtu": 70000, "rate-bytes": -1, "capture": 3, "colour": 1}),
    );
    let wrong = wrong.read::<NetSettings>().unwrap_err();
    for word in ["link=", "mtu=", "rate-bytes=", "capture=", "colour"] {
        assert!(wrong.contains(word), "{word}: {wrong}");
    }
    let none = changes(json!({})).read::<PoolSettings>().unwrap_err();
    assert!(none.contains("size, reserve, dry-run"), "{none}");
}

#[test]
fn the_keys_are_those_that_serde_reads() {
    fn check<T: Settings>() {
        let unknown = changes(json!({"x": 1}));
        let error = serde_json::from_value::<T>(serde_json::to_value(unknown).unwrap());
        let error = error.err().unwrap().to_string();
        for key in T::KEYS {
            assert!(error.contains(&format!("`{key}`")), "{key}: {error}");
        }
    }
    check::<NetSettings>();
    check::<BalloonSettings>();
    check::<PoolSettings>();
}

#[test]
fn an_answer_has_what_is_now_and_what_a_restart_undoes() {
    let set = PoolSettings {
        size: Some(Bytes(1 << 30)),
        dry_run: Some(Toggle(true)),
        ..PoolSettings::default()
    };
    let settled = Settled::new(set.clone(), &set, &["size"]);
    assert_eq!(
        serde_json::to_value(settled).unwrap(),
        json!({"size": 1 << 30, "dry-run": true, "until_restart": ["dry-run"]})
    );
}

#[test]
fn what_is_newer_wins_and_what_it_leaves_out_stays() {
    let mut net = NetSettings {
        mtu: Some(1400),
        rate_bytes: Some(5),
        ..NetSettings::default()
    };
    net.update(NetSettings {
        mtu: Some(9000),
        ..NetSettings::default()
    });
    assert_eq!((net.mtu, net.rate_bytes), (Some(9000), Some(5)));
}
