//! Sockets to listen on.
//!
//! Rule: a socket file that nobody listens on is in the way and is replaced; one that somebody listens on never is. Nobody
//! can connect before the file has its final mode and owner.

use std::fs::File;
use std::fs::Permissions;
use std::io;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::fcntl::AtFlags;
use nix::sys::socket;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::Backlog;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use nix::sys::socket::UnixAddr;
use nix::sys::stat::Mode;
use nix::unistd::Gid;
use nix::unistd::Uid;

use crate::Error;

/// Connections that wait to be accepted; the kernel has its own limit (net.core.somaxconn).
const WAITING: i32 = 128;

/// Who may use a socket file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Permissions, such as 0o660; by the umask otherwise.
    pub mode: Option<u32>,
    /// User and group that the file is given to; this process's otherwise.
    pub owner: Option<(u32, u32)>,
}

impl Access {
    /// For this user, or that one, alone.
    pub fn private(owner: Option<(u32, u32)>) -> Self {
        let mode = Some(0o600);
        Self { mode, owner }
    }
}

/// Listens on `path` for those whom `access` lets in, over a stale socket file if need be.
///
/// # Errors
/// Somebody listens there, or something else is there, or the directory does not let us.
pub fn bind(path: &Path, access: Access) -> Result<UnixListener, Error> {
    let fail = |source| Error::Bind {
        path: path.to_owned(),
        source,
    };
    match listen(path, access) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {}
        other => return other.map_err(fail),
    }
    let meta = std::fs::symlink_metadata(path).map_err(fail)?;
    if !meta.file_type().is_socket() {
        return Err(Error::NoSocket {
            path: path.to_owned(),
        });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(fail)?;
            listen(path, access).map_err(fail)
        }
        Err(error) => Err(fail(error)),
        Ok(_) => Err(Error::InUse {
            path: path.to_owned(),
        }),
    }
}

/// As [`bind`], for this user alone.
///
/// # Errors
/// As [`bind`].
pub fn bind_private(path: &Path) -> Result<UnixListener, Error> {
    bind(path, Access::private(None))
}

fn listen(path: &Path, access: Access) -> io::Result<UnixListener> {
    let socket = bind_deaf(path, access)?;
    socket::listen(&socket, Backlog::new(WAITING)?)?;
    Ok(UnixListener::from(socket))
}

/// A socket at `path` that does not listen yet, so that whoever connects is refused.
fn bind_deaf(path: &Path, access: Access) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    if let Some(mode) = access.mode {
        // The file is born with the socket's own mode, less the umask.
        nix::sys::stat::fchmod(&socket, Mode::from_bits_truncate(mode))?;
    }
    let address = UnixAddr::new(path).map_err(|errno| match errno {
        nix::errno::Errno::ENAMETOOLONG => io::Error::new(
            ErrorKind::InvalidInput,
            "a socket's path has at most 107 bytes",
        ),
        other => other.into(),
    })?;
    socket::bind(socket.as_raw_fd(), &address)?;
    if access != Access::default()
        && let Err(error) = settle(path, access)
    {
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok(socket)
}

/// Gives the file what the umask kept from it, and its owner. By a descriptor, because whoever may write to the directory
/// could put a link to another file in its place.
fn settle(path: &Path, access: Access) -> io::Result<()> {
    let place = File::options()
        .read(true)
        .custom_flags(nix::libc::O_PATH | nix::libc::O_NOFOLLOW)
        .open(path)?;
    let meta = place.metadata()?;
    if !meta.file_type().is_socket() {
        return Err(ErrorKind::NotFound.into());
    }
    if let Some((user, group)) = access.owner {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        nix::unistd::fchownat(&place, c"", Some(user), Some(group), AtFlags::AT_EMPTY_PATH)?;
    }
    match access.mode {
        Some(mode) if meta.permissions().mode() & 0o777 != mode => {
            let again = format!("/proc/self/fd/{}", place.as_raw_fd());
            std::fs::set_permissions(again, Permissions::from_mode(mode))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn nobody_connects_before_the_file_has_its_final_mode() {
        let folder = tempfile::tempdir().unwrap();
        for asked in [0o600, 0o660, 0o666, 0o640] {
            let path = folder.path().join(format!("{asked:o}"));
            let access = Access {
                mode: Some(asked),
                owner: None,
            };
            let socket = bind_deaf(&path, access).unwrap();
            assert_eq!(mode(&path), asked);
            let early = UnixStream::connect(&path).unwrap_err();
            assert_eq!(early.kind(), ErrorKind::ConnectionRefused);
            drop(socket);
            let _listener = bind(&path, access).unwrap();
            assert_eq!(mode(&path), asked);
            UnixStream::connect(&path).unwrap();
        }
    }

    #[test]
    fn the_file_is_born_with_its_mode_even_if_the_umask_would_let_more_pass() {
        // Only the first step, before the mode is looked at again.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let socket = socket::socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        );
        let socket = socket.unwrap();
        nix::sys::stat::fchmod(&socket, Mode::from_bits_truncate(0o600)).unwrap();
        socket::bind(socket.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        assert_eq!(mode(&path) & 0o077, 0);
    }

    #[test]
    fn a_socket_is_given_to_its_owner() {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIPS ITSELF a_socket_is_given_to_its_owner: only root gives files away");
            return;
        }
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let _listener = bind(&path, Access::private(Some((12345, 54321)))).unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.gid(), mode(&path)), (12345, 54321, 0o600));
    }

    #[test]
    fn a_path_that_is_too_long_is_said_to_be() {
        let path = Path::new("/tmp").join("x".repeat(120));
        let error = bind(&path, Access::default()).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("107 bytes"), "{cause}");
    }
}
