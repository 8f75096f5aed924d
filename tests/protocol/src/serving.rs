//! Any device behind a listening socket. One rule: dropping it shuts it down and waits, so a test leaves nothing behind.

use crate::Frontend;
use anyhow::Context as _;
use anyhow::Result;
use device_model::Device;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use vhost_user_server::Error;
use vhost_user_server::Options;
use vhost_user_server::Server;

/// A device that is served.
pub struct Serving {
    /// Its server.
    pub server: Arc<Server>,
    path: PathBuf,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Serving {
    /// Serves `device` on a socket of its own.
    pub fn new(device: Arc<dyn Device>) -> Result<Self> {
        let path = crate::served::socket_path();
        let options = Options {
            name: "device".to_owned(),
            ..Options::default()
        };
        let server = Arc::new(Server::new(device, options)?);
        let listener = UnixListener::bind(&path)?;
        let theirs = server.clone();
        let thread = std::thread::spawn(move || theirs.serve(&listener));
        Ok(Self {
            server,
            path,
            thread: Some(thread),
        })
    }

    /// Connects a scripted front-end.
    pub fn connect(&self) -> Result<Frontend> {
        Frontend::new(UnixStream::connect(&self.path).context("connecting")?)
    }

    /// Waits for the end of the serving, and tells how it ended; `None` if it goes on.
    pub fn ended(&mut self) -> Option<Result<(), Error>> {
        let over = crate::eventually(|| self.thread.as_ref().is_none_or(JoinHandle::is_finished));
        let thread = self.thread.take().filter(|_| over)?;
        thread.join().ok()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.server.shutdown_handle().shutdown();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}
