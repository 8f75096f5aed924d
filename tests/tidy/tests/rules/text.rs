//! Rules on the text of source files: headers, words that must not occur, places of this machine.
//!
//! One rule: the words that a rule forbids are spelled here in two halves, so that it can check itself.

use crate::Rule;
use crate::code;
use crate::tree::Source;
use crate::tree::Tree;

/// Whole words in lower case, letters and digits only.
fn words(line: &str) -> impl Iterator<Item = String> + '_ {
    line.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|w| !w.is_empty())
        .map(str::to_lowercase)
}

/// The lines of all files that this is true of.
fn lines(tree: &Tree, is: impl Fn(&Source, &str) -> bool) -> Vec<String> {
    let mut bad = Vec::new();
    for file in tree.rust() {
        let found = file.lines().filter(|(_, line)| is(file, line));
        bad.extend(found.map(|(number, _)| file.at(number)));
    }
    bad
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let silent = |tree: &Tree| -> Vec<String> {
        let files = tree.rust().filter(|file| !file.text.starts_with("//! "));
        files.map(|file| file.path.clone()).collect()
    };
    Rule {
        asks: "A source file starts with `//!`: what it is for and its one rule",
        finds: silent,
        breaches: &[
            (
                &[("vmm/kvm/src/lib.rs", "use a::b;\n//! A.\n")],
                "vmm/kvm/src/lib.rs",
            ),
            (
                &[("vmm/kvm/src/tests.rs", "// A.\n")],
                "vmm/kvm/src/tests.rs",
            ),
        ],
        fine: &[&[("vmm/kvm/src/lib.rs", "//! A.\n")]],
    }
    .holds();
}

fn systems_in_cores(tree: &Tree) -> Vec<String> {
    let systems = [
        "linux", "windows", "freebsd", "openbsd", "macos", "winnt", "ntoskrnl",
    ];
    lines(tree, |file, line| {
        let named = words(line).any(|word| systems.contains(&word.as_str()));
        // Its tests say what they guard against, and that has names.
        let dir = file.crate_dir();
        let core = dir.starts_with("guest-drivers/")
            && (dir.ends_with("-driver") || dir.ends_with("/virtio-core"));
        core && (named || line.contains("target_os"))
    })
}

#[test]
fn driver_cores_name_no_operating_system() {
    const CORE: &str = "guest-drivers/net-driver/src/lib.rs";
    Rule {
        asks: "A driver core names no operating system",
        finds: systems_in_cores,
        breaches: &[
            (&[(CORE, "// As Linux does.\n")], "As Linux"),
            (&[(CORE, "#[cfg(target_os = \"none\")]\n")], "target_os"),
            (
                &[("guest-drivers/virtio-core/src/lib.rs", "fn windows() {}\n")],
                "windows",
            ),
        ],
        fine: &[&[
            (CORE, "// A window of the BAR.\n"),
            ("guest-drivers/virtqueue/src/lib.rs", "// As Linux does.\n"),
        ]],
    }
    .holds();
}

/// Words of a backend's product code or comments that speak of sockets or of a VMM, ours among them.
const WORDS_OF_OTHERS: &[&str] = &[
    "socket",
    "unixstream",
    "unixlistener",
    "unixdatagram",
    "tcpstream",
    "tcplistener",
    "udpsocket",
    "qemu",
    "crosvm",
    "firecracker",
    "alioth",
    "libvirt",
    "hypervisor",
    "vmm",
    "paravane",
];
/// What would bring them in under another name.
const PAIRS_OF_OTHERS: &[(&str, &str)] = &[
    ("unix", "net"),
    ("unix", "as"),
    ("os", "as"),
    ("net", "as"),
    ("libc", "as"),
    ("libc", "socketpair"),
    ("libc", "connect"),
    ("libc", "bind"),
    ("libc", "sendmsg"),
    ("libc", "recvmsg"),
];

fn sockets_in_backends(tree: &Tree) -> Vec<String> {
    let mut bad = Vec::new();
    for file in tree
        .product()
        .filter(|file| file.crate_dir().ends_with("-backend"))
    {
        let named = |line: &str| words(line).any(|word| WORDS_OF_OTHERS.contains(&word.as_str()));
        let by_word = file.lines().filter(|(_, line)| named(line));
        let mut found: Vec<usize> = by_word.map(|(number, _)| number).collect();
        let mut last = String::new();
        code::identifiers(file, &mut |ident, line| {
            if PAIRS_OF_OTHERS.contains(&(last.as_str(), ident)) {
                found.push(line);
            }
            last = ident.to_string();
        });
        found.sort_unstable();
        found.dedup();
        bad.extend(found.into_iter().map(|line| file.at(line)));
    }
    bad
}

#[test]
fn backends_name_no_socket_and_no_vmm() {
    const LIB: &str = "host-backends/one-backend/src/lib.rs";
    Rule {
        asks: "A backend names no socket and no VMM",
        finds: sockets_in_backends,
        breaches: &[
            (
                &[(LIB, "use std::os::unix as u; type A = u::net::B;\n")],
                "lib.rs:1",
            ),
            (&[(LIB, "use std::os::unix::net as pipes;\n")], "lib.rs:1"),
            (&[(LIB, "use std::net as n;\n")], "lib.rs:1"),
            (&[(LIB, "fn a(b: std::net::TcpStream) {}\n")], "lib.rs:1"),
            (&[(LIB, "fn a() { libc::connect(1); }\n")], "lib.rs:1"),
            (&[(LIB, "// As QEMU does.\n")], "lib.rs:1"),
            (
                &[(LIB, "/// `paravane run` names one.\nfn a() {}\n")],
                "lib.rs:1",
            ),
            (&[(LIB, "use nix::sys::socket as s;\n")], "lib.rs:1"),
        ],
        fine: &[&[
            (
                LIB,
                "use std::os::unix::fs::FileExt;\nuse std::net::IpAddr;\n",
            ),
            (
                "host-backends/one-backend/src/tests.rs",
                "// As QEMU does.\n",
            ),
            ("host-backends/one/src/lib.rs", "// As QEMU does.\n"),
        ]],
    }
    .holds();
}

/// Where a tree lies on somebody's machine.
const PLACES: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/wo", "rk/"),
    concat!("/tm", "p/w/"),
    concat!("/Us", "ers/"),
];

fn places(tree: &Tree) -> Vec<String> {
    let mut bad = Vec::new();
    for file in tree.files(&["rs", "toml", "md", "sh", "yml", "json"]) {
        let found = file
            .lines()
            .filter(|(_, line)| PLACES.iter().any(|place| line.contains(place)));
        bad.extend(found.map(|(number, _)| file.at(number)));
    }
    bad
}

#[test]
fn no_file_names_a_place_on_one_machine() {
    Rule {
        asks: "No path of one machine",
        finds: places,
        breaches: &[
            (
                &[("README.md", concat!("cd /ho", "me/me\n"))],
                "README.md:1",
            ),
            (
                &[("vmm/kvm/src/lib.rs", concat!("//! A.\n// /wo", "rk/main\n"))],
                "lib.rs:2",
            ),
        ],
        fine: &[&[("README.md", "cd /var/lib/vm\n")]],
    }
    .holds();
}

/// What marks work that is left.
const MARKS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
];

#[test]
fn open_ends_carry_an_issue_number() {
    let open = |tree: &Tree| {
        lines(tree, |_, line| {
            MARKS.iter().any(|mark| line.contains(mark)) && !line.contains("(#")
        })
    };
    Rule {
        asks: "An open end carries an issue number: (#12)",
        finds: open,
        breaches: &[
            (
                &[("vmm/kvm/src/lib.rs", concat!("// TO", "DO: more\n"))],
                "lib.rs:1",
            ),
            (
                &[("vmm/kvm/src/lib.rs", concat!("fn a() { to", "do!() }\n"))],
                "lib.rs:1",
            ),
        ],
        fine: &[&[("vmm/kvm/src/lib.rs", concat!("// TO", "DO(#12): more\n"))]],
    }
    .holds();
}

#[test]
fn lines_have_no_trailing_blanks_or_tabs() {
    Rule {
        asks: "No tabs, no trailing blanks",
        finds: |tree| lines(tree, |_, line| line.ends_with(' ') || line.contains('\t')),
        breaches: &[
            (&[("vmm/kvm/src/lib.rs", "fn a() {} \n")], "lib.rs:1"),
            (
                &[("vmm/kvm/src/lib.rs", "//! A.\n\tfn a() {}\n")],
                "lib.rs:2",
            ),
        ],
        fine: &[&[("vmm/kvm/src/lib.rs", "fn a() {}\n\n")]],
    }
    .holds();
}
