//! The life of a daemon: sockets, sandbox, one serving thread per device, signals, end.
//!
//! Rule: before the first guest everything that can be wrong stops the start; after it, one device's trouble stays with
//! that device.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use control_protocol::Access;
use control_protocol::Changes;
use device_model::Device;
use host_os::privileges::Identity;
use metrics::Samples;
use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use serde_json::Value;
use vhost_user_server::Options;
use vhost_user_server::Server;
use vhost_user_server::ShutdownHandle;

use crate::Error;
use crate::Exit;
use crate::ProcessSpec;
use crate::ServiceSpec;
use crate::SocketSpec;
use crate::commands::Commands;
use crate::commands::Running;
use crate::descriptors;
use crate::logging;
use crate::sandbox::Needs;
use crate::signals::Request;
use crate::signals::Signals;
use crate::sockets::Endpoint;
use crate::sockets::Inherited;

/// A device as the shell sees it, beside what the session sees.
pub trait Served: Send + Sync {
    /// The same device for the session.
    fn device(&self) -> Arc<dyn Device>;

    /// One word for what it is, which is part of its names in `prometheus`.
    fn kind(&self) -> &'static str;

    /// How it stands, for `status`.
    fn status(&self) -> Value;

    /// Its counters and gauges, for `metrics` and `prometheus`.
    fn metrics(&self) -> Samples;

    /// What it needs inside the sandbox beyond what every device does.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Changes while it runs; the answer is for the client.
    ///
    /// # Errors
    /// A sentence for the client; then nothing has changed.
    fn set(&self, _changes: &Changes) -> Result<Value, String> {
        Err("This device has nothing to set".to_owned())
    }

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

/// What a process does beside serving its devices, above all of them.
pub trait Overseer: Send + Sync {
    /// One word for it: its key in `status` and `metrics`, and part of its names in `prometheus`.
    fn kind(&self) -> &'static str;

    /// Called once inside the sandbox, before the first device is served: the place to start threads.
    ///
    /// # Errors
    /// Whatever keeps the daemon from starting.
    fn start(self: Arc<Self>) -> Result<(), Error>;

    /// How it stands, for `status`.
    fn status(&self) -> Value;

    /// Its counters and gauges, for `metrics` and `prometheus`.
    fn metrics(&self) -> Samples;

    /// What it needs inside the sandbox beyond what every device does.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// `set` without a device; the answer is for the client.
    ///
    /// # Errors
    /// A sentence for the client; then nothing has changed.
    fn set(&self, changes: &Changes) -> Result<Value, String>;

    /// SIGHUP.
    fn reload(&self) {}

    /// The daemon ends: the devices have stopped being served.
    fn stop(&self) {}
}

/// One device with its place and manner of service.
pub struct Unit {
    /// In logs and on the control socket.
    pub name: String,
    /// Where its front-end finds it.
    pub socket: SocketSpec,
    /// How it is served.
    pub service: ServiceSpec,
    /// What is served.
    pub served: Arc<dyn Served>,
}

/// What comes first, before any device is opened: the log, and the limit of open files.
///
/// # Errors
/// The log's filter is malformed.
pub fn begin(process: &ProcessSpec) -> Result<(), Error> {
    host_os::output::start();
    host_os::panics::watch(after_panic);
    let filter = process.log.as_deref().unwrap_or("info");
    logging::start(filter, process.log_format.unwrap_or_default())?;
    descriptors::allow_all();
    Ok(())
}

/// A panic in a queue's worker or in a session is theirs to catch, and a control client's costs that client alone. A
/// thread that nobody would miss until it is needed ends the process instead, so that whoever watches it starts it again.
fn after_panic(thread: &str) {
    if matches!(thread, "pool" | "stdin") || thread.starts_with("switch/") {
        std::process::exit(i32::from(Exit::Failed as u8));
    }
}

/// Serves `units` until SIGTERM or SIGINT, then finishes what is in flight.
///
/// # Errors
/// A socket or the sandbox cannot be had, or all devices ended by themselves with an error.
pub fn run(process: &ProcessSpec, units: Vec<Unit>) -> Result<(), Error> {
    serve(process, units, None)
}

/// As [`run`], with `overseer` above the devices.
pub(crate) fn serve(
    process: &ProcessSpec,
    units: Vec<Unit>,
    overseer: Option<Arc<dyn Overseer>>,
) -> Result<(), Error> {
    let signals = Signals::block()?;
    let identity = Identity::find(process.user.as_deref(), process.group.as_deref())?;
    let owner = identity.as_ref().map(Identity::owner);
    let endpoints = open_endpoints(&units, owner)?;
    let control = match &process.control_socket {
        Some(path) => Some(control_protocol::bind(path, Access::private(owner))?),
        None => None,
    };
    let files = Files::of(&endpoints, process);
    let mut needs = files.needs();
    units.iter().for_each(|unit| needs.add(unit.served.needs()));
    overseer.iter().for_each(|one| needs.add(one.needs()));
    if let Some(identity) = &identity {
        identity.assume()?;
    }
    process.sandbox.unwrap_or_default().enter(&needs)?;

    let shutdown = ShutdownHandle::new().map_err(|source| serve_error("all", source))?;
    if let Some(overseer) = &overseer {
        Arc::clone(overseer).start()?;
    }
    let mut commands = Commands {
        units: Vec::new(),
        overseer,
        shutdown: shutdown.clone(),
    };
    let (mut alive, keep) = UnixStream::pair().map_err(|source| Error::Thread {
        name: "serve",
        source,
    })?;
    let mut threads = Vec::new();
    for (unit, endpoint) in units.into_iter().zip(endpoints) {
        let running = start_server(unit, &shutdown)?;
        threads.push(spawn(&running, endpoint, &keep, &shutdown)?);
        commands.units.push(running);
    }
    drop(keep);
    let commands = Arc::new(commands);
    if let Some(listener) = control {
        control_protocol::serve(listener, commands.clone())?;
    }
    tracing::info!(devices = commands.units.len(), "ready");
    if process.end_with_stdin == Some(true) {
        end_with_stdin(&shutdown)?;
    }
    wait(&signals, &mut alive, &commands)?;
    let failed = threads
        .into_iter()
        .filter_map(|thread| thread.join().ok().flatten())
        .max_by_key(|error| matches!(error, Error::Panic { .. }));
    if let Some(overseer) = &commands.overseer {
        overseer.stop();
    }
    files.remove();
    failed.map_or(Ok(()), Err)
}

fn open_endpoints(units: &[Unit], owner: Option<(u32, u32)>) -> Result<Vec<Endpoint>, Error> {
    let names: Vec<_> = units.iter().map(|unit| unit.name.clone()).collect();
    let mut inherited = Inherited::from_environment(names.clone());
    let opened = units.iter().zip(&names);
    let endpoints: Result<Vec<_>, _> = opened
        .map(|(unit, name)| unit.socket.open(name, &mut inherited, owner))
        .collect();
    inherited.finish()?;
    endpoints
}

fn serve_error(device: &str, source: vhost_user_server::Error) -> Error {
    Error::Serve {
        device: device.to_owned(),
        source: Box::new(source),
    }
}

fn start_server(unit: Unit, shutdown: &ShutdownHandle) -> Result<Running, Error> {
    let name = unit.name;
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
    shutdown: &ShutdownHandle,
) -> Result<JoinHandle<Option<Error>>, Error> {
    let thread_error = |source| Error::Thread {
        name: "serve",
        source,
    };
    let alive = alive.try_clone().map_err(thread_error)?;
    let (name, server) = (unit.name.clone(), Arc::clone(&unit.server));
    let shutdown = shutdown.clone();
    let serve = move || match endpoint {
        Endpoint::Listen(listener, _) => server.serve(&listener),
        Endpoint::Connect(path) => server.serve_connecting(&path),
        Endpoint::Connected(stream) => server.serve_stream(stream),
    };
    let body = move || {
        let _alive = alive;
        let error = match catch_unwind(AssertUnwindSafe(serve)) {
            Ok(end) => serve_error(&name, end.err()?),
            Err(_) => Error::Panic { device: name },
        };
        tracing::error!("{}", crate::exit::chain(&error));
        // Nobody would serve this device again: the process ends as a whole, for whoever can start a new one to see.
        let wanted = !shutdown.is_shutdown() || matches!(error, Error::Panic { .. });
        shutdown.shutdown();
        wanted.then_some(error)
    };
    let thread = std::thread::Builder::new().name(format!("serve {}", unit.name));
    thread.spawn(body).map_err(thread_error)
}

/// Starts the thread that shuts down when standard input ends.
fn end_with_stdin(shutdown: &ShutdownHandle) -> Result<(), Error> {
    let shutdown = shutdown.clone();
    let body = move || {
        // What comes means nothing; an error is an end like any other.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        tracing::info!("standard input has ended, stopping");
        shutdown.shutdown();
    };
    let thread = std::thread::Builder::new().name("stdin".to_owned());
    thread
        .spawn(body)
        .map(drop)
        .map_err(|source| Error::Thread {
            name: "stdin",
            source,
        })
}

/// Until all serving threads have ended, by themselves or because they were asked to.
fn wait(signals: &Signals, alive: &mut UnixStream, commands: &Commands) -> Result<(), Error> {
    loop {
        let mut fds = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(alive.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other.map_err(|errno| {
                Error::Signals(host_os::Error::System {
                    call: "poll",
                    source: errno.into(),
                })
            })?,
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

/// Socket files that are ours to remove.
struct Files {
    paths: Vec<PathBuf>,
    /// A front-end is connected to.
    connects: bool,
}

impl Files {
    fn of(endpoints: &[Endpoint], process: &ProcessSpec) -> Self {
        let sockets = endpoints.iter().filter_map(|endpoint| match endpoint {
            Endpoint::Listen(_, path) => path.clone(),
            _ => None,
        });
        let connects = endpoints
            .iter()
            .any(|endpoint| matches!(endpoint, Endpoint::Connect(_)));
        Self {
            paths: sockets.chain(process.control_socket.clone()).collect(),
            connects,
        }
    }

    fn needs(&self) -> Needs {
        let directory = |path: &PathBuf| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Needs {
            socket_directories: self.paths.iter().map(directory).collect(),
            connects: self.connects,
            ..Needs::default()
        }
    }

    fn remove(&self) {
        for path in &self.paths {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::debug!(path = %path.display(), %error, "the socket file stays");
            }
        }
    }
}
