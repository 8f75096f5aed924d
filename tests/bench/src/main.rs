//! Benchmarks: every figure is a ratio against a peer or a baseline taken in the same run.
//!
//! One rule: a benchmark reports what it measured; it never judges and never retries for a better figure.

mod balloon;
mod block;
mod client;
mod cpu;
mod fio;
mod job;
mod memory;
mod native;
mod net;
mod report;
mod sample;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use clap::Parser;
use clap::Subcommand;

use crate::job::Job;
use crate::job::Pattern;
use crate::job::Wait;

/// Measures Paravane against its peers, in one run, on one machine.
#[derive(Parser)]
#[command(name = "paravane-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The block daemon against qemu-storage-daemon and against native I/O on the same file.
    Block(block::BlockArgs),
    /// The network daemon against DPDK's vhost and against the host's own TAP.
    Net(net::NetArgs),
    /// The balloon daemon against QEMU's own balloon.
    Balloon(balloon::BalloonArgs),
    /// One job straight on a file, with no daemon: the baseline.
    Native(NativeArgs),
    /// One job against a running vhost-user-blk socket.
    Client(ClientArgs),
}

#[derive(clap::Args)]
struct JobArgs {
    /// Access pattern.
    #[arg(long, value_enum, default_value = "randread")]
    rw: Pattern,
    /// Bytes per request.
    #[arg(long, default_value_t = 4096)]
    bs: usize,
    /// Requests in flight per queue.
    #[arg(long, default_value_t = 32)]
    qd: usize,
    /// Queues.
    #[arg(long, default_value_t = 1)]
    queues: usize,
    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How the client waits for completions.
    #[arg(long, value_enum, default_value = "poll")]
    wait: Wait,
    /// Use packed virtqueues.
    #[arg(long)]
    packed: bool,
    /// Pin the measuring thread to this CPU.
    #[arg(long)]
    cpu: Option<usize>,
}

impl JobArgs {
    fn job(&self) -> Job {
        Job {
            pattern: self.rw,
            block_bytes: self.bs,
            depth: self.qd,
            queues: self.queues,
            duration: Duration::from_secs_f64(self.seconds),
            wait: self.wait,
            packed: self.packed,
        }
    }
}

#[derive(clap::Args)]
struct NativeArgs {
    /// File or block device to use; writing patterns overwrite it.
    #[arg(long)]
    path: PathBuf,
    /// How the requests are issued.
    #[arg(long, value_enum, default_value = "uring")]
    engine: native::Engine,
    /// Past the page cache.
    #[arg(long)]
    direct: bool,
    #[command(flatten)]
    job: JobArgs,
}

#[derive(clap::Args)]
struct ClientArgs {
    /// vhost-user-blk socket.
    #[arg(long)]
    socket: PathBuf,
    #[command(flatten)]
    job: JobArgs,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Block(args) => block::run(&args),
        Command::Net(args) => net::run(&args),
        Command::Balloon(args) => balloon::run(&args),
        Command::Native(args) => {
            cpu::pin(args.job.cpu)?;
            let job = args.job.job();
            let sample = native::run(&args.path, args.engine, args.direct, &job)?;
            host_os::say!("{}", report::line(args.engine.name(), &job, &sample));
            Ok(())
        }
        Command::Client(args) => {
            cpu::pin(args.job.cpu)?;
            let job = args.job.job();
            let sample = client::run(&args.socket, &job)
                .with_context(|| format!("client on {}", args.socket.display()))?;
            host_os::say!("{}", report::line("vhost-user", &job, &sample));
            Ok(())
        }
    }
}
