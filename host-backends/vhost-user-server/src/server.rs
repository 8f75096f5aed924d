//! Serving a device: accepting or making connections, one front-end at a time, for ever. One rule: whatever ends a
//! session, a panic included, the next one finds the device reset and is served.

use crate::Error;
use crate::Options;
use crate::ShutdownHandle;
use crate::Statistics;
use crate::connection::End;
use crate::session::Session;
use crate::statistics::Shared;
use device_model::Device;
use host_os::error_chain;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// First wait between two tries to connect or accept; doubles up to the longest.
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// Serves one device to one front-end at a time.
pub struct Server {
    device: Arc<dyn Device>,
    options: Options,
    shutdown: ShutdownHandle,
    shared: Arc<Shared>,
}

impl Server {
    /// A server for `device`.
    ///
    /// # Errors
    /// When the device has more queues than the protocol can name, or descriptors run out.
    pub fn new(device: Arc<dyn Device>, options: Options) -> Result<Self, Error> {
        Self::with_shutdown(device, options, ShutdownHandle::new()?)
    }

    /// As [`Self::new`], stopped by a handle that may be shared between servers.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn with_shutdown(
        device: Arc<dyn Device>,
        options: Options,
        shutdown: ShutdownHandle,
    ) -> Result<Self, Error> {
        if !(1..=256).contains(&device.queue_count()) {
            return Err(Error::Device("no queues, or more than 256"));
        }
        if !device.queue_size_max().is_power_of_two() || device.queue_size_max() > 32768 {
            return Err(Error::Device(
                "a largest queue size that is no power of two up to 32768",
            ));
        }
        let shared = Arc::new(Shared::new(device.queue_count()));
        Ok(Self {
            device,
            options,
            shutdown,
            shared,
        })
    }

    /// Stops the server from any thread: queues drain, `serve` returns.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.shutdown.clone()
    }

    /// Numbers for status and metrics; callable from any thread.
    pub fn statistics(&self) -> Statistics {
        self.shared.snapshot()
    }

    /// Accepts front-ends one after the other until shut down. A second one waits in the listener's queue until the
    /// first has gone.
    ///
    /// # Errors
    /// When the listener itself fails, or a queue is lost ([`Error::Lost`]).
    pub fn serve(&self, listener: &UnixListener) -> Result<(), Error> {
        let failed = |call| move |source| Error::Socket { call, source };
        listener.set_nonblocking(true).map_err(failed("fcntl"))?;
        let mut back_off = BACK_OFF_MIN;
        while self.wait_for(listener) {
            match listener.accept() {
                Ok((stream, _)) => {
                    back_off = BACK_OFF_MIN;
                    // Without a second descriptor of the listener nobody is told of others who wait.
                    self.serve_one(stream, listener.try_clone().ok())?;
                }
                Err(error) if is_harmless(&error) => {}
                // Others may give some back.
                Err(error) if is_shortage(&error) => {
                    self.note_shortage(&error);
                    self.pause(&mut back_off);
                }
                Err(error) => return Err(failed("accept")(error)),
            }
        }
        Ok(())
    }

    /// Connects to a front-end that listens at `path`, and again whenever the connection ends, until shut down.
    ///
    /// # Errors
    /// When a queue is lost ([`Error::Lost`]); a refused connection is tried again.
    pub fn serve_connecting(&self, path: &Path) -> Result<(), Error> {
        let mut back_off = BACK_OFF_MIN;
        let mut told = false;
        while !self.shutdown.is_shutdown() {
            match UnixStream::connect(path) {
                Ok(stream) => {
                    (back_off, told) = (BACK_OFF_MIN, false);
                    self.serve_stream(stream)?;
                    // A front-end that accepts and closes at once must not make us spin.
                    self.sleep(BACK_OFF_MIN);
                }
                Err(error) => {
                    // Once until it was there: the path may be wrong, and nothing else would say so.
                    if !std::mem::replace(&mut told, true) {
                        let (name, path) = (&self.options.name, path.display());
                        tracing::warn!(
                            device = name,
                            "No front-end at {path} yet: {error}; trying again"
                        );
                    }
                    self.pause(&mut back_off);
                }
            }
        }
        Ok(())
    }

    /// Serves one connection until it ends or the server is shut down.
    ///
    /// # Errors
    /// When a queue is lost ([`Error::Lost`]), and with it the device.
    pub fn serve_stream(&self, stream: UnixStream) -> Result<(), Error> {
        self.serve_one(stream, None)
    }

    /// A front-end waits, and this process cannot take it.
    fn note_shortage(&self, error: &io::Error) {
        if let Some(suppressed) = self.shared.admit_log() {
            tracing::warn!(
                device = self.options.name,
                suppressed,
                "A front-end waits and cannot be accepted: {error} (RLIMIT_NOFILE, memory); trying again"
            );
        }
    }

    fn serve_one(&self, stream: UnixStream, listener: Option<UnixListener>) -> Result<(), Error> {
        let name = &self.options.name;
        self.shared.sessions.fetch_add(1, Ordering::Relaxed);
        self.shared.connected.store(true, Ordering::Relaxed);
        let log = self.shared.admit_log();
        if let Some(suppressed) = log {
            tracing::info!(device = name, suppressed, "Front-end connected");
        }
        let end = catch_unwind(AssertUnwindSafe(|| self.run_session((stream, listener))));
        self.shared.connected.store(false, Ordering::Relaxed);
        self.shared.waiting.store(false, Ordering::Relaxed);
        match end {
            Ok(Ok(_)) if log.is_none() => {}
            Ok(Ok(end)) => log_end(name, &end),
            Ok(Err(error)) => {
                tracing::error!(device = name, "No session: {}", error_chain(&error));
                self.sleep(BACK_OFF_MIN);
            }
            Err(_) => tracing::error!(device = name, "The session panicked; connection closed"),
        }
        if self.shared.lost.load(Ordering::Relaxed) {
            return Err(Error::Lost);
        }
        Ok(())
    }

    fn run_session(
        &self,
        stream: (UnixStream, Option<UnixListener>),
    ) -> Result<End, host_os::Error> {
        let identity = (self.options.name.clone(), self.options.polling);
        let (device, shutdown) = (self.device.clone(), self.shutdown.clone());
        let mut session = Session::new(stream, device, identity, shutdown, self.shared.clone())?;
        Ok(session.run())
    }

    /// Waits for a connection; `false` on shutdown.
    fn wait_for(&self, listener: &UnixListener) -> bool {
        let mut fds = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.shutdown.as_fd(), PollFlags::POLLIN),
        ];
        let _ = nix::poll::poll(&mut fds, PollTimeout::NONE);
        !self.shutdown.is_shutdown()
    }

    fn pause(&self, back_off: &mut Duration) {
        self.sleep(*back_off);
        *back_off = (*back_off * 2).min(BACK_OFF_MAX);
    }

    /// Sleeps, unless shut down.
    fn sleep(&self, time: Duration) {
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.shutdown.as_fd(), PollFlags::POLLIN)];
        let _ = nix::poll::poll(&mut fds, timeout);
    }
}

fn is_harmless(error: &io::Error) -> bool {
    use io::ErrorKind;
    let kind = error.kind();
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
    )
}

fn is_shortage(error: &io::Error) -> bool {
    let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error
        .raw_os_error()
        .is_some_and(|errno| shortages.contains(&errno))
}

fn log_end(name: &str, end: &End) {
    match end {
        End::Closed => tracing::info!(device = name, "Front-end disconnected"),
        End::Shutdown => tracing::info!(device = name, "Connection closed for shutdown"),
        End::Framing(error) => {
            tracing::warn!(device = name, "Connection closed: {}", error_chain(error));
        }
        End::TooManyFds => tracing::warn!(device = name, "Connection closed: descriptor flood"),
        End::Poisoned => {
            tracing::error!(device = name, "Connection closed: its memory was truncated");
        }
        End::Lost => tracing::error!(device = name, "Connection closed: a queue is lost"),
        End::Refused(why) => tracing::warn!(device = name, "Connection closed: {why}"),
        End::Socket(error) => tracing::warn!(device = name, "Connection closed: {error}"),
    }
}
