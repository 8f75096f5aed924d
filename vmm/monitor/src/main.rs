//! `paravane`: the virtual machine monitor's command line.
//!
//! One rule: parse, validate, run, exit code; the work is in the modules.

mod console;
mod control;
mod ctl;
mod daemons;
mod devices;
mod home;
mod keeper;
mod loader;
mod options;
mod run;
mod sandbox;
mod serial_file;
mod signals;
mod status;
mod surroundings;
mod survey;
mod vm_config;

use std::path::PathBuf;

use clap::CommandFactory;
use clap::Parser;
use clap::Subcommand;
use host_os::exit::sysexits as exit;

use crate::ctl::CtlOptions;
use crate::options::RunOptions;
use crate::survey::StatusOptions;

/// Runs virtual machines whose devices are served by vhost-user daemons.
#[derive(Parser)]
#[command(name = "paravane", version, about, after_help = options::EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts a virtual machine and stays until it ends.
    #[command(after_help = options::RUN_HELP)]
    Run(Box<RunOptions>),
    /// Shows running VMs, their devices, daemons and counters.
    #[command(after_help = options::STATUS_HELP)]
    Status(StatusOptions),
    /// Says something to a VM or a daemon.
    #[command(after_help = options::CTL_HELP)]
    Ctl(CtlOptions),
    /// Keeps the daemons of a VM (`paravane run` calls it).
    #[command(hide = true)]
    Keep,
    /// Writes the man pages into a folder (for packagers; `cargo xtask man` calls it).
    #[command(hide = true)]
    Man {
        /// An existing folder.
        folder: PathBuf,
    },
}

fn main() {
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        let _ = error.print();
        let code = if error.use_stderr() {
            exit::USAGE
        } else {
            exit::SUCCESS
        };
        std::process::exit(i32::from(code));
    });
    let code = match cli.command {
        Command::Run(options) => run::run(*options),
        Command::Status(options) => survey::run(&options),
        Command::Ctl(options) => ctl::run(&options),
        Command::Keep => keeper::run(),
        Command::Man { folder } => match clap_mangen::generate_to(Cli::command(), folder) {
            Ok(()) => exit::SUCCESS,
            Err(error) => {
                host_os::tell!("paravane: {error}");
                exit::NO_INPUT
            }
        },
    };
    std::process::exit(i32::from(code));
}
