//! The probe guest on our monitor with the balloon daemon: memory goes, comes back and moves.
//!
//! One rule: what the host spends is what the kernel says of the file that is the guest's memory;
//! what the guest keeps is read back by the guest at its end.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::ensure;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;
use vm::daemon::Daemon;
use vm::image;
use vm::image::MIB;
use vm::monitor::Running;
use vm::monitor::Vm;
use vm::paths;

/// A step of the guest's on a busy computer.
const STEP: Duration = Duration::from_secs(60);
/// Pages of a MiB.
const PAGES: u64 = 256;
/// What the guest uses besides its pool, and what is freed a little later than it is told.
const SLACK: u64 = 32 * MIB;
/// Somebody moves the target by hand.
const MANUAL: &str = "policy = \"manual\"";

/// The daemon, its folders, and a running guest.
struct Stage {
    folder: TempDir,
    logs: PathBuf,
    daemon: Daemon,
}

impl Stage {
    fn new(name: &str, vms: &[(&'static str, &str)], pool: &str) -> anyhow::Result<Self> {
        vm::kvm()?;
        let logs = paths::logs(name)?;
        let folder = tempfile::tempdir()?;
        let daemon = Daemon::balloons(folder.path(), &logs, vms, pool)?;
        Ok(Self {
            folder,
            logs,
            daemon,
        })
    }

    /// A guest of 256 MiB on balloon `number` that does `words`.
    fn guest(&self, number: usize, words: &str, packed: bool) -> anyhow::Result<Vm> {
        let socket = &self.daemon.sockets()[number];
        let packed = if packed { "on" } else { "off" };
        let mut guest = Vm::probe(words, "")?;
        guest.disks.clear();
        guest.balloon = Some(format!("socket={socket},packed={packed}"));
        Ok(guest)
    }

    /// Asks guest `vm` for a balloon of so many MiB.
    fn target(&self, vm: &str, mib: u64) -> anyhow::Result<()> {
        let set = json!({ "command": "set", "device": vm, "set": { "target": mib * MIB } });
        self.daemon.control(&set).map(drop)
    }
}

/// Bytes that the kernel has for the largest memfd of a process: the guest's memory.
fn resident(process: u32) -> anyhow::Result<u64> {
    let mut largest = (0, 0);
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
        let entry = entry?.path();
        let Ok(target) = std::fs::read_link(&entry) else {
            continue;
        };
        if target.to_string_lossy().starts_with("/memfd:") {
            let file = std::fs::metadata(&entry)?;
            largest = largest.max((file.len(), file.blocks() * 512));
        }
    }
    ensure!(largest.0 > 0, "process {process} has no memfd");
    Ok(largest.1)
}

/// Waits until the guest says that its balloon has this many MiB.
fn settled(guest: &mut Running, mib: u64) -> anyhow::Result<Value> {
    let text = format!("\"target_pages\":{},\"actual_pages\":{0},", mib * PAGES);
    let line = guest.console.expect(&text, STEP)?;
    Ok(serde_json::from_str(&line)?)
}

/// The number that some line of the guest carries under `key`.
fn number(lines: &[Value], key: &str) -> anyhow::Result<u64> {
    let found = lines.iter().rev().find_map(|line| line.get(key)?.as_u64());
    found.with_context(|| format!("The guest did not say {key}: {lines:?}"))
}

/// Inflating gives memory back, deflating lets the guest have it again.
pub fn follows() -> anyhow::Result<()> {
    for packed in [false, true] {
        let name = if packed { "balloon-packed" } else { "balloon" };
        let mut stage = Stage::new(name, &[("vm0", MANUAL)], "")?;
        let words = format!(
            "balloon pool=160M data=32M rounds=2 grow=64M packed={}",
            u8::from(packed)
        );
        let mut guest = stage
            .guest(0, &words, packed)?
            .start(&stage.logs, "guest")?;
        guest.console.expect("balloon_ready", STEP)?;
        let full = resident(guest.id())?;
        ensure!(full >= 160 * MIB, "only {full} bytes are there");
        stage.target("vm0", 112)?;
        let line = settled(&mut guest, 112)?;
        let inflated = resident(guest.id())?;
        host_os::say!(
            "{} MiB, inflated by 112 MiB in {} us: {} MiB",
            full / MIB,
            line["us"],
            inflated / MIB
        );
        ensure!(full - inflated >= 111 * MIB, "{full} fell to {inflated}");
        stage.target("vm0", 0)?;
        settled(&mut guest, 0)?;
        guest.console.expect("balloon_grown", STEP)?;
        let grown = resident(guest.id())?;
        host_os::say!("after use of 64 MiB more: {} MiB", grown / MIB);
        ensure!(grown - inflated >= 63 * MIB, "{inflated} rose to {grown}");
        ensure!(grown < full, "{grown} is more than {full}");
        stage.target("vm0", 32)?;
        settled(&mut guest, 32)?;
        stage.target("vm0", 0)?;
        let lines = guest.finish(STEP)?;
        ensure!(number(&lines, "verified_pages")? == (32 + 64 + 64) * PAGES);
        ensure!(number(&lines, "touched_pages")? == 160 * PAGES);
        stage.daemon.stop()?;
    }
    Ok(())
}

/// Free memory that the guest reports goes without any target.
pub fn reports() -> anyhow::Result<()> {
    let mut stage = Stage::new("balloon-reports", &[("vm0", MANUAL)], "")?;
    let words = "balloon pool=160M data=32M report=1 rounds=1";
    let mut guest = stage.guest(0, words, false)?.start(&stage.logs, "guest")?;
    let line = guest.console.expect("balloon_reported", STEP)?;
    let left = resident(guest.id())?;
    host_os::say!("{line}: {} MiB are left", left / MIB);
    ensure!(left < 32 * MIB + SLACK, "{left} bytes are left");
    stage.target("vm0", 16)?;
    settled(&mut guest, 16)?;
    stage.target("vm0", 0)?;
    let lines = guest.finish(STEP)?;
    ensure!(number(&lines, "bytes")? >= 128 * MIB, "{lines:?}");
    stage.daemon.stop()
}

/// The daemon dies while the balloon is full and while it moves, and a disk is written and read
/// through the same memory all the time.
pub fn killed() -> anyhow::Result<()> {
    let lines = format!("{MANUAL}\ntarget = \"96M\"");
    let mut stage = Stage::new("balloon-killed", &[("vm0", &lines)], "")?;
    let image = stage.folder.path().join("disk.img");
    image::empty(&image, 64 * MIB)?;
    let mut disk = Daemon::start(stage.folder.path(), &stage.logs, &image, &[])?;
    let words = "balloon pool=160M data=16M rounds=1 seconds=120 traffic=1 batch=32";
    let mut guest = stage.guest(0, words, false)?;
    guest.disks.push(format!("socket={}", disk.socket()));
    let mut guest = guest.start(&stage.logs, "guest")?;
    settled(&mut guest, 96)?;
    let inflated = resident(guest.id())?;
    stage.daemon.kill()?;
    stage.daemon.restart()?;
    for (round, mib) in [128, 8, 96, 64, 120, 24].into_iter().enumerate() {
        stage.target("vm0", mib)?;
        std::thread::sleep(Duration::from_millis(5 * round as u64));
        stage.daemon.kill()?;
        stage.daemon.restart()?;
    }
    // The daemon forgot what it was told last and wants again what its file says.
    let asked = Instant::now();
    while resident(guest.id())? > inflated + SLACK {
        ensure!(asked.elapsed() < STEP, "the balloon did not come back");
        std::thread::sleep(Duration::from_millis(50));
    }
    stage.target("vm0", 40)?;
    settled(&mut guest, 40)?;
    stage.target("vm0", 0)?;
    let lines = guest.finish(STEP)?;
    let pages = number(&lines, "disk_pages")?;
    host_os::say!("{pages} pages written to the disk and read back meanwhile");
    ensure!(pages > 100, "hardly any traffic: {lines:?}");
    ensure!(number(&lines, "touched_pages")? == 160 * PAGES);
    disk.stop()?;
    stage.daemon.stop()
}

/// Two guests share less memory than both are made of: the one that needs it gets it from the one
/// that does not.
pub fn trade() -> anyhow::Result<()> {
    const POOL: u64 = 320;
    let floor = "floor = \"96M\"\nstats-interval-ms = 200";
    let pool = format!("size = \"{POOL}M\"\nreserve = \"64M\"\ninterval-ms = 200");
    let mut stage = Stage::new(
        "balloon-trade",
        &[("lender", floor), ("needy", floor)],
        &pool,
    )?;
    let idle = "balloon pool=192M data=16M touch=1 rounds=0 seconds=45";
    let needy = "balloon pool=192M data=16M touch=1 rounds=0 seconds=40 oom=1 demand=15:144M";
    let mut lender = stage.guest(0, idle, false)?.start(&stage.logs, "lender")?;
    let mut needy = stage.guest(1, needy, false)?.start(&stage.logs, "needy")?;
    lender.console.expect("balloon_ready", STEP)?;
    needy.console.expect("balloon_ready", STEP)?;
    let got = needy.console.expect("balloon_demand", STEP)?;
    let both = (resident(lender.id())?, resident(needy.id())?);
    host_os::say!(
        "{got}; the lender has {} MiB, the needy one {} MiB, of {POOL} MiB",
        both.0 / MIB,
        both.1 / MIB
    );
    ensure!(both.1 >= 160 * MIB, "the needy guest has {}", both.1);
    ensure!(
        both.0 + both.1 <= POOL * MIB + SLACK,
        "both have more than the pool: {both:?}"
    );
    save(&stage, "status.json")?;
    for guest in [lender, needy] {
        let lines = guest.finish(STEP)?;
        ensure!(number(&lines, "touched_pages")? == 192 * PAGES);
    }
    stage.daemon.stop()
}

/// Keeps what the daemon says of itself beside the logs.
fn save(stage: &Stage, name: &str) -> anyhow::Result<()> {
    let status = stage.daemon.control(&json!({ "command": "status" }))?;
    let file: &Path = &stage.logs.join(name);
    Ok(std::fs::write(
        file,
        serde_json::to_string_pretty(&status)?,
    )?)
}
