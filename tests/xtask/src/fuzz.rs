//! `cargo xtask fuzz`: libFuzzer targets, with the stable toolchain.
//!
//! One rule: the corpus is kept, a crash leaves its input behind and fails the run.

use crate::totals::Totals;

/// Feeds random input to the parsers that face a peer.
#[derive(clap::Args)]
pub struct Args {
    /// Only this target; all of them one after another if absent.
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

pub fn run(args: &Args) -> anyhow::Result<bool> {
    anyhow::bail!("no target yet ({:?}, {} s)", args.target, args.seconds)
}

/// Some seconds for each target, as a test runner.
pub fn short_run(_no_install: bool) -> anyhow::Result<Totals> {
    Ok(Totals::not_run("fuzz", "no target yet"))
}
