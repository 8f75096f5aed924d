//! passt: networking for guests without any privilege on the host.
//!
//! Rule: we speak the stream protocol that QEMU's socket network device made: each frame behind its length in four
//! bytes, big-endian, and no virtio-net header (passt(1), checked against 2023-03-09 of Debian 12).
//!
//! passt answers ARP, NDP, DHCP and DHCPv6 itself and turns the guest's TCP, UDP and ICMP into sockets of the host.
//! It does not look at transport checksums, so partial ones are left to it.

mod child;
mod inlet;
mod link;
mod outlet;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::Error;
use crate::Link;
use crate::PasstSpec;
use crate::tap::check_pairs;
use child::Child;
use link::PasstLink;

/// Starts or finds passt and connects to it.
pub(crate) fn open(spec: &PasstSpec, pairs: u16) -> Result<Vec<Box<dyn Link>>, Error> {
    check_pairs(&spec.to_string(), 1, pairs)?;
    let source = match &spec.socket {
        Some(path) => Source::Socket(path.clone()),
        None => Source::Child(Child::start(spec)?),
    };
    let stream = source.connect().map_err(|error| match &source {
        Source::Child(child) => child.explain(error),
        _ => Error::Open {
            link: spec.to_string(),
            source: error,
        },
    })?;
    Ok(vec![Box::new(PasstLink::new(stream, source)?)])
}

/// Uses a connected stream socket that was inherited.
pub(crate) fn adopt(fd: OwnedFd) -> Result<Vec<Box<dyn Link>>, Error> {
    let link = PasstLink::new(UnixStream::from(fd), Source::Inherited)?;
    Ok(vec![Box::new(link)])
}

/// Where a connection comes from, and another one after it is lost.
enum Source {
    /// We started passt and can start it again.
    Child(Child),
    /// Somebody else's passt; it listens again when we were cut off.
    Socket(std::path::PathBuf),
    /// There was one descriptor, and there is no other.
    Inherited,
}

impl Source {
    /// The first connection; waits for a child that is starting.
    fn connect(&self) -> io::Result<UnixStream> {
        match self {
            Self::Child(child) => child.connect(),
            Self::Socket(path) => UnixStream::connect(path),
            Self::Inherited => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Another connection, if it can be had at once.
    fn reconnect(&mut self) -> io::Result<UnixStream> {
        let Self::Child(child) = self else {
            return self.connect();
        };
        let stream = UnixStream::connect(child.socket())?;
        child.is_up();
        Ok(stream)
    }

    /// The connection is lost: a child is started again.
    fn revive(&mut self) {
        if let Self::Child(child) = self {
            child.revive();
        }
    }

    /// Whether it makes sense to try again.
    fn may_return(&self) -> bool {
        !matches!(self, Self::Inherited)
    }

    /// Whether it may be ended to start it again.
    fn is_child(&self) -> bool {
        matches!(self, Self::Child(_))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Child(child) => child.socket(),
            Self::Socket(path) => path,
            Self::Inherited => Path::new("inherited"),
        }
    }
}
