//! `paravane-bench block`: our daemon against its peers, cell by cell, in one run.
//!
//! The peers take turns within each cell, so that drift of the machine's speed hits all of them.

use std::fs;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use serde::Serialize;

use crate::client;
use crate::cpu;
use crate::job::Job;
use crate::job::Pattern;
use crate::job::Wait;
use crate::native;
use crate::peer::Peer;
use crate::peer::Server;
use crate::report::Cell;
use crate::report::job_name;
use crate::report::rate;

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
    /// Seconds per cell and peer.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// A handful of cells instead of the whole matrix.
    #[arg(long)]
    quick: bool,
    /// Only cells whose name contains this text.
    #[arg(long)]
    only: Option<String>,
    /// Leave qemu-storage-daemon out.
    #[arg(long)]
    no_peers: bool,
    /// Print one JSON document instead of the table.
    #[arg(long)]
    json: bool,
}

/// All that one run measured.
#[derive(Serialize)]
struct Report {
    image_mib: u64,
    seconds: f64,
    cells: Vec<Cell>,
    idle_cpu_percent: Vec<(&'static str, f64)>,
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
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    Ok(())
}

fn measure(args: &BlockArgs, dir: &Path) -> Result<Report> {
    let image = dir.join("disk.raw");
    fill(&image, args.image_mib)?;
    let (client_cpu, server_cpu) = cpu::pair();
    cpu::pin(Some(client_cpu))?;
    let peers: &[Peer] = if args.no_peers {
        &[Peer::Paravane]
    } else {
        &[Peer::Paravane, Peer::QsdThreads, Peer::QsdUring]
    };
    let mut report = Report {
        image_mib: args.image_mib,
        seconds: args.seconds,
        cells: vec![],
        idle_cpu_percent: vec![],
    };
    if !args.json {
        heading();
    }
    for job in jobs(args) {
        let mut cells = Vec::new();
        for &peer in peers.iter().filter(|peer| !job.packed || peer.has_packed()) {
            let server = peer.start(&args.daemon, &image, dir, QUEUES, server_cpu)?;
            let cell = one(peer, &server, &job).with_context(|| {
                format!(
                    "{} on {}; logs in {}",
                    job_name(&job),
                    peer.name(),
                    dir.display()
                )
            })?;
            cells.push(cell);
        }
        if job.queues == 1 && job.wait == Wait::Poll && !job.packed {
            cells.push(baseline(&image, native::Engine::Sync, &job, server_cpu)?);
            cells.push(baseline(&image, native::Engine::Uring, &job, server_cpu)?);
        }
        if !args.json {
            row(&job, &cells);
        }
        report.cells.extend(cells);
    }
    for &peer in peers {
        let server = peer.start(&args.daemon, &image, dir, QUEUES, server_cpu)?;
        let percent = idle(&server, args)?;
        if !args.json {
            println!(
                "idle, connected, after load: {} burns {percent:.2} % of a CPU",
                peer.name()
            );
        }
        report.idle_cpu_percent.push((peer.name(), percent));
    }
    Ok(report)
}

fn one(peer: Peer, server: &Server, job: &Job) -> Result<Cell> {
    let before = cpu::time(server.pid())?;
    let mut sample = client::run(server.socket(), job)?;
    let spent = cpu::time(server.pid())?.saturating_sub(before);
    // The warm-up's share is in the CPU time but not in the operations.
    sample.server_cpu = Some(spent.mul_f64(1.0 / 1.1));
    Ok(Cell::new(peer.name(), job, &sample))
}

fn baseline(image: &Path, engine: native::Engine, job: &Job, server_cpu: usize) -> Result<Cell> {
    let (image, job) = (image.to_owned(), *job);
    // On a thread of its own, so that the server's CPU serves it and the pin ends with it.
    let thread = std::thread::spawn(move || {
        cpu::pin(Some(server_cpu))?;
        let sample = native::run(&image, engine, &job)?;
        Ok(Cell::new(engine.name(), &job, &sample))
    });
    match thread.join() {
        Ok(cell) => cell,
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

fn jobs(args: &BlockArgs) -> Vec<Job> {
    let mut jobs = Vec::new();
    let patterns = [
        Pattern::Randread,
        Pattern::Randwrite,
        Pattern::Randrw,
        Pattern::Fsync,
        Pattern::Read,
        Pattern::Write,
    ];
    for pattern in patterns {
        for (block_bytes, depth, queues, wait, packed) in shapes(pattern) {
            let job = Job {
                pattern,
                block_bytes,
                depth,
                queues,
                duration: Duration::from_secs_f64(args.seconds),
                wait,
                packed,
            };
            let quick = queues == 1 && depth != 128 && block_bytes == 4096;
            let wanted = args
                .only
                .as_ref()
                .is_none_or(|text| job_name(&job).contains(text));
            if wanted && (quick || !args.quick) {
                jobs.push(job);
            }
        }
    }
    jobs
}

fn shapes(pattern: Pattern) -> Vec<(usize, usize, usize, Wait, bool)> {
    let sizes: &[usize] = match pattern {
        Pattern::Read | Pattern::Write => &[64 << 10, 1 << 20],
        _ => &[4 << 10, 64 << 10, 1 << 20],
    };
    let mut shapes = Vec::new();
    for &size in sizes {
        for queues in [1, 4] {
            for depth in [1, 32, 128] {
                shapes.push((size, depth, queues, Wait::Poll, false));
            }
        }
    }
    if sizes[0] == 4096 {
        shapes.insert(0, (4096, 1, 1, Wait::Sleep, false));
        shapes.push((4096, 1, 1, Wait::Poll, true));
        shapes.push((4096, 32, 1, Wait::Poll, true));
    }
    shapes
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
    Ok(())
}

fn heading() {
    println!(
        "{:<28} {:>10} {:>9} {:>9} {:>9}   against the peers of the same run",
        "job (poll unless said)", "paravane", "p50 us", "p99 us", "CPU s/M"
    );
}

fn row(job: &Job, cells: &[Cell]) {
    let Some((ours, others)) = cells.split_first() else {
        return;
    };
    let mut text = format!(
        "{:<28} {:>10} {:>9.1} {:>9.1} {:>9.2}  ",
        job_name(job),
        rate(ours.iops),
        ours.p50_us,
        ours.p99_us,
        ours.cpu_s_per_million.unwrap_or_default()
    );
    for other in others {
        text += &format!(
            " {} {} (x{:.2})",
            other.who,
            rate(other.iops),
            ours.iops / other.iops
        );
    }
    if cells.iter().any(|cell| cell.errors > 0) {
        text += "  VOID: operations failed";
    }
    println!("{text}");
}
