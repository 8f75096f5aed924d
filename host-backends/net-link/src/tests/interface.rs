//! Interfaces of every kind: those without Ethernet frames are refused, others can be asked how they are.

use super::namespace;
use super::namespace::ip;
use crate::LinkSpec;

fn refusal(link: &str) -> String {
    let spec: LinkSpec = link.parse().unwrap();
    match crate::open(&spec, 1) {
        Ok(_) => panic!("{link} was opened"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_interface_without_ethernet_frames_is_refused_in_words() {
    namespace::run(
        "an_interface_without_ethernet_frames_is_refused_in_words",
        || {
            ip("tuntap add dev t0 mode tun");
            ip("link set t0 up");
            for (link, what) in [
                ("packet:lo", "loopback"),
                ("packet:t0", "TUN"),
                ("tap:t0", "TUN"),
            ] {
                let said = refusal(link);
                assert!(said.contains(what) && said.contains("mode tap"), "{said}");
            }
        },
    );
}

#[test]
fn an_interface_tells_its_mtu_and_whether_it_is_up_as_they_are_now() {
    namespace::run(
        "an_interface_tells_its_mtu_and_whether_it_is_up_as_they_are_now",
        || {
            ip("tuntap add dev t0 mode tap");
            ip("link add v0 type veth peer name v1");
            for (link, name) in [("tap:t0", "t0"), ("packet:v1", "v1")] {
                let spec: LinkSpec = link.parse().unwrap();
                let ends = crate::open(&spec, 1).unwrap();
                let interface = ends[0].interface().unwrap();
                assert_eq!(interface.name(), name);
                assert_eq!(
                    (interface.mtu(), interface.is_up()),
                    (Some(1500), Some(false))
                );
                ip(&format!("link set {name} up mtu 9000"));
                assert_eq!(
                    (interface.mtu(), interface.is_up()),
                    (Some(9000), Some(true))
                );
                drop(ends);
                ip(&format!("link del {name}"));
                assert_eq!((interface.mtu(), interface.is_up()), (None, None));
            }
        },
    );
}
