//! `cargo xtask check`: everything that needs no run of the product, all failures shown at once.
//!
//! One rule: warnings are errors here and only here, so that work in progress compiles.

use std::process::Command;

use crate::shell;

/// Checks the tree as a reviewer's machine would: format, clippy, workspace rules, documentation,
/// dependency rules. All steps run even when one fails.
#[derive(clap::Args)]
pub struct Args {
    /// Only name a missing cargo-deny, do not install it.
    #[arg(long)]
    no_install: bool,
    /// The steps and how they ended as JSON on standard output.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<bool> {
    let mut steps = vec![
        (
            "format",
            shell::show(&mut shell::cargo(&["fmt", "--all", "--check"]))?,
        ),
        ("clippy", shell::show(&mut clippy())?),
        (
            "tidy",
            shell::show(&mut shell::cargo(&["test", "-q", "-p", "tidy", "--locked"]))?,
        ),
        ("documentation", shell::show(&mut documentation())?),
    ];
    if let Some(deny) = cargo_deny(args.no_install)? {
        steps.push((
            "dependencies",
            shell::show(&mut deny_command(&deny, false))?,
        ));
        if advisories_reachable() {
            steps.push(("advisories", shell::show(&mut deny_command(&deny, true))?));
        } else {
            shell::say("advisories left out: the advisory database cannot be reached from here");
        }
    } else {
        shell::say(
            "dependencies left out: cargo-deny is missing (cargo install --locked cargo-deny)",
        );
    }
    for (name, good) in &steps {
        host_os::tell!("{:>14}: {}", name, if *good { "good" } else { "FAILED" });
    }
    if args.json {
        let steps: serde_json::Map<_, _> = steps
            .iter()
            .map(|(name, good)| ((*name).to_string(), (*good).into()))
            .collect();
        host_os::say!("{}", serde_json::Value::Object(steps));
    }
    Ok(steps.iter().all(|(_, good)| *good))
}

fn clippy() -> Command {
    let options = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ];
    shell::cargo(&options)
}

fn documentation() -> Command {
    let mut command = shell::cargo(&["doc", "--workspace", "--no-deps", "--locked"]);
    command
        .args(["--document-private-items", "--quiet"])
        .env("RUSTDOCFLAGS", "-D warnings");
    command
}

/// The program, installed below the target folder when it is missing.
fn cargo_deny(no_install: bool) -> anyhow::Result<Option<String>> {
    let tools = vm::paths::target().join("tools");
    let local = tools.join("bin/cargo-deny");
    if let Ok(found) = vm::tool("cargo-deny", "none") {
        return Ok(Some(found));
    }
    if !local.exists() && !no_install {
        let mut install = shell::cargo(&["install", "--locked", "cargo-deny", "--root"]);
        if !shell::show(install.arg(&tools))? {
            return Ok(None);
        }
    }
    Ok(local.exists().then(|| local.display().to_string()))
}

fn deny_command(program: &str, advisories: bool) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(shell::root())
        .args(["--locked", "check", "--hide-inclusion-graph"]);
    if advisories {
        command.arg("advisories");
    } else {
        command.args(["bans", "licenses", "sources"]);
    }
    command
}

/// The database is a git repository; asking for its head is the cheapest way to know.
fn advisories_reachable() -> bool {
    let mut command = Command::new("timeout");
    command.args([
        "10",
        "git",
        "ls-remote",
        "-q",
        "https://github.com/RustSec/advisory-db",
        "HEAD",
    ]);
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
