//! Sockets to listen on.
//!
//! Rule: a socket file that nobody listens on is in the way and is replaced; one that somebody listens on never is.

use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::Error;

/// Listens on `path`, over a stale socket file if need be.
///
/// # Errors
/// Somebody listens there, or something else is there, or the directory does not let us.
pub fn bind(path: &Path) -> Result<UnixListener, Error> {
    let fail = |source| Error::Bind {
        path: path.to_owned(),
        source,
    };
    match UnixListener::bind(path) {
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
            UnixListener::bind(path).map_err(fail)
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
    let listener = bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(|source| {
        Error::Bind {
            path: path.to_owned(),
            source,
        }
    })?;
    Ok(listener)
}
