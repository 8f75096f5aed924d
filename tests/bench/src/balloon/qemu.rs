//! QEMU's own balloon, driven by the probe guest with the same messages in ascending order.
//!
//! One rule: what counts is the time of QEMU's threads, and of the virtual processor's, which serves this device, only
//! what it spends in the kernel: the rest cannot be told from the guest's own. That flatters QEMU, not us; without KVM,
//! whose exits would count as well.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use serde_json::Value;
use serde_json::json;

use crate::balloon::BalloonArgs;
use crate::balloon::Cell;
use crate::balloon::order::Order;

/// MiB of the guest's memory besides its pool.
const REST: u64 = 256;
/// Ticks in a second of `/proc`'s times.
const TICKS: f64 = 100.0;

struct Qemu {
    child: Child,
    lines: BufReader<ChildStdout>,
    commands: PathBuf,
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Inflates and deflates in one run, reports in another: reported memory is gone before it could be inflated.
pub fn run(
    guest: &Path,
    args: &BalloonArgs,
    folder: &Path,
    take: &mut impl FnMut(Cell),
) -> Result<()> {
    let (mib, batch) = (args.mib, args.batch);
    let common = format!("balloon pool={mib}M data=0 batch={batch} seconds=600");
    let mut qemu = Qemu::start(guest, &common, mib, folder, false)?;
    qemu.line("balloon_ready")?;
    for (what, left) in [("inflate", REST), ("deflate", REST + mib)] {
        let before = qemu.cpu()?;
        qemu.execute("balloon", &json!({ "value": left << 20 }))?;
        let line = qemu.line("balloon_settled")?;
        take(qemu.cell(what, mib, before, &line)?);
    }
    qemu.line("balloon")?;
    drop(qemu);
    let words = format!("{common} report=1");
    let mut qemu = Qemu::start(guest, &words, mib, folder, true)?;
    qemu.line("balloon_ready")?;
    let before = qemu.cpu()?;
    let line = qemu.line("balloon_reported")?;
    take(qemu.cell("report", mib, before, &line)?);
    Ok(())
}

impl Qemu {
    fn start(guest: &Path, words: &str, mib: u64, folder: &Path, report: bool) -> Result<Self> {
        let commands = folder.join("qmp.sock");
        let _ = fs::remove_file(&commands);
        let memory = mib + REST;
        let report = if report { "on" } else { "off" };
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg", "-cpu", "max", "-M", "q35"]);
        command.args([
            "-name",
            "bench,debug-threads=on",
            "-nodefaults",
            "-nic",
            "none",
        ]);
        command.args(["-no-user-config", "-display", "none", "-no-reboot"]);
        command.args(["-serial", "stdio", "-m", &format!("{memory}M")]);
        command.args([
            "-object",
            &format!("memory-backend-memfd,id=m,size={memory}M,share=on"),
        ]);
        command.args(["-numa", "node,memdev=m"]);
        command.arg("-kernel").arg(guest).args(["-append", words]);
        command.args([
            "-device",
            &format!("virtio-balloon-pci,disable-legacy=on,free-page-reporting={report}"),
        ]);
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-qmp"]);
        command.arg(format!("unix:{},server=on,wait=off", commands.display()));
        let log = fs::File::create(folder.join("qemu.log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command
            .stderr(log)
            .spawn()
            .context("cannot start qemu-system-x86_64")?;
        let output = child.stdout.take().context("QEMU's console")?;
        Ok(Self {
            child,
            lines: BufReader::new(output),
            commands,
        })
    }

    /// The guest's next line of this kind.
    fn line(&mut self, kind: &str) -> Result<Value> {
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line)? == 0 {
                bail!("the guest ended before it said {kind}");
            }
            let Ok(line) = serde_json::from_str::<Value>(line.trim()) else {
                continue;
            };
            if line["kind"] == "error" {
                bail!("the guest says {line}");
            }
            if line["kind"] == kind {
                return Ok(line);
            }
        }
    }

    fn execute(&self, command: &str, arguments: &Value) -> Result<()> {
        let mut stream = UnixStream::connect(&self.commands)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        for words in [
            json!({ "execute": "qmp_capabilities" }),
            json!({ "execute": command, "arguments": arguments }),
        ] {
            stream.write_all(format!("{words}\n").as_bytes())?;
            loop {
                line.clear();
                reader.read_line(&mut line)?;
                let answer: Value = serde_json::from_str(&line)?;
                if answer.get("error").is_some() {
                    bail!("QEMU refuses {words}: {answer}");
                }
                if answer.get("return").is_some() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Seconds that the host's side took so far.
    fn cpu(&self) -> Result<f64> {
        let mut sum = 0.0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let task = task?.path();
            let Ok(stat) = fs::read_to_string(task.join("stat")) else {
                continue;
            };
            let (head, tail) = stat.rsplit_once(')').context("a thread's stat")?;
            let field = |index: usize| -> Result<f64> {
                let field = tail.split_whitespace().nth(index).context("a short stat")?;
                Ok(field.parse::<f64>()? / TICKS)
            };
            // utime and stime, fields 14 and 15.
            let (user, system) = (field(11)?, field(12)?);
            sum += system;
            if !head.contains("(CPU ") {
                sum += user;
            }
        }
        Ok(sum)
    }

    fn cell(&self, what: &'static str, mib: u64, before: f64, line: &Value) -> Result<Cell> {
        let gib = mib as f64 / 1024.0;
        let wall = line["us"].as_f64().context("the guest's time")? / 1e6;
        Ok(Cell {
            what,
            order: Order::Ascending.name(),
            server: "qemu",
            gib,
            cpu_s_per_gib: (self.cpu()? - before) / gib,
            wall_s_per_gib: wall / gib,
            blocks_mib: 0,
        })
    }
}
