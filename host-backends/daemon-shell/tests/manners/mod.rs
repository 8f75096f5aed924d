//! How a daemon bears that nobody hears it: each of these holds for every daemon, so each daemon's tests include this file.
//!
//! One rule: what is tested is that it still serves and ends in order; what it would have said is lost.
#![expect(clippy::print_stdout, reason = "a test that skips itself says so")]
#![expect(
    clippy::expect_used,
    reason = "a test fails by panic, in its helpers too"
)]

pub mod metrics;

use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon with the flags that make one device of it.
pub struct Program {
    pub path: &'static str,
    pub flags: &'static [&'static str],
}

struct Serving {
    child: Child,
    dir: TempDir,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn command(&self, dir: &TempDir, before: &[&str]) -> Command {
        let words = before.iter().copied().chain([self.path]);
        let mut words = words.chain(self.flags.iter().copied());
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).env_remove("LISTEN_FDS");
        command.args(["--log", "trace", "--socket-path"]);
        command.arg(dir.path().join("s")).arg("--control-socket");
        command.arg(dir.path().join("c")).stdin(Stdio::null());
        command.stdout(Stdio::null());
        command
    }

    /// Starts behind the words `before`, which end by executing what follows them.
    fn serve(&self, before: &[&str], prepare: impl FnOnce(&mut Command)) -> Serving {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = self.command(&dir, before);
        prepare(&mut command);
        let child = command.spawn().expect("the daemon starts");
        let mut serving = Serving { child, dir };
        serving.wait_until_it_serves();
        serving
    }
}

impl Serving {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn wait_until_it_serves(&mut self) {
        let start = Instant::now();
        while UnixStream::connect(self.path("c")).is_err() {
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none(), "it ended: {ended:?}");
            assert!(start.elapsed() < PATIENCE, "it does not serve");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn ask(&self, line: &str) -> String {
        let mut stream = UnixStream::connect(self.path("c")).expect("the control socket");
        writeln!(stream, "{line}").expect("a command");
        let mut answer = String::new();
        let read = BufReader::new(stream).read_line(&mut answer);
        read.expect("an answer");
        answer
    }

    /// Front-ends come and go and talk nonsense, of all of which the daemon would say something.
    fn make_it_talk(&self) {
        for _ in 0..50 {
            let mut front_end = UnixStream::connect(self.path("s")).expect("a connection");
            front_end.write_all(&[0xff; 64]).expect("nonsense");
            // It hangs up.
            let _ = front_end.read(&mut [0; 64]);
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("a signal");
    }

    /// It talks, serves, reloads and ends in order.
    fn goes_on(mut self) {
        self.make_it_talk();
        self.signal(Signal::SIGHUP);
        self.make_it_talk();
        assert!(
            self.ask("status").contains("\"ok\""),
            "{}",
            self.ask("status")
        );
        let metrics = self.ask("metrics");
        assert!(!metrics.contains("\"panics_total\":1"), "{metrics}");
        self.signal(Signal::SIGTERM);
        let start = Instant::now();
        let end = loop {
            match self.child.try_wait().expect("a child") {
                Some(end) => break end,
                None => assert!(start.elapsed() < PATIENCE, "it does not end"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(end.code(), Some(0), "{end:?}");
    }

    /// What its descriptor `fd` is.
    fn descriptor(&self, fd: u32) -> PathBuf {
        let link = format!("/proc/{}/fd/{fd}", self.child.id());
        std::fs::read_link(link).expect("a descriptor")
    }
}

pub fn no_reader(program: &Program) {
    let serving = program.serve(&[], |command| {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        command.stderr(writer);
    });
    serving.goes_on();
}

pub fn reader_that_goes(program: &Program) {
    let mut serving = program.serve(&[], |command| {
        command.stderr(Stdio::piped());
    });
    drop(serving.child.stderr.take());
    serving.goes_on();
}

pub fn sleeping_reader(program: &Program) {
    let mut held = None;
    let serving = program.serve(&[], |command| {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let size = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_GETPIPE_SZ);
        let size = usize::try_from(size.expect("its size")).expect("a size");
        writer.write_all(&vec![b'.'; size]).expect("a full pipe");
        command.stderr(writer);
        held = Some(reader);
    });
    let metrics = serving.ask("metrics");
    assert!(metrics.contains("\"lines_lost_total\":"), "{metrics}");
    assert!(!metrics.contains("\"lines_lost_total\":0"), "{metrics}");
    serving.goes_on();
}

pub fn full_disk(program: &Program) {
    let serving = program.serve(&[], |command| {
        let full = || File::options().write(true).open("/dev/full");
        command.stdout(full().expect("/dev/full"));
        command.stderr(full().expect("/dev/full"));
    });
    serving.goes_on();
}

pub fn file_at_its_limit(program: &Program) {
    // In blocks of 512 or 1024 bytes, as the shell has it.
    let limited = ["sh", "-c", "ulimit -f 4096; exec \"$0\" \"$@\""];
    let serving = program.serve(&limited, |command| {
        let log = tempfile::NamedTempFile::new().expect("a file");
        log.as_file().set_len(4 << 20).expect("a length");
        let log = File::options().append(true).open(log.path());
        command.stderr(log.expect("a log"));
    });
    serving.goes_on();
}

pub fn closed_streams(program: &Program) {
    let closed = ["sh", "-c", "exec \"$0\" \"$@\" <&- >&- 2>&-"];
    let serving = program.serve(&closed, |_| {});
    for fd in 0..3 {
        // Neither a socket nor an image may come to lie there, which a stray line would be written into.
        assert_eq!(serving.descriptor(fd), PathBuf::from("/dev/null"));
    }
    serving.goes_on();
}

pub fn closed_terminal(program: &Program) {
    let pty = nix::pty::openpty(None, None).expect("a terminal");
    let serving = program.serve(&["setsid", "--ctty"], |command| {
        let slave = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("a descriptor"));
        command.stdin(slave(&pty.slave));
        command.stdout(slave(&pty.slave)).stderr(slave(&pty.slave));
    });
    // The last end of it: SIGHUP to the daemon, then EIO for all it says.
    drop(pty);
    serving.goes_on();
}

/// A daemon that root started becomes another user with what is open, for good.
pub fn another_user(program: &Program) {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPS ITSELF another_user: only root can become another user");
        return;
    }
    let other = ["--user", "nobody", "--group", "54321"];
    let serving = program.serve(&[], |command| {
        command.args(other).stderr(Stdio::null());
    });
    let nobody = nix::unistd::User::from_name("nobody").expect("the users");
    let nobody = nobody.expect("nobody").uid.as_raw();
    // It answers once it is that user.
    assert!(serving.ask("status").contains("\"ok\""));
    let tasks = std::fs::read_dir(format!("/proc/{}/task", serving.child.id())).expect("threads");
    for task in tasks {
        let status = task.expect("a thread").path().join("status");
        // One that answered may have ended since.
        let Ok(status) = std::fs::read_to_string(status) else {
            continue;
        };
        for line in [
            format!("Uid:\t{nobody}\t{nobody}\t{nobody}\t{nobody}"),
            "Gid:\t54321\t54321\t54321\t54321".to_owned(),
            "CapPrm:\t0000000000000000".to_owned(),
            "CapEff:\t0000000000000000".to_owned(),
            "CapInh:\t0000000000000000".to_owned(),
            "CapAmb:\t0000000000000000".to_owned(),
            "NoNewPrivs:\t1".to_owned(),
        ] {
            assert!(
                status.lines().any(|known| known == line),
                "{line} in {status}"
            );
        }
        let groups = status.lines().find(|line| line.starts_with("Groups:"));
        assert!(
            groups.is_some_and(|groups| !groups.contains(" 0 ")),
            "{groups:?}"
        );
    }
    for socket in ["s", "c"] {
        let meta = std::fs::metadata(serving.path(socket)).expect("a socket");
        assert_eq!((meta.uid(), meta.gid()), (nobody, 54321), "{socket}");
    }
    serving.goes_on();
    for (flags, words) in [
        (&["--user", "no such user"][..], "no user"),
        (&["--user", "root"], "another user"),
        (
            &["--user", "nobody", "--group", "no such group"],
            "no group",
        ),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let output = program
            .command(&dir, &[])
            .args(flags)
            .output()
            .expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    }
}

/// What a tool says when its output is a closed pipe, and a full disk.
pub fn output_that_fails(program: &Program) {
    let run = |flag: &str, out: Stdio| {
        let mut command = Command::new(program.path);
        let output = command.arg(flag).stdout(out).stderr(Stdio::piped());
        let child = output.spawn().expect("it starts");
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    for flag in [
        "--help",
        "--version",
        "--print-capabilities",
        "--print-descriptor",
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        assert_eq!(run(flag, writer.into()), (Some(0), String::new()), "{flag}");
    }
    let full = File::options().write(true).open("/dev/full");
    let (code, said) = run("--print-capabilities", full.expect("/dev/full").into());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("standard output"), "{said}");
}

/// The tests of one daemon.
macro_rules! manners {
    ($program:expr, $flags:expr) => {
        const PROGRAM: manners::Program = manners::Program {
            path: $program,
            flags: $flags,
        };

        #[test]
        fn a_log_without_a_reader_costs_lines_and_nothing_else() {
            manners::no_reader(&PROGRAM);
            manners::reader_that_goes(&PROGRAM);
        }

        #[test]
        fn a_log_whose_reader_sleeps_costs_lines_and_nothing_else() {
            manners::sleeping_reader(&PROGRAM);
        }

        #[test]
        fn a_log_on_a_full_disk_or_at_the_limit_of_its_size_costs_lines_and_nothing_else() {
            manners::full_disk(&PROGRAM);
            manners::file_at_its_limit(&PROGRAM);
        }

        #[test]
        fn streams_that_are_closed_at_the_start_are_nobody_elses() {
            manners::closed_streams(&PROGRAM);
        }

        #[test]
        fn a_terminal_that_is_closed_does_not_end_it() {
            manners::closed_terminal(&PROGRAM);
        }

        #[test]
        fn it_becomes_another_user_when_told_to() {
            manners::another_user(&PROGRAM);
        }

        #[test]
        fn output_to_a_closed_pipe_ends_quietly_and_to_a_full_disk_with_words() {
            manners::output_that_fails(&PROGRAM);
        }

        #[test]
        fn its_metrics_follow_the_conventions_of_prometheus() {
            manners::metrics::accepted_by_promtool(&PROGRAM);
        }

        #[test]
        fn whatever_it_counts_is_exported_under_one_name() {
            manners::metrics::the_same_in_json_and_text(&PROGRAM);
        }
    };
}
