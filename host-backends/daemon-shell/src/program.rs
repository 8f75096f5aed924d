//! The `main` of every daemon: command line or config file, devices, service, exit code.
//!
//! One rule: a daemon says what its devices are and what is told of it; whatever daemons do alike stands here.

use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use clap::Command;
use clap::CommandFactory;
use clap::FromArgMatches;
use clap::Parser;
use config_file::Places;
use config_file::Section;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::DeviceSpec;
use crate::Error;
use crate::Exit;
use crate::Overseer;
use crate::ProcessSpec;
use crate::ServiceSpec;
use crate::SocketSpec;
use crate::Unit;
use crate::capabilities::Capabilities;
use crate::capabilities::Descriptor;
use crate::capabilities::to_json;
use crate::config;
use crate::exit;

/// What people and management software are told of a daemon.
#[derive(Debug)]
pub struct Program {
    /// Its file's name.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub about: &'static str,
    /// The same at length, for `--help`.
    pub details: &'static str,
    /// Examples, for `--help`.
    pub examples: &'static str,
    /// Kind of device, as vhost-user.json names it.
    pub kind: &'static str,
    /// Optional command line features of that kind, from the same document.
    pub features: &'static [&'static str],
    /// What management software shows.
    pub description: &'static str,
}

/// A daemon.
pub trait Daemon: Sized {
    /// One of its devices, by flags or by the keys of a `[[device]]` table.
    type Device: Args;
    /// What it is told beside its devices.
    type Shared: SharedOptions;

    /// What it is called and what is told of it.
    const PROGRAM: Program;
    /// Groups of the device's flags, which a config file excludes.
    const DEVICE_FLAGS: &'static [&'static str];

    /// Reads a device's table, from which the keys of socket and service have been taken.
    ///
    /// # Errors
    /// A key or value is wrong.
    fn read_device(table: Section<'_>) -> Result<Self::Device, config_file::Error>;

    /// Opens the devices; they are not served yet.
    ///
    /// # Errors
    /// One cannot be.
    fn open(shared: Self::Shared, devices: Vec<DeviceSpec<Self::Device>>) -> Result<Opened, Error>;
}

/// Options of a daemon beside those of its process and its devices: flags, or tables of the config file.
pub trait SharedOptions: Args + DeserializeOwned + Default {
    /// Names of the tables.
    const TABLES: &'static [&'static str];

    /// `self`, completed from the config file's.
    #[must_use]
    fn or(self, file: Self) -> Self;
}

/// None.
#[derive(Clone, Copy, Debug, Default, Args, Deserialize)]
pub struct NothingShared {}

impl SharedOptions for NothingShared {
    const TABLES: &'static [&'static str] = &[];

    fn or(self, _: Self) -> Self {
        self
    }
}

/// Devices that are open, and what stands above them.
#[derive(Default)]
pub struct Opened {
    /// The devices.
    pub units: Vec<Unit>,
    /// What the process does beside serving them.
    pub overseer: Option<Arc<dyn Overseer>>,
}

impl FromIterator<Unit> for Opened {
    fn from_iter<I: IntoIterator<Item = Unit>>(units: I) -> Self {
        Self {
            units: units.into_iter().collect(),
            overseer: None,
        }
    }
}

/// The command line.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
#[command(after_help = "See --help for examples and exit codes.")]
struct Cli<D: Args, S: Args> {
    /// Serve the devices of this TOML file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    socket: SocketSpec,
    #[command(flatten)]
    device: D,
    #[command(flatten)]
    shared: S,
    #[command(flatten)]
    service: ServiceSpec,
    #[command(flatten)]
    process: ProcessSpec,
    /// Print what this daemon can do, as vhost-user.json prescribes, and end.
    #[arg(long, exclusive = true)]
    print_capabilities: bool,
    /// Print the descriptor for /usr/share/qemu/vhost-user/, and end.
    #[arg(long, exclusive = true)]
    print_descriptor: bool,
    /// Write the manual page into this folder, and end.
    #[arg(long, value_name = "FOLDER", exclusive = true, hide = true)]
    man_pages: Option<PathBuf>,
}

/// Runs the daemon to its end.
pub fn main<D: Daemon>() -> ExitCode {
    let matches = command::<D>().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if cli.print_capabilities {
        return exit::print(&to_json(&capabilities(&D::PROGRAM))).into();
    }
    if cli.print_descriptor {
        return exit::print(&descriptor(&D::PROGRAM)).into();
    }
    if let Some(folder) = &cli.man_pages {
        let written = clap_mangen::generate_to(command::<D>(), folder);
        return exit::man_pages(folder, written).into();
    }
    match serve::<D>(cli) {
        Ok(()) => Exit::Ok.into(),
        Err(error) => exit::report(&error).into(),
    }
}

fn command<D: Daemon>() -> Command {
    let program = D::PROGRAM;
    let excluded = D::DEVICE_FLAGS.iter().copied().chain(["socket", "service"]);
    let print_descriptor = format!(
        "Print the descriptor for /usr/share/qemu/vhost-user/50-{}.json, and end",
        program.name
    );
    Cli::<D::Device, D::Shared>::command()
        .name(program.name)
        .about(program.about)
        .long_about(format!("{}.\n\n{}", program.about, program.details))
        .after_long_help(format!("{}\n\n{}", program.examples, exit::HELP))
        .mut_arg("config", |flag| flag.conflicts_with_all(excluded))
        .mut_arg("print_descriptor", |flag| flag.help(print_descriptor))
}

fn serve<D: Daemon>(cli: Cli<D::Device, D::Shared>) -> Result<(), Error> {
    let (process, shared, devices) = match &cli.config {
        Some(path) => {
            let file = config::load(path, D::read_device)?;
            (
                cli.process.or(file.process),
                cli.shared.or(file.shared),
                file.devices,
            )
        }
        None => {
            let device = DeviceSpec {
                name: config::name(&cli.service, 1),
                socket: cli.socket,
                service: cli.service,
                device: cli.device,
                places: Places::default(),
            };
            (cli.process, cli.shared, vec![device])
        }
    };
    crate::daemon::begin(&process)?;
    let Opened { units, overseer } = D::open(shared, devices)?;
    crate::daemon::serve(&process, units, overseer)
}

fn capabilities(program: &Program) -> Capabilities {
    Capabilities {
        kind: program.kind,
        features: program.features.to_vec(),
    }
}

fn descriptor(program: &Program) -> String {
    let binary =
        std::env::current_exe().unwrap_or_else(|_| Path::new("/usr/libexec").join(program.name));
    to_json(&Descriptor {
        description: program.description,
        kind: program.kind,
        binary: &binary,
    })
}
