//! A card beside the interface behind its link: what does not fit is told and shown.

use std::process::Command;

use device_model::Device;
use net_link::LinkSpec;
use nix::sched::CloneFlags;

use crate::ConditionKind;
use crate::Fabric;
use crate::NetDevice;
use crate::NetSpec;

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split_whitespace()).status();
    assert!(status.expect("ip(8)").success(), "ip {words}");
}

/// Runs `test` in a network namespace of its own with a TAP interface `t0` in it.
fn with_tap(name: &'static str, test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(errno) = nix::sched::unshare(CloneFlags::CLONE_NEWNET) {
            println!("SKIPS ITSELF {name}: no network namespace ({errno}), needs root");
        } else if !std::path::Path::new("/dev/net/tun").exists() {
            println!("SKIPS ITSELF {name}: no /dev/net/tun");
        } else {
            ip("tuntap add dev t0 mode tap");
            test();
        }
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn an_mtu_that_is_not_the_interfaces_and_an_interface_that_is_down_are_shown() {
    with_tap(
        "an_mtu_that_is_not_the_interfaces_and_an_interface_that_is_down_are_shown",
        || {
            let link: LinkSpec = "tap:t0".parse().expect("a link");
            ip("link set t0 up");
            let card = NetDevice::open("card", NetSpec::on(link), &Fabric::default());
            let card = card.expect("a card");
            let shown = || -> Vec<(ConditionKind, String)> {
                let all = card.conditions().into_iter();
                all.map(|condition| (condition.kind, condition.message))
                    .collect()
            };
            assert_eq!(shown(), []);
            card.change_mtu(9000).expect("an MTU");
            let said = shown();
            assert_eq!((said.len(), said[0].0), (1, ConditionKind::Mtu));
            for part in ["9000", "1500", "t0"] {
                assert!(said[0].1.contains(part), "{}", said[0].1);
            }
            ip("link set t0 mtu 9000");
            assert_eq!(shown(), []);
            card.set_mtu(1400).expect("an MTU");
            let kinds: Vec<_> = card.port().conditions();
            assert_eq!(kinds[0].kind, ConditionKind::Mtu, "seen when it was set");
            card.reset();
            // A card of a switch is compared with what its uplink leads to.
            let fabric = Fabric::default();
            let switch = fabric.switch("lan");
            ip("tuntap add dev t1 mode tap");
            ip("link set t1 up mtu 1400");
            for end in net_link::open(&"tap:t1".parse().expect("a link"), 1).expect("a link") {
                switch.add_uplink(end).expect("an uplink");
            }
            let other = NetDevice::open("other", NetSpec::on_switch("lan"), &fabric);
            let said = other.expect("a card").conditions();
            assert_eq!(said[0].kind, ConditionKind::Mtu);
            assert!(said[0].message.contains("t1"), "{}", said[0].message);
            ip("link set t0 down");
            let said = shown();
            assert_eq!((said.len(), said[0].0), (1, ConditionKind::Interface));
            assert!(said[0].1.contains("ip link set t0 up"), "{}", said[0].1);
        },
    );
}
