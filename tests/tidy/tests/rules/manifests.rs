//! Rules on manifests: versions, features, lints, dependencies with a use and a reason.
//!
//! One rule: what cargo would take without a word, and nobody here wants, is refused here.

use crate::Rule;
use crate::code;
use crate::tree::Crate;
use crate::tree::Source;
use crate::tree::Tree;

const SECTIONS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// A library whose functions are the daemons' `main`, written once: it ends in exit codes and error
/// chains for a person, which is what anyhow is for.
const BODY_OF_MAINS: &str = "daemon-shell";

fn versions_elsewhere(tree: &Tree) -> Vec<String> {
    let mut bad = Vec::new();
    for member in tree.crates() {
        for section in SECTIONS {
            for (dependency, value) in member.dependencies(section) {
                let inherited = value.get("workspace").and_then(toml::Value::as_bool);
                if inherited != Some(true) {
                    let name = &member.name;
                    bad.push(format!(
                        "{name}: {section}.{dependency} is not `workspace = true`"
                    ));
                }
            }
        }
    }
    bad
}

#[test]
fn versions_stand_only_in_the_root_manifest() {
    Rule {
        asks: "Versions and paths stand in the root Cargo.toml only",
        finds: versions_elsewhere,
        breaches: &[
            (&[("vmm/kvm/Cargo.toml", "[package]\nname = 'kvm'\n[dependencies]\nnix = '=1.0.0'\n")], "kvm: dependencies.nix"),
            (&[("vmm/kvm/Cargo.toml", "[package]\nname = 'kvm'\n[target.x.dev-dependencies]\nboot = { path = '../boot' }\n")], "kvm: dev-dependencies.boot"),
        ],
        fine: &[&[("vmm/kvm/Cargo.toml", "[package]\nname = 'kvm'\n[dependencies]\nnix.workspace = true\n")]],
    }
    .holds();
}

/// The dependencies that the root's manifest lists.
fn listed(tree: &Tree) -> toml::Table {
    let manifest = tree.root_manifest();
    let workspace = manifest.get("workspace").and_then(toml::Value::as_table);
    let list = workspace.and_then(|w| w.get("dependencies")?.as_table());
    list.cloned().unwrap_or_default()
}

/// Those from outside.
fn external(tree: &Tree) -> impl Iterator<Item = (String, toml::Value)> {
    let list = listed(tree).into_iter();
    list.filter(|(_, value)| value.get("path").is_none())
}

fn unpinned(tree: &Tree) -> Vec<String> {
    let pinned = |value: &toml::Value| {
        let version = value.as_str().or_else(|| value.get("version")?.as_str());
        version.is_some_and(|version| version.starts_with('='))
    };
    let list = external(tree).filter(|(_, value)| !pinned(value));
    list.map(|(name, _)| name).collect()
}

#[test]
fn external_versions_are_pinned() {
    Rule {
        asks: "Every external version is pinned with `=`",
        finds: unpinned,
        breaches: &[
            (
                &[("Cargo.toml", "[workspace.dependencies]\nnix = '1.0.0'\n")],
                "nix",
            ),
            (
                &[(
                    "Cargo.toml",
                    "[workspace.dependencies]\nnix = { version = '^1.0.0' }\n",
                )],
                "nix",
            ),
            (
                &[(
                    "Cargo.toml",
                    "[workspace.dependencies]\nnix = { git = 'x' }\n",
                )],
                "nix",
            ),
        ],
        fine: &[&[(
            "Cargo.toml",
            "[workspace.dependencies]\nnix = '=1.0.0'\nkvm = { path = 'vmm/kvm' }\n",
        )]],
    }
    .holds();
}

fn features(tree: &Tree) -> Vec<String> {
    let with = |member: &&Crate| {
        let features = member.manifest.get("features");
        let optional = |section| {
            let mut list = member.dependencies(section).into_iter();
            list.any(|(_, value)| value.get("optional").is_some())
        };
        features.is_some() || SECTIONS.into_iter().any(optional)
    };
    let members = tree.crates().iter().filter(with);
    members.map(|member| member.name.clone()).collect()
}

#[test]
fn no_crate_has_features_of_its_own() {
    Rule {
        asks: "No Cargo feature changes behaviour: platform choice is by target",
        finds: features,
        breaches: &[
            (&[("vmm/kvm/Cargo.toml", "[package]\nname = 'kvm'\n[features]\nfast = []\n")], "kvm"),
            (&[("vmm/kvm/Cargo.toml", "[package]\nname = 'kvm'\n[dependencies]\nnix = { workspace = true, optional = true }\n")], "kvm"),
        ],
        fine: &[&[("vmm/kvm/Cargo.toml", "[package]\nname = 'kvm'\n[dependencies]\nnix.workspace = true\n")]],
    }
    .holds();
}

fn strangers(tree: &Tree) -> Vec<String> {
    let mut bad = Vec::new();
    for Crate { name, manifest, .. } in tree.crates() {
        let inherits = |value: Option<&toml::Value>| {
            value.and_then(|v| v.get("workspace")?.as_bool()) == Some(true)
        };
        let package = manifest.get("package");
        if !inherits(manifest.get("lints")) {
            bad.push(format!("{name}: `[lints] workspace = true` is missing"));
        }
        if !inherits(package.and_then(|p| p.get("publish"))) {
            bad.push(format!("{name}: `publish.workspace = true` is missing"));
        }
        if package.and_then(|p| p.get("description")).is_none() {
            bad.push(format!("{name}: no description"));
        }
    }
    bad
}

#[test]
fn every_crate_inherits_the_workspace_lints_and_is_private() {
    Rule {
        asks: "Every crate inherits the lints, is not published and has a description",
        finds: strangers,
        breaches: &[
            (&[("vmm/kvm/Cargo.toml", "[package]\nname = 'kvm'\ndescription = 'x'\npublish.workspace = true\n")], "kvm: `[lints]"),
            (&[("vmm/kvm/Cargo.toml", "[package]\nname = 'kvm'\ndescription = 'x'\n[lints]\nworkspace = true\n")], "kvm: `publish"),
            (&[("vmm/kvm/Cargo.toml", "[package]\nname = 'kvm'\npublish.workspace = true\n[lints]\nworkspace = true\n")], "kvm: no description"),
        ],
        fine: &[&[("vmm/kvm/Cargo.toml", "[package]\nname = 'kvm'\ndescription = 'x'\npublish.workspace = true\n[lints]\nworkspace = true\n")]],
    }
    .holds();
}

fn libraries_with_anyhow(tree: &Tree) -> Vec<String> {
    let product = |member: &&Crate| {
        let library = tree.is_library(member) && member.group() != "tests";
        library && member.name != BODY_OF_MAINS
    };
    let with = |member: &&Crate| {
        let list = member.dependencies("dependencies").into_iter();
        list.chain(member.dependencies("build-dependencies"))
            .any(|(name, _)| name == "anyhow")
    };
    let members = tree.crates().iter().filter(product).filter(with);
    members.map(|member| member.name.clone()).collect()
}

#[test]
fn only_binaries_and_tests_use_anyhow() {
    const ANYHOW: &str = "[package]\nname = 'kvm'\n[dependencies]\nanyhow.workspace = true\n";
    Rule {
        asks: "A library has an error of its own; anyhow is for binaries and tests",
        finds: libraries_with_anyhow,
        breaches: &[(
            &[("vmm/kvm/Cargo.toml", ANYHOW), ("vmm/kvm/src/lib.rs", "")],
            "kvm",
        )],
        fine: &[
            &[("vmm/kvm/Cargo.toml", ANYHOW), ("vmm/kvm/src/main.rs", "")],
            &[
                ("tests/kvm/Cargo.toml", ANYHOW),
                ("tests/kvm/src/lib.rs", ""),
            ],
            &[
                (
                    "vmm/kvm/Cargo.toml",
                    "[package]\nname = 'kvm'\n[dev-dependencies]\nanyhow.workspace = true\n",
                ),
                ("vmm/kvm/src/lib.rs", ""),
            ],
        ],
    }
    .holds();
}

/// Crates of the guest's half that may use the standard library: they stand in for a guest.
const WITH_STD: &[&str] = &["driver-fakes"];

fn with_std(tree: &Tree) -> Vec<String> {
    let guest = tree
        .crates()
        .iter()
        .filter(|m| m.group() == "guest-drivers");
    let guest = guest.filter(|m| !WITH_STD.contains(&m.name.as_str()));
    let libraries = guest.map(|member| format!("{}/src/lib.rs", member.dir));
    libraries
        .filter(|path| !tree.text(path).contains("no_std"))
        .collect()
}

#[test]
fn the_driver_stack_is_no_std() {
    const MANIFEST: (&str, &str) = ("guest-drivers/a/Cargo.toml", "[package]\nname = 'a'\n");
    Rule {
        asks: "The driver stack is no_std",
        finds: with_std,
        breaches: &[(
            &[MANIFEST, ("guest-drivers/a/src/lib.rs", "//! A.\n")],
            "guest-drivers/a/src/lib.rs",
        )],
        fine: &[&[
            MANIFEST,
            (
                "guest-drivers/a/src/lib.rs",
                "#![cfg_attr(not(test), no_std)]\n",
            ),
        ]],
    }
    .holds();
}

/// Dependencies that the code they are for does not name.
fn unused(tree: &Tree) -> Vec<String> {
    let mut bad = Vec::new();
    for member in tree.crates().iter().filter(|m| m.group() != "tests") {
        let (src, build) = (
            format!("{}/src/", member.dir),
            format!("{}/build.rs", member.dir),
        );
        let product: Vec<&Source> = tree
            .product()
            .filter(|file| file.path.starts_with(&src))
            .collect();
        let script: Vec<&Source> = tree.file(&build).into_iter().collect();
        for (section, files) in [("dependencies", product), ("build-dependencies", script)] {
            for (name, _) in member.dependencies(section) {
                let identifier = name.replace('-', "_");
                if !files
                    .iter()
                    .any(|file| code::named(file, &identifier).is_some())
                {
                    bad.push(format!("{}: {section}.{name}", member.name));
                }
            }
        }
    }
    bad
}

#[test]
fn product_dependencies_are_used_by_product_code() {
    const MANIFEST: (&str, &str) = (
        "vmm/a/Cargo.toml",
        "[package]\nname = 'a'\n[dependencies]\nio-uring.workspace = true\n[target.'cfg(unix)'.dependencies]\nlibc.workspace = true\n\
         [build-dependencies]\ncc.workspace = true\n[dev-dependencies]\ntempfile.workspace = true\n",
    );
    const BUILD: (&str, &str) = ("vmm/a/build.rs", "fn main() { cc::Build; }\n");
    Rule {
        asks: "A dependency of a product is used by its code: strike it, or move it to dev-dependencies",
        finds: unused,
        breaches: &[
            (
                &[MANIFEST, BUILD, ("vmm/a/src/lib.rs", "//! io_uring.\nuse libc::c;\n#[cfg(test)]\nmod tests { use io_uring::IoUring; }\n")],
                "a: dependencies.io-uring",
            ),
            (&[MANIFEST, BUILD, ("vmm/a/src/lib.rs", "use io_uring::A;\n")], "a: dependencies.libc"),
            (&[MANIFEST, ("vmm/a/src/lib.rs", "use io_uring::A; use libc::c; use cc::B;\n")], "a: build-dependencies.cc"),
        ],
        fine: &[&[MANIFEST, BUILD, ("vmm/a/src/lib.rs", "use io_uring::A; fn b() { libc::c() }\n")]],
    }
    .holds();
}

fn without_reason(tree: &Tree) -> Vec<String> {
    let deny = tree.text("deny.toml");
    let list = external(tree).map(|(name, _)| name);
    list.filter(|name| !deny.contains(&format!("\n#   {name}: ")))
        .collect()
}

#[test]
fn every_external_dependency_has_its_reason() {
    Rule {
        asks: "deny.toml says why each dependency is there (`#   name: reason`)",
        finds: without_reason,
        breaches: &[(
            &[
                ("Cargo.toml", "[workspace.dependencies]\nnix = '=1'\n"),
                ("deny.toml", "#\n#   serde: nix: x\n"),
            ],
            "nix",
        )],
        fine: &[&[
            (
                "Cargo.toml",
                "[workspace.dependencies]\nnix = '=1'\nkvm = { path = 'vmm/kvm' }\n",
            ),
            ("deny.toml", "#\n#   nix: system calls\n"),
        ]],
    }
    .holds();
}

fn listed_without_use(tree: &Tree) -> Vec<String> {
    let fuzz = tree.text("tests/fuzz/Cargo.toml");
    let used = |name: &String| {
        let depends = |member: &Crate| {
            let mut sections = SECTIONS.into_iter();
            sections.any(|section| {
                member
                    .dependencies(section)
                    .iter()
                    .any(|(known, _)| *known == name)
            })
        };
        // What nothing depends on: programs for whoever tests.
        let leaf = tree
            .member(name)
            .is_some_and(|member| member.group() == "tests");
        leaf || tree.crates().iter().any(depends) || fuzz.contains(name.as_str())
    };
    listed(tree)
        .keys()
        .filter(|name| !used(name))
        .cloned()
        .collect()
}

#[test]
fn no_dependency_is_listed_without_use() {
    Rule {
        asks: "The root Cargo.toml lists dependencies that no crate has: strike them",
        finds: listed_without_use,
        breaches: &[(
            &[
                (
                    "Cargo.toml",
                    "[workspace.dependencies]\nnix = '=1'\nserde = '=1'\n",
                ),
                (
                    "vmm/kvm/Cargo.toml",
                    "[package]\nname = 'kvm'\n[dependencies]\nserde.workspace = true\n",
                ),
            ],
            "nix",
        )],
        fine: &[&[
            ("Cargo.toml", "[workspace.dependencies]\nnix = '=1'\n"),
            (
                "vmm/kvm/Cargo.toml",
                "[package]\nname = 'kvm'\n[dev-dependencies]\nnix.workspace = true\n",
            ),
        ]],
    }
    .holds();
}
