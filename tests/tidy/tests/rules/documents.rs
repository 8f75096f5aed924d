//! Rules on the papers: the README's map, the reason for each dependency, the top level's shape.
//!
//! One rule: what a reader is told must match the tree.

use crate::names;
use crate::report;
use crate::tree;

fn read(name: &str) -> String {
    std::fs::read_to_string(tree::root().join(name)).unwrap_or_default()
}

#[test]
fn the_readme_maps_every_crate() {
    let readme = read("README.md");
    let bad: Vec<String> = tree::members()
        .into_iter()
        .map(|(_, dir, _)| dir)
        .filter(|dir| !readme.contains(&format!("`{dir}`")))
        .collect();
    report(
        "README.md lists every crate by its path in backquotes",
        &bad,
    );
}

#[test]
fn the_readme_stays_readable() {
    let lines = read("README.md").lines().count();
    assert!(
        lines <= 400,
        "README.md has {lines} lines; the rest belongs into its links"
    );
}

#[test]
fn every_external_dependency_has_its_reason() {
    let manifest: toml::Table = read("Cargo.toml").parse().expect("a manifest is TOML");
    let deny = read("deny.toml");
    let bad: Vec<String> = manifest["workspace"]["dependencies"]
        .as_table()
        .expect("a table")
        .iter()
        .filter(|(_, value)| value.get("path").is_none())
        .filter(|(name, _)| !deny.contains(&format!("\n#   {name}: ")))
        .map(|(name, _)| name.clone())
        .collect();
    report(
        "deny.toml says why each dependency is there (`#   name: reason`)",
        &bad,
    );
}

#[test]
fn no_dependency_is_listed_without_use() {
    let manifest: toml::Table = read("Cargo.toml").parse().expect("a manifest is TOML");
    let members = tree::members();
    let fuzz = read("tests/fuzz/Cargo.toml");
    let bad: Vec<String> = manifest["workspace"]["dependencies"]
        .as_table()
        .expect("a table")
        .keys()
        .filter(|name| {
            let used =
                |p: &cargo_metadata::Package| p.dependencies.iter().any(|d| d.name == **name);
            let leaf = members
                .iter()
                .any(|(member, dir, _)| member == *name && dir.starts_with("tests/"));
            !leaf && !members.iter().any(|(.., p)| used(p)) && !fuzz.contains(name.as_str())
        })
        .cloned()
        .collect();
    report(
        "Root Cargo.toml lists dependencies that no crate uses",
        &bad,
    );
}

#[test]
fn the_top_level_is_fixed() {
    let folders = [
        "host-backends",
        "guest-drivers",
        "vmm",
        "installer",
        "tests",
        "target",
    ];
    let bad: Vec<String> = std::fs::read_dir(tree::root())
        .expect("the root can be read")
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && !folders.contains(&name.as_str()))
        .collect();
    report("The top level has a fixed set of folders", &bad);
}

#[test]
fn every_test_in_the_regression_ledger_exists() {
    let ledger = read("tests/REGRESSIONS.md");
    let cited: Vec<&str> = ledger
        .lines()
        .filter(|line| line.starts_with('|'))
        .filter_map(|line| line.rsplit('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    assert!(cited.len() > 60, "the ledger was read: {}", cited.len());
    let bad: Vec<String> = cited.into_iter().filter_map(names::fault).collect();
    report(
        "tests/REGRESSIONS.md cites each test as `crate::name`, with its files between where that means several",
        &bad,
    );
}

/// Programs of every Debian, which tests may take for granted.
const BASE: &[&str] = &[
    "apt-cache",
    "apt-get",
    "cargo",
    "cp",
    "dpkg-deb",
    "ldd",
    "losetup",
    "nsenter",
    "setsid",
    "sh",
    "sha256sum",
    "stdbuf",
    "taskset",
    "timeout",
    "unshare",
];

/// Programs that a file of tests starts or looks for, by their literal names.
fn programs(text: &str) -> impl Iterator<Item = &str> {
    // Command lines are parsed by a type of the same name.
    let starts = if text.contains("process::Command") {
        ["tool(\"", " Command::new(\"", "(Command::new(\""].as_slice()
    } else {
        &["tool(\""]
    };
    let literals = starts
        .iter()
        .flat_map(move |start| text.split(start).skip(1));
    let names = literals.filter_map(|rest| rest.split('"').next());
    names.filter(|name| !name.is_empty() && !name.starts_with('/') && !name.contains('{'))
}

/// Those that neither every Debian nor the list of packages has.
fn without_package<'a>(text: &'a str, packages: &str) -> Vec<&'a str> {
    let listed = |name: &str| packages.contains(&format!("(\"{name}\", "));
    let mut missing: Vec<&str> = programs(text)
        .filter(|name| !BASE.contains(name) && !listed(name))
        .collect();
    missing.sort_unstable();
    missing.dedup();
    missing
}

#[test]
fn programs_that_tests_need_come_with_a_package() {
    let packages = read("tests/xtask/src/packages.rs");
    let mut bad = Vec::new();
    for file in tree::rust() {
        let helper = file.path.starts_with("tests/") && !file.path.starts_with("tests/tidy/");
        // Installed from the crate registry, below the target folder, by the task that wants it.
        let own = file.path == "tests/xtask/src/check.rs";
        if (helper || file.is_test()) && !own {
            let missing = without_package(&file.text, &packages).into_iter();
            bad.extend(missing.map(|name| format!("{}: {name}", file.path)));
        }
    }
    report(
        "tests/xtask/src/packages.rs names the package of each program that tests start",
        &bad,
    );
}

#[test]
fn a_program_without_a_package_is_seen() {
    let packages = "    (\"socat\", \"socat\"),\n";
    let text = "use std::process::Command;\nvm::tool(\"socat\", \"socat\")?;\nlet a = Command::new(\"sh\");\nlet b = Command::new(\"tcpdump\");\n\
                Command::new(&c); tool(\"ip\", \"iproute2\")";
    assert_eq!(without_package(text, packages), ["ip", "tcpdump"]);
}
