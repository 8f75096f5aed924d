//! passt as our child: it is started again, ends with us, and may be any version.
//!
//! Rule: a passt that hangs is the real one, stopped.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use guest_memory::GuestMemory;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::frames;
use super::frames::PLAIN;
use super::passt::arp_answer;
use super::passt::wait_until;
use super::passt::watched;
use super::passt::with_passt;
use crate::Link;
use crate::LinkSpec;
use crate::Sent;

/// The processes whose command line has `word`.
fn processes_with(word: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(word) {
            found.push(pid);
        }
    }
    found
}

fn is_passt(pid: &i32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    !line.starts_with(b"/bin/sh")
}

/// The socket of the passt in this namespace; other tests of this process have theirs.
fn socket() -> String {
    let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let prefix = format!("paravane-passt-{}-", std::process::id());
    let mut found = processes_with(&prefix);
    found.retain(|pid| {
        let theirs = std::fs::read_link(format!("/proc/{pid}/ns/net"));
        is_passt(pid) && theirs.is_ok_and(|theirs| theirs == own)
    });
    let &[pid] = &found[..] else {
        panic!("one passt: {found:?}");
    };
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let mut words = line.split(|byte| *byte == 0);
    words.find(|word| *word == b"--socket").unwrap();
    String::from_utf8_lossy(words.next().unwrap()).into_owned()
}

fn passt(socket: &str) -> Vec<i32> {
    let mut found = processes_with(socket);
    found.retain(is_passt);
    found
}

fn signal(passt: &[i32], signal: Signal) {
    for pid in passt {
        nix::sys::signal::kill(Pid::from_raw(*pid), signal).unwrap();
    }
}

fn assert_nothing_is_left(socket: &str) {
    let folder = Path::new(socket).parent().unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while !processes_with(socket).is_empty() || folder.exists() {
        assert!(Instant::now() < end, "{:?} is left", processes_with(socket));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_passt_that_dies_is_started_again_and_ends_with_us() {
    with_passt(
        "a_passt_that_dies_is_started_again_and_ends_with_us",
        |mut link| {
            let memory = frames::ram();
            let events = watched(link.as_mut());
            assert!(arp_answer(link.as_mut(), &memory).is_some());
            let socket = socket();
            let first = passt(&socket);
            signal(&first, Signal::SIGKILL);
            wait_until(link.as_mut(), &memory, "lost", || events.seen().0 == 1);
            wait_until(link.as_mut(), &memory, "restored", || {
                events.seen() == (1, 1)
            });
            assert!(arp_answer(link.as_mut(), &memory).is_some());
            assert!(passt(&socket).iter().all(|pid| !first.contains(pid)));
            drop(link);
            assert_nothing_is_left(&socket);
        },
    );
}

#[test]
fn a_passt_that_hangs_ends_with_us() {
    with_passt("a_passt_that_hangs_ends_with_us", |mut link| {
        let memory = frames::ram();
        assert!(arp_answer(link.as_mut(), &memory).is_some());
        let socket = socket();
        signal(&passt(&socket), Signal::SIGSTOP);
        drop(link);
        assert_nothing_is_left(&socket);
    });
}

/// Sends until the socket takes no more.
fn send_until_full(link: &mut dyn Link, memory: &GuestMemory) {
    let frame = [&PLAIN[..], &[0x55; 60_000]].concat();
    let none = frames::spans(memory, &[]);
    for _ in 0..10_000 {
        if link.send(&frame, &none).unwrap() == Sent::Full {
            return;
        }
        link.flush().unwrap();
    }
    panic!("a stopped passt takes frames without end");
}

#[test]
fn a_passt_that_hangs_is_ended_and_started_again() {
    with_passt(
        "a_passt_that_hangs_is_ended_and_started_again",
        |mut link| {
            let memory = frames::ram();
            let events = watched(link.as_mut());
            assert!(arp_answer(link.as_mut(), &memory).is_some());
            let socket = socket();
            let first = passt(&socket);
            signal(&first, Signal::SIGSTOP);
            send_until_full(link.as_mut(), &memory);
            let end = Instant::now() + Duration::from_secs(60);
            // As a worker does that a guest wakes with frames.
            while events.seen() != (1, 1) {
                assert!(Instant::now() < end, "{:?}", events.seen());
                link.flush().unwrap();
                let _ = super::passt::receive(link.as_mut(), &memory, 2048);
                std::thread::sleep(Duration::from_millis(20));
            }
            assert!(arp_answer(link.as_mut(), &memory).is_some());
            assert!(passt(&socket).iter().all(|pid| !first.contains(pid)));
        },
    );
}

/// A program that tries as whom passt may make its socket, and what it found.
fn entrance(folder: &Path) -> (PathBuf, PathBuf) {
    let (program, found) = (folder.join("passt"), folder.join("found"));
    let script = format!(
        "#!/bin/sh\nwhile [ \"$1\" != --socket ]; do shift; done\n\
         try() {{ \"$@\" && echo can || echo cannot; }} >>{0} 2>&1\n\
         try setpriv --bounding-set=-all --inh-caps=-all touch \"$2.root\"\n\
         try setpriv --reuid=nobody --regid=nogroup --clear-groups touch \"$2.nobody\"\n\
         try setpriv --reuid=daemon --regid=nogroup --clear-groups ls \"$2.root\"\n",
        found.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    (program, found)
}

#[test]
fn root_without_privileges_and_nobody_can_listen_and_others_cannot_enter() {
    let name = "root_without_privileges_and_nobody_can_listen_and_others_cannot_enter";
    if !nix::unistd::geteuid().is_root() || !Path::new("/usr/bin/setpriv").exists() {
        println!("SKIPS ITSELF {name}: needs root and setpriv");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (program, found) = entrance(folder.path());
    let spec: LinkSpec = format!("passt:binary={}", program.display())
        .parse()
        .unwrap();
    assert!(crate::open(&spec, 1).is_err(), "it does not listen");
    let found = std::fs::read_to_string(found).unwrap();
    let verdicts: Vec<_> = found
        .lines()
        .filter(|line| line.starts_with("can"))
        .collect();
    assert_eq!(verdicts, ["can", "can", "cannot"], "{found}");
}
