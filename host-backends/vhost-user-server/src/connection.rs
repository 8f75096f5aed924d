//! Framed messages over a stream socket. One rule: nothing here blocks past a shutdown, and every descriptor received
//! is owned from its first moment, so that a message dropped at any point closes them.

use crate::ShutdownHandle;
use host_os::EventFd;
use host_os::socket;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use vhost_user_protocol::HEADER_SIZE;
use vhost_user_protocol::Header;
use vhost_user_protocol::MAX_FDS;

/// Why a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The front-end closed the connection.
    Closed,
    /// The server is shutting down.
    Shutdown,
    /// The front-end broke the framing.
    Framing(vhost_user_protocol::Error),
    /// The front-end sent more descriptors than any message has.
    TooManyFds,
    /// The front-end truncated memory under us.
    Poisoned,
    /// A queue cannot be served by this process any more.
    Lost,
    /// A request failed whose failure the front-end cannot be told.
    Refused(&'static str),
    /// The socket failed.
    Socket(io::Error),
}

/// One message as it came.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
    /// Others came with it for which this process had no room.
    pub(crate) fds_lost: bool,
}

/// What the wait for a message ended with.
#[derive(Debug)]
pub(crate) enum Event {
    Message(Incoming),
    /// A worker ended by itself.
    WorkerEnded,
    /// Another front-end waits for this one to leave; said once.
    AnotherWaits,
}

/// The socket, and what else ends a wait.
pub(crate) struct Connection {
    stream: UnixStream,
    shutdown: ShutdownHandle,
    worker_ended: Arc<EventFd>,
    /// Where others come in, until one was seen there.
    listener: Option<UnixListener>,
    buffer: Vec<u8>,
    fds: Vec<OwnedFd>,
    fds_lost: bool,
}

impl Connection {
    pub(crate) fn new(
        (stream, listener): (UnixStream, Option<UnixListener>),
        shutdown: ShutdownHandle,
        worker_ended: Arc<EventFd>,
    ) -> Self {
        Self {
            stream,
            shutdown,
            worker_ended,
            listener,
            buffer: Vec::new(),
            fds: Vec::new(),
            fds_lost: false,
        }
    }

    /// Waits for a whole message or another event. A message half received stays buffered meanwhile.
    pub(crate) fn next_event(&mut self) -> Result<Event, End> {
        loop {
            let wanted = match self.wanted()? {
                0 => return Ok(Event::Message(self.take_message()?)),
                wanted => wanted,
            };
            match self.wait(PollFlags::POLLIN, true)? {
                Ready::Socket => self.fill(wanted)?,
                Ready::Worker => return Ok(Event::WorkerEnded),
                Ready::Another => {
                    self.listener = None;
                    return Ok(Event::AnotherWaits);
                }
            }
        }
    }

    /// Bytes missing from the message at hand.
    fn wanted(&self) -> Result<usize, End> {
        if self.buffer.len() < HEADER_SIZE {
            return Ok(HEADER_SIZE - self.buffer.len());
        }
        let header = Header::decode(&self.buffer).map_err(End::Framing)?;
        if header.flags.is_reply() {
            return Err(End::Framing(vhost_user_protocol::Error::ReplyFlag(
                header.flags.0,
            )));
        }
        Ok((HEADER_SIZE + header.size as usize).saturating_sub(self.buffer.len()))
    }

    fn take_message(&mut self) -> Result<Incoming, End> {
        let header = Header::decode(&self.buffer).map_err(End::Framing)?;
        let payload = self.buffer.split_off(HEADER_SIZE.min(self.buffer.len()));
        self.buffer.clear();
        Ok(Incoming {
            header,
            payload,
            fds: std::mem::take(&mut self.fds),
            fds_lost: std::mem::take(&mut self.fds_lost),
        })
    }

    /// Reads at most the bytes of this message, so that descriptors of the next one do not mix in.
    fn fill(&mut self, wanted: usize) -> Result<(), End> {
        let old = self.buffer.len();
        self.buffer.resize(old + wanted, 0);
        let target = self.buffer.get_mut(old..).unwrap_or(&mut []);
        let result = socket::receive(self.stream.as_fd(), target, &mut self.fds);
        let got = match &result {
            Ok(received) => {
                self.fds_lost |= received.fds_lost;
                received.bytes
            }
            Err(_) => 0,
        };
        self.buffer.truncate(old + got);
        if self.fds.len() > MAX_FDS {
            return Err(End::TooManyFds);
        }
        match result {
            Ok(_) if got == 0 => Err(End::Closed),
            Ok(_) => Ok(()),
            Err(error) if is_transient(&error) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(End::Closed),
            Err(error) => Err(End::Socket(error)),
        }
    }

    /// Sends all of `bytes`, with `fds` on the first of them.
    pub(crate) fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), End> {
        let mut rest = bytes;
        let mut fds = fds;
        while !rest.is_empty() {
            match socket::send(self.stream.as_fd(), rest, fds) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or(&[]);
                    fds = &[];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::POLLOUT, false)?;
                }
                Err(error) if is_transient(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(End::Closed),
                Err(error) => return Err(End::Socket(error)),
            }
        }
        Ok(())
    }

    /// Waits for the socket or the end; with `events`, also for what else a session has to do with.
    fn wait(&self, flags: PollFlags, events: bool) -> Result<Ready, End> {
        loop {
            let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let shutdown = self.shutdown.as_fd();
            let listener = self.listener.as_ref();
            let mut fds = [
                PollFd::new(self.stream.as_fd(), flags),
                readable(shutdown),
                readable(self.worker_ended.as_fd()),
                readable(listener.map_or(shutdown, |listener| listener.as_fd())),
            ];
            let watched = if events {
                fds.as_mut_slice()
            } else {
                fds.split_at_mut(2).0
            };
            match nix::poll::poll(watched, PollTimeout::NONE) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(End::Socket(errno.into())),
            }
            let [socket, _, worker, another] = fds.map(|fd| fd.any().unwrap_or(false));
            if self.shutdown.is_shutdown() {
                return Err(End::Shutdown);
            }
            if events && worker {
                self.worker_ended.drain();
                return Ok(Ready::Worker);
            }
            if socket {
                return Ok(Ready::Socket);
            }
            if events && another {
                return Ok(Ready::Another);
            }
        }
    }
}

enum Ready {
    Socket,
    Worker,
    Another,
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
