//! A server on a thread. One rule: dropping it shuts it down and waits, so a test leaves nothing behind.

use crate::EchoDevice;
use crate::Frontend;
use anyhow::Context as _;
use anyhow::Result;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use vhost_user_server::Options;
use vhost_user_server::Polling;
use vhost_user_server::Server;

/// An echo device behind a listening socket.
pub struct Served {
    /// The device.
    pub device: Arc<EchoDevice>,
    /// Its server.
    pub server: Arc<Server>,
    /// Where it listens.
    pub path: PathBuf,
    /// The device's name in the log: the socket's.
    pub name: String,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    /// Serves a device with `queues` queues on a socket in a fresh folder.
    pub fn new(queues: u16) -> Result<Self> {
        Self::at(socket_path(), queues)
    }

    /// Serves a new device on the socket `path`, as the successor of one that was shut down.
    pub fn at(path: PathBuf, queues: u16) -> Result<Self> {
        let device = EchoDevice::new(queues);
        let name = path
            .file_stem()
            .map(|name| name.to_string_lossy().into_owned());
        let name = name.context("no name")?;
        let options = Options {
            name: name.clone(),
            polling: Polling::Auto,
        };
        let server = Arc::new(Server::new(device.clone(), options)?);
        let listener = UnixListener::bind(&path)?;
        let theirs = server.clone();
        let thread = std::thread::spawn(move || {
            let _ = theirs.serve(&listener);
        });
        Ok(Self {
            device,
            server,
            path,
            name,
            thread: Some(thread),
        })
    }

    /// Connects a scripted front-end.
    pub fn connect(&self) -> Result<Frontend> {
        Frontend::new(self.connect_stream()?)
    }

    /// Connects a bare socket.
    pub fn connect_stream(&self) -> Result<UnixStream> {
        UnixStream::connect(&self.path).context("connecting")
    }

    /// Shuts down and waits for the thread.
    pub fn shut_down(&mut self) {
        self.server.shutdown_handle().shutdown();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
            // Only once: a successor may listen there by the time this is dropped.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// A path for a socket that nobody else uses.
pub(crate) fn socket_path() -> PathBuf {
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering;
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = format!("paravane-protocol-{}-{number}.sock", std::process::id());
    let path = std::env::temp_dir().join(name);
    let _ = std::fs::remove_file(&path);
    path
}
