//! The cage tried from inside, in threads and in processes of their own, which it may end.

#![expect(unsafe_code, reason = "tries what no safe wrapper does")]

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use super::*;

#[test]
fn inside_the_cage_only_named_files_open_and_threads_inherit_it() {
    let folder = tempfile::tempdir().unwrap();
    let (named, other) = (folder.path().join("named"), folder.path().join("other"));
    std::fs::write(&named, "n").unwrap();
    std::fs::write(&other, "o").unwrap();
    // The cage is this thread's and its children's alone, so the other tests stay outside.
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    std::fs::write(home.join("control"), "c").unwrap();
    let caged = std::thread::spawn(move || {
        close(&[&named], Some(&home)).unwrap();
        crate::home::remove(&home);
        assert!(!home.exists());
        let inner = std::thread::spawn(move || {
            (std::fs::read(&named).is_ok(), std::fs::read(&other).is_ok())
        });
        inner.join().unwrap()
    });
    let (named, other) = caged.join().unwrap();
    assert!(named);
    // Without Landlock in the kernel the other file opens too.
    let landlocked = std::fs::read_to_string("/sys/kernel/security/lsm")
        .is_ok_and(|lsm| lsm.contains("landlock"));
    assert!(!(landlocked && other));
}

/// Which deed the child is to do.
const DEED: &str = "DEED_IN_THE_CAGE";

/// Not a test: what the tests below start. It ends with 0 if the cage lets the deed pass.
#[test]
#[ignore = "run by the other tests, as a VMM"]
fn child_in_the_cage() {
    let deed = std::env::var(DEED).unwrap();
    let pid = nix::unistd::getppid();
    host_os::output::start();
    host_os::panics::watch(crate::run::after_panic);
    host_os::fatal::watch(crate::console::restore);
    close(&[], None).unwrap();
    match &*deed {
        "nothing" => {}
        "panic" => {
            let thread = std::thread::Builder::new().name("vhost-user".to_owned());
            let thread = thread.spawn(|| panic!("of no use any more"));
            let _ = thread.unwrap().join();
        }
        "panic for a client" => {
            let thread = std::thread::Builder::new().name(control_protocol::THREAD.to_owned());
            let thread = thread.spawn(|| panic!("of no use to you"));
            let _ = thread.unwrap().join();
        }
        "write a file" => drop(std::fs::File::create("/dev/null")),
        "signal another process" => drop(nix::sys::signal::kill(pid, None)),
        "be another process" => drop(Command::new("/bin/true").spawn()),
        "make an internet socket" => drop(std::net::TcpListener::bind("127.0.0.1:0")),
        "type into the terminal" => type_into_terminal(),
        "ask for the parent" => drop(nix::unistd::getppid()),
        other => panic!("{other:?} is no deed"),
    }
    // Past the test harness, which would say something about a test that passed.
    std::process::exit(0);
}

/// No terminal is needed for the cage to refuse it.
fn type_into_terminal() {
    let key = b'x';
    // SAFETY: the kernel reads one byte of ours.
    unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCSTI, &raw const key) };
}

fn child(deed: &str) -> Output {
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(own);
    let arguments = [
        "--exact",
        "sandbox::tests::child_in_the_cage",
        "--ignored",
        "--nocapture",
        "-q",
    ];
    command
        .args(arguments)
        .env(DEED, deed)
        .env("RUST_BACKTRACE", "1");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_panic_in_a_thread_that_a_vm_needs_tells_itself_and_ends_the_process_with_its_code() {
    let output = child("panic");
    let said = said(&output);
    assert!(
        said.contains("panic in thread vhost-user") && said.contains("of no use any more"),
        "{said}"
    );
    assert_eq!(
        output.status.code(),
        Some(i32::from(host_os::exit::sysexits::FAILED)),
        "{said}"
    );
}

#[test]
fn a_panic_that_answers_a_control_client_costs_that_client_alone() {
    let output = child("panic for a client");
    let said = said(&output);
    assert!(said.contains("panic in thread control"), "{said}");
    assert_eq!(output.status.code(), Some(0), "{said}");
}

#[test]
fn what_the_cage_refuses_is_told_by_number_and_ends_the_process_by_sigsys() {
    assert_eq!(child("nothing").status.code(), Some(0));
    for (deed, call) in [
        ("ask for the parent", Some(libc::SYS_getppid)),
        ("write a file", Some(libc::SYS_openat)),
        ("signal another process", Some(libc::SYS_kill)),
        ("make an internet socket", Some(libc::SYS_socket)),
        ("type into the terminal", Some(libc::SYS_ioctl)),
        // All signals are blocked while a process is made, so this ends without words.
        ("be another process", None),
    ] {
        let output = child(deed);
        let said = said(&output);
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{deed}: {said}");
        if let Some(call) = call {
            assert!(
                said.contains(&format!("system call {call} ")),
                "{deed}: {said}"
            );
        }
    }
}
