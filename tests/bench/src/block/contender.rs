//! Who carries out a job: daemons, each started on one CPU in the same way, and native I/O as a baseline.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::block::Cache;
use crate::fio;
use crate::job::Job;
use crate::job::Wait;
use crate::native;

/// A server has this long to end by itself.
const STOP: Duration = Duration::from_secs(5);
/// Entries of each virtqueue, where a server can be told.
const QUEUE_SIZE: &str = "512";

/// One who carries out jobs. As text: `paravane`, `paravane:off` (any `--poll` of the daemon), `qsd-threads`,
/// `qsd-uring`, `native-sync`, `native-uring`, `fio`, or `NAME=COMMAND` for any other vhost-user disk daemon, with
/// `{image}`, `{socket}`, `{queues}` and `{direct}` (`true` or `false`) in its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contender {
    /// Our daemon as a user gets it, or with this `--poll`.
    Paravane(Option<String>),
    /// Debian's qemu-storage-daemon with this `aio`.
    Qsd(&'static str),
    /// Another daemon.
    Other {
        /// Name in reports.
        name: String,
        /// Its words.
        command: String,
    },
    /// No daemon: straight on the file, from one thread.
    Native(native::Engine),
    /// No daemon: fio's io_uring engine.
    Fio,
}

impl FromStr for Contender {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((name, command)) = text.split_once('=') {
            let (name, command) = (name.to_owned(), command.to_owned());
            return Ok(Self::Other { name, command });
        }
        if let Some(how) = text.strip_prefix("paravane:") {
            return Ok(Self::Paravane(Some(how.to_owned())));
        }
        match text {
            "paravane" => Ok(Self::Paravane(None)),
            "qsd-threads" => Ok(Self::Qsd("threads")),
            "qsd-uring" => Ok(Self::Qsd("io_uring")),
            "native-sync" => Ok(Self::Native(native::Engine::Sync)),
            "native-uring" => Ok(Self::Native(native::Engine::Uring)),
            "fio" => Ok(Self::Fio),
            _ => Err(format!(
                "'{text}' is none of paravane, paravane:POLL, qsd-threads, qsd-uring, native-sync, native-uring, fio \
                 and NAME=COMMAND"
            )),
        }
    }
}

impl Contender {
    /// Name in reports.
    pub fn name(&self) -> String {
        match self {
            Self::Paravane(None) => "paravane".into(),
            Self::Paravane(Some(how)) => format!("paravane:{how}"),
            Self::Qsd("threads") => "qsd-threads".into(),
            Self::Qsd(_) => "qsd-uring".into(),
            Self::Other { name, .. } => name.clone(),
            Self::Native(engine) => engine.name().into(),
            Self::Fio => "fio".into(),
        }
    }

    /// Whether it is a daemon behind a socket.
    pub fn is_server(&self) -> bool {
        !matches!(self, Self::Native(_) | Self::Fio)
    }

    /// Whether it can do this job at all.
    pub fn can(&self, job: &Job) -> bool {
        match self {
            Self::Paravane(_) => true,
            Self::Qsd(_) | Self::Other { .. } => !job.packed,
            // One thread on one core, with nobody to wake: the counterpart of one queue and a client that polls.
            Self::Native(_) => job.queues == 1 && job.wait == Wait::Poll && !job.packed,
            // Its flushes are not pairs with writes as ours are.
            Self::Fio => fio::can(job) && job.wait == Wait::Poll,
        }
    }

    fn command(&self, setting: &Setting<'_>, socket: &Path) -> Result<Command> {
        let Setting {
            image,
            queues,
            cache,
            ..
        } = setting;
        let direct = *cache == Cache::None;
        match self {
            Self::Paravane(poll) => {
                let mut command = Command::new(setting.daemon);
                command
                    .arg("--socket-path")
                    .arg(socket)
                    .arg("--path")
                    .arg(image);
                command.args([
                    "--num-queues",
                    &queues.to_string(),
                    "--queue-size",
                    QUEUE_SIZE,
                ]);
                command.args(["--cache", if direct { "none" } else { "writeback" }]);
                command.args(poll.iter().flat_map(|how| ["--poll", how]));
                Ok(command)
            }
            Self::Qsd(aio) => {
                let mut command = Command::new("qemu-storage-daemon");
                let (image, socket) = (image.display(), socket.display());
                let direct = if direct { "on" } else { "off" };
                let disk = format!(
                    "driver=file,node-name=disk,filename={image},aio={aio},cache.direct={direct}"
                );
                let export = format!(
                    "type=vhost-user-blk,id=export,node-name=disk,writable=on,addr.type=unix,addr.path={socket},\
                     num-queues={queues}"
                );
                command.args(["--blockdev", &disk, "--export", &export]);
                Ok(command)
            }
            Self::Other { command, .. } => {
                let fill = |word: &str| {
                    word.replace("{image}", &image.display().to_string())
                        .replace("{socket}", &socket.display().to_string())
                        .replace("{queues}", &queues.to_string())
                        .replace("{direct}", if direct { "true" } else { "false" })
                };
                let mut words = command.split_whitespace().map(fill);
                let mut started =
                    Command::new(words.next().context("a contender without a command")?);
                started.args(words);
                Ok(started)
            }
            Self::Native(_) | Self::Fio => bail!("{} is no server", self.name()),
        }
    }

    /// Starts the server on its CPU and waits until its socket is there.
    pub fn start(&self, setting: &Setting<'_>) -> Result<Server> {
        let name = self.name();
        let dir = setting.dir;
        let socket = dir.join("disk.sock");
        let _ = fs::remove_file(&socket);
        let log = fs::File::create(dir.join(format!("{name}.log")))?;
        let command = self.command(setting, &socket)?;
        // A wrapper pins before the server makes its first thread.
        let mut pinned = Command::new("taskset");
        pinned
            .arg("-c")
            .arg(setting.server_cpu.to_string())
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = pinned
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let mut server = Server { child, socket };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !server.socket.exists() {
            if let Some(status) = server.child.try_wait()? {
                bail!(
                    "{name} ended at once ({status}); see its log in {}",
                    dir.display()
                );
            }
            if Instant::now() > deadline {
                bail!("{name} made no socket within 10 s");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }
}

/// What every contender is given.
pub struct Setting<'a> {
    /// Our daemon.
    pub daemon: &'a Path,
    /// The image, filled.
    pub image: &'a Path,
    /// Where sockets and logs go.
    pub dir: &'a Path,
    /// Queues of each device.
    pub queues: usize,
    /// How the image is cached.
    pub cache: Cache,
    /// Where the server, or native I/O, runs.
    pub server_cpu: usize,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_are_read_from_text_and_keep_their_names() {
        for text in [
            "paravane",
            "paravane:off",
            "qsd-threads",
            "qsd-uring",
            "native-sync",
            "native-uring",
            "fio",
        ] {
            let contender: Contender = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(contender.name(), text);
        }
        let other: Contender = "ch=daemon --disk path={image}".parse().expect("a command");
        assert_eq!(other.name(), "ch");
        assert!(other.is_server());
        assert!("paravan".parse::<Contender>().is_err());
    }
}
