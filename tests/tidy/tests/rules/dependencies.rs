//! Who may depend on whom: the edge table, for products and for tests.
//!
//! One rule: a new edge between crates changes the table here in the same commit, and an edge that goes does too.

use crate::Rule;
use crate::tree::Crate;
use crate::tree::Tree;

/// Crate, level, the workspace crates that its product may depend on, and those that its tests may use besides.
/// A product's edge leads to a lower level; the `tests` group may use what it tests.
#[rustfmt::skip]
const EDGES: &[(&str, u8, &[&str], &[&str])] = &[
    ("fallible-alloc",      0, &[], &[]),
    ("virtio-spec",         0, &[], &[]),
    ("virtqueue",           1, &["fallible-alloc", "virtio-spec"], &[]),
    ("driver-platform",     2, &["virtqueue"], &[]),
    ("virtio-pci",          3, &["virtio-spec", "driver-platform"], &["driver-fakes"]),
    ("virtio-core",         4, &["fallible-alloc", "virtio-spec", "virtqueue", "driver-platform", "virtio-pci"], &[]),
    ("block-driver",        5, &["fallible-alloc", "virtio-spec", "virtqueue", "driver-platform", "virtio-pci", "virtio-core"], &["driver-fakes"]),
    ("net-driver",          5, &["fallible-alloc", "virtio-spec", "driver-platform", "virtio-pci", "virtio-core"], &["driver-fakes"]),
    ("balloon-driver",      5, &["fallible-alloc", "virtio-spec", "virtqueue", "driver-platform", "virtio-pci", "virtio-core"], &["driver-fakes"]),
    ("driver-fakes",        6, &["virtio-spec", "virtqueue", "driver-platform", "balloon-driver"], &[]),
    ("host-os",             0, &[], &[]),
    ("metrics",             0, &[], &[]),
    ("config-file",         0, &[], &[]),
    ("vhost-user-protocol",  0, &[], &[]),
    ("guest-memory",        2, &["virtqueue", "host-os"], &[]),
    ("device-model",        3, &["metrics", "virtio-spec", "virtqueue", "host-os", "vhost-user-protocol", "guest-memory"], &[]),
    ("vhost-user-server",   4, &["metrics", "virtio-spec", "virtqueue", "host-os", "vhost-user-protocol", "guest-memory", "device-model"], &[]),
    ("block-backend",       4, &["metrics", "virtio-spec", "virtqueue", "host-os", "guest-memory", "device-model"], &[]),
    ("net-link",            3, &["host-os", "guest-memory"], &["virtqueue"]),
    ("net-backend",         4, &["metrics", "virtio-spec", "virtqueue", "host-os", "guest-memory", "device-model", "net-link"], &[]),
    ("balloon-backend",     4, &["metrics", "virtio-spec", "virtqueue", "host-os", "guest-memory", "device-model"], &[]),
    ("control-protocol",    1, &["host-os"], &[]),
    ("daemon-shell",        5, &["config-file", "metrics", "host-os", "device-model", "vhost-user-server", "control-protocol"], &[]),
    ("blockd",              6, &["config-file", "metrics", "device-model", "block-backend", "daemon-shell"], &[]),
    ("netd",                6, &["host-os", "config-file", "control-protocol", "metrics", "device-model", "net-link", "net-backend", "daemon-shell"], &[]),
    ("balloond",            6, &["config-file", "control-protocol", "metrics", "host-os", "guest-memory", "device-model", "balloon-backend", "daemon-shell"], &[]),
    ("kvm",                 1, &["host-os"], &[]),
    ("boot",                1, &[], &[]),
    ("machine",             2, &["host-os", "kvm"], &[]),
    ("vhost-user-frontend",  3, &["virtio-spec", "host-os", "vhost-user-protocol", "virtqueue", "machine"], &[]),
    ("monitor",             4, &["config-file", "metrics", "virtio-spec", "host-os", "control-protocol", "boot", "machine", "vhost-user-frontend"], &[]),
    ("tidy",                9, &[], &[]),
    ("loopback",            9, &["virtio-spec", "virtqueue", "driver-platform", "virtio-pci", "block-driver", "net-driver", "driver-fakes", "host-os", "guest-memory", "device-model", "block-backend", "net-backend"], &["balloon-driver", "balloon-backend"]),
    ("protocol",            9, &["virtio-spec", "virtqueue", "host-os", "vhost-user-protocol", "guest-memory", "device-model", "vhost-user-server", "block-backend", "net-backend", "vhost-user-frontend"], &["balloon-backend"]),
    ("medium",             10, &["metrics", "virtio-spec", "virtqueue", "host-os", "vhost-user-protocol", "device-model", "block-backend", "daemon-shell", "protocol"], &[]),
    ("probe-guest",         9, &["virtio-spec", "virtqueue", "driver-platform", "virtio-pci", "virtio-core", "block-driver", "net-driver", "balloon-driver"], &[]),
    ("vm",                  8, &["host-os"], &["machine"]),
    ("bench",               9, &["virtio-spec", "virtqueue", "host-os", "vhost-user-frontend"], &[]),
    ("xtask",               9, &["host-os", "vm"], &[]),
];

/// What a section of a manifest is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Product,
    Test,
}

/// The workspace crates that a crate depends on. What its product uses, its tests may too.
fn edges<'a>(tree: &Tree, member: &'a Crate, kind: Kind) -> Vec<&'a str> {
    let sections: &[&str] = match kind {
        Kind::Product => &["dependencies", "build-dependencies"],
        Kind::Test => &["dev-dependencies"],
    };
    let names = sections
        .iter()
        .flat_map(|section| member.dependencies(section));
    names
        .map(|(name, _)| name.as_str())
        .filter(|name| is_ours(tree, name))
        .collect()
}

/// Whether it is a crate of the workspace: in the table, or in the tree.
fn is_ours(tree: &Tree, name: &str) -> bool {
    EDGES.iter().any(|(known, ..)| *known == name) || tree.member(name).is_some()
}

fn outside_the_table(tree: &Tree) -> Vec<String> {
    let mut bad = Vec::new();
    for member in tree.crates() {
        let name = &member.name;
        let Some((_, _, product, tests)) = EDGES.iter().find(|(known, ..)| known == name) else {
            bad.push(format!("{name}: not in the edge table of tests/tidy"));
            continue;
        };
        for to in edges(tree, member, Kind::Product) {
            if !product.contains(&to) {
                bad.push(format!("{name} -> {to}"));
            }
        }
        for to in edges(tree, member, Kind::Test) {
            if !product.contains(&to) && !tests.contains(&to) {
                bad.push(format!("{name} -> {to} (tests)"));
            }
        }
    }
    bad
}

#[test]
fn dependencies_follow_the_edge_table() {
    Rule {
        asks: "A crate depends only on what the edge table allows, its tests on what it allows them",
        finds: outside_the_table,
        breaches: &[
            (
                &[("guest-drivers/virtqueue/Cargo.toml", "[package]\nname = 'virtqueue'\n[dependencies]\nkvm.workspace = true\n")],
                "virtqueue -> kvm",
            ),
            (
                &[("host-backends/net-link/Cargo.toml", "[package]\nname = 'net-link'\n[target.'cfg(unix)'.dependencies]\nvirtqueue.workspace = true\n")],
                "net-link -> virtqueue",
            ),
            (
                &[("vmm/kvm/Cargo.toml", "[package]\nname = 'kvm'\n[dev-dependencies]\nmachine.workspace = true\n")],
                "kvm -> machine (tests)",
            ),
            (
                &[("vmm/other/Cargo.toml", "[package]\nname = 'other'\n")],
                "other: not in the edge table",
            ),
        ],
        fine: &[
            &[("host-backends/net-link/Cargo.toml", "[package]\nname = 'net-link'\n[dev-dependencies]\nvirtqueue.workspace = true\nguest-memory.workspace = true\n")],
            &[("vmm/kvm/Cargo.toml", "[package]\nname = 'kvm'\n[dependencies]\nnix.workspace = true\n")],
        ],
    }
    .holds();
}

/// Edges of the table between crates that do not have them, as far as these crates are in the tree.
fn unused(tree: &Tree) -> Vec<String> {
    let mut bad = Vec::new();
    for (name, _, product, tests) in EDGES {
        let Some(member) = tree.member(name) else {
            continue;
        };
        let used = edges(tree, member, Kind::Product);
        bad.extend(
            product
                .iter()
                .filter(|to| !used.contains(to))
                .map(|to| format!("{name} -> {to}")),
        );
        let used = edges(tree, member, Kind::Test);
        bad.extend(
            tests
                .iter()
                .filter(|to| !used.contains(to))
                .map(|to| format!("{name} -> {to} (tests)")),
        );
    }
    bad
}

#[test]
fn every_edge_of_the_table_is_used() {
    Rule {
        asks: "Edges that no crate uses: strike them",
        finds: unused,
        breaches: &[
            (
                &[("guest-drivers/virtqueue/Cargo.toml", "[package]\nname = 'virtqueue'\n[dev-dependencies]\nvirtio-spec.workspace = true\n")],
                "virtqueue -> virtio-spec",
            ),
            (
                &[("host-backends/net-link/Cargo.toml", "[package]\nname = 'net-link'\n[dependencies]\nguest-memory.workspace = true\n")],
                "net-link -> virtqueue (tests)",
            ),
        ],
        fine: &[&[("guest-drivers/virtqueue/Cargo.toml", "[package]\nname = 'virtqueue'\n[dependencies]\nfallible-alloc.workspace = true\nvirtio-spec.workspace = true\n")]],
    }
    .holds();
}

#[test]
fn every_crate_of_the_table_is_there() {
    let gone = |tree: &Tree| -> Vec<String> {
        let names = EDGES.iter().map(|(name, ..)| name);
        names
            .filter(|name| tree.member(name).is_none())
            .map(ToString::to_string)
            .collect()
    };
    Rule {
        asks: "Crates of the edge table that are gone: strike them",
        finds: gone,
        breaches: &[(&[], "virtqueue")],
        fine: &[],
    }
    .holds();
}

/// The level of a crate of the table.
fn level(name: &str) -> Option<u8> {
    let mut table = EDGES.iter();
    table.find(|(known, ..)| *known == name).map(|edge| edge.1)
}

fn upwards(tree: &Tree) -> Vec<String> {
    let mut bad = Vec::new();
    for member in tree.crates() {
        let own = level(&member.name);
        for to in edges(tree, member, Kind::Product) {
            if level(to) >= own {
                let (name, theirs) = (&member.name, level(to));
                bad.push(format!("{name} ({own:?}) -> {to} ({theirs:?})"));
            }
        }
    }
    bad
}

#[test]
fn edges_of_products_lead_to_lower_levels() {
    Rule {
        asks: "A product depends on crates of lower levels",
        finds: upwards,
        breaches: &[
            (
                &[("guest-drivers/virtqueue/Cargo.toml", "[package]\nname = 'virtqueue'\n[dependencies]\ndriver-fakes.workspace = true\n")],
                "virtqueue (Some(1)) -> driver-fakes",
            ),
            (
                &[("vmm/kvm/Cargo.toml", "[package]\nname = 'kvm'\n[build-dependencies]\nboot.workspace = true\n")],
                "kvm (Some(1)) -> boot",
            ),
        ],
        fine: &[&[("guest-drivers/virtio-pci/Cargo.toml", "[package]\nname = 'virtio-pci'\n[dev-dependencies]\ndriver-fakes.workspace = true\n")]],
    }
    .holds();
}

/// What the host's half uses of the guest's: the spec and the rings.
const SHARED_WITH_GUESTS: &[&str] = &["virtio-spec", "virtqueue"];
/// What the VMM uses of the host's half: the wires, what the host's programs share, guest memory. No backend.
const SHARED_WITH_VMM: &[&str] = &[
    "vhost-user-protocol",
    "control-protocol",
    "metrics",
    "config-file",
    "host-os",
    "guest-memory",
];

/// The group of a crate: of one that is not in the tree, by the names of groups.
fn group(tree: &Tree, name: &str) -> String {
    let known = tree.member(name).map(|member| member.group().to_string());
    known.unwrap_or_else(|| match name {
        "block-backend" | "guest-memory" | "vhost-user-protocol" => "host-backends".into(),
        "block-driver" | "virtqueue" => "guest-drivers".into(),
        "machine" => "vmm".into(),
        _ => "tests".into(),
    })
}

fn across(tree: &Tree) -> Vec<String> {
    let mut bad = Vec::new();
    for member in tree.crates() {
        for kind in [Kind::Product, Kind::Test] {
            for to in edges(tree, member, kind) {
                let theirs = group(tree, to);
                let fine = match (member.group(), theirs.as_str()) {
                    ("tests", _) => true,
                    (own, theirs) if own == theirs => true,
                    ("host-backends" | "vmm", "guest-drivers") => SHARED_WITH_GUESTS.contains(&to),
                    ("vmm", "host-backends") => SHARED_WITH_VMM.contains(&to),
                    _ => false,
                };
                if !fine {
                    bad.push(format!(
                        "{} ({}) -> {to} ({theirs})",
                        member.name,
                        member.group()
                    ));
                }
            }
        }
    }
    bad
}

#[test]
fn groups_keep_to_themselves() {
    Rule {
        asks: "Guest drivers, backends and the VMM meet only in the spec, the rings and the wires, in their tests too",
        finds: across,
        breaches: &[
            (
                &[("guest-drivers/virtqueue/Cargo.toml", "[package]\nname = 'virtqueue'\n[dependencies]\nguest-memory.workspace = true\n")],
                "-> guest-memory (host-backends)",
            ),
            (
                &[("guest-drivers/virtqueue/Cargo.toml", "[package]\nname = 'virtqueue'\n[dev-dependencies]\nmachine.workspace = true\n")],
                "-> machine (vmm)",
            ),
            (
                &[("host-backends/netd/Cargo.toml", "[package]\nname = 'netd'\n[dev-dependencies]\nblock-driver.workspace = true\n")],
                "-> block-driver (guest-drivers)",
            ),
            (
                &[("host-backends/netd/Cargo.toml", "[package]\nname = 'netd'\n[dependencies]\nmachine.workspace = true\n")],
                "-> machine (vmm)",
            ),
            (
                &[("vmm/monitor/Cargo.toml", "[package]\nname = 'monitor'\n[dependencies]\nblock-backend.workspace = true\n")],
                "-> block-backend (host-backends)",
            ),
            (
                &[("vmm/monitor/Cargo.toml", "[package]\nname = 'monitor'\n[dev-dependencies]\nvm.workspace = true\n")],
                "-> vm (tests)",
            ),
        ],
        fine: &[
            &[("vmm/monitor/Cargo.toml", "[package]\nname = 'monitor'\n[dependencies]\nguest-memory.workspace = true\nvirtqueue.workspace = true\n")],
            &[("tests/vm/Cargo.toml", "[package]\nname = 'vm'\n[dependencies]\nblock-backend.workspace = true\n")],
        ],
    }
    .holds();
}
