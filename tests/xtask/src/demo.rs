//! `cargo xtask demo`: a VM on our daemon beside native I/O, in one table.
//!
//! One rule: both sides of a ratio come from the same run on the same file.

mod guest;
mod host;
mod native;
mod others;
mod table;

use std::path::PathBuf;

use crate::shell;
use guest::Guest;
use host::Host;
use table::Cell;
use table::Row;

/// Boots a VM whose disk our daemon serves, and compares with native I/O on the same file.
///
/// Steps: make and fill an image; build the programs; start the daemon (sandboxed, and as nobody
/// when we are root); let the guest verify the disk; kill the daemon with SIGKILL under load and
/// start it again; let guests talk over a switch and with the host, all bytes compared, and move
/// memory between two of them; then measure each job in the guest, with io_uring and with
/// pread/pwrite.
/// Without /dev/kvm the driver core runs against the device in one process instead.
#[derive(clap::Args)]
pub struct Args {
    /// The table as JSON on standard output; progress on standard error.
    #[arg(long)]
    json: bool,
    /// Where the image is made [default: the target folder; /dev/shm for a file in memory].
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Size of the image in MiB.
    #[arg(long, default_value_t = 1024)]
    size_mib: u64,
    /// Seconds for each measurement.
    #[arg(long, default_value_t = 2)]
    seconds: u32,
    /// How often the daemon is killed under load.
    #[arg(long, default_value_t = 5)]
    kills: u32,
    /// Do as if there were no /dev/kvm.
    #[arg(long)]
    no_kvm: bool,
}

/// One kind of access that is measured everywhere.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// `randread`, `randwrite`, `read` or `write`.
    pub pattern: &'static str,
    /// KiB per request.
    pub block_kib: u32,
    /// Requests in flight.
    pub depth: u32,
}

/// The rows of the table.
#[rustfmt::skip]
const JOBS: &[Job] = &[
    Job { pattern: "randread",  block_kib: 4,    depth: 1 },
    Job { pattern: "randread",  block_kib: 4,    depth: 32 },
    Job { pattern: "randwrite", block_kib: 4,    depth: 1 },
    Job { pattern: "randwrite", block_kib: 4,    depth: 32 },
    Job { pattern: "read",      block_kib: 64,   depth: 8 },
    Job { pattern: "write",     block_kib: 64,   depth: 8 },
    Job { pattern: "read",      block_kib: 1024, depth: 4 },
    Job { pattern: "write",     block_kib: 1024, depth: 4 },
];

pub fn run(args: &Args) -> anyhow::Result<bool> {
    let kvm = if args.no_kvm {
        Err(vm::skip("--no-kvm"))
    } else {
        vm::kvm()
    };
    build()?;
    let mut host = Host::prepare(args.folder.as_deref(), args.size_mib)?;
    let mut guest = match kvm {
        Ok(()) => Guest::on_kvm(&mut host)?,
        Err(reason) => {
            shell::say(&format!(
                "{reason}: the driver core runs against the device in one process"
            ));
            Guest::in_process(&host)
        }
    };
    let mut facts = guest.prove(args.kills)?;
    if matches!(guest, Guest::Kvm { .. }) {
        facts.extend(others::show(&host, args.seconds));
    }
    let mut rows = Vec::new();
    for job in JOBS {
        shell::say(&format!("measuring {}", table::name(job)));
        host::warm(&host.image())?;
        rows.push(Row {
            job: *job,
            guest: guest.measure(job, args.seconds)?,
            uring: native::measure(&host.image(), "uring", job, args.seconds)?,
            pread: native::measure(&host.image(), "sync", job, args.seconds)?,
        });
    }
    guest.close()?;
    if args.json {
        host_os::say!("{}", table::json(&facts, &rows));
    } else {
        table::print(&facts, &rows);
    }
    Ok(rows.iter().all(|row| {
        [&row.guest, &row.uring, &row.pread]
            .iter()
            .all(|c| c.errors == 0)
    }))
}

/// `PARAVANE_BIN_DIR` names programs that were built before.
fn build() -> anyhow::Result<()> {
    if std::env::var_os("PARAVANE_BIN_DIR").is_some() {
        return Ok(());
    }
    let mut command = shell::cargo(&["build", "--release", "--locked"]);
    command.args(
        [
            "blockd", "netd", "balloond", "monitor", "vm", "bench", "loopback",
        ]
        .iter()
        .flat_map(|p| ["-p", p]),
    );
    anyhow::ensure!(shell::show(&mut command)?, "The programs do not build");
    let mut command = shell::cargo(&[
        "build",
        "--profile",
        "probe",
        "--locked",
        "-p",
        "probe-guest",
    ]);
    anyhow::ensure!(shell::show(&mut command)?, "The probe guest does not build");
    Ok(())
}
