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

/// Runs `act` inside and returns what it did to errno; `None` when it worked.
fn refused(needs: Needs, act: impl FnOnce() -> nix::Result<()> + Send + 'static) -> Option<i32> {
    inside(needs, act).err().map(|errno| errno as i32)
}

/// A system call without a safe wrapper.
#[expect(unsafe_code, reason = "tries what no safe wrapper does")]
fn raw(call: i64, arguments: [usize; 3]) -> nix::Result<()> {
    let [one, two, three] = arguments;
    // SAFETY: the calls of these tests are to be refused before they look at an argument, and these are harmless.
    nix::errno::Errno::result(unsafe { libc::syscall(call, one, two, three) }).map(drop)
}

#[test]
fn no_ring_can_be_made_or_changed_and_only_a_daemon_that_asks_for_it_uses_one() {
    for call in [libc::SYS_io_uring_setup, libc::SYS_io_uring_register] {
        let with = Needs {
            syscalls: vec![libc::SYS_io_uring_enter],
            ..Needs::default()
        };
        assert_eq!(
            refused(with, move || raw(call, [8, 0, 0])),
            Some(libc::ENOSYS)
        );
    }
    let enter = || raw(libc::SYS_io_uring_enter, [usize::MAX, 0, 0]);
    assert_eq!(refused(Needs::default(), enter), Some(libc::ENOSYS));
}

#[test]
fn a_daemon_that_connects_to_nobody_cannot() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let _listener = UnixListener::bind(&path).expect("a socket");
    let connect = {
        let path = path.clone();
        move || UnixStream::connect(path).is_ok()
    };
    let client = Needs {
        connects: true,
        ..Needs::default()
    };
    assert!(inside(client, connect.clone()));
    assert!(!inside(Needs::default(), connect));
    assert!(inside(Needs::default(), || UnixStream::pair().is_ok()));
    // A datagram socket could send to any path without connecting.
    assert!(!inside(Needs::default(), || {
        std::os::unix::net::UnixDatagram::pair().is_ok()
    }));
}

#[test]
fn signals_reach_threads_of_this_process_only() {
    let parent = usize::try_from(std::os::unix::process::parent_id()).expect("an id");
    let own = usize::try_from(std::process::id()).expect("an id");
    let thread = || usize::try_from(nix::unistd::gettid().as_raw()).expect("an id");
    // Signal 0 only asks whether it may.
    let other = move || raw(libc::SYS_tgkill, [parent, parent, 0]);
    assert_eq!(refused(Needs::default(), other), Some(libc::ENOSYS));
    assert_eq!(
        refused(Needs::default(), move || raw(
            libc::SYS_kill,
            [parent, 0, 0]
        )),
        Some(libc::ENOSYS)
    );
    assert_eq!(
        refused(Needs::default(), move || raw(
            libc::SYS_tgkill,
            [own, thread(), 0]
        )),
        None
    );
    let owner = || {
        let (one, _two) = UnixStream::pair().expect("a pair");
        let fd = usize::try_from(std::os::fd::AsRawFd::as_raw_fd(&one)).expect("a descriptor");
        let set_owner = usize::try_from(libc::F_SETOWN).expect("a command");
        raw(libc::SYS_fcntl, [fd, set_owner, 1])
    };
    assert_eq!(refused(Needs::default(), owner), Some(libc::ENOSYS));
}

#[test]
fn nothing_is_typed_into_a_terminal() {
    let key = b"x";
    let at = key.as_ptr() as usize;
    let request = usize::try_from(libc::TIOCSTI).expect("a request");
    assert_eq!(
        refused(Needs::default(), move || raw(
            libc::SYS_ioctl,
            [0, request, at]
        )),
        Some(libc::ENOSYS)
    );
}

#[test]
fn threads_can_be_made_and_processes_cannot() {
    assert!(inside(Needs::default(), || std::thread::spawn(|| 7)
        .join()
        .is_ok()));
    let exit_signal = usize::try_from(libc::SIGCHLD).expect("a signal");
    assert_eq!(
        refused(Needs::default(), move || raw(
            libc::SYS_clone,
            [exit_signal, 0, 0]
        )),
        Some(libc::ENOSYS)
    );
    assert_eq!(
        refused(Needs::default(), || raw(libc::SYS_clone3, [0, 0, 0])),
        Some(libc::ENOSYS)
    );
}

#[test]
fn a_daemon_that_reads_files_writes_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("new");
    let needs = Needs {
        readable: vec![dir.path().to_owned()],
        ..Needs::default()
    };
    let made = inside(needs, {
        let path = path.clone();
        move || {
            std::fs::File::create(path)
                .map_err(|error| error.raw_os_error())
                .err()
        }
    });
    assert_eq!(made, Some(Some(libc::ENOSYS)));
    assert!(!path.exists());
}
