//! The keeper's own parts; whole runs are in tests/daemons.rs. One rule: no daemon here is one of ours.

use super::*;
use std::os::unix::process::ExitStatusExt;

fn kept(script: &str) -> (tempfile::TempDir, Kept) {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("daemon");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&program, mode).unwrap();
    let plan = DaemonPlan {
        name: "d".to_owned(),
        program,
        config: folder.path().join("config"),
        control: folder.path().join("control"),
    };
    (folder, Kept::new(plan, Status { json: true }))
}

#[test]
fn a_daemon_that_ends_at_its_start_leaves_its_last_words() {
    for (script, code) in [
        ("echo wrong >&2; exit 2", 64),
        ("echo wrong >&2; exit 3", 69),
    ] {
        let (_folder, kept) = kept(script);
        let (done, _) = mpsc::channel();
        let (message, exit_code) = start(&Arc::new(kept), done).unwrap_err();
        assert!(message.contains("wrong"), "{message}");
        assert_eq!(exit_code, code);
    }
}

#[test]
fn a_daemon_without_a_program_is_an_error() {
    let (folder, kept) = kept("");
    std::fs::remove_file(folder.path().join("daemon")).unwrap();
    let (done, _) = mpsc::channel();
    let (message, _) = start(&Arc::new(kept), done).unwrap_err();
    assert!(message.contains("Cannot start"), "{message}");
}

#[test]
fn an_endless_line_is_passed_on_in_pieces() {
    let (_folder, kept) = kept("");
    kept.forward(std::io::Cursor::new(
        [b"x".repeat(100_000), b"\nend\xff\n".to_vec()].concat(),
    ));
    assert_eq!(kept.life().last_words, "end\u{fffd}");
}

#[test]
fn ends_are_described() {
    assert_eq!(describe(ExitStatus::from_raw(0x300)), "exit code 3");
    assert_eq!(describe(ExitStatus::from_raw(9)), "SIGKILL");
}
