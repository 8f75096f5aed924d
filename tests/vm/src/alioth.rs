//! alioth, a monitor that others wrote, from the crate registry: a front-end that shares no line with ours.
//!
//! One rule: one version, named here and nowhere else, built once below the cache; nothing is installed.

use std::path::PathBuf;
use std::process::Command;

use crate::debian;
use crate::paths;
use crate::process;
use crate::skip;

/// Its command line's version.
pub const VERSION: &str = "0.12.0";

/// The program, built by the first caller.
///
/// # Errors
/// [`crate::Skip`] when the registry does not give it, or it does not build here.
pub fn program() -> anyhow::Result<PathBuf> {
    let _one_at_a_time = debian::lock("alioth")?;
    let folder = paths::cache(&format!("alioth-{VERSION}"))?;
    let program = folder.join("bin/alioth");
    if program.exists() {
        return Ok(program);
    }
    let build = folder.join("build");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // Without optimisation it builds in a fraction of the time, and no request passes through it.
    command.args(["install", "--locked", "--debug", "--root"]);
    command.arg(&folder).args(["--version", VERSION]);
    command
        .arg("alioth-cli")
        .env_remove("RUSTFLAGS")
        .env("CARGO_TARGET_DIR", &build);
    process::run(&mut command)
        .map_err(|error| skip(format!("alioth-cli {VERSION} cannot be had: {error}")))?;
    std::fs::remove_dir_all(&build)?;
    Ok(program)
}
