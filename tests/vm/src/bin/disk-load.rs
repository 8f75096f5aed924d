//! The guest's program that keeps a disk busy and knows what each block must hold.
//!
//! One rule: it speaks in lines for the test on the host (`@@ io NAME reads=...`), and ends with
//! `@@ failed` at the first block that is not right.
//!
//! `disk-load run DISK NAME FIRST EACH WORKERS STOP`: load on WORKERS parts of EACH blocks from block
//! FIRST on, until the file STOP is there; then every block is read again.
//! `disk-load digest DISK`: one number for all that it holds.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::bail;
use vm::disk_load;
use vm::disk_load::Counters;
use vm::disk_load::Part;

/// How often it says how far it is.
const WORD: Duration = Duration::from_millis(250);
/// Where QEMU's q35 puts memory that is plugged in, when little is there from the start.
const PLUGGED: u64 = 4 << 30;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let Err(error) = obey(&words) {
        host_os::say!("@@ failed: disk-load: {error:#}");
        std::process::exit(1);
    }
}

fn obey(words: &[&str]) -> anyhow::Result<()> {
    match words {
        ["run", disk, name, first, each, workers, stop] => {
            let part = Part {
                first: first.parse()?,
                each: each.parse()?,
                workers: workers.parse()?,
                plugged: PLUGGED,
            };
            run(Path::new(disk), name, part, Path::new(stop))
        }
        ["digest", disk] => {
            let digest = disk_load::digest(Path::new(disk))?;
            host_os::say!("@@ digest {digest:016x}");
            Ok(())
        }
        _ => bail!("run DISK NAME FIRST EACH WORKERS STOP | digest DISK"),
    }
}

fn run(disk: &Path, name: &str, part: Part, stop_file: &Path) -> anyhow::Result<()> {
    let (counters, stop) = (&Counters::default(), &AtomicBool::new(false));
    std::thread::scope(|scope| {
        let found = || {
            host_os::say!("@@ found {name} {counters}");
        };
        let load = scope.spawn(move || disk_load::run(disk, part, counters, stop, found));
        while !load.is_finished() {
            std::thread::sleep(WORD);
            host_os::say!("@@ io {name} {counters}");
            if stop_file.exists() {
                stop.store(true, Ordering::Relaxed);
            }
        }
        match load.join() {
            Ok(end) => end,
            Err(_) => bail!("It panicked"),
        }
    })?;
    let blocks = part.workers * part.each as u64;
    host_os::say!("@@ verified {name} {blocks} blocks, {counters}");
    Ok(())
}
