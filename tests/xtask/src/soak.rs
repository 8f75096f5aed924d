//! `cargo xtask soak`: the kill test of tests/vm, as long as one likes.
//!
//! One rule: the test is the one that CI runs in short.

use crate::shell;

/// Kills the daemon with SIGKILL under load, again and again: every request must complete exactly
/// once. Needs /dev/kvm.
#[derive(clap::Args)]
pub struct Args {
    /// How often the daemon dies.
    #[arg(long, default_value_t = 1000)]
    rounds: u32,
}

pub fn run(args: &Args) -> anyhow::Result<bool> {
    vm::kvm()?;
    let mut command = shell::cargo(&["test", "-p", "vm", "--test", "machines", "--locked", "--"]);
    command.args(["--nocapture", "every_write_happens_once"]);
    command.env("PARAVANE_KILL_ROUNDS", args.rounds.to_string());
    shell::show(&mut command)
}
