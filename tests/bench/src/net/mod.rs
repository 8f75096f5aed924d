//! The network daemon: between ports against DPDK's vhost, and on a TAP against the host itself.
//!
//! One rule: a cell's server is started for it, on a CPU of its own, and the client is the same for all servers.

mod flood;
mod host;
mod load;
mod packet;
mod port;
mod ports;
mod server;
mod stage;
mod tap;
mod tcp;
mod testpmd;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

/// The network daemon against DPDK's vhost and against the host's own TAP.
#[derive(clap::Args)]
pub struct NetArgs {
    /// Program of our daemon.
    #[arg(long, default_value = "paravane-netd")]
    daemon: PathBuf,
    /// How long each cell is measured, in seconds.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Only the part between ports, or only the TAP.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Only cells whose name contains these words.
    #[arg(long, value_name = "WORDS", default_value = "")]
    cell: Choice,
    /// Also write all cells to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// testpmd's virtio_user ports, against testpmd's own vhost ports.
    Ports,
    /// A client on our daemon on a TAP, against the same client on the TAP itself.
    Tap,
}

/// Which cells are measured.
#[derive(Clone, Debug)]
struct Choice(String);

impl Choice {
    fn wants(&self, name: &str) -> bool {
        name.contains(&self.0)
    }
}

impl std::str::FromStr for Choice {
    type Err = std::convert::Infallible;

    fn from_str(words: &str) -> Result<Self, Self::Err> {
        Ok(Self(words.to_owned()))
    }
}

/// One figure and its measure.
#[derive(Clone, Debug, Serialize)]
struct Cell {
    /// What was done.
    name: String,
    /// What is counted, per second.
    unit: &'static str,
    /// Ring format of ours (and of the peer where it has rings).
    packed: bool,
    /// Our figure.
    paravane: f64,
    /// Who else was measured.
    peer: &'static str,
    /// Their figure.
    theirs: f64,
    /// CPU time of our server per million frames, in seconds, where frames are counted.
    paravane_cpu: Option<f64>,
    /// The same of the peer.
    theirs_cpu: Option<f64>,
}

impl Cell {
    fn line(&self) -> String {
        let format = if self.packed { "packed" } else { "split" };
        let cpu = |cpu: Option<f64>| cpu.map_or("-".to_owned(), |cpu| format!("{cpu:.3}"));
        format!(
            "{:<24} {format:<6} {:>10} {:>10} {:>6.2}   {:>7} {:>7}  {} (against {})",
            self.name,
            short(self.paravane),
            short(self.theirs),
            self.paravane / self.theirs,
            cpu(self.paravane_cpu),
            cpu(self.theirs_cpu),
            self.unit,
            self.peer,
        )
    }
}

fn short(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.2} G", v / 1e9),
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e4 => format!("{:.0} k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

/// Runs the parts asked for and prints each cell as it comes.
pub fn run(args: &NetArgs) -> Result<()> {
    let time = Duration::from_secs_f64(args.seconds);
    host_os::say!(
        "{:<24} {:<6} {:>10} {:>10} {:>6}   {:>7} {:>7}",
        "cell",
        "ring",
        "paravane",
        "peer",
        "ratio",
        "cpu/M",
        "peer's"
    );
    let mut cells = Vec::new();
    let mut take = |cell: Cell| {
        host_os::say!("{}", cell.line());
        cells.push(cell);
    };
    if args.only != Some(Part::Tap) {
        ports::run(&args.daemon, time, &args.cell, &mut take)?;
    }
    if args.only != Some(Part::Ports) {
        tap::run(&args.daemon, time, &args.cell, &mut take)?;
    }
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&cells)?)?;
    }
    Ok(())
}
