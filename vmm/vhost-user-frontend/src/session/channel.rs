//! Moves whole messages over the socket, with a deadline. Rule: a peer that sends more descriptors, more bytes or
//! less than it announced ends the connection, and whatever it sent is closed.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::Weak;
use std::time::Duration;
use std::time::Instant;

use host_os::socket;
use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use vhost_user_protocol::HEADER_SIZE;
use vhost_user_protocol::Header;

use crate::Error;
use crate::Result;

/// One end of a vhost-user connection.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: Arc<UnixStream>,
}

/// A received message.
#[derive(Debug)]
pub(crate) struct Received {
    pub header: Header,
    pub payload: Vec<u8>,
    pub file: Option<File>,
}

/// A point in time and the wait that led to it, for the error message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Instant,
    wait: Duration,
}

impl Deadline {
    pub(crate) fn after(wait: Duration) -> Self {
        let at = Instant::now() + wait;
        Self { at, wait }
    }
}

impl Channel {
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let connect = |path: &Path| {
            let stream = UnixStream::connect(path)?;
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        match connect(path) {
            Ok(stream) => Ok(Self {
                stream: Arc::new(stream),
            }),
            Err(source) => Err(Error::Connect {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Two connected ends; the second is to be sent to the backend.
    pub(crate) fn pair() -> io::Result<(Self, UnixStream)> {
        let (stream, other) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        let stream = Arc::new(stream);
        Ok((Self { stream }, other))
    }

    /// The socket, for whoever has to cut the connection from outside.
    pub(crate) fn stream(&self) -> Weak<UnixStream> {
        Arc::downgrade(&self.stream)
    }

    /// Makes every wait on this connection end now, in whatever thread it is.
    pub(crate) fn shut_down(&self) {
        // An error means that the peer has gone already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    pub(crate) fn send(
        &self,
        bytes: &[u8],
        fds: &[BorrowedFd<'_>],
        deadline: Deadline,
    ) -> Result<()> {
        let mut rest = bytes;
        let mut fds = fds;
        while !rest.is_empty() {
            match socket::send(self.as_fd(), rest, fds) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    fds = &[];
                }
                Err(error) => self.retry(error, PollFlags::POLLOUT, Some(deadline))?,
            }
        }
        Ok(())
    }

    /// Receives one message; waits for ever without a deadline.
    pub(crate) fn receive(&self, deadline: Option<Deadline>) -> Result<Received> {
        let mut file = None;
        let mut head = [0; HEADER_SIZE];
        self.fill(&mut head, &mut file, deadline)?;
        let header = Header::decode(&head)?;
        // `decode` bounds the size to a page.
        let mut payload = vec![0; usize::try_from(header.size).unwrap_or(0)];
        self.fill(&mut payload, &mut file, deadline)?;
        Ok(Received {
            header,
            payload,
            file,
        })
    }

    fn fill(
        &self,
        buffer: &mut [u8],
        file: &mut Option<File>,
        deadline: Option<Deadline>,
    ) -> Result<()> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..)
            && !rest.is_empty()
        {
            let mut fds = Vec::new();
            match socket::receive(self.as_fd(), rest, &mut fds) {
                Ok(received) if received.bytes == 0 => return Err(Error::Disconnected),
                Ok(received) => {
                    filled += received.bytes;
                    // A later one replaces, and so closes, those before; the caller checks whether it wants any.
                    if let Some(fd) = fds.pop() {
                        *file = Some(fd.into());
                    }
                }
                Err(error) => self.retry(error, PollFlags::POLLIN, deadline)?,
            }
        }
        Ok(())
    }

    fn retry(&self, error: io::Error, events: PollFlags, deadline: Option<Deadline>) -> Result<()> {
        match error.kind() {
            io::ErrorKind::Interrupted => Ok(()),
            io::ErrorKind::WouldBlock => self.wait(events, deadline),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Err(Error::Disconnected),
            _ => Err(Error::Socket(error)),
        }
    }

    fn wait(&self, events: PollFlags, deadline: Option<Deadline>) -> Result<()> {
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(deadline) => {
                let left = deadline.at.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(Error::Timeout(deadline.wait));
                }
                // Rounded up, so that the last millisecond is not spent in a loop.
                PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut fds = [PollFd::new(self.stream.as_fd(), events)];
        match nix::poll::poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Error::Socket(errno.into())),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
