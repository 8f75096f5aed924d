//! The life of a daemon: sockets, sandbox, one serving thread per device, signals, end.
//!
//! Rule: before the first guest everything that can be wrong stops the start; after it, one device's trouble stays with
//! that device.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use device_model::Device;
use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use serde_json::Value;
use serde_json::json;
use vhost_user_server::Options;
use vhost_user_server::Server;
use vhost_user_server::ShutdownHandle;

use crate::Error;
use crate::ProcessSpec;
use crate::ServiceSpec;
use crate::SocketSpec;
use crate::control;
use crate::control::Command;
use crate::control::Control;
use crate::sandbox::Needs;
use crate::signals::Request;
use crate::signals::Signals;
use crate::sockets;
use crate::sockets::Endpoint;
use crate::sockets::Inherited;

/// A device as the shell sees it, beside what the session sees.
pub trait Served: Send + Sync {
    /// The same device for the session.
    fn device(&self) -> Arc<dyn Device>;

    /// What it is and how it stands, for `status`.
    fn status(&self) -> Value;

    /// Its counters, for `metrics`.
    fn metrics(&self) -> Value;

    /// Takes on a new size; the answer is for the client.
    ///
    /// # Errors
    /// A sentence for the client.
    fn resize(&self, _bytes: Option<u64>) -> Result<Value, String> {
        Err("This device has no size".to_owned())
    }

    /// SIGHUP: looks again at what may have changed outside.
    fn reload(&self) {}
}

/// One device with its place and manner of service.
pub struct Unit {
    /// Where its front-end finds it.
    pub socket: SocketSpec,
    /// How it is served.
    pub service: ServiceSpec,
    /// What is served.
    pub served: Arc<dyn Served>,
}

/// A unit that is being served.
struct Running {
    name: String,
    server: Arc<Server>,
    served: Arc<dyn Served>,
}

struct Commands {
    units: Vec<Running>,
    shutdown: ShutdownHandle,
}

/// Serves `units` until SIGTERM or SIGINT, then finishes what is in flight.
///
/// # Errors
/// A socket or the sandbox cannot be had, or all devices ended by themselves with an error.
pub fn run(process: &ProcessSpec, units: Vec<Unit>) -> Result<(), Error> {
    let mut signals = Signals::block()?;
    let mut inherited = Inherited::from_environment();
    let mut endpoints = Vec::new();
    for (at, unit) in units.iter().enumerate() {
        endpoints.push(
            unit.socket
                .open(&name_of(&unit.service, at), &mut inherited)?,
        );
    }
    let control = match &process.control_socket {
        Some(path) => Some(sockets::bind_private(path)?),
        None => None,
    };
    let files = Files::of(&endpoints, process);
    process.sandbox.unwrap_or_default().enter(&files.needs())?;

    let shutdown = ShutdownHandle::new().map_err(|source| serve_error("all", source))?;
    let mut commands = Commands {
        units: Vec::new(),
        shutdown: shutdown.clone(),
    };
    let (mut alive, keep) = UnixStream::pair().map_err(|source| Error::Thread {
        name: "serve",
        source,
    })?;
    let mut threads = Vec::new();
    for (at, (unit, endpoint)) in units.into_iter().zip(endpoints).enumerate() {
        let running = start_server(unit, at, &shutdown)?;
        threads.push(spawn(&running, endpoint, &keep)?);
        commands.units.push(running);
    }
    drop(keep);
    let commands = Arc::new(commands);
    if let Some(listener) = control {
        control::serve(listener, commands.clone())?;
    }
    tracing::info!(devices = commands.units.len(), "ready");
    wait(&mut signals, &mut alive, &commands)?;
    let failed = threads
        .into_iter()
        .filter_map(|thread| thread.join().ok().flatten())
        .last();
    files.remove();
    match failed {
        Some(error) if !shutdown.is_shutdown() => Err(error),
        _ => Ok(()),
    }
}

fn name_of(service: &ServiceSpec, at: usize) -> String {
    service
        .name
        .clone()
        .unwrap_or_else(|| format!("device{}", at + 1))
}

fn serve_error(device: &str, source: vhost_user_server::Error) -> Error {
    Error::Serve {
        device: device.to_owned(),
        source: Box::new(source),
    }
}

fn start_server(unit: Unit, at: usize, shutdown: &ShutdownHandle) -> Result<Running, Error> {
    let name = name_of(&unit.service, at);
    let options = Options {
        name: name.clone(),
        polling: unit.service.poll,
    };
    let server = Server::with_shutdown(unit.served.device(), options, shutdown.clone())
        .map_err(|source| serve_error(&name, source))?;
    Ok(Running {
        name,
        server: Arc::new(server),
        served: unit.served,
    })
}

/// Serves one device in a thread of its own, which holds `alive` as long as it lives.
fn spawn(
    unit: &Running,
    endpoint: Endpoint,
    alive: &UnixStream,
) -> Result<JoinHandle<Option<Error>>, Error> {
    let thread_error = |source| Error::Thread {
        name: "serve",
        source,
    };
    let alive = alive.try_clone().map_err(thread_error)?;
    let (name, server) = (unit.name.clone(), Arc::clone(&unit.server));
    let body = move || {
        let _alive = alive;
        let end = match endpoint {
            Endpoint::Listen(listener, _) => server.serve(&listener),
            Endpoint::Connect(path) => server.serve_connecting(&path),
            Endpoint::Connected(stream) => server.serve_stream(stream),
        };
        let error = serve_error(&name, end.err()?);
        tracing::error!("{}", crate::exit::chain(&error));
        Some(error)
    };
    let thread = std::thread::Builder::new().name(format!("serve {}", unit.name));
    thread.spawn(body).map_err(thread_error)
}

/// Until all serving threads have ended, by themselves or because they were asked to.
fn wait(signals: &mut Signals, alive: &mut UnixStream, commands: &Commands) -> Result<(), Error> {
    loop {
        let mut fds = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(alive.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other.map_err(Error::Signals)?,
        };
        let signalled = fds.first().and_then(PollFd::any).unwrap_or(false);
        let ended = fds.last().and_then(PollFd::any).unwrap_or(false);
        if ended && matches!(alive.read(&mut [0]), Ok(0)) {
            return Ok(());
        }
        if !signalled {
            continue;
        }
        match signals.wait()? {
            Request::Reload => commands.reload(),
            Request::Stop if commands.shutdown.is_shutdown() => {
                // Asked twice: whoever asks knows that the medium hangs.
                tracing::error!("stopped again while requests are in flight, ending at once");
                std::process::exit(1);
            }
            Request::Stop => {
                tracing::info!("stopping, finishing what is in flight");
                commands.shutdown.shutdown();
            }
        }
    }
}

impl Commands {
    fn reload(&self) {
        for unit in &self.units {
            unit.served.reload();
        }
    }

    fn find(&self, name: Option<&str>) -> Result<&Running, String> {
        match (name, self.units.as_slice()) {
            (None, [only]) => Ok(only),
            (None, _) => Err(format!("Name one of the devices: {}", self.names())),
            (Some(name), units) => units
                .iter()
                .find(|unit| unit.name == name)
                .ok_or_else(|| format!("No device {name:?}; there are: {}", self.names())),
        }
    }

    fn names(&self) -> String {
        let names: Vec<_> = self.units.iter().map(|unit| unit.name.as_str()).collect();
        names.join(", ")
    }

    fn status(&self) -> Value {
        let devices = self.units.iter().map(|unit| {
            let numbers = unit.server.statistics();
            json!({
                "name": unit.name,
                "connected": numbers.connected,
                "sessions": numbers.sessions,
                "device": unit.served.status(),
            })
        });
        json!({ "pid": std::process::id(), "devices": devices.collect::<Vec<_>>() })
    }

    fn metrics(&self) -> Value {
        let devices = self.units.iter().map(|unit| {
            let numbers = unit.server.statistics();
            let queues = numbers.queues.iter().map(|queue| {
                json!({
                    "taken": queue.taken,
                    "completed": queue.completed,
                    "published": queue.published,
                    "interrupts": queue.interrupts,
                    "wakeups": queue.wakeups,
                    "empty-polls": queue.empty_polls,
                    "replayed": queue.replayed,
                    "ring-errors": queue.ring_errors,
                    "device-errors": queue.device_errors,
                    "panics": queue.panics,
                })
            });
            json!({
                "name": unit.name,
                "sessions": numbers.sessions,
                "messages": numbers.messages,
                "message-errors": numbers.message_errors,
                "queues": queues.collect::<Vec<_>>(),
                "device": unit.served.metrics(),
            })
        });
        json!({ "devices": devices.collect::<Vec<_>>() })
    }
}

impl Control for Commands {
    fn execute(&self, command: Command) -> Result<Value, String> {
        match command {
            Command::Status => Ok(self.status()),
            Command::Metrics => Ok(self.metrics()),
            Command::Resize { device, bytes } => self.find(device.as_deref())?.served.resize(bytes),
            Command::Stop => {
                self.shutdown.shutdown();
                Ok(json!("stopping"))
            }
        }
    }
}

/// Socket files that are ours to remove.
struct Files(Vec<PathBuf>);

impl Files {
    fn of(endpoints: &[Endpoint], process: &ProcessSpec) -> Self {
        let sockets = endpoints.iter().filter_map(|endpoint| match endpoint {
            Endpoint::Listen(_, path) => path.clone(),
            _ => None,
        });
        Self(sockets.chain(process.control_socket.clone()).collect())
    }

    fn needs(&self) -> Needs {
        let directory = |path: &PathBuf| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Needs {
            socket_directories: self.0.iter().map(directory).collect(),
        }
    }

    fn remove(&self) {
        for path in &self.0 {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::debug!(path = %path.display(), %error, "the socket file stays");
            }
        }
    }
}
