//! Where a device's front-end finds it.
//!
//! Rule: exactly one way is given; a descriptor from outside is looked at before it is owned.

use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use clap::Args;
use control_protocol::Access;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::SockaddrLike;
use nix::sys::socket::SockaddrStorage;
use nix::sys::socket::getpeername;
use nix::sys::socket::getsockname;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::AcceptConn;
use nix::sys::socket::sockopt::SockType;
use serde::Deserialize;
use serde::Serialize;

use crate::Error;

/// First descriptor that systemd passes (sd_listen_fds(3)).
const LISTEN_FDS_START: RawFd = 3;

/// Where to meet the front-end; exactly one way, or a socket from systemd (LISTEN_FDS).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[group(id = "socket")]
pub struct SocketSpec {
    /// Listen on this Unix socket; a stale socket file is replaced.
    #[arg(long, value_name = "PATH", help_heading = "Socket")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_path: Option<PathBuf>,
    /// Serve on this inherited descriptor: a Unix socket that listens, or one that is connected (then once).
    #[arg(long, value_name = "N", help_heading = "Socket")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fd: Option<RawFd>,
    /// Connect to a front-end that listens on this Unix socket, again and again.
    #[arg(long, value_name = "PATH", help_heading = "Socket")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<PathBuf>,
    /// Permissions of the socket file, octal, for example 660 [default: by umask].
    #[arg(long, value_name = "MODE", value_parser = parse_mode, help_heading = "Socket")]
    #[serde(skip_serializing_if = "Option::is_none", with = "octal")]
    pub socket_mode: Option<u32>,
}

/// What came of a [`SocketSpec`].
#[derive(Debug)]
pub enum Endpoint {
    /// Accept front-ends here; the path is ours to remove at the end.
    Listen(UnixListener, Option<PathBuf>),
    /// Connect to a front-end there.
    Connect(PathBuf),
    /// The front-end is connected already.
    Connected(UnixStream),
}

/// Sockets that systemd handed over. A device takes the one that has its name (FileDescriptorName=); one without such a
/// name goes to the next device that needs a socket.
#[derive(Debug, Default)]
pub struct Inherited {
    left: Vec<Handed>,
    /// Names of all devices: a socket that has one of them is kept for that device.
    devices: Vec<String>,
}

#[derive(Debug)]
struct Handed {
    fd: RawFd,
    name: String,
}

impl Handed {
    /// systemd names a socket after its unit if nobody else does, or says that there is no name.
    fn has_no_name(&self) -> bool {
        matches!(&*self.name, "" | "unknown" | "connection" | "stored")
            || self.name.ends_with(".socket")
    }
}

impl Inherited {
    /// Reads LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, for `devices`.
    pub fn from_environment(devices: Vec<String>) -> Self {
        let number = |name: &str| {
            std::env::var(name)
                .ok()
                .and_then(|text| text.parse::<u32>().ok())
        };
        let ours = number("LISTEN_PID") == Some(std::process::id());
        let count = if ours {
            number("LISTEN_FDS").unwrap_or(0)
        } else {
            0
        };
        let count = RawFd::try_from(count.min(1024)).unwrap_or(0);
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let fds = LISTEN_FDS_START..LISTEN_FDS_START + count;
        Self::new(fds, &names, devices)
    }

    fn new(fds: impl IntoIterator<Item = RawFd>, names: &str, devices: Vec<String>) -> Self {
        let mut names = names.split(':').map(str::to_owned);
        let left = fds.into_iter().map(|fd| Handed {
            fd,
            name: names.next().unwrap_or_default(),
        });
        let left = left.collect();
        Self { left, devices }
    }

    /// The socket of `device`, if there is one.
    fn take(&mut self, device: &str) -> Result<Option<RawFd>, String> {
        if self.left.is_empty() {
            return Ok(None);
        }
        let find = |wanted: &dyn Fn(&Handed) -> bool| self.left.iter().position(wanted);
        let nobodys = |handed: &Handed| !self.devices.contains(&handed.name);
        let at = find(&|handed| handed.name == device)
            .or_else(|| find(&Handed::has_no_name))
            // A device that nobody named takes what nobody else is named after.
            .or_else(|| find(&nobodys).filter(|_| is_default_name(device)));
        match at {
            Some(at) => Ok(Some(self.left.remove(at).fd)),
            None => Err(format!(
                "of the sockets that systemd passed, named {}, none is its own: set FileDescriptorName={device} in its \
                 socket unit",
                self.names()
            )),
        }
    }

    /// Every socket must have found its device: a front-end would wait for ever on one that has not.
    ///
    /// # Errors
    /// One is left.
    pub fn finish(&self) -> Result<(), Error> {
        let Some(first) = self.left.first() else {
            return Ok(());
        };
        Err(Error::Socket {
            device: first.name.clone(),
            message: format!(
                "there is no such device, or it has a socket already, but systemd passed sockets named {}: give \
                 FileDescriptorName= in each socket unit the name of its device",
                self.names()
            ),
        })
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.left.iter().map(|handed| &*handed.name).collect();
        names.join(", ")
    }
}

/// device1, device2, ...
fn is_default_name(device: &str) -> bool {
    let number = device.strip_prefix("device");
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

impl SocketSpec {
    /// Opens the endpoint of `device`; a socket file is given to `owner`.
    ///
    /// # Errors
    /// No way or two ways are given, or the one given cannot be had.
    pub fn open(
        &self,
        device: &str,
        inherited: &mut Inherited,
        owner: Option<(u32, u32)>,
    ) -> Result<Endpoint, Error> {
        let fault = |message: &str| Error::Socket {
            device: device.to_owned(),
            message: message.to_owned(),
        };
        if self.socket_mode.is_some() && self.socket_path.is_none() {
            return Err(fault("socket-mode needs socket-path"));
        }
        match (&self.socket_path, self.fd, &self.connect) {
            (Some(path), None, None) => {
                let mode = self.socket_mode;
                let listener = control_protocol::bind(path, Access { mode, owner })?;
                Ok(Endpoint::Listen(listener, Some(path.clone())))
            }
            (None, Some(fd), None) => adopt(fd).map_err(|why| fault(&why)),
            (None, None, Some(path)) => Ok(Endpoint::Connect(path.clone())),
            (None, None, None) => match inherited.take(device).map_err(|why| fault(&why))? {
                Some(fd) => adopt(fd).map_err(|why| fault(&why)),
                None => Err(fault(
                    "no socket: give socket-path, fd or connect, or start it by a systemd socket unit",
                )),
            },
            _ => Err(fault(
                "socket-path, fd and connect exclude each other: give one",
            )),
        }
    }
}

/// Takes over the inherited descriptor `fd`.
#[expect(
    unsafe_code,
    reason = "a descriptor number from outside becomes an owned descriptor"
)]
fn adopt(fd: RawFd) -> Result<Endpoint, String> {
    if fd <= 2 {
        return Err(format!(
            "descriptor {fd} is a standard stream, not a socket for a front-end"
        ));
    }
    // SAFETY: only queried below before it is owned; a bad number makes the query fail.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let listens = getsockopt(&borrowed, AcceptConn)
        .map_err(|errno| format!("descriptor {fd} is no socket ({errno}): pass a Unix socket"))?;
    let name: Result<SockaddrStorage, _> = getsockname(fd);
    let unix = name.is_ok_and(|name| name.family() == Some(AddressFamily::Unix));
    let stream = getsockopt(&borrowed, SockType) == Ok(nix::sys::socket::SockType::Stream);
    if !unix || !stream {
        return Err(format!("descriptor {fd} is no Unix stream socket"));
    }
    let connected = getpeername::<SockaddrStorage>(fd).is_ok();
    if !listens && !connected {
        return Err(format!(
            "descriptor {fd} neither listens nor is connected: call listen() first"
        ));
    }
    // SAFETY: the descriptor is open and was handed to this process for this use; nothing else in it owns the number.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    let _ = nix::fcntl::fcntl(
        &owned,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    );
    Ok(if listens {
        Endpoint::Listen(UnixListener::from(owned), None)
    } else {
        Endpoint::Connected(UnixStream::from(owned))
    })
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text.trim_start_matches("0o"), 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err(format!("{text:?} is no permission, write for example 660")),
    }
}

mod octal {
    //! Permissions as the octal string that people write.

    use serde::Deserialize;
    use serde::Deserializer;
    use serde::Serializer;

    #[expect(clippy::ref_option, reason = "serde's `with` prescribes the signature")]
    pub fn serialize<S: Serializer>(mode: &Option<u32>, out: S) -> Result<S::Ok, S::Error> {
        match mode {
            Some(mode) => out.collect_str(&format_args!("{mode:o}")),
            None => out.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Option<u32>, D::Error> {
        let text = String::deserialize(input)?;
        super::parse_mode(&text)
            .map(Some)
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
#[path = "sockets_tests.rs"]
mod tests;
