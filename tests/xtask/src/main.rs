//! `cargo xtask`: the one place that knows how this project is tested, checked, measured and shown.
//!
//! One rule: a task prints what it does before it does it, and what it left out with the reason.

mod allocation;
mod bench;
mod check;
mod demo;
mod fuzz;
mod man;
mod packages;
mod shell;
mod skips;
mod soak;
mod test;
mod totals;

use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;

/// Paravane's tasks. Each says what it is about to do; none needs the network once the crates and
/// packages are cached.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Boots a VM on our daemon, verifies I/O through a kill -9 of the daemon, and compares with native I/O.
    Demo(demo::Args),
    /// Runs every test that this machine can run; says what was skipped and why.
    Test(test::Args),
    /// Checks format, lints, workspace rules, documentation and dependencies.
    Check(check::Args),
    /// Measures against peers in the same run.
    Bench(bench::Args),
    /// Feeds random input to the parsers that face a peer.
    Fuzz(fuzz::Args),
    /// Kills the daemon under load, many times, and counts every request.
    Soak(soak::Args),
    /// Writes the man pages of the programs.
    Man(man::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Check(args) => check::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Soak(args) => soak::run(&args),
        Task::Man(args) => man::run(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            host_os::tell!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Running them would run this test again: that their words are understood is what is shown.
    #[test]
    fn every_task_in_the_documents_is_understood() -> anyhow::Result<()> {
        let mut bad = Vec::new();
        for (place, line) in vm::documents::tasks()? {
            let words = line.trim_start_matches("cargo ").split_whitespace();
            let parsed = Cli::try_parse_from(words);
            let shown = |error: &clap::Error| !error.use_stderr();
            if let Err(error) = parsed.map(drop)
                && !shown(&error)
            {
                bad.push(format!("{place}: {line}\n{error}"));
            }
        }
        anyhow::ensure!(bad.is_empty(), "{}", bad.join("\n"));
        Ok(())
    }
}
