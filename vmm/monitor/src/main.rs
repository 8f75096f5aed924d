//! `paravane`: the virtual machine monitor's command line.
//!
//! One rule: parse, validate, run, exit code; the work is in the modules.

mod console;
mod exit;
mod loader;
mod options;
mod run;
mod signals;
mod status;
mod vm_config;

use clap::Parser;
use clap::Subcommand;

use crate::options::RunOptions;

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
    let Command::Run(options) = cli.command;
    let code = run::run(*options);
    std::process::exit(i32::from(code));
}
