//! `cargo xtask bench`: the benchmark program, built as released.
//!
//! One rule: figures come from one run on one machine, peers included.

use crate::packages;
use crate::shell;

/// Measures against peers in the same run: `cargo xtask bench block --help` (or `net`, `balloon`) lists the options.
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

/// Each benchmark's daemon: package and program.
const DAEMONS: [(&str, &str, &str); 3] = [
    ("block", "blockd", "paravane-blockd"),
    ("net", "netd", "paravane-netd"),
    ("balloon", "balloond", "paravane-balloond"),
];

pub fn run(args: &Args) -> anyhow::Result<bool> {
    packages::ensure(args.no_install)?;
    let words = &args.benchmark;
    let daemon = DAEMONS
        .iter()
        .find(|(benchmark, ..)| words.iter().any(|word| word == benchmark));
    let mut build = vec!["build", "--release", "--locked", "-p", "bench"];
    if let Some((_, package, _)) = daemon {
        build.extend(["-p", package]);
    }
    if !shell::show(&mut shell::cargo(&build))? {
        return Ok(false);
    }
    let programs = vm::paths::target().join("release");
    let mut command = std::process::Command::new(programs.join("paravane-bench"));
    command.current_dir(shell::root()).args(words);
    if words.iter().any(|word| word == "balloon") && !words.iter().any(|w| w.starts_with("--guest"))
    {
        if !shell::show(&mut shell::cargo(&[
            "build",
            "--locked",
            "--profile",
            "probe",
            "-p",
            "probe-guest",
        ]))? {
            return Ok(false);
        }
        command
            .arg("--guest")
            .arg(vm::paths::target().join("probe/probe-guest"));
    }
    let given = words.iter().any(|word| word.starts_with("--daemon"));
    if let Some((_, _, program)) = daemon
        && !given
    {
        command.arg("--daemon").arg(programs.join(program));
    }
    shell::show(&mut command)
}
