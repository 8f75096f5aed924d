//! The balloon daemon against QEMU's own balloon: what it costs the host to take a guest's memory and to give it back.
//!
//! One rule: memory is there before it is taken (every page was written), and the kernel's count of its blocks says
//! afterwards that it is gone.

mod client;
mod order;
mod qemu;
mod server;

use std::path::Path;
use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use crate::balloon::order::Order;
use crate::cpu;

/// The balloon daemon against QEMU's own balloon.
#[derive(clap::Args)]
pub struct BalloonArgs {
    /// Program of our daemon.
    #[arg(long, default_value = "paravane-balloond")]
    daemon: PathBuf,
    /// The probe guest's image, which drives QEMU's balloon; without it, only our daemon is measured.
    #[arg(long)]
    guest: Option<PathBuf>,
    /// MiB of memory that are taken.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Pages of 4 KiB in one message.
    #[arg(long, default_value_t = 256)]
    batch: u16,
    /// Only our daemon, or only QEMU.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Use packed virtqueues.
    #[arg(long)]
    packed: bool,
    /// Measure a daemon that runs already, on this socket; needs its process id too.
    #[arg(long, requires = "pid")]
    socket: Option<PathBuf>,
    /// Its process id.
    #[arg(long)]
    pid: Option<u32>,
    /// Also write all cells to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Our daemon.
    Daemon,
    /// QEMU's own balloon.
    Qemu,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// What was done.
    pub what: &'static str,
    /// In which order the pages came.
    pub order: &'static str,
    /// Who did it.
    pub server: &'static str,
    /// GiB that were moved.
    pub gib: f64,
    /// CPU time of the server, in seconds for each GiB.
    pub cpu_s_per_gib: f64,
    /// Time from the first message to the last acknowledgement, in seconds for each GiB.
    pub wall_s_per_gib: f64,
    /// MiB that the kernel counts less (inflated, reported) or more (used again) afterwards.
    pub blocks_mib: i64,
}

impl Cell {
    fn line(&self) -> String {
        format!(
            "{:<10} {:<10} {:<22} {:>6.2} {:>12.4} {:>12.4} {:>8}",
            self.what,
            self.order,
            self.server,
            self.gib,
            self.cpu_s_per_gib,
            self.wall_s_per_gib,
            self.blocks_mib
        )
    }
}

/// Runs all cells and prints each as it comes; ratios at the end.
pub fn run(args: &BalloonArgs) -> Result<()> {
    host_os::say!(
        "{:<10} {:<10} {:<22} {:>6} {:>12} {:>12} {:>8}",
        "what",
        "order",
        "server",
        "GiB",
        "cpu s/GiB",
        "wall s/GiB",
        "MiB"
    );
    let mut cells = Vec::new();
    let mut take = |cell: Cell| {
        host_os::say!("{}", cell.line());
        cells.push(cell);
    };
    let folder = tempfile::tempdir()?;
    if args.only != Some(Part::Qemu) {
        daemon(args, folder.path(), &mut take)?;
    }
    if let Some(guest) = args
        .guest
        .as_ref()
        .filter(|_| args.only != Some(Part::Daemon))
    {
        qemu::run(guest, args, folder.path(), &mut take)?;
    }
    ratios(&cells);
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&cells)?)?;
    }
    Ok(())
}

/// Our daemon, in every order of pages.
fn daemon(args: &BalloonArgs, folder: &Path, take: &mut impl FnMut(Cell)) -> Result<()> {
    let (client_cpu, server_cpu) = cpu::pair();
    let server = match (&args.socket, args.pid) {
        (Some(socket), Some(pid)) => server::Server::running(socket, pid),
        _ => server::Server::start(&args.daemon, folder, server_cpu)?,
    };
    cpu::pin(Some(client_cpu))?;
    for order in Order::ALL {
        client::run(&server, args, order, take)?;
    }
    cpu::unpin()
}

/// Shortest CPU time that is compared, in seconds.
const CLOCK_S: f64 = 0.001;

/// QEMU's cost over ours for what both did.
fn ratios(cells: &[Cell]) {
    for theirs in cells.iter().filter(|cell| cell.server != server::OURS) {
        let same = |cell: &&Cell| {
            cell.server == server::OURS && cell.what == theirs.what && cell.order == theirs.order
        };
        if let Some(ours) = cells.iter().find(same) {
            // Below this the clocks say nothing.
            let least = ours.cpu_s_per_gib.max(CLOCK_S);
            let more = if ours.cpu_s_per_gib < CLOCK_S {
                "at least "
            } else {
                ""
            };
            host_os::say!(
                "{} {}: {} spends {more}{:.1} times our CPU time",
                theirs.what,
                theirs.order,
                theirs.server,
                theirs.cpu_s_per_gib / least
            );
        }
    }
}
