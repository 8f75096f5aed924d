//! `cargo xtask man`: man pages from the command line definitions, so that they cannot disagree.
//!
//! One rule: a page says what `--help` says.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;

use crate::Cli;
use crate::shell;

/// Writes the man pages of `paravane-blockd`, `paravane` and `cargo xtask`, subcommands included.
#[derive(clap::Args)]
pub struct Args {
    /// Where to.
    #[arg(long, default_value = "target/man")]
    out: PathBuf,
}

pub fn run(args: &Args) -> anyhow::Result<bool> {
    let out = shell::root().join(&args.out);
    std::fs::create_dir_all(&out).with_context(|| format!("Create {}", out.display()))?;
    let task = Cli::command().name("cargo-xtask");
    write(task, &out)?;
    println!("{}", out.display());
    Ok(true)
}

/// One page for the command, one for each of its subcommands.
fn write(command: clap::Command, out: &Path) -> anyhow::Result<()> {
    clap_mangen::generate_to(command, out).context("Write man pages")
}
