//! The servers under test, started on one CPU each time in the same way.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde::Serialize;

/// A server has this long to end by itself.
const STOP: Duration = Duration::from_secs(5);

/// A server of a vhost-user block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// Our daemon, as a user gets it.
    Paravane,
    /// Debian's qemu-storage-daemon with its thread pool.
    QsdThreads,
    /// Debian's qemu-storage-daemon with io_uring.
    QsdUring,
}

impl Peer {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Paravane => "paravane",
            Self::QsdThreads => "qsd-threads",
            Self::QsdUring => "qsd-uring",
        }
    }

    /// Whether it serves packed virtqueues.
    pub fn has_packed(self) -> bool {
        self == Self::Paravane
    }

    fn command(self, daemon: &Path, image: &Path, socket: &Path, queues: usize) -> Command {
        let aio = match self {
            Self::Paravane => {
                let mut command = Command::new(daemon);
                command
                    .arg("--socket-path")
                    .arg(socket)
                    .arg("--path")
                    .arg(image)
                    .args(["--num-queues", &queues.to_string(), "--queue-size", "512"]);
                return command;
            }
            Self::QsdThreads => "threads",
            Self::QsdUring => "io_uring",
        };
        let mut command = Command::new("qemu-storage-daemon");
        let image = image.display();
        let socket = socket.display();
        command
            .args([
                "--blockdev",
                &format!("driver=file,node-name=disk,filename={image},aio={aio}"),
            ])
            .args([
                "--export",
                &format!(
                    "type=vhost-user-blk,id=export,node-name=disk,writable=on,\
                     addr.type=unix,addr.path={socket},num-queues={queues}"
                ),
            ]);
        command
    }

    /// Starts the server on `cpu` and waits until its socket is there.
    pub fn start(
        self,
        daemon: &Path,
        image: &Path,
        dir: &Path,
        queues: usize,
        cpu: usize,
    ) -> Result<Server> {
        let socket = dir.join(format!("{}.sock", self.name()));
        let _ = fs::remove_file(&socket);
        let log = fs::File::create(dir.join(format!("{}.log", self.name())))?;
        let mut command = self.command(daemon, image, &socket, queues);
        // A wrapper pins before the server makes its first thread.
        let mut pinned = Command::new("taskset");
        pinned
            .arg("-c")
            .arg(cpu.to_string())
            .arg(command.get_program())
            .args(command.get_args());
        command = pinned;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.name()))?;
        let mut server = Server { child, socket };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !server.socket.exists() {
            if let Some(status) = server.child.try_wait()? {
                bail!(
                    "{} ended at once ({status}); see its log in {}",
                    self.name(),
                    dir.display()
                );
            }
            if Instant::now() > deadline {
                bail!("{} made no socket within 10 s", self.name());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}

/// A running server; stopped when dropped.
pub struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// Process id, of the server itself: `taskset` replaces itself by it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Killed outright, a server's io_uring may hold the image's lock for a while longer.
        if let Ok(pid) = self.child.id().try_into() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.socket);
    }
}
