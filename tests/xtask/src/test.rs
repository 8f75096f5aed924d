//! `cargo xtask test`: all runners, one sum.
//!
//! One rule: the last line is `N passed, N failed, N skipped` over all runners, and `--ci` fails
//! when something was skipped that CI can run.

use std::process::Command;
use std::time::Instant;

use clap::ValueEnum;

use crate::fuzz;
use crate::packages;
use crate::shell;
use crate::totals;
use crate::totals::Skipped;
use crate::totals::Totals;

/// Runs every test that this machine can run.
///
/// The runners, in this order: `unit` (all crates: layouts, units, loopback, protocol, tidy; no
/// root, network or KVM), `loom` (memory ordering of the rings, every interleaving), `vm` (whole
/// machines: probe guest, Debian under QEMU, Debian nested), `fuzz` (some seconds for each target,
/// with --ci or by name).
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
    /// Only tests whose name contains this.
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
}

pub fn run(args: &Args) -> anyhow::Result<bool> {
    packages::ensure(args.no_install)?;
    let mut all = Vec::new();
    for runner in [Runner::Unit, Runner::Loom, Runner::Vm, Runner::Fuzz] {
        let chosen = args.only.contains(&runner);
        if chosen || (args.only.is_empty() && (runner != Runner::Fuzz || args.ci)) {
            all.push(one(args, runner)?);
        }
    }
    Ok(report(args, &all))
}

fn one(args: &Args, runner: Runner) -> anyhow::Result<Totals> {
    match runner {
        Runner::Unit => {
            let options = [
                "test",
                "--workspace",
                "--exclude",
                "vm",
                "--no-fail-fast",
                "--locked",
            ];
            let mut command = shell::cargo(&options);
            // What a passing test says is shown: that it skipped itself, maybe.
            command.args(["--", "--show-output"]);
            cargo_test(args, "unit", &mut command)
        }
        Runner::Loom => {
            let mut command = shell::cargo(&["test", "-p", "virtqueue", "--lib", "--release"]);
            command.env("RUSTFLAGS", "--cfg loom");
            // Another target folder: the flag would rebuild the world twice.
            command.env("CARGO_TARGET_DIR", vm::paths::target().join("loom"));
            command.args(["--locked", "--", "loom"]);
            let mut totals = cargo_test(args, "loom", &mut command)?;
            if totals.failed == 0 && totals.passed == 0 && args.filter.is_none() {
                totals = Totals::not_run("loom", "no model in virtqueue is named loom");
            }
            Ok(totals)
        }
        Runner::Vm => {
            let options = ["test", "-p", "vm", "--no-fail-fast", "--locked"];
            cargo_test(args, "vm", &mut shell::cargo(&options))
        }
        Runner::Fuzz => fuzz::short_run(args.no_install),
    }
}

fn cargo_test(args: &Args, name: &str, command: &mut Command) -> anyhow::Result<Totals> {
    if let Some(filter) = &args.filter {
        command.args((name == "vm").then_some("--")).arg(filter);
    }
    if args.long {
        command.env(LONG_WRITES.0, LONG_WRITES.1);
        command.env("PARAVANE_LONG", "1");
    }
    let start = Instant::now();
    let mut totals = Totals {
        runner: name.into(),
        ..Totals::default()
    };
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

/// Skips that CI accepts.
fn accepted(skipped: &Skipped) -> bool {
    let kvm = skipped.reason.starts_with("no /dev/kvm") && vm::kvm().is_err();
    let huge = skipped.reason.starts_with("no huge pages");
    // A later Debian's QEMU is asked of apt each time; what it said stands in the reason.
    let newer = skipped
        .reason
        .starts_with("apt has no trixie-backports QEMU");
    // No test: the body of a process that tests start.
    let body = skipped.reason.starts_with("run by the other tests");
    kvm || huge || newer || body
}

fn report(args: &Args, all: &[Totals]) -> bool {
    let skipped: Vec<&Skipped> = all.iter().flat_map(|totals| &totals.skipped).collect();
    for skip in &skipped {
        let verdict = if args.ci && !accepted(skip) {
            " (CI can run this)"
        } else {
            ""
        };
        host_os::tell!("skipped {}: {}{verdict}", skip.name, skip.reason);
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
    let unaccepted = args.ci && skipped.iter().any(|skip| !accepted(skip));
    let line = totals::last_line(all);
    if args.json {
        host_os::say!("{}", serde_json::json!({ "runners": all, "summary": line }));
    } else {
        host_os::say!("{line}");
    }
    !failed && !unaccepted
}
