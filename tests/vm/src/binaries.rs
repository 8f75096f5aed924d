//! The programs under test, built once per run.
//!
//! One rule: tests run what this tree builds in release mode, never what is installed.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::paths;
use crate::process;

/// Cargo packages and the programs they make.
const PACKAGES: &[&str] = &["blockd", "netd", "balloond", "monitor", "vm"];

/// Where the programs are, built by the first caller. `PARAVANE_BIN_DIR` names programs that were
/// built before.
///
/// # Errors
/// When the build fails.
pub fn folder() -> anyhow::Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        if let Some(given) = std::env::var_os("PARAVANE_BIN_DIR") {
            return Ok(PathBuf::from(given));
        }
        build("release", PACKAGES)
            // Freestanding, so it has a profile of its own.
            .and_then(|()| build("probe", &["probe-guest"]))
            .map(|()| paths::target().join("release"))
            .map_err(|error| format!("{error:#}"))
    });
    built.clone().map_err(anyhow::Error::msg)
}

fn build(profile: &str, packages: &[&str]) -> anyhow::Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(paths::root())
        .args(["build", "--locked", "--profile", profile]);
    // The flags of a model checking run must not reach the programs.
    command
        .env_remove("RUSTFLAGS")
        .args(packages.iter().flat_map(|name| ["-p", name]));
    process::run(&mut command).map(drop)
}

/// The vhost-user block daemon.
///
/// # Errors
/// When the build fails.
pub fn blockd() -> anyhow::Result<PathBuf> {
    Ok(folder()?.join("paravane-blockd"))
}

/// The virtual machine monitor.
///
/// # Errors
/// When the build fails.
pub fn monitor() -> anyhow::Result<PathBuf> {
    Ok(folder()?.join("paravane"))
}

/// The host's end of the probe guest's network jobs.
///
/// # Errors
/// When the build fails.
pub fn net_peer() -> anyhow::Result<PathBuf> {
    Ok(folder()?.join("net-peer"))
}

/// The load on a guest's disk.
///
/// # Errors
/// When the build fails.
pub fn disk_load() -> anyhow::Result<PathBuf> {
    Ok(folder()?.join("disk-load"))
}

/// The freestanding guest.
///
/// # Errors
/// When the build fails.
pub fn probe_guest() -> anyhow::Result<PathBuf> {
    let beside = folder()?.join("../probe/probe-guest");
    if beside.exists() {
        return Ok(beside);
    }
    Ok(folder()?.join("probe-guest"))
}
