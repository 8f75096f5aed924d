//! What is still possible inside, each tried in a thread of its own, which alone is confined.

use super::*;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;

fn inside<T: Send + 'static>(needs: Needs, act: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        Sandbox::On
            .enter(&needs)
            .expect("the sandbox can be entered without privilege");
        act()
    });
    thread.join().expect("the thread lives inside the sandbox")
}

#[test]
fn programs_cannot_be_started() {
    assert!(
        inside(Needs::default(), || std::process::Command::new("/bin/true")
            .spawn())
        .is_err()
    );
}

#[test]
fn files_cannot_be_opened() {
    assert!(inside(Needs::default(), || std::fs::File::open("/etc/passwd")).is_err());
}

#[test]
fn files_cannot_be_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("new");
    let made = inside(Needs::default(), {
        let path = path.clone();
        move || std::fs::File::create(path)
    });
    assert!(made.is_err());
    assert!(!path.exists());
}

#[test]
fn only_named_directories_lose_files() {
    let ours = tempfile::tempdir().expect("a directory");
    let other = tempfile::tempdir().expect("a directory");
    let (mine, theirs) = (ours.path().join("a"), other.path().join("b"));
    std::fs::write(&mine, "").expect("a file");
    std::fs::write(&theirs, "").expect("a file");
    let needs = Needs {
        socket_directories: vec![ours.path().to_owned()],
        ..Needs::default()
    };
    let removed = inside(needs, {
        let (mine, theirs) = (mine.clone(), theirs.clone());
        move || {
            (
                std::fs::remove_file(mine).is_ok(),
                std::fs::remove_file(theirs).is_ok(),
            )
        }
    });
    assert_eq!(removed, (true, false));
}

#[test]
fn named_files_are_read_and_named_directories_written_and_no_others() {
    let ours = tempfile::tempdir().expect("a directory");
    let other = tempfile::tempdir().expect("a directory");
    let (mine, theirs) = (ours.path().join("a"), other.path().join("b"));
    std::fs::write(&theirs, "").expect("a file");
    let needs = Needs {
        readable: vec!["/proc/meminfo".into()],
        writable: vec![ours.path().to_owned()],
        ..Needs::default()
    };
    let done = inside(needs, move || {
        [
            std::fs::read("/proc/meminfo").is_ok(),
            std::fs::write(mine, "x").is_ok(),
            std::fs::read("/proc/cpuinfo").is_ok(),
            std::fs::write(theirs, "x").is_ok(),
        ]
    });
    let landlock = std::fs::read_to_string("/sys/kernel/security/lsm")
        .is_ok_and(|lsm| lsm.contains("landlock"));
    assert_eq!(done[..2], [true, true]);
    if landlock {
        assert_eq!(done[2..], [false, false]);
    }
}

#[test]
fn system_calls_that_one_daemon_needs_are_open_to_it_alone() {
    let with = Needs {
        syscalls: vec![libc::SYS_getppid],
        ..Needs::default()
    };
    let parent = || nix::unistd::getppid().as_raw();
    assert!(inside(with, parent) > 0);
    assert!(inside(Needs::default(), parent) < 0);
}

#[test]
fn internet_sockets_cannot_be_made() {
    assert!(
        inside(Needs::default(), || std::net::TcpListener::bind(
            "127.0.0.1:0"
        ))
        .is_err()
    );
}

#[test]
fn unix_sockets_serve_threads_start_and_memory_is_had() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    let client = std::thread::spawn(move || {
        let mut stream = UnixStream::connect(path).expect("a connection");
        stream.write_all(b"ping").expect("a write");
    });
    let heard = inside(Needs::default(), move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let worker = std::thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || {
                let mut heard = vec![0; 4];
                stream.read_exact(&mut heard).expect("bytes");
                let big = vec![1_u8; 64 << 20];
                (heard, big.len())
            });
        worker.expect("a thread").join().expect("its end")
    });
    client.join().expect("the client's end");
    assert_eq!(heard, (b"ping".to_vec(), 64 << 20));
}
