//! A daemon as a child process.
//!
//! Rule: it is waited for with patience that ends, and never outlives its test.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

pub const PATIENCE: Duration = Duration::from_secs(20);

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paravane-netd"));
    command.env_remove("LISTEN_FDS").stdin(Stdio::null());
    command
}

/// Runs to the end; for what should not serve.
pub fn finish(flags: &[&str]) -> Output {
    program().args(flags).output().expect("the daemon ends")
}

/// A refusal: its exit code and its message.
pub fn refusal(flags: &[&str]) -> (i32, String) {
    let output = finish(flags);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("an exit code"), message)
}

/// A daemon that serves.
pub struct Daemon {
    child: Child,
    dir: TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    /// Starts with `flags`, in which `{}` stands for a directory of its own, and waits for the control socket `{}/c`.
    pub fn start(flags: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a directory"), flags)
    }

    pub fn start_in(dir: TempDir, flags: &[&str]) -> Self {
        Self::start_as(program(), dir, flags)
    }

    /// Starts with `allowed` open files at first, of the more that the system would allow.
    pub fn start_with_few_files(allowed: u64, flags: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -S -n {allowed} && exec \"$0\" \"$@\"");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_paravane-netd")]);
        shell.env_remove("LISTEN_FDS").stdin(Stdio::null());
        Self::start_as(shell, tempfile::tempdir().expect("a directory"), flags)
    }

    fn start_as(mut program: Command, dir: TempDir, flags: &[&str]) -> Self {
        let here = dir.path().display().to_string();
        let flags: Vec<_> = flags.iter().map(|flag| flag.replace("{}", &here)).collect();
        let child = program
            .args(flags)
            .args(["--control-socket", &format!("{here}/c"), "--log", "debug"])
            .stderr(std::fs::File::create(dir.path().join("log")).expect("a log"))
            .spawn()
            .expect("the daemon starts");
        let mut daemon = Self { child, dir };
        daemon.wait_for(&daemon.path("c"));
        daemon
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Its directory, for a successor.
    pub fn take_dir(&mut self) -> TempDir {
        std::mem::replace(&mut self.dir, tempfile::tempdir().expect("a directory"))
    }

    fn wait_for(&mut self, socket: &Path) {
        let start = Instant::now();
        while UnixStream::connect(socket).is_err() {
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none(), "the daemon ended: {}", self.log());
            assert!(start.elapsed() < PATIENCE, "no socket: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The answer to one command.
    pub fn ask(&self, line: &str) -> Value {
        let mut stream = UnixStream::connect(self.path("c")).expect("the control socket");
        writeln!(stream, "{line}").expect("a command");
        let mut answer = String::new();
        BufReader::new(stream)
            .read_line(&mut answer)
            .expect("an answer");
        serde_json::from_str(&answer).expect("JSON")
    }

    /// All that comes back for one command.
    pub fn ask_text(&self, line: &str) -> String {
        let mut stream = UnixStream::connect(self.path("c")).expect("the control socket");
        writeln!(stream, "{line}").expect("a command");
        stream
            .shutdown(std::net::Shutdown::Write)
            .expect("the end of what is asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// What `status` says about one device.
    pub fn device(&self, at: usize) -> Value {
        self.ask("status")["ok"]["devices"][at]["device"].take()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("a signal");
    }

    pub fn end(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            let patient = start.elapsed() < PATIENCE;
            assert!(patient, "the daemon does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How many files it may have open: now, and if it asks for more.
    pub fn files_allowed(&self) -> (u64, u64) {
        let limits = format!("/proc/{}/limits", self.child.id());
        let limits = std::fs::read_to_string(limits).expect("its limits");
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        let words: Vec<&str> = line.expect("a line").split_whitespace().collect();
        let number = |at: usize| words[at].parse().expect("a number");
        (number(3), number(4))
    }

    /// How many threads it has; each must be confined.
    pub fn confined_threads(&self) -> usize {
        let tasks = format!("/proc/{}/task", self.child.id());
        let tasks = std::fs::read_dir(tasks).expect("its threads");
        let confined = tasks.filter_map(|task| {
            let status = task.expect("a thread").path().join("status");
            // One that answered a question may have ended since.
            let status = std::fs::read_to_string(status).ok()?;
            let fine = status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1");
            assert!(fine, "{status}");
            Some(())
        });
        confined.count()
    }
}
