//! `cargo xtask check`: everything that needs no run of the product, all failures shown at once.
//!
//! One rule: warnings are errors here and only here, so that work in progress compiles.

use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Instant;

use crate::allocation;
use crate::shell;
use crate::totals::Skipped;
use crate::totals::Totals;

/// The program that checks dependencies, in the version whose configuration deny.toml has.
const DENY: &str = "cargo-deny@0.20.2";

/// Checks the tree as a reviewer's machine would: format, clippy, workspace rules, documentation,
/// drivers without infallible allocation, dependency rules. All steps run even when one fails.
#[derive(clap::Args)]
pub struct Args {
    /// Only name a missing cargo-deny, do not install it.
    #[arg(long)]
    no_install: bool,
    /// The steps and how they ended as JSON on standard output.
    #[arg(long)]
    json: bool,
}

/// One step and how it ended: well or not, or left out for this reason.
struct Step {
    name: &'static str,
    ended: Result<bool, String>,
    seconds: f64,
}

pub fn run(args: &Args) -> anyhow::Result<bool> {
    let steps = steps(true, || cargo_deny(args.no_install))?;
    for step in &steps {
        let verdict = match &step.ended {
            Ok(true) => "good",
            Ok(false) => "FAILED",
            Err(reason) => &format!("left out: {reason}"),
        };
        host_os::tell!("{:>14}: {verdict}", step.name);
    }
    if args.json {
        let verdict = |step: &Step| match &step.ended {
            Ok(good) => serde_json::Value::from(*good),
            Err(reason) => reason.as_str().into(),
        };
        let map = steps.iter().map(|s| (s.name.to_string(), verdict(s)));
        host_os::say!(
            "{}",
            serde_json::Value::Object(map.collect::<serde_json::Map<_, _>>())
        );
    }
    Ok(steps.iter().all(|step| step.ended != Ok(false)))
}

/// The steps as a runner of `cargo xtask test`, without the rules of tests/tidy, which are tests there anyway.
/// `meanwhile` is what [`build_deny_meanwhile`] started.
pub fn as_tests(no_install: bool, meanwhile: Option<Meanwhile>) -> anyhow::Result<Totals> {
    let start = Instant::now();
    let mut totals = Totals::of("check");
    let deny = || {
        if let Some(mut build) = meanwhile {
            shell::say("waiting for the build of cargo-deny");
            build.0.wait()?;
        }
        cargo_deny(no_install)
    };
    for step in steps(false, deny)? {
        totals.time(&format!("check: {}", step.name), step.seconds);
        match step.ended {
            Ok(true) => totals.passed += 1,
            Ok(false) => totals.failed += 1,
            Err(reason) => totals.skipped.push(Skipped {
                name: format!("check: {}", step.name),
                reason,
            }),
        }
    }
    totals.seconds = start.elapsed().as_secs();
    Ok(totals)
}

/// All steps, even when one fails.
fn steps(
    tidy: bool,
    deny: impl FnOnce() -> anyhow::Result<Option<String>>,
) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut step = |name, run: &mut dyn FnMut() -> anyhow::Result<Result<bool, String>>| {
        let start = Instant::now();
        let ended = run()?;
        let seconds = start.elapsed().as_secs_f64();
        steps.push(Step {
            name,
            ended,
            seconds,
        });
        anyhow::Ok(())
    };
    let format = ["fmt", "--all", "--check"];
    step("format", &mut || {
        shell::show(&mut shell::cargo(&format)).map(Ok)
    })?;
    step("clippy", &mut || shell::show(&mut clippy()).map(Ok))?;
    if tidy {
        let rules = ["test", "-q", "-p", "tidy", "--locked"];
        step("tidy", &mut || {
            shell::show(&mut shell::cargo(&rules)).map(Ok)
        })?;
    }
    step("documentation", &mut || {
        shell::show(&mut documentation()).map(Ok)
    })?;
    step("allocation", &mut allocation::check)?;
    let deny = deny()?;
    let missing = || Err(format!("cargo-deny is missing ({INSTALL})"));
    step("dependencies", &mut || match &deny {
        Some(deny) => shell::show(&mut deny_command(deny, false)).map(Ok),
        None => Ok(missing()),
    })?;
    step("advisories", &mut || match &deny {
        Some(deny) if advisories_reachable() => shell::show(&mut deny_command(deny, true)).map(Ok),
        Some(_) => Ok(Err(UNREACHABLE.into())),
        None => Ok(missing()),
    })?;
    Ok(steps)
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

/// How one gets the program.
const INSTALL: &str = "cargo install --locked cargo-deny";
const UNREACHABLE: &str = "the advisory database cannot be reached from here";

/// The program, if it is somewhere.
fn found_deny() -> Option<String> {
    let local = tools().join("bin/cargo-deny");
    let local = local.exists().then(|| local.display().to_string());
    vm::tool("cargo-deny", "none").ok().or(local)
}

fn tools() -> PathBuf {
    vm::paths::target().join("tools")
}

/// Builds the program below the target folder. Without optimisation, which takes longer than all that it is to do.
fn build_deny(nice: bool) -> Command {
    let options = ["install", "--locked", "--debug", DENY, "--root"];
    let mut command = if nice {
        let mut command = Command::new("nice");
        command.current_dir(shell::root()).arg("-n19");
        command.arg(shell::cargo(&[]).get_program()).args(options);
        command
    } else {
        shell::cargo(&options)
    };
    command.arg(tools());
    command
}

/// A build beside other work, which ends with it.
pub struct Meanwhile(Child);

impl Drop for Meanwhile {
    fn drop(&mut self) {
        // Where it has ended already, there is nothing to end.
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Starts the build of the program where it is missing, with what processor time others leave.
pub fn build_deny_meanwhile(no_install: bool) -> anyhow::Result<Option<Meanwhile>> {
    if no_install || found_deny().is_some() {
        return Ok(None);
    }
    let mut command = build_deny(true);
    shell::say(&format!("meanwhile: {}", shell::typed(&command)));
    std::fs::create_dir_all(tools())?;
    let log = std::fs::File::create(tools().join("cargo-deny.log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?);
    Ok(Some(Meanwhile(command.stderr(log).spawn()?)))
}

/// The program, built below the target folder when it is missing.
fn cargo_deny(no_install: bool) -> anyhow::Result<Option<String>> {
    if found_deny().is_none() && !no_install {
        shell::show(&mut build_deny(false))?;
    }
    Ok(found_deny())
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
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
