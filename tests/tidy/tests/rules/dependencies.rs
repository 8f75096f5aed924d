//! Who may depend on whom: the edge table, the versions' single home, features, error crates.
//!
//! One rule: a new edge between crates changes the table here in the same commit.

use cargo_metadata::DependencyKind;

use crate::code;
use crate::report;
use crate::tree;

const GUEST: &[&str] = &[
    "virtio-spec",
    "virtqueue",
    "driver-platform",
    "virtio-pci",
    "block-driver",
    "net-driver",
    "balloon-driver",
];

/// Crate, level, and the workspace crates it may depend on (dev-dependencies included).
/// An edge leads to a lower level; the `tests` group (level 9) may use what it tests.
#[rustfmt::skip]
const EDGES: &[(&str, u8, &[&str])] = &[
    ("virtio-spec",         0, &[]),
    ("virtqueue",           1, &["virtio-spec"]),
    ("driver-platform",     1, &[]),
    ("virtio-pci",          2, &["virtio-spec", "driver-platform"]),
    ("block-driver",        3, &["virtio-spec", "virtqueue", "driver-platform", "virtio-pci"]),
    ("net-driver",          3, &["virtio-spec", "virtqueue", "driver-platform", "virtio-pci"]),
    ("balloon-driver",      3, &["virtio-spec", "virtqueue", "driver-platform", "virtio-pci"]),
    ("driver-fakes",        4, GUEST),
    ("host-os",             0, &[]),
    ("vhost-user-protocol", 0, &[]),
    ("guest-memory",        2, &["host-os", "virtqueue"]),
    ("device-model",        3, &["host-os", "virtio-spec", "virtqueue", "guest-memory"]),
    ("vhost-user-server",   4, &["host-os", "virtio-spec", "virtqueue", "vhost-user-protocol", "guest-memory", "device-model"]),
    ("block-backend",       4, &["host-os", "virtio-spec", "virtqueue", "guest-memory", "device-model"]),
    ("net-link",            3, &["host-os", "virtqueue", "guest-memory"]),
    ("net-backend",         4, &["host-os", "virtio-spec", "virtqueue", "guest-memory", "device-model", "net-link"]),
    ("balloon-backend",     4, &["host-os", "virtio-spec", "virtqueue", "guest-memory", "device-model"]),
    ("control-lines",       0, &[]),
    ("daemon-shell",        5, &["host-os", "control-lines", "device-model", "vhost-user-server"]),
    ("blockd",              6, &["device-model", "block-backend", "daemon-shell"]),
    ("netd",                6, &["device-model", "net-link", "net-backend", "daemon-shell"]),
    ("balloond",            6, &["host-os", "guest-memory", "device-model", "balloon-backend", "daemon-shell"]),
    ("kvm",                 1, &["host-os"]),
    ("boot",                1, &[]),
    ("machine",             2, &["host-os", "kvm"]),
    ("vhost-user-frontend", 3, &["host-os", "virtio-spec", "vhost-user-protocol", "machine"]),
    ("monitor",             4, &["host-os", "virtio-spec", "boot", "machine", "vhost-user-frontend", "control-lines"]),
    ("tidy",                9, &[]),
    ("loopback",            9, &["host-os", "virtio-spec", "virtqueue", "driver-platform", "virtio-pci", "block-driver", "net-driver", "balloon-driver", "driver-fakes", "guest-memory", "device-model", "block-backend", "net-backend", "balloon-backend"]),
    ("protocol",            9, &["host-os", "virtio-spec", "virtqueue", "vhost-user-protocol", "guest-memory", "device-model", "vhost-user-server", "block-backend", "net-backend", "balloon-backend", "vhost-user-frontend"]),
    ("medium",             10, &["host-os", "virtio-spec", "virtqueue", "vhost-user-protocol", "device-model", "block-backend", "daemon-shell", "protocol"]),
    ("probe-guest",         9, GUEST),
    ("vm",                  8, &["host-os", "machine"]),
    ("bench",               9, &["host-os", "virtio-spec", "virtqueue", "vhost-user-frontend"]),
    ("xtask",               9, &["host-os", "vm"]),
];

/// A library whose functions are the daemons' `main`, written once: it ends in exit codes and error
/// chains for a person, which is what anyhow is for.
const BODY_OF_MAINS: &str = "daemon-shell";

fn group(dir: &str) -> &str {
    dir.split('/').next().unwrap_or(dir)
}

#[test]
fn dependencies_follow_the_edge_table() {
    let members = tree::members();
    let mut bad = Vec::new();
    for (name, _, package) in &members {
        let Some((_, _, allowed)) = EDGES.iter().find(|(known, ..)| known == name) else {
            bad.push(format!("{name}: not in the edge table of tests/tidy"));
            continue;
        };
        for dependency in &package.dependencies {
            let inside = members.iter().any(|(known, ..)| *known == dependency.name);
            if inside && !allowed.contains(&dependency.name.as_str()) {
                bad.push(format!(
                    "{name} -> {}: not in the edge table",
                    dependency.name
                ));
            }
        }
    }
    report("A crate depends only on what the edge table allows", &bad);
}

#[test]
fn every_edge_of_the_table_is_used() {
    let members = tree::members();
    let uses = |from: &str, to: &str| {
        let mut from = members.iter().filter(|(name, ..)| name == from);
        from.any(|(.., package)| package.dependencies.iter().any(|d| d.name == to))
    };
    let edges = EDGES
        .iter()
        .flat_map(|(from, _, to)| to.iter().map(move |to| (from, to)));
    let bad: Vec<String> = edges
        .filter(|(from, to)| !uses(from, to))
        .map(|(from, to)| format!("{from} -> {to}"))
        .collect();
    report("Edges that no crate uses: strike them", &bad);
}

#[test]
fn edges_lead_to_lower_levels() {
    let level = |name: &str| {
        EDGES
            .iter()
            .find(|(known, ..)| *known == name)
            .map(|edge| edge.1)
    };
    let mut bad = Vec::new();
    for (name, own, allowed) in EDGES {
        for to in *allowed {
            if level(to).is_none_or(|theirs| theirs >= *own) {
                bad.push(format!("{name} (level {own}) -> {to} ({:?})", level(to)));
            }
        }
    }
    report("Edges lead to lower levels", &bad);
}

#[test]
fn groups_keep_to_themselves() {
    let members = tree::members();
    let dir_of = |name: &str| {
        members
            .iter()
            .find(|(known, ..)| known == name)
            .map(|m| &m.1)
    };
    let mut bad = Vec::new();
    for (name, dir, package) in &members {
        for dependency in &package.dependencies {
            let Some(to) = dir_of(&dependency.name) else {
                continue;
            };
            let fine = match (group(dir), group(to)) {
                ("guest-drivers", other) => other == "guest-drivers",
                ("host-backends", "guest-drivers") => {
                    ["virtio-spec", "virtqueue"].contains(&dependency.name.as_str())
                }
                ("host-backends", other) => other == "host-backends",
                ("vmm", "host-backends") => ["vhost-user-protocol", "control-lines", "host-os"]
                    .contains(&dependency.name.as_str()),
                ("vmm", "guest-drivers") => {
                    ["virtio-spec", "virtqueue"].contains(&dependency.name.as_str())
                }
                ("vmm", other) => other == "vmm",
                (_, "tests") => group(dir) == "tests",
                _ => true,
            };
            if !fine {
                bad.push(format!("{name} ({dir}) -> {} ({to})", dependency.name));
            }
        }
    }
    report(
        "Guest drivers, backends and the VMM meet only in the spec, the rings and the wires",
        &bad,
    );
}

#[test]
fn versions_stand_only_in_the_root_manifest() {
    let mut bad = Vec::new();
    for (name, dir, _) in tree::members() {
        let text = std::fs::read_to_string(tree::root().join(&dir).join("Cargo.toml"))
            .expect("a member has a manifest");
        let manifest: toml::Table = text.parse().expect("a manifest is TOML");
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (dependency, value) in dependency_tables(&manifest, section) {
                let inherited = value.get("workspace").and_then(toml::Value::as_bool);
                if inherited != Some(true) {
                    bad.push(format!(
                        "{name}: {section}.{dependency} is not `workspace = true`"
                    ));
                }
            }
        }
    }
    report("Versions and paths stand in the root Cargo.toml only", &bad);
}

/// The entries of a dependency section, the ones under `[target.*]` included.
fn dependency_tables<'a>(
    manifest: &'a toml::Table,
    section: &str,
) -> Vec<(&'a String, &'a toml::Value)> {
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let tables = targets
        .into_iter()
        .flat_map(|t| t.values())
        .filter_map(toml::Value::as_table);
    std::iter::once(manifest)
        .chain(tables)
        .filter_map(|table| table.get(section).and_then(toml::Value::as_table))
        .flatten()
        .collect()
}

#[test]
fn external_versions_are_pinned() {
    let text = std::fs::read_to_string(tree::root().join("Cargo.toml")).expect("root manifest");
    let manifest: toml::Table = text.parse().expect("a manifest is TOML");
    let dependencies = manifest["workspace"]["dependencies"]
        .as_table()
        .expect("a table");
    let bad: Vec<String> = dependencies
        .iter()
        .filter(|(_, value)| value.get("path").is_none())
        .filter(|(_, value)| {
            let version = value.as_str().or_else(|| value.get("version")?.as_str());
            version.is_none_or(|version| !version.starts_with('='))
        })
        .map(|(name, _)| name.clone())
        .collect();
    report("Every external version is pinned with `=`", &bad);
}

#[test]
fn no_crate_has_features_of_its_own() {
    let bad: Vec<String> = tree::members()
        .into_iter()
        .filter(|(_, _, package)| !package.features.is_empty())
        .map(|(name, ..)| name)
        .collect();
    report(
        "No Cargo feature changes behaviour: platform choice is by target",
        &bad,
    );
}

#[test]
fn every_crate_inherits_the_workspace_lints_and_is_private() {
    let mut bad = Vec::new();
    for (name, dir, package) in tree::members() {
        let text = std::fs::read_to_string(tree::root().join(&dir).join("Cargo.toml"))
            .expect("a member has a manifest");
        let manifest: toml::Table = text.parse().expect("a manifest is TOML");
        let lints = manifest
            .get("lints")
            .and_then(|l| l.get("workspace")?.as_bool());
        if lints != Some(true) {
            bad.push(format!("{name}: `[lints] workspace = true` is missing"));
        }
        if package
            .publish
            .as_ref()
            .is_none_or(|registries| !registries.is_empty())
        {
            bad.push(format!("{name}: `publish.workspace = true` is missing"));
        }
        if package.description.is_none() {
            bad.push(format!("{name}: no description"));
        }
    }
    report(
        "Every crate inherits the lints, is not published and has a description",
        &bad,
    );
}

#[test]
fn libraries_have_their_own_error_and_no_anyhow() {
    let mut bad = Vec::new();
    for (name, dir, package) in tree::members() {
        let library = package.targets.iter().any(cargo_metadata::Target::is_lib);
        if group(&dir) == "tests" || !library || name == BODY_OF_MAINS {
            continue;
        }
        let anyhow = package
            .dependencies
            .iter()
            .any(|d| d.name == "anyhow" && d.kind != DependencyKind::Development);
        if anyhow {
            bad.push(format!("{name}: a library depends on anyhow"));
        }
    }
    report("Only binaries and tests use anyhow", &bad);
}

#[test]
fn no_std_crates_stay_no_std() {
    let mut bad = Vec::new();
    for (name, dir, _) in tree::members() {
        if !GUEST.contains(&name.as_str()) {
            continue;
        }
        let lib = format!("{dir}/src/lib.rs");
        let file = tree::rust()
            .iter()
            .find(|file| file.path == lib)
            .expect("a library");
        let marked = ["#![no_std]", "#![cfg_attr(not(test), no_std)]", "no_std)]"];
        if !marked.iter().any(|mark| file.text.contains(mark)) {
            bad.push(lib);
        }
    }
    report("The driver stack is no_std", &bad);
}

/// The dependencies of a crate that its product code does not name: (dependency, why that counts).
fn unused(manifest: &toml::Table, sources: &[&tree::Source]) -> Vec<String> {
    let mut bad = Vec::new();
    let sections = [
        ("dependencies", "product code", false),
        ("build-dependencies", "the build script", true),
    ];
    for (section, whose, build) in sections {
        for (name, _) in dependency_tables(manifest, section) {
            let identifier = name.replace('-', "_");
            let mut files = sources
                .iter()
                .filter(|file| file.path.ends_with("/build.rs") == build);
            if !files.any(|file| code::named(file, &identifier).is_some()) {
                bad.push(format!(
                    "{section}.{name}: {whose} does not use it; strike it, or move it to dev-dependencies"
                ));
            }
        }
    }
    bad
}

#[test]
fn product_dependencies_are_used_by_product_code() {
    let mut bad = Vec::new();
    let product = tree::members().into_iter();
    for (name, dir, _) in product.filter(|(_, dir, _)| group(dir) != "tests") {
        let path = tree::root().join(&dir).join("Cargo.toml");
        let text = std::fs::read_to_string(path).expect("a member has a manifest");
        let manifest: toml::Table = text.parse().expect("a manifest is TOML");
        let (src, build) = (format!("{dir}/src/"), format!("{dir}/build.rs"));
        let product = tree::rust().iter().filter(|file| {
            let test = file.path.strip_prefix(&src).is_none_or(|inside| {
                inside.ends_with("tests.rs") || inside.split('/').any(|part| part == "tests")
            });
            !test || file.path == build
        });
        let found = unused(&manifest, &product.collect::<Vec<_>>());
        bad.extend(found.into_iter().map(|what| format!("{name}: {what}")));
    }
    report("A product dependency is used by product code", &bad);
}

#[test]
fn a_dependency_of_tests_alone_is_seen_among_those_of_the_product() {
    let manifest: toml::Table = "[dependencies]\nio-uring.workspace = true\nnix.workspace = true\n\
                                 [target.'cfg(unix)'.dependencies]\nlibc.workspace = true\n\
                                 [build-dependencies]\ncc.workspace = true\n\
                                 [dev-dependencies]\ntempfile.workspace = true\n"
        .parse()
        .expect("TOML");
    let source = |path: &str, text: &str| tree::Source {
        path: path.into(),
        text: text.into(),
    };
    let product = source(
        "host-backends/one/src/lib.rs",
        "//! io_uring.\nuse nix::libc;\n#[cfg(test)]\nmod tests { use io_uring::IoUring; }\n",
    );
    let build = source("host-backends/one/build.rs", "fn main() { cc::Build; }\n");
    let found = unused(&manifest, &[&product, &build]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("dependencies.io-uring: "), "{found:?}");
    let found = unused(&manifest, &[&product]);
    assert_eq!(found.len(), 2, "the build script is gone: {found:?}");
}
