//! Rules on the text of source files: headers, words that must not occur, places of this machine.
//!
//! One rule: the words that a rule forbids are spelled here in two halves, so that it can check itself.

use crate::code;
use crate::report;
use crate::tree;
use crate::tree::Source;

/// Whole-word search, letters and digits only.
fn words(line: &str) -> impl Iterator<Item = String> + '_ {
    line.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|w| !w.is_empty())
        .map(str::to_lowercase)
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let bad: Vec<String> = tree::rust()
        .iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| file.path.clone())
        .collect();
    report(
        "A source file starts with `//!`: what it is for and its one rule",
        &bad,
    );
}

#[test]
fn driver_cores_name_no_operating_system() {
    let systems = [
        "linux", "windows", "freebsd", "openbsd", "macos", "winnt", "ntoskrnl",
    ];
    let mut bad = Vec::new();
    for file in tree::rust()
        .iter()
        .filter(|file| file.crate_dir().ends_with("-driver"))
    {
        for (number, line) in file.text.lines().enumerate() {
            if words(line).any(|word| systems.contains(&word.as_str()))
                || line.contains("target_os")
            {
                bad.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
            }
        }
    }
    report("A driver core names no operating system", &bad);
}

/// Words of a backend's product code or comments that speak of sockets or of a VMM.
fn breaches_of_a_backend(file: &Source) -> Vec<String> {
    let names = [
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
        "hypervisor",
        "vmm",
    ];
    let by_word = file
        .text
        .lines()
        .enumerate()
        .filter(|(_, line)| words(line).any(|word| names.contains(&word.as_str())));
    let mut lines: Vec<usize> = by_word.map(|(number, _)| number + 1).collect();
    // What would bring them in under another name.
    let pairs = [
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
    let mut last = String::new();
    code::identifiers(file, &mut |ident, line| {
        if pairs.contains(&(last.as_str(), ident)) {
            lines.push(line);
        }
        last = ident.to_string();
    });
    lines.sort_unstable();
    lines.dedup();
    let shown = |line: usize| file.text.lines().nth(line - 1).unwrap_or_default().trim();
    lines
        .into_iter()
        .map(|line| format!("{}:{line}: {}", file.path, shown(line)))
        .collect()
}

#[test]
fn backends_name_no_socket_and_no_vmm() {
    let backends = tree::rust().iter().filter(|file| {
        let backend = file.crate_dir().ends_with("-backend");
        backend && !file.is_test()
    });
    let bad: Vec<String> = backends.flat_map(breaches_of_a_backend).collect();
    report("A backend names no socket and no VMM", &bad);
}

#[test]
fn a_backend_cannot_rename_its_way_to_a_socket() {
    let breaches = |text: &str| {
        let file = Source {
            path: "host-backends/one-backend/src/lib.rs".into(),
            text: format!("{text}\n"),
        };
        breaches_of_a_backend(&file).len()
    };
    for text in [
        "use std::os::unix as u; type A = u::net::B;",
        "use std::os::unix::net as pipes;",
        "use std::net as n;",
        "fn a(b: std::net::TcpStream) {}",
        "fn a() { libc::connect(1); }",
        "// As QEMU does.",
        "use nix::sys::socket as s;",
    ] {
        assert_eq!(breaches(text), 1, "{text}");
    }
    for text in ["use std::os::unix::fs::FileExt;", "use std::net::IpAddr;"] {
        assert_eq!(breaches(text), 0, "{text}");
    }
}

#[test]
fn no_file_names_a_place_on_one_machine() {
    let places = [
        concat!("/ho", "me/"),
        concat!("/wo", "rk/"),
        concat!("/tm", "p/w/"),
        concat!("/Us", "ers/"),
    ];
    let mut bad = Vec::new();
    for extension in ["rs", "toml", "md", "sh", "yml", "json"] {
        for file in tree::files(extension) {
            for (number, line) in file.text.lines().enumerate() {
                if places.iter().any(|place| line.contains(place)) {
                    bad.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
                }
            }
        }
    }
    report("No path of one machine", &bad);
}

#[test]
fn open_ends_carry_an_issue_number() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
    ];
    let mut bad = Vec::new();
    for file in tree::rust() {
        for (number, line) in file.text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) && !line.contains("(#") {
                bad.push(format!("{}:{}: {}", file.path, number + 1, line.trim()));
            }
        }
    }
    report("An open end carries an issue number: (#12)", &bad);
}

#[test]
fn lines_have_no_trailing_blanks_or_tabs() {
    let mut bad = Vec::new();
    for file in tree::rust() {
        for (number, line) in file.text.lines().enumerate() {
            if line.ends_with([' ', '\t']) || line.contains('\t') {
                bad.push(format!("{}:{}", file.path, number + 1));
            }
        }
    }
    report("No tabs, no trailing blanks", &bad);
}
