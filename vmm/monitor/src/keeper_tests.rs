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

#[test]
fn a_daemon_that_fails_at_each_start_is_started_ever_more_seldom_and_its_reason_is_kept() {
    let (folder, kept) = kept("echo the image is gone >&2; echo x >>\"${0%/*}/starts\"; exit 3");
    let kept = Arc::new(kept);
    let child = kept.spawn().unwrap();
    let (gone, is_gone) = mpsc::channel();
    let (say_served, served) = mpsc::channel();
    let lives = Arc::clone(&kept);
    let thread = std::thread::spawn(move || lives.live(child, gone, &served));
    let _ = is_gone.recv();
    say_served.send(()).unwrap();
    let starts = || std::fs::read(folder.path().join("starts")).map_or(0, |text| text.len() / 2);
    let begin = Instant::now();
    while starts() < 5 {
        assert!(begin.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
    // Pauses of 50, 100, 200 and 400 ms lie between five starts.
    assert!(begin.elapsed() >= Duration::from_millis(700));
    let end = ExitStatus::from_raw(0x300);
    while !kept.explain(end).ends_with("3: the image is gone") {
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
    kept.stopping.store(true, Ordering::Release);
    thread.join().unwrap();
}
