//! `paravane-bench block`: our daemon against its peers, cell by cell, in one run.
//!
//! The contenders take turns within each round of each cell, so that drift of the machine's speed hits all of them;
//! ratios are taken within a round, and reported as their median with the least and the greatest.

mod cells;
mod contender;
mod table;

use std::fs;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use clap::ValueEnum;
use serde::Serialize;

use crate::block::cells::Matrix;
use crate::block::contender::Contender;
use crate::block::contender::Server;
use crate::block::contender::Setting;
use crate::client;
use crate::cpu;
use crate::fio;
use crate::job::Job;
use crate::job::Pattern;
use crate::job::Wait;
use crate::native;
use crate::report::Cell;
use crate::report::job_name;

/// Whether the image is read and written through the host's page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// Through it.
    Writeback,
    /// Past it (`O_DIRECT`), for all contenders.
    None,
}

/// Options of `paravane-bench block`.
#[derive(clap::Args)]
pub struct BlockArgs {
    /// The daemon to measure.
    #[arg(long, default_value = "target/release/paravane-blockd")]
    daemon: PathBuf,
    /// Where the image, sockets and logs live; the file system decides what is measured.
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// Size of the image, MiB.
    #[arg(long, default_value_t = 512)]
    image_mib: u64,
    /// Through the host's page cache or past it, for all contenders.
    #[arg(long, value_enum, default_value = "writeback")]
    cache: Cache,
    /// Seconds per cell, contender and round.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Rounds of each cell: every contender runs once in each.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Which cells.
    #[arg(long, value_enum, default_value = "usual")]
    matrix: Matrix,
    /// Only cells whose name contains this text.
    #[arg(long)]
    only: Option<String>,
    /// Who is measured, the first against each other: paravane, paravane:POLL (with that --poll), qsd-threads,
    /// qsd-uring, native-sync, native-uring, fio, or NAME=COMMAND for another daemon, whose words may contain {image},
    /// {socket}, {queues} and {direct}. May be given several times.
    #[arg(long = "contender", value_name = "WHO")]
    contenders: Vec<Contender>,
    /// Print one JSON document instead of the table.
    #[arg(long)]
    json: bool,
}

/// All that one run measured.
#[derive(Serialize)]
struct Report {
    image_mib: u64,
    cache: Cache,
    seconds: f64,
    cells: Vec<Measured>,
    idle_cpu_percent: Vec<(String, f64)>,
}

/// One contender's rounds of one cell.
#[derive(Serialize)]
struct Measured {
    who: String,
    rounds: Vec<Cell>,
}

const QUEUES: usize = 4;

/// Runs the matrix and prints it.
pub fn run(args: &BlockArgs) -> Result<()> {
    if !args.daemon.exists() {
        bail!(
            "no daemon at {}: build it with `cargo build --release -p blockd` or name it with --daemon",
            args.daemon.display()
        );
    }
    let dir = args
        .dir
        .join(format!("paravane-bench-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let result = measure(args, &dir);
    if result.is_ok() {
        fs::remove_dir_all(&dir)?;
    }
    let report = result?;
    if args.json {
        host_os::say!("{}", serde_json::to_string_pretty(&report)?);
    }
    Ok(())
}

fn usual_contenders() -> Vec<Contender> {
    vec![
        Contender::Paravane(None),
        Contender::Qsd("threads"),
        Contender::Qsd("io_uring"),
        Contender::Native(native::Engine::Sync),
        Contender::Native(native::Engine::Uring),
    ]
}

fn measure(args: &BlockArgs, dir: &Path) -> Result<Report> {
    let image = dir.join("disk.raw");
    fill(&image, args.image_mib)?;
    let (client_cpu, server_cpu) = cpu::pair();
    cpu::pin(Some(client_cpu))?;
    let setting = Setting {
        daemon: &args.daemon,
        image: &image,
        dir,
        queues: QUEUES,
        cache: args.cache,
        server_cpu,
    };
    let contenders = if args.contenders.is_empty() {
        usual_contenders()
    } else {
        args.contenders.clone()
    };
    let mut report = Report {
        image_mib: args.image_mib,
        cache: args.cache,
        seconds: args.seconds,
        cells: vec![],
        idle_cpu_percent: vec![],
    };
    let mut table = (!args.json).then(table::Table::new);
    let wanted = |job: &Job| {
        args.only
            .as_ref()
            .is_none_or(|text| job_name(job).contains(text))
    };
    for job in cells::jobs(args.matrix, Duration::from_secs_f64(args.seconds), wanted) {
        let measured = rounds(&setting, &contenders, &job, args.rounds)?;
        if let Some(table) = &mut table {
            table.row(&job, &measured);
        }
        report.cells.extend(measured);
    }
    for contender in contenders.iter().filter(|contender| contender.is_server()) {
        let percent = idle(&contender.start(&setting)?, args)?;
        if table.is_some() {
            host_os::say!(
                "idle, connected, after load: {} burns {percent:.2} % of a CPU",
                contender.name()
            );
        }
        report.idle_cpu_percent.push((contender.name(), percent));
    }
    if let Some(table) = &table {
        table.summary();
    }
    Ok(report)
}

/// All rounds of one cell, contender by contender.
fn rounds(
    setting: &Setting<'_>,
    contenders: &[Contender],
    job: &Job,
    rounds: usize,
) -> Result<Vec<Measured>> {
    let able = contenders.iter().filter(|contender| contender.can(job));
    let mut measured: Vec<(&Contender, Measured)> = able
        .map(|contender| {
            let who = contender.name();
            (
                contender,
                Measured {
                    who,
                    rounds: vec![],
                },
            )
        })
        .collect();
    for _ in 0..rounds.max(1) {
        for (contender, measured) in &mut measured {
            let cell = one(setting, contender, job).with_context(|| {
                format!(
                    "{} on {}; logs in {}",
                    job_name(job),
                    measured.who,
                    setting.dir.display()
                )
            })?;
            measured.rounds.push(cell);
        }
    }
    Ok(measured.into_iter().map(|(_, measured)| measured).collect())
}

fn one(setting: &Setting<'_>, contender: &Contender, job: &Job) -> Result<Cell> {
    match contender {
        Contender::Native(engine) => baseline(setting, contender, job, *engine),
        Contender::Fio => {
            let sample = fio::run(
                setting.image,
                setting.cache == Cache::None,
                job,
                setting.server_cpu,
            )?;
            Ok(Cell::new(&contender.name(), job, &sample))
        }
        _ => {
            let server = contender.start(setting)?;
            let before = cpu::time(server.pid())?;
            let mut sample = client::run(server.socket(), job)?;
            // A daemon that ends with its client leaves no figure.
            sample.server_cpu = cpu::time(server.pid()).ok().map(|after| {
                // The warm-up's share is in the CPU time but not in the operations.
                after.saturating_sub(before).mul_f64(1.0 / 1.1)
            });
            Ok(Cell::new(&contender.name(), job, &sample))
        }
    }
}

fn baseline(
    setting: &Setting<'_>,
    contender: &Contender,
    job: &Job,
    engine: native::Engine,
) -> Result<Cell> {
    let direct = setting.cache == Cache::None;
    // On a thread of its own, so that the server's CPU serves it and the pin ends with it.
    let outcome = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            cpu::pin(Some(setting.server_cpu))?;
            native::run(setting.image, engine, direct, job)
        });
        thread.join()
    });
    match outcome {
        Ok(sample) => Ok(Cell::new(&contender.name(), job, &sample?)),
        Err(_) => bail!("the baseline thread panicked"),
    }
}

/// CPU share of a server whose client is connected but silent, in percent of one CPU.
fn idle(server: &Server, args: &BlockArgs) -> Result<f64> {
    let job = Job {
        pattern: Pattern::Randread,
        block_bytes: 4096,
        depth: 1,
        queues: 1,
        duration: Duration::from_secs_f64(args.seconds.min(0.5)),
        wait: Wait::Sleep,
        packed: false,
    };
    client::run_then(server.socket(), &job, || {
        std::thread::sleep(Duration::from_millis(100));
        let before = cpu::time(server.pid())?;
        std::thread::sleep(Duration::from_secs(1));
        let spent = cpu::time(server.pid())?.saturating_sub(before);
        Ok(spent.as_secs_f64() * 100.0)
    })
}

fn fill(image: &Path, mib: u64) -> Result<()> {
    let mut file = File::create(image)?;
    let mut state = 1u64;
    let mut block = vec![0u8; 1 << 20];
    for _ in 0..mib {
        for word in block.chunks_exact_mut(8) {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block)
            .context("cannot fill the image: is there room in --dir?")?;
    }
    // Blocks that are not yet written back are unwritten extents, whose first direct writes cost more.
    Ok(file.sync_all()?)
}
