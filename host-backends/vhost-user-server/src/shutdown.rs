//! Asking a server to stop. One rule: once asked, for ever asked; the request cannot be lost or taken back.

use crate::Error;
use host_os::EventFd;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

/// Stops a server: queues drain, the connection closes, `serve` returns. May be cloned and used from any thread.
#[derive(Debug, Clone)]
pub struct ShutdownHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    asked: AtomicBool,
    event: EventFd,
}

impl ShutdownHandle {
    /// A handle that can be shared by several servers.
    ///
    /// # Errors
    /// When no eventfd can be made.
    pub fn new() -> Result<Self, Error> {
        let shared = Shared {
            asked: AtomicBool::new(false),
            event: EventFd::new()?,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Asks for the stop. Returns at once.
    pub fn shutdown(&self) {
        self.shared.asked.store(true, Ordering::Release);
        self.shared.event.notify();
    }

    /// Whether the stop was asked for.
    pub fn is_shutdown(&self) -> bool {
        self.shared.asked.load(Ordering::Acquire)
    }
}

impl AsFd for ShutdownHandle {
    /// Readable once the stop was asked for.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }
}
