//! The specification's own checks and spellings.

use clap::Args;
use clap::Command;
use clap::FromArgMatches;
use net_link::LinkSpec;

use crate::FeatureMask;
use crate::LinkChoice;
use crate::MacAddress;
use crate::NetSpec;
use crate::SwitchSpec;

fn parse(flags: &[&str]) -> Result<NetSpec, String> {
    let command = NetSpec::augment_args(Command::new("card").no_binary_name(true));
    let matches = command
        .try_get_matches_from(flags)
        .map_err(|error| error.to_string())?;
    NetSpec::from_arg_matches(&matches).map_err(|error| error.to_string())
}

#[test]
fn the_default_is_sound_and_means_passt() {
    assert_eq!(parse(&[]), Ok(NetSpec::default()));
    assert_eq!(NetSpec::default().check(), Ok(()));
    assert_eq!(NetSpec::default().link.to_string(), "passt");
    assert_eq!(NetSpec::default().shown_mtu(), 65520);
    let smaller = parse(&["--link", "passt:mtu=1400"]).expect("a card");
    assert_eq!(smaller.shown_mtu(), 1400);
}

#[test]
fn all_faults_are_told_at_once() {
    let spec = NetSpec {
        queue_pairs: 128,
        queue_size: 100,
        control_queue: false,
        mac: Some(MacAddress::BROADCAST),
        mtu: Some(67),
        speed: Some(0x8000_0000),
        capture_paused: true,
        ..NetSpec::on(LinkSpec::Null)
    };
    let faults = spec.check().expect_err("a faulty specification");
    let words = [
        "queue-pairs",
        "control-queue",
        "queue-size",
        "mac",
        "mtu",
        "speed",
        "capture",
    ];
    assert_eq!(faults.len(), words.len(), "{faults:?}");
    for (fault, word) in faults.iter().zip(words) {
        assert!(fault.contains(word), "{fault}");
    }
}

#[test]
fn links_read_as_they_print() {
    for text in [
        "passt",
        "tap:vmtap0",
        "packet:eth0",
        "null",
        "fd:7",
        "switch:lan-1",
    ] {
        let link: LinkChoice = text.parse().expect("a link");
        assert_eq!(link.to_string(), text);
    }
    for (text, word) in [
        ("switch:", "letters"),
        ("switch:a b", "letters"),
        ("pigeon", "switch:NAME"),
        ("tap:", "interface"),
    ] {
        let fault = text.parse::<LinkChoice>().expect_err("no link");
        assert!(fault.contains(word), "{fault}");
    }
}

#[test]
fn addresses_read_as_they_print() {
    let mac: MacAddress = "52:54:00:AB:cd:ef".parse().expect("an address");
    assert_eq!(mac.to_string(), "52:54:00:ab:cd:ef");
    assert_eq!("52-54-00-ab-cd-ef".parse(), Ok(mac));
    for text in [
        "",
        "52:54:00:ab:cd",
        "52:54:00:ab:cd:ef:00",
        "5:54:00:ab:cd:ef",
        "+5:54:00:ab:cd:ef",
        "52:54:00:ab:cd:eg",
    ] {
        assert!(text.parse::<MacAddress>().is_err(), "{text}");
    }
}

#[test]
fn masks_are_hexadecimal() {
    assert_eq!("0x130000000".parse(), Ok(FeatureMask(0x1_3000_0000)));
    assert_eq!(FeatureMask(0x20).to_string(), "0x20");
    assert!("card".parse::<FeatureMask>().is_err());
}

#[test]
fn flags_and_keys_of_a_file_mean_the_same() {
    let flags = parse(&[
        "--link",
        "tap:t0",
        "--queue-pairs",
        "4",
        "--mtu",
        "9000",
        "--tso",
        "false",
        "--allow-ip",
        "192.0.2.1,2001:db8::1",
        "--rate-bytes",
        "1000",
        "--mac-filter",
        "--duplex",
        "half",
    ])
    .expect("a card");
    assert_eq!(flags.link.to_string(), "tap:t0");
    assert_eq!(
        (flags.queue_pairs, flags.mtu, flags.tso),
        (4, Some(9000), false)
    );
    assert_eq!(flags.allow_ip.len(), 2);
    assert_eq!(flags.mac_filter, Some(true));
}

#[test]
fn a_guest_is_held_to_its_address_where_the_operator_named_it() {
    let cases: [(&[&str], bool); 6] = [
        (&[], false),
        (&["--mac", "52:54:00:00:00:01"], true),
        (&["--mac-filter", "--mac", "52:54:00:00:00:01"], true),
        (&["--mac", "52:54:00:00:00:01", "--mac-filter=false"], false),
        (&["--mac-filter=true"], true),
        (&["--mac-filter=false", "--allow-ip", "192.0.2.1"], true),
    ];
    for (words, filters) in cases {
        assert_eq!(
            parse(words).expect("a card").filters_mac(),
            filters,
            "{words:?}"
        );
    }
}

#[test]
fn switches_have_names() {
    let named = |name: &str| SwitchSpec {
        name: name.to_owned(),
        uplink: None,
    };
    assert_eq!(named("lan_1.a-b").check(), Ok(()));
    assert!(named("").check().is_err());
    assert!(named("a/b").check().is_err());
}
