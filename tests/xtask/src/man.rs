//! `cargo xtask man`: man pages from the command line definitions, so that they cannot disagree.
//!
//! One rule: a page says what `--help` says.

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;

use crate::Cli;
use crate::shell;

/// Writes the man pages of `paravane-blockd`, `paravane-netd`, `paravane` and `cargo xtask`, subcommands included.
#[derive(clap::Args)]
pub struct Args {
    /// Where to [default: `man` in the target folder].
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Cargo package, and the words that make its program write its pages into the folder that follows.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("monitor", &["man"]),
    ("blockd", &["--man-pages"]),
    ("netd", &["--man-pages"]),
    ("balloond", &["--man-pages"]),
];

pub fn run(args: &Args) -> anyhow::Result<bool> {
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| vm::paths::target().join("man"));
    std::fs::create_dir_all(&out).with_context(|| format!("Create {}", out.display()))?;
    let out = out.canonicalize()?;
    let mut good = true;
    for (package, words) in PROGRAMS {
        let mut command = shell::cargo(&["run", "--quiet", "--locked", "-p", package, "--"]);
        good &= shell::show(command.args(*words).arg(&out))?;
    }
    let task = Cli::command().name("cargo-xtask");
    clap_mangen::generate_to(task, &out).context("Write man pages")?;
    host_os::say!("{}", out.display());
    Ok(good)
}
