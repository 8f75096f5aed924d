//! `cargo xtask test`: all runners, one sum.
//!
//! One rule: the last line is `N passed, N failed, N skipped` over all runners, and `--ci` fails
//! when something was skipped that CI can run, by the list in [`crate::skips`].

use std::process::Command;
use std::time::Instant;

use clap::ValueEnum;

use crate::check;
use crate::check::Meanwhile;
use crate::fuzz;
use crate::packages;
use crate::shell;
use crate::skips;
use crate::totals;
use crate::totals::Skipped;
use crate::totals::Totals;

/// Runs every test that this machine can run.
///
/// The runners, in this order: `unit` (all crates: layouts, units, loopback, protocol, tidy; no
/// root, network or KVM), `loom` (memory ordering of the rings, every interleaving), `vm` (whole
/// machines: probe guest, Debian under QEMU, Debian nested), `fuzz` (some seconds for each target),
/// `check` (what `cargo xtask check` does, each step counted as a test). The last two run with --ci
/// or by name.
#[derive(clap::Args)]
pub struct Args {
    /// As CI runs it: all runners, and a skip fails unless this machine really cannot.
    #[arg(long)]
    ci: bool,
    /// Only these runners.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Runner>,
    /// Totals and skips as JSON on standard output; everything else on standard error.
    #[arg(long)]
    json: bool,
    /// Only name missing Debian packages, install nothing.
    #[arg(long)]
    no_install: bool,
    /// Many more requests in the tests that draw them by seed, some minutes' worth; whole machines are paused, reset
    /// and moved many times (PARAVANE_LONG=1).
    #[arg(long)]
    long: bool,
    /// Only tests whose name contains this; that there are none is a failure.
    filter: Option<String>,
}

/// The variable that tests/medium looks at, and the writes of each of its tests in a long run.
const LONG_WRITES: (&str, &str) = ("PARAVANE_TEST_WRITES", "200000");

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Runner {
    Unit,
    Loom,
    Vm,
    Fuzz,
    Check,
}

const RUNNERS: [Runner; 5] = [
    Runner::Unit,
    Runner::Loom,
    Runner::Vm,
    Runner::Fuzz,
    Runner::Check,
];

/// How many tests are named with their times.
const SLOWEST: usize = 10;

pub fn run(args: &Args) -> anyhow::Result<bool> {
    packages::ensure(args.no_install)?;
    let runners: Vec<Runner> = RUNNERS
        .into_iter()
        .filter(|runner| args.wants(*runner))
        .collect();
    // Built on what the other runners leave idle.
    let mut deny = None;
    let mut all = Vec::new();
    for runner in &runners {
        if *runner == Runner::Vm && runners.contains(&Runner::Check) {
            deny = check::build_deny_meanwhile(args.no_install)?;
        }
        all.push(one(args, *runner, &mut deny)?);
    }
    if let Some(filter) = &args.filter
        && all.iter().all(Totals::is_empty)
    {
        anyhow::bail!("No test's name contains {filter:?}");
    }
    Ok(report(args, &all))
}

impl Args {
    fn wants(&self, runner: Runner) -> bool {
        match runner {
            _ if self.only.contains(&runner) => true,
            _ if !self.only.is_empty() => false,
            Runner::Fuzz => self.ci,
            // Its steps have no names that one filters by.
            Runner::Check => self.ci && self.filter.is_none(),
            Runner::Unit | Runner::Loom | Runner::Vm => true,
        }
    }
}

fn one(args: &Args, runner: Runner, deny: &mut Option<Meanwhile>) -> anyhow::Result<Totals> {
    match runner {
        Runner::Unit => unit(args),
        Runner::Loom => loom(args),
        Runner::Vm => {
            let mut command = shell::cargo(&["test", "-p", "vm", "--no-fail-fast", "--locked"]);
            cargo_test(args, "vm", command.arg("--").args(&args.filter))
        }
        Runner::Fuzz => fuzz::short_run(args.no_install, args.filter.as_deref()),
        Runner::Check => check::as_tests(args.no_install, deny.take()),
    }
}

/// The models of virtqueue, and of those the ones that the filter names.
fn loom(args: &Args) -> anyhow::Result<Totals> {
    let models = || {
        let mut command = shell::cargo(&["test", "-p", "virtqueue", "--lib", "--release"]);
        command.env("RUSTFLAGS", "--cfg loom");
        // Another target folder: the flag would rebuild the world twice.
        command.env("CARGO_TARGET_DIR", vm::paths::target().join("loom"));
        command.args(["--locked", "--"]);
        command
    };
    let Some(filter) = &args.filter else {
        let totals = cargo_test(args, "loom", models().arg("loom"))?;
        let none = totals.is_empty();
        return Ok(if none {
            Totals::not_run("loom", "no model in virtqueue is named loom")
        } else {
            totals
        });
    };
    // libtest runs what any of several words names, and here both must.
    let list = models().args(["loom", "--list"]).output()?;
    let list = String::from_utf8_lossy(&list.stdout);
    let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
    let names: Vec<&str> = names.filter(|name| name.contains(filter)).collect();
    if names.is_empty() {
        return Ok(Totals::of("loom"));
    }
    cargo_test(args, "loom", models().arg("--exact").args(names))
}

/// All that libtest runs but tests/vm; documentation tests apart, for rustdoc does not take the same words.
fn unit(args: &Args) -> anyhow::Result<Totals> {
    let options = [
        "test",
        "--workspace",
        "--exclude",
        "vm",
        "--no-fail-fast",
        "--locked",
    ];
    let mut command = shell::cargo(&options);
    // libtest tells times only where unstable words are allowed: to the test programs, and to nothing that is built.
    let runner = "target.'cfg(unix)'.runner = ['env', 'RUSTC_BOOTSTRAP=1']";
    command.args(["--tests", "--config", runner]);
    // What a passing test says is shown: that it skipped itself, maybe.
    let words = ["--", "--show-output", "-Zunstable-options", "--report-time"];
    command.args(words).args(&args.filter);
    let mut totals = cargo_test(args, "unit", &mut command)?;
    let mut documented = shell::cargo(&options);
    documented.args(["--doc", "--"]).args(&args.filter);
    let documented = cargo_test(args, "unit", &mut documented)?;
    totals.add(documented);
    Ok(totals)
}

fn cargo_test(args: &Args, name: &str, command: &mut Command) -> anyhow::Result<Totals> {
    if args.long {
        command.env(LONG_WRITES.0, LONG_WRITES.1);
        command.env("PARAVANE_LONG", "1");
    }
    let start = Instant::now();
    let mut totals = Totals::of(name);
    let success = shell::stream(command, |line| {
        totals.line(line);
        if args.json {
            host_os::tell!("{line}");
        } else {
            host_os::say!("{line}");
        }
    })?;
    totals.end(success);
    totals.seconds = start.elapsed().as_secs();
    Ok(totals)
}

fn report(args: &Args, all: &[Totals]) -> bool {
    let skipped: Vec<&Skipped> = all.iter().flat_map(|totals| &totals.skipped).collect();
    for skip in &skipped {
        let verdict = match skips::accepted(skip) {
            Some(why) => format!(" ({why})"),
            None if args.ci => " (CI can run this)".into(),
            None => String::new(),
        };
        host_os::tell!("skipped {}: {}{verdict}", skip.name, skip.reason);
    }
    let slowest = totals::slowest(all, SLOWEST);
    for test in &slowest {
        host_os::tell!("{:>8.1} s {}", test.seconds, test.name);
    }
    for totals in all {
        let Totals {
            runner,
            passed,
            failed,
            seconds,
            ..
        } = totals;
        let skipped = totals.skipped.len();
        host_os::tell!(
            "{runner:>5}: {passed} passed, {failed} failed, {skipped} skipped in {seconds} s"
        );
    }
    let failed = all.iter().any(|totals| totals.failed > 0);
    let unaccepted = args.ci && skipped.iter().any(|skip| skips::accepted(skip).is_none());
    let line = totals::last_line(all);
    if args.json {
        host_os::say!(
            "{}",
            serde_json::json!({ "runners": all, "slowest": slowest, "summary": line })
        );
    } else {
        host_os::say!("{line}");
    }
    !failed && !unaccepted
}
