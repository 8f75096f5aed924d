//! Sockets that are free, stale, taken, wrong.

use super::*;
use std::os::fd::AsRawFd;
use std::os::fd::IntoRawFd;
use std::path::Path;

fn listen_on(path: &Path) -> SocketSpec {
    SocketSpec {
        socket_path: Some(path.to_owned()),
        ..SocketSpec::default()
    }
}

fn open(spec: &SocketSpec) -> Result<Endpoint, Error> {
    spec.open("disk", &mut Inherited::default())
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
        Err(Error::Listen(control_lines::Error::InUse { .. }))
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
        Err(Error::Listen(control_lines::Error::NoSocket { .. }))
    ));
    assert_eq!(std::fs::read(&path).expect("the file"), b"precious");
}

#[test]
fn a_missing_directory_is_an_error() {
    assert!(matches!(
        open(&listen_on(Path::new("/nonexistent/s"))),
        Err(Error::Listen(control_lines::Error::Bind { .. }))
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

#[test]
fn devices_without_a_socket_take_inherited_ones_in_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let fds = ["a", "b"].map(|name| {
        UnixListener::bind(dir.path().join(name))
            .expect("a socket")
            .into_raw_fd()
    });
    let mut inherited = Inherited { left: fds.into() };
    for name in ["a", "b"] {
        let Ok(Endpoint::Listen(listener, None)) =
            SocketSpec::default().open("disk", &mut inherited)
        else {
            panic!("a listener");
        };
        let address = listener.local_addr().expect("its address");
        assert_eq!(address.as_pathname(), Some(dir.path().join(name).as_path()));
    }
    assert!(SocketSpec::default().open("disk", &mut inherited).is_err());
}
