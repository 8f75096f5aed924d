//! Runs one VM from its description to its exit code.
//!
//! One rule: everything that can fail before the guest starts has its own exit code and says what to do.

use std::fs::File;
use std::io::IsTerminal;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use host_os::error_chain;
use host_os::exit::sysexits as exit;
use host_os::privileges::Identity;
use machine::Entry;
use machine::Machine;
use machine::MachineSpec;
use machine::Stop;
use vhost_user_frontend::pci::FrontendSpec;
use vhost_user_frontend::pci::VhostUserDevice;
use virtio_spec::feature;

use crate::console;
use crate::console::RawTerminal;
use crate::control::DeviceEntry;
use crate::control::VmControl;
use crate::daemons;
use crate::devices::Device;
use crate::devices::Kind;
use crate::home;
use crate::home::Home;
use crate::loader;
use crate::options::OnReset;
use crate::options::RunOptions;
use crate::options::Serial;
use crate::sandbox;
use crate::serial_file;
use crate::signals;
use crate::status::Event;
use crate::status::Status;
use crate::surroundings::Surroundings;
use crate::vm_config;
use crate::vm_config::VmConfig;

/// Why a VM did not run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Load(#[from] loader::Error),
    #[error(transparent)]
    Machine(#[from] machine::Error),
    #[error(transparent)]
    Home(#[from] home::Error),
    #[error(transparent)]
    Daemons(#[from] daemons::Error),
    #[error(transparent)]
    Control(#[from] control_protocol::Error),
    #[error("Device {name} at {socket}: {source}")]
    Device {
        name: String,
        socket: String,
        source: vhost_user_frontend::Error,
    },
    #[error("Cannot write the serial port's output to {path}: {source}")]
    Serial {
        path: String,
        source: std::io::Error,
    },
    #[error("Cannot set up {what}: {source}")]
    Process {
        what: &'static str,
        source: std::io::Error,
    },
    #[error(transparent)]
    Os(#[from] host_os::Error),
    #[error("{0}")]
    Guest(String),
}

impl Error {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => exit::USAGE,
            Self::Os(error) if error.is_usage() => exit::USAGE,
            Self::Load(_) | Self::Serial { .. } => exit::NO_INPUT,
            Self::Machine(machine::Error::Cpus { .. }) => exit::USAGE,
            Self::Home(home::Error::Taken(_) | home::Error::Name(_)) => exit::USAGE,
            Self::Daemons(error) => error.exit_code(),
            Self::Machine(_)
            | Self::Home(_)
            | Self::Control(_)
            | Self::Device { .. }
            | Self::Process { .. }
            | Self::Os(_) => exit::UNAVAILABLE,
            Self::Guest(_) => exit::FAILED,
        }
    }
}

/// Runs the VM; returns the process's exit code.
pub(crate) fn run(options: RunOptions) -> u8 {
    let status = Status { json: options.json };
    host_os::output::start();
    host_os::panics::watch(after_panic);
    start_log();
    let started = Instant::now();
    match run_to_end(options, status) {
        Ok((reason, exit_code)) => {
            let seconds = (started.elapsed().as_secs_f64() * 1e3).round() / 1e3;
            status.report(&Event::Stopped {
                reason,
                exit_code,
                seconds,
            });
            exit_code
        }
        Err(error) => {
            let exit_code = error.exit_code();
            let message = &error_chain(&error);
            status.report(&Event::Error { message, exit_code });
            exit_code
        }
    }
}

/// Every thread of a VM is needed but those that answer the control socket's clients. Without one of them the guest would
/// go on with a dead disk, or deaf to SIGTERM; so the process ends, which whoever started it sees.
pub(crate) fn after_panic(thread: &str) {
    if thread != control_protocol::THREAD {
        console::restore();
        std::process::exit(i32::from(exit::FAILED));
    }
}

/// Warnings go to standard error; PARAVANE_LOG chooses more.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PARAVANE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| host_os::output::StandardError)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}

fn run_to_end(options: RunOptions, status: Status) -> Result<(&'static str, u8), Error> {
    let config = vm_config::resolve(options).map_err(Error::Usage)?;
    loader::check(&config)?;
    let process = |what| move |source| Error::Process { what, source };
    console::survive_background().map_err(|error| process("signals")(error.into()))?;
    host_os::fatal::watch(console::restore);
    let identity = Identity::find(config.user.as_deref(), config.group.as_deref())?;
    // Dropped after the machine, whose devices let their backends finish what is in flight.
    let mut surroundings = Surroundings::make(&config, identity.as_ref(), status)?;
    let signals = signals::block()?;
    let mut machine = Machine::new(MachineSpec {
        memory: config.memory,
        cpus: config.cpus,
        serial: serial_output(&config.serial)?,
        debug_exit: config.debug_exit,
    })?;
    if let Some(identity) = &identity {
        identity.assume()?;
    }
    if config.sandbox {
        let readable: Vec<_> = [Some(&config.kernel), config.initrd.as_ref()]
            .into_iter()
            .flatten()
            .collect();
        sandbox::close(&readable, surroundings.home_path())?;
    }
    surroundings
        .follow()
        .map_err(process("the daemons' thread"))?;
    let mut devices = Vec::new();
    for device in &config.devices {
        devices.push(add_device(&mut machine, device, surroundings.home())?);
    }
    // Before the terminal changes, so that a wrong kernel is reported on a sane one.
    machine.reset()?;
    let entry = loader::load(&config, machine.ram())?;
    let controls = machine.controls();
    let terminal = config.serial == Serial::Stdio;
    let patience = config.shutdown_timeout;
    signals::watch(signals, controls.clone(), patience, status, terminal)
        .map_err(process("the signal thread"))?;
    let resets = Arc::new(AtomicU64::new(0));
    let control = VmControl {
        name: surroundings.name(&config),
        cpus: config.cpus,
        memory: config.memory,
        started: Instant::now(),
        controls: controls.clone(),
        devices,
        daemons: surroundings.roll(),
        resets: Arc::clone(&resets),
        report: status,
    };
    surroundings.serve(control)?;
    let _terminal = terminal.then(RawTerminal::enter);
    if terminal {
        console::feed(controls).map_err(process("the console thread"))?;
    }
    report_start(&config, status);
    serve(&mut machine, entry, &config, status, &resets)
}

fn report_start(config: &VmConfig, status: Status) {
    let count = |kind| {
        let devices = config.devices.iter();
        devices.filter(|device| device.kind == kind).count()
    };
    status.report(&Event::Started {
        name: &config.name,
        cpus: config.cpus,
        memory: config.memory,
        disks: count(Kind::Disk),
        nets: count(Kind::Net),
        balloon: count(Kind::Balloon) != 0,
    });
}

/// Runs the guest, again after each reset, until it ends.
fn serve(
    machine: &mut Machine,
    first: Entry,
    config: &VmConfig,
    status: Status,
    resets: &AtomicU64,
) -> Result<(&'static str, u8), Error> {
    let mut entry = first;
    loop {
        match machine.run(entry)? {
            Stop::PowerOff => return Ok(("powered off", exit::SUCCESS)),
            Stop::Requested => return Ok(("stopped", exit::SUCCESS)),
            Stop::DebugExit(code) => return Ok(("debug exit", code)),
            Stop::Failed(text) => return Err(Error::Guest(text)),
            Stop::Reset(cause) => {
                status.report(&Event::Reset { cause });
                resets.fetch_add(1, Ordering::Relaxed);
                if config.on_reset == OnReset::Exit {
                    return Ok(("reset", exit::SUCCESS));
                }
            }
        }
        machine.reset()?;
        entry = loader::load(config, machine.ram())?;
    }
}

fn serial_output(serial: &Serial) -> Result<Option<Box<dyn Write + Send>>, Error> {
    match serial {
        Serial::Off => Ok(None),
        Serial::Stdio => Ok(Some(Box::new(std::io::stdout()))),
        Serial::File(path) => Ok(Some(Box::new(create(path)?))),
    }
}

fn create(path: &Path) -> Result<File, Error> {
    serial_file::open(path).map_err(|source| Error::Serial {
        path: path.display().to_string(),
        source,
    })
}

fn add_device(
    machine: &mut Machine,
    device: &Device,
    home: Option<&Home>,
) -> Result<DeviceEntry, Error> {
    let socket = daemons::socket(device, home);
    let mut spec = match device.kind {
        Kind::Disk => FrontendSpec {
            queues: device.queues,
            ..FrontendSpec::block(&socket)
        },
        Kind::Net => FrontendSpec {
            mtu: device.mtu,
            ..FrontendSpec::net(&socket, device.mac)
        },
        Kind::Balloon => FrontendSpec::balloon(&socket),
    };
    spec.queue_size = device.queue_size;
    if !device.packed {
        spec.features &= !feature::RING_PACKED;
    }
    let interrupts = machine.interrupts();
    let function = VhostUserDevice::connect(&spec, machine.ram(), &interrupts, machine.doorbells())
        .map_err(|source| Error::Device {
            name: device.name.clone(),
            socket: socket.display().to_string(),
            source,
        })?;
    let session = Arc::downgrade(function.session());
    machine.add_function(Box::new(function))?;
    Ok(DeviceEntry {
        name: device.name.clone(),
        kind: device.kind,
        control: daemons::control(device, home),
        socket,
        session,
    })
}
