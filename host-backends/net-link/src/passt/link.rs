//! The link to passt.
//!
//! Rule: a lost connection is told once, tried again once a second, and told when it is back. A passt of ours that
//! hangs counts as lost.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use guest_memory::IoVecs;
use host_os::EventFd;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::ClockId;
use nix::sys::timerfd::Expiration;
use nix::sys::timerfd::TimerFd;
use nix::sys::timerfd::TimerFlags;
use nix::sys::timerfd::TimerSetTimeFlags;

use crate::Capabilities;
use crate::Error;
use crate::HEADER_BYTES;
use crate::Link;
use crate::Offloads;
use crate::Received;
use crate::Sent;
use crate::Watch;
use crate::passt::Source;
use crate::passt::inlet::Inlet;
use crate::passt::inlet::Next;
use crate::passt::outlet;
use crate::passt::outlet::Outlet;
use crate::ready::Ready;
use crate::spans;

/// passt drops frames that are longer (ETH_MAX_MTU in its source).
const MAX_FRAME: usize = 65_535;
const RETRY: Duration = Duration::from_millis(300);
const SOCKET_BUFFER: usize = 4 << 20;
/// A passt that neither takes nor gives a byte for this long, with frames waiting for it, hangs.
const HANG: Duration = Duration::from_secs(10);

/// The link to passt.
pub(crate) struct PasstLink {
    /// `None` while the connection is lost.
    stream: Option<UnixStream>,
    source: Source,
    inlet: Inlet,
    outlet: Outlet,
    ready: Ready,
    /// Signalled while frames wait in the inlet, where the socket no longer shows them.
    more: EventFd,
    has_more: bool,
    /// Runs while the connection is lost.
    retry: TimerFd,
    /// Since when frames have waited for passt while none came from it.
    idle: Option<Instant>,
    watch: Option<Arc<dyn Watch>>,
}

impl PasstLink {
    pub fn new(stream: UnixStream, source: Source) -> Result<Self, Error> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let retry = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)
            .map_err(Error::system("timerfd_create"))?;
        let more = EventFd::new().map_err(|source| Error::System {
            call: "eventfd",
            source: io::Error::other(source),
        })?;
        let ready = Ready::new()?;
        for fd in [retry.as_fd(), more.as_fd()] {
            ready.add(fd).map_err(Error::system("epoll_ctl"))?;
        }
        let mut link = Self {
            stream: None,
            source,
            inlet: Inlet::new(),
            outlet: Outlet::default(),
            ready,
            more,
            has_more: false,
            retry,
            idle: None,
            watch: None,
        };
        link.take_up(stream).map_err(|source| Error::System {
            call: "setting up the socket",
            source,
        })?;
        Ok(link)
    }

    /// Begins anew with a connection.
    fn take_up(&mut self, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        // The kernel gives what it allows; more room means fewer frames that wait.
        let _ = nix::sys::socket::setsockopt(
            &stream,
            nix::sys::socket::sockopt::SndBuf,
            &SOCKET_BUFFER,
        );
        self.inlet.clear();
        self.outlet.clear();
        self.idle = None;
        self.ready.add(stream.as_fd())?;
        self.stream = Some(stream);
        Ok(())
    }

    fn lose(&mut self, why: &str) {
        let Some(stream) = self.stream.take() else {
            return;
        };
        self.ready.remove(stream.as_fd());
        drop(stream);
        self.outlet.clear();
        let path = self.source.path().display();
        tracing::warn!(%path, why, "The connection to passt is lost");
        if let Some(watch) = &self.watch {
            watch.lost();
        }
        if self.source.may_return() {
            self.source.revive();
            let interval = Expiration::Interval(TimeSpec::from(RETRY));
            let _ = self.retry.set(interval, TimerSetTimeFlags::empty());
        }
    }

    /// Tries to connect again when it is time.
    fn try_again(&mut self) {
        if self.stream.is_some() || !matches!(nix::unistd::read(&self.retry, &mut [0; 8]), Ok(8)) {
            return;
        }
        let connected = match self.source.reconnect() {
            Ok(stream) => self.take_up(stream),
            Err(error) => Err(error),
        };
        match connected {
            Ok(()) => {
                let _ = self.retry.unset();
                tracing::info!("The connection to passt is back");
                if let Some(watch) = &self.watch {
                    watch.restored();
                }
            }
            Err(_) => self.source.revive(),
        }
    }

    /// Lets [`Link::ready_fd`] tell of frames that were read from the socket already.
    fn show_more(&mut self, has_more: bool) {
        match (self.has_more, has_more) {
            (false, true) => self.more.notify(),
            (true, false) => self.more.drain(),
            _ => true,
        };
        self.has_more = has_more;
    }

    /// Writes what waits; whether everything went.
    fn write(&mut self) -> bool {
        let Some(stream) = &self.stream else {
            self.outlet.clear();
            return true;
        };
        let before = self.outlet.behind();
        let was_behind = before > 0;
        match self.outlet.flush(stream.as_fd()) {
            Ok(gone) => {
                if self.outlet.behind() < before {
                    self.idle = None;
                }
                if was_behind && gone {
                    let _ = self.ready.has_room(stream.as_fd());
                } else if !was_behind && !gone {
                    let _ = self.ready.want_room(stream.as_fd());
                }
                gone
            }
            // Bytes that cannot be read from the guest's memory were announced by a length: out of step.
            Err(errno) => {
                self.lose(errno.desc());
                true
            }
        }
    }
}

impl PasstLink {
    /// Nothing came from passt just now: gives it up when that has been so for long, and it takes nothing either.
    fn look_whether_it_hangs(&mut self) {
        if !self.outlet.is_behind() || !self.source.is_child() {
            return;
        }
        let since = *self.idle.get_or_insert_with(Instant::now);
        if since.elapsed() >= HANG {
            self.lose("it hangs");
        }
    }
}

impl Link for PasstLink {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            vnet_header: false,
            offloads: Offloads {
                csum: true,
                ..Offloads::NONE
            },
            receive_offloads: Offloads::NONE,
            max_frame: MAX_FRAME,
            max_pairs: 1,
        }
    }

    fn send(&mut self, head: &[u8], rest: &IoVecs) -> Result<Sent, Error> {
        let length = head.len() + rest.total_len();
        let own = length.saturating_sub(HEADER_BYTES);
        let spans = rest.as_slice().len();
        let fits = head.len() >= HEADER_BYTES && (14..=MAX_FRAME).contains(&own);
        if self.stream.is_none() || !fits || spans >= outlet::MAX_SPANS {
            return Ok(Sent::Dropped);
        }
        if self.outlet.is_full(length, spans) {
            self.write();
        }
        if self.outlet.is_behind() {
            return Ok(Sent::Full);
        }
        self.outlet.push(head, rest);
        Ok(Sent::Sent)
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.write();
        Ok(())
    }

    fn receive(&mut self, into: &IoVecs, behind: &mut [u8]) -> Result<Received, Error> {
        self.try_again();
        loop {
            match self.inlet.next() {
                Next::Frame(frame) => {
                    let length = frame.len();
                    let bytes = self.inlet.bytes(frame.clone());
                    let fits = spans::write(into, behind, &[&[0; HEADER_BYTES], bytes]);
                    self.inlet.take(frame);
                    if fits {
                        self.show_more(matches!(self.inlet.next(), Next::Frame(_)));
                        return Ok(Received::Frame(HEADER_BYTES + length));
                    }
                }
                Next::OutOfStep(length) => {
                    self.inlet.clear();
                    self.lose(&format!("a frame of {length} bytes was announced"));
                }
                Next::Nothing => {
                    self.show_more(false);
                    let Some(stream) = &mut self.stream else {
                        return Ok(Received::Empty);
                    };
                    match self.inlet.fill(stream) {
                        Ok(0) => self.lose("passt closed it"),
                        Ok(_) => self.idle = None,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            self.look_whether_it_hangs();
                            return Ok(Received::Empty);
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => self.lose(&error.to_string()),
                    }
                }
            }
        }
    }

    fn set_offloads(&mut self, _offloads: Offloads) -> Result<(), Error> {
        Ok(())
    }

    fn watch(&mut self, watch: Arc<dyn Watch>) {
        self.watch = Some(watch);
    }

    fn ready_fd(&self) -> BorrowedFd<'_> {
        self.ready.fd()
    }
}
