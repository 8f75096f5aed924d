//! `cargo xtask fuzz`: libFuzzer targets with the pinned stable toolchain.
//!
//! One rule: the corpus is kept, a crash leaves its input behind and fails the run.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;

use crate::packages;
use crate::shell;
use crate::totals::Totals;

/// Seconds for each target in a test run.
const SHORT: u32 = 15;
/// Coverage for libFuzzer, and the address sanitizer; what `cargo fuzz` would pass.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address --cfg fuzzing \
    -Ccodegen-units=1 -Cforce-frame-pointers=yes";
/// Named so that the flags do not reach build scripts and macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Feeds random input to the parsers that face a peer.
///
/// Inputs that reach new code are kept in the corpus below the target folder. A crash writes its
/// input to tests/fuzz/artifacts; run it again with `--input FILE`.
#[derive(clap::Args)]
pub struct Args {
    /// Only this target; all of them one after another if absent.
    target: Option<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Runs this input once instead.
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
    /// Names the targets.
    #[arg(long)]
    list: bool,
}

pub fn run(args: &Args) -> anyhow::Result<bool> {
    let all = targets()?;
    if args.list {
        host_os::say!("{}", all.join("\n"));
        return Ok(true);
    }
    let chosen: Vec<String> = match &args.target {
        Some(name) if !all.contains(name) => {
            bail!("No target {name}; there are: {}", all.join(", "))
        }
        Some(name) => vec![name.clone()],
        None => all,
    };
    build()?;
    let mut good = true;
    for name in &chosen {
        let mut command = match &args.input {
            Some(input) => {
                let mut command = Command::new(program(name));
                command.arg(input);
                command
            }
            None => fuzzing(name, args.seconds)?,
        };
        good &= shell::show(&mut command)?;
    }
    Ok(good)
}

/// Some seconds for each target whose name contains `filter`, each of them counted as a test; as many at a time as there
/// are processors.
pub fn short_run(no_install: bool, filter: Option<&str>) -> anyhow::Result<Totals> {
    let mut totals = Totals::of("fuzz");
    let mut names = targets()?;
    names.retain(|name| name.contains(filter.unwrap_or_default()));
    if names.is_empty() {
        return Ok(totals);
    }
    packages::ensure(no_install)?;
    if let Err(missing) = vm::tool("c++", "g++") {
        return Ok(Totals::not_run("fuzz", &missing.to_string()));
    }
    let start = Instant::now();
    build()?;
    totals.time("fuzz: the build", start.elapsed().as_secs_f64());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let waiting = Mutex::new(names.into_iter());
    let next = || lock(&waiting).next();
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(name) = next() {
                    let good = short(&name);
                    lock(&done).push((name, good));
                }
            });
        }
    });
    for (name, good) in std::mem::take(&mut *lock(&done)) {
        let good = good?;
        host_os::tell!("fuzz {name} ... {}", if good { "ok" } else { "FAILED" });
        if good {
            totals.passed += 1;
        } else {
            totals.failed += 1;
        }
    }
    totals.seconds = start.elapsed().as_secs();
    Ok(totals)
}

/// One target for some seconds.
fn short(name: &str) -> anyhow::Result<bool> {
    let mut command = fuzzing(name, SHORT)?;
    shell::show(command.arg("-verbosity=0").arg("-print_final_stats=1"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Names and verdicts are whole whatever panicked beside them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The files of `tests/fuzz/targets`.
fn targets() -> anyhow::Result<Vec<String>> {
    let folder = shell::root().join("tests/fuzz/targets");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .with_context(|| format!("Read {}", folder.display()))?
        .filter_map(Result::ok)
        .filter_map(|entry| Some(entry.path().file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}

fn build_folder() -> PathBuf {
    vm::paths::target().join("fuzz")
}

fn program(name: &str) -> PathBuf {
    build_folder().join(TARGET).join("release").join(name)
}

fn build() -> anyhow::Result<()> {
    let manifest = [
        "build",
        "--release",
        "--locked",
        "--manifest-path",
        "tests/fuzz/Cargo.toml",
    ];
    let mut command = shell::cargo(&manifest);
    // The sanitizer flag is unstable; the toolchain is pinned, so what it does is known.
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", FLAGS);
    command
        .env("CARGO_TARGET_DIR", build_folder())
        .args(["--target", TARGET]);
    if !shell::show(&mut command)? {
        bail!("The fuzz targets do not build");
    }
    Ok(())
}

fn fuzzing(name: &str, seconds: u32) -> anyhow::Result<Command> {
    let corpus = build_folder().join("corpus").join(name);
    let artifacts = shell::root().join("tests/fuzz/artifacts").join(name);
    std::fs::create_dir_all(&corpus)?;
    std::fs::create_dir_all(&artifacts)?;
    let mut command = Command::new(program(name));
    command
        .arg(&corpus)
        .arg(format!("-max_total_time={seconds}"));
    command.args(["-max_len=4096", "-timeout=10", "-rss_limit_mb=2048"]);
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    Ok(command)
}
