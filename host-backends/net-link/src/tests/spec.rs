//! The text form of links.
//!
//! Rule: everything that parses is printed back and parsed again.

use crate::LinkSpec;

fn round(text: &str) -> LinkSpec {
    let spec: LinkSpec = text.parse().unwrap();
    assert_eq!(spec.to_string(), text);
    let json = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<LinkSpec>(&json).unwrap(), spec);
    spec
}

#[test]
fn links_are_printed_as_they_are_written() {
    for text in [
        "null",
        "source:64",
        "tap:vmtap0",
        "packet:eth0",
        "fd:3",
        "fd:3,7,4",
        "passt",
        "passt:socket=/run/passt.socket",
        "passt:binary=/opt/passt,mtu=1500,no-map-gw",
        "passt:address=10.0.2.15,gateway=10.0.2.2,tcp-ports=22,25-30:50,~27,udp-ports=53",
    ] {
        round(text);
    }
}

#[test]
fn lists_with_commas_stay_one_argument() {
    let LinkSpec::Passt(spec) = round("passt:tcp-ports=22,25-30,~27,mtu=1500,ipv4-only") else {
        unreachable!()
    };
    let pairs: Vec<_> = spec
        .arguments
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_deref()))
        .collect();
    assert_eq!(
        pairs,
        [
            ("tcp-ports", Some("22,25-30,~27")),
            ("mtu", Some("1500")),
            ("ipv4-only", None)
        ]
    );
}

#[test]
fn what_is_no_link_is_refused_with_what_would_be_right() {
    for (text, says) in [
        ("", "write passt"),
        ("tap", "write passt"),
        ("tap:", "no name of an interface"),
        ("tap:a/b", "no name of an interface"),
        ("tap:abcdefghijklmnop", "1 to 15"),
        ("packet:a b", "no space"),
        ("fd:-1", "no file descriptor"),
        ("fd:3,3", "twice"),
        ("null:x", "write passt"),
        ("passt:--mtu=3", "no option of passt"),
        ("passt:fd=3", "set by us"),
        ("passt:socket=/a,mtu=3", "takes no other options"),
        ("vde:x", "write passt"),
    ] {
        let error = text.parse::<LinkSpec>().unwrap_err().to_string();
        assert!(error.contains(says), "{text:?}: {error}");
    }
}
