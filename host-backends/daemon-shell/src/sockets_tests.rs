//! Sockets that are free, stale, taken, wrong.

use super::*;
use std::os::fd::AsRawFd;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn listen_on(path: &Path) -> SocketSpec {
    SocketSpec {
        socket_path: Some(path.to_owned()),
        ..SocketSpec::default()
    }
}

fn open(spec: &SocketSpec) -> Result<Endpoint, Error> {
    spec.open("disk", &mut Inherited::default(), None)
}

#[test]
fn a_free_path_is_listened_on_with_the_mode_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let spec = SocketSpec {
        socket_mode: Some(0o640),
        ..listen_on(&path)
    };
    let endpoint = open(&spec).expect("a socket");
    assert!(matches!(endpoint, Endpoint::Listen(_, Some(_))));
    let mode = std::fs::metadata(&path)
        .expect("the file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o640);
    UnixStream::connect(&path).expect("somebody listens");
}

#[test]
fn a_stale_socket_file_is_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    drop(UnixListener::bind(&path).expect("a socket"));
    assert!(path.exists());
    let _endpoint = open(&listen_on(&path)).expect("the stale file is no hindrance");
    UnixStream::connect(&path).expect("somebody listens");
}

#[test]
fn a_socket_in_use_is_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let _owner = UnixListener::bind(&path).expect("a socket");
    assert!(matches!(
        open(&listen_on(&path)),
        Err(Error::Listen(control_protocol::Error::InUse { .. }))
    ));
    UnixStream::connect(&path).expect("the owner still listens");
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    std::fs::write(&path, "precious").expect("a file");
    assert!(matches!(
        open(&listen_on(&path)),
        Err(Error::Listen(control_protocol::Error::NoSocket { .. }))
    ));
    assert_eq!(std::fs::read(&path).expect("the file"), b"precious");
}

#[test]
fn a_missing_directory_is_an_error() {
    assert!(matches!(
        open(&listen_on(Path::new("/nonexistent/s"))),
        Err(Error::Listen(control_protocol::Error::Bind { .. }))
    ));
}

#[test]
fn one_way_must_be_given_and_only_one() {
    let none = open(&SocketSpec::default())
        .expect_err("no way")
        .to_string();
    assert!(none.contains("socket-path"), "{none}");
    let two = SocketSpec {
        connect: Some("x".into()),
        ..listen_on(Path::new("y"))
    };
    assert!(matches!(open(&two), Err(Error::Socket { .. })));
    let mode = SocketSpec {
        connect: Some("x".into()),
        socket_mode: Some(0o600),
        ..SocketSpec::default()
    };
    assert!(matches!(open(&mode), Err(Error::Socket { .. })));
}

fn adopting(fd: RawFd) -> Result<Endpoint, Error> {
    open(&SocketSpec {
        fd: Some(fd),
        ..SocketSpec::default()
    })
}

#[test]
fn inherited_sockets_are_taken_as_what_they_are() {
    let dir = tempfile::tempdir().expect("a directory");
    let listener = UnixListener::bind(dir.path().join("s")).expect("a socket");
    assert!(matches!(
        adopting(listener.into_raw_fd()),
        Ok(Endpoint::Listen(_, None))
    ));
    let (one, _two) = UnixStream::pair().expect("a pair");
    assert!(matches!(
        adopting(one.into_raw_fd()),
        Ok(Endpoint::Connected(_))
    ));
}

#[test]
fn descriptors_that_are_no_sockets_are_refused() {
    let file = tempfile::tempfile().expect("a file");
    let datagrams = std::os::unix::net::UnixDatagram::unbound().expect("a socket");
    let internet = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    for fd in [
        -1,
        0,
        1,
        2,
        9999,
        file.as_raw_fd(),
        datagrams.as_raw_fd(),
        internet.as_raw_fd(),
    ] {
        assert!(
            matches!(adopting(fd), Err(Error::Socket { .. })),
            "descriptor {fd}"
        );
    }
}

/// Sockets at paths after `names`, passed under `labels` (LISTEN_FDNAMES) to `devices`; returns which device got which.
fn hand_out(names: &[&str], labels: &str, devices: &[&str]) -> Result<Vec<String>, String> {
    let dir = tempfile::tempdir().expect("a directory");
    let fds: Vec<_> = names
        .iter()
        .map(|name| {
            UnixListener::bind(dir.path().join(name))
                .expect("a socket")
                .into_raw_fd()
        })
        .collect();
    let owned = devices.iter().map(|&name| name.to_owned()).collect();
    let mut inherited = Inherited::new(fds, labels, owned);
    let mut got = Vec::new();
    for device in devices {
        let opened = SocketSpec::default().open(device, &mut inherited, None);
        let Endpoint::Listen(listener, None) = opened.map_err(|error| error.to_string())? else {
            panic!("a listener");
        };
        let address = listener.local_addr().expect("its address");
        let path = address.as_pathname().expect("a path");
        let name = path.file_name().expect("a name").to_string_lossy();
        got.push(name.into_owned());
    }
    inherited.finish().map_err(|error| error.to_string())?;
    Ok(got)
}

#[test]
fn inherited_sockets_go_to_the_devices_they_are_named_after() {
    let swapped = hand_out(&["y", "x"], "y:x", &["x", "y"]);
    assert_eq!(
        swapped.as_deref(),
        Ok(&["x".to_owned(), "y".to_owned()][..])
    );
    // One has no name of its own and goes to whoever has none.
    let mixed = hand_out(&["a", "x"], "paravane.socket:x", &["x", "y"]);
    assert_eq!(mixed.as_deref(), Ok(&["x".to_owned(), "a".to_owned()][..]));
}

#[test]
fn inherited_sockets_without_names_go_by_order() {
    for labels in ["", "a.socket:a.socket", "unknown:unknown"] {
        let got = hand_out(&["a", "b"], labels, &["disk", "root"]);
        assert_eq!(
            got.as_deref(),
            Ok(&["a".to_owned(), "b".to_owned()][..]),
            "{labels}"
        );
    }
    let unnamed = hand_out(&["a"], "disk", &["device1"]);
    assert_eq!(unnamed.as_deref(), Ok(&["a".to_owned()][..]));
}

#[test]
fn inherited_sockets_of_other_names_are_refused_in_words() {
    let wrong = hand_out(&["a", "b"], "one:two", &["disk", "root"]);
    let wrong = wrong.expect_err("no name is right");
    assert!(
        wrong.contains("one, two") && wrong.contains("FileDescriptorName=disk"),
        "{wrong}"
    );
    let half = hand_out(&["a", "b"], "disk:two", &["disk", "root"]);
    assert!(
        half.expect_err("one is wrong")
            .contains("FileDescriptorName=root")
    );
    let many = hand_out(&["a", "b"], "disk:more", &["disk"]);
    assert!(many.expect_err("one is left").contains("more"));
    assert!(hand_out(&[], "", &["disk"]).is_err());
}
