//! `cargo xtask bench`: the benchmark program, built as released.
//!
//! One rule: figures come from one run on one machine, peers included.

use crate::packages;
use crate::shell;

/// Measures against peers in the same run: `cargo xtask bench block --help` lists the options.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Only name missing Debian packages, install nothing.
    #[arg(long)]
    no_install: bool,
    /// What to measure, and the options of that benchmark.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        default_value = "--help"
    )]
    benchmark: Vec<String>,
}

pub fn run(args: &Args) -> anyhow::Result<bool> {
    packages::ensure(args.no_install)?;
    let build = [
        "build",
        "--release",
        "--locked",
        "-p",
        "bench",
        "-p",
        "blockd",
    ];
    if !shell::show(&mut shell::cargo(&build))? {
        return Ok(false);
    }
    let programs = vm::paths::target().join("release");
    let mut command = std::process::Command::new(programs.join("paravane-bench"));
    command.current_dir(shell::root()).args(&args.benchmark);
    let words = &args.benchmark;
    let given = words.iter().any(|word| word.starts_with("--daemon"));
    if words.iter().any(|word| word == "block") && !given {
        command
            .arg("--daemon")
            .arg(programs.join("paravane-blockd"));
    }
    shell::show(&mut command)
}
