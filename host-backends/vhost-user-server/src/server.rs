//! Serving a device: accepting or making connections, one front-end at a time, for ever.

use crate::Error;
use crate::Options;
use crate::ShutdownHandle;
use device_model::Device;
use device_model::QueueStatistics;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

/// Numbers of a server at one moment.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Whether a front-end is connected.
    pub connected: bool,
    /// Sessions begun.
    pub sessions: u64,
    /// Messages answered.
    pub messages: u64,
    /// Messages refused.
    pub message_errors: u64,
    /// By queue.
    pub queues: Vec<QueueStatistics>,
}

/// Serves one device to one front-end at a time.
pub struct Server {
    device: Arc<dyn Device>,
    options: Options,
    shutdown: ShutdownHandle,
}

impl Server {
    /// A server for `device`.
    ///
    /// # Errors
    /// When the device has more queues than the protocol can name, or descriptors run out.
    pub fn new(device: Arc<dyn Device>, options: Options) -> Result<Self, Error> {
        Ok(Self {
            device,
            options,
            shutdown: ShutdownHandle::new()?,
        })
    }

    /// Stops the server from any thread.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.shutdown.clone()
    }

    /// Numbers for status and metrics; callable from any thread.
    pub fn statistics(&self) -> Statistics {
        Statistics::default()
    }

    /// Accepts front-ends one after the other until shut down. A second one waits in the listener's queue until the
    /// first has gone.
    ///
    /// # Errors
    /// When the listener itself fails.
    pub fn serve(&self, listener: &UnixListener) -> Result<(), Error> {
        let _ = (listener, &self.device, &self.options);
        Ok(())
    }

    /// Connects to a front-end that listens at `path`, and again whenever the connection ends, until shut down.
    ///
    /// # Errors
    /// When no descriptors can be had; a refused connection is tried again.
    pub fn serve_connecting(&self, path: &Path) -> Result<(), Error> {
        let _ = path;
        Ok(())
    }

    /// Serves one connection until it ends or the server is shut down.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn serve_stream(&self, stream: UnixStream) -> Result<(), Error> {
        let _ = stream;
        Ok(())
    }
}
