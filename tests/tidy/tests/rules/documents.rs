//! Rules on the papers: the README's map, the top level's shape, the ledger of regressions, the list of packages.
//!
//! One rule: what a reader is told must match the tree.

use crate::Rule;
use crate::tree::Tree;

#[test]
fn the_readme_maps_every_crate() {
    let unmapped = |tree: &Tree| -> Vec<String> {
        let readme = tree.text("README.md");
        let dirs = tree.crates().iter().map(|member| &member.dir);
        dirs.filter(|dir| !readme.contains(&format!("`{dir}`")))
            .cloned()
            .collect()
    };
    const MANIFEST: (&str, &str) = ("vmm/kvm/Cargo.toml", "[package]\nname = 'kvm'\n");
    Rule {
        asks: "README.md lists every crate by its path in backquotes",
        finds: unmapped,
        breaches: &[(
            &[MANIFEST, ("README.md", "kvm, `vmm/kvm/src`\n")],
            "vmm/kvm",
        )],
        fine: &[&[MANIFEST, ("README.md", "| `vmm/kvm` | ioctls |\n")]],
    }
    .holds();
}

const README_LINES: usize = 400;

#[test]
fn the_readme_stays_readable() {
    let long = |tree: &Tree| -> Vec<String> {
        let lines = tree.text("README.md").lines().count();
        let long = (lines > README_LINES).then(|| format!("{lines} lines"));
        long.into_iter().collect()
    };
    Rule {
        asks: "README.md is short; the rest belongs into its links",
        finds: long,
        breaches: &[(&[("README.md", crate::syntax::lines!(401))], "401 lines")],
        fine: &[&[("README.md", "# Paravane\n")]],
    }
    .holds();
}

/// The folders of the tree; `target` is beside them where somebody built.
const FOLDERS: &[&str] = &[
    "host-backends",
    "guest-drivers",
    "vmm",
    "installer",
    "tests",
];

#[test]
fn the_top_level_is_fixed() {
    let others = |tree: &Tree| -> Vec<String> {
        let folders = tree.folders().into_iter();
        let others = folders.filter(|name| !FOLDERS.contains(name));
        others.map(ToString::to_string).collect()
    };
    Rule {
        asks: "The top level has a fixed set of folders",
        finds: others,
        breaches: &[(&[("docs/design.md", "")], "docs")],
        fine: &[&[("vmm/README.md", ""), ("README.md", "")]],
    }
    .holds();
}

fn wrong_citations(tree: &Tree) -> Vec<String> {
    let rows = tree
        .text("tests/REGRESSIONS.md")
        .lines()
        .filter(|line| line.starts_with('|'));
    let cells = rows.filter_map(|line| line.rsplit('|').nth(1));
    let cited = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    cited
        .filter_map(|citation| tree.tests().fault(citation))
        .collect()
}

#[test]
fn every_test_in_the_regression_ledger_exists() {
    const A: (&str, &str) = ("vmm/kvm/src/a.rs", "#[test]\nfn same() {}\n");
    const B: (&str, &str) = ("vmm/kvm/src/b.rs", "#[test]\nfn same() {}\n");
    Rule {
        asks: "tests/REGRESSIONS.md cites each test as `crate::name`, with its files between where that means several",
        finds: wrong_citations,
        breaches: &[
            (&[A, ("tests/REGRESSIONS.md", "| 1 | a | `kvm::gone` |\n")], "no test kvm::gone"),
            (&[A, B, ("tests/REGRESSIONS.md", "| 1 | a | `kvm::same` |\n")], "kvm::same means kvm::a::same or kvm::b::same"),
            (&[B, ("tests/REGRESSIONS.md", "| 1 | a | `kvm::a::same` |\n")], "no test kvm::a::same"),
            (&[A, ("tests/REGRESSIONS.md", "| 1 | a | `same` |\n")], "no test same"),
        ],
        fine: &[
            &[A, B, ("tests/REGRESSIONS.md", "| 1 | `x` | `kvm::a::same` |\n")],
            &[A, ("tests/REGRESSIONS.md", "| 1 | a | `kvm::same` |\n")],
        ],
    }
    .holds();
    let rows = crate::tree::real()
        .text("tests/REGRESSIONS.md")
        .matches("::")
        .count();
    assert!(rows > 60, "the ledger was read: {rows}");
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

/// The list of packages.
const PACKAGES: &str = "tests/xtask/src/packages.rs";

fn programs_without_package(tree: &Tree) -> Vec<String> {
    let packages = tree.text(PACKAGES);
    let mut bad = Vec::new();
    for file in tree.rust() {
        let helper = file.path.starts_with("tests/") && !file.path.starts_with("tests/tidy/");
        // Installed from the crate registry, below the target folder, by the task that wants it.
        let own = file.path == "tests/xtask/src/check.rs";
        if (helper || file.is_test()) && !own {
            let missing = without_package(&file.text, packages).into_iter();
            bad.extend(missing.map(|name| format!("{}: {name}", file.path)));
        }
    }
    bad
}

#[test]
fn programs_that_tests_need_come_with_a_package() {
    const LIST: (&str, &str) = (PACKAGES, "    (\"socat\", \"socat\"),\n");
    Rule {
        asks: "tests/xtask/src/packages.rs names the package of each program that tests start",
        finds: programs_without_package,
        breaches: &[
            (&[LIST, ("tests/vm/src/a.rs", "use std::process::Command;\nlet b = Command::new(\"tcpdump\");\n")], "tcpdump"),
            (&[LIST, ("vmm/kvm/src/tests.rs", "tool(\"ip\", \"iproute2\")")], "ip"),
        ],
        fine: &[&[
            LIST,
            ("tests/vm/src/a.rs", "use std::process::Command;\nvm::tool(\"socat\", \"socat\")?;\nlet a = Command::new(\"sh\");\nCommand::new(&c);"),
            ("vmm/kvm/src/lib.rs", "tool(\"ip\", \"iproute2\")"),
        ]],
    }
    .holds();
}
