//! The daemon as a process: how it starts, refuses, is asked, and ends.
#![expect(
    clippy::expect_used,
    reason = "a test fails by panic, in its helpers too"
)]

use std::io::BufRead;
use std::io::BufReader;
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

const PATIENCE: Duration = Duration::from_secs(20);

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paravane-balloond"));
    command.env_remove("LISTEN_FDS").stdin(Stdio::null());
    command
}

/// Runs to the end; for what should not serve.
fn finish(flags: &[&str]) -> Output {
    program().args(flags).output().expect("the daemon ends")
}

/// A refusal: its exit code and its message.
fn refusal(flags: &[&str]) -> (i32, String) {
    let output = finish(flags);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().expect("an exit code"), message)
}

/// A daemon that serves.
struct Daemon {
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
    fn start(flags: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a directory"), flags)
    }

    fn start_in(dir: TempDir, flags: &[&str]) -> Self {
        let here = dir.path().display().to_string();
        let flags: Vec<_> = flags.iter().map(|flag| flag.replace("{}", &here)).collect();
        let child = program()
            .args(flags)
            .args(["--control-socket", &format!("{here}/c"), "--log", "debug"])
            .stderr(std::fs::File::create(dir.path().join("log")).expect("a log"))
            .spawn()
            .expect("the daemon starts");
        let mut daemon = Self { child, dir };
        daemon.wait_for(&daemon.path("c"));
        daemon
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
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

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn ask(&self, line: &str) -> Value {
        let mut stream = UnixStream::connect(self.path("c")).expect("the control socket");
        writeln!(stream, "{line}").expect("a command");
        let mut answer = String::new();
        BufReader::new(stream)
            .read_line(&mut answer)
            .expect("an answer");
        serde_json::from_str(&answer).expect("JSON")
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("a signal");
    }

    fn end(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(
                start.elapsed() < PATIENCE,
                "the daemon does not end: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn sigterm_and_sigint_end_it_cleanly() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start(&["--socket-path", "{}/s"]);
        assert!(daemon.path("s").exists());
        daemon.signal(signal);
        assert_eq!(daemon.end(), Some(0), "{}", daemon.log());
        assert!(!daemon.path("s").exists() && !daemon.path("c").exists());
    }
}

#[test]
fn after_kill_nine_it_starts_again_on_the_same_paths() {
    let mut daemon = Daemon::start(&["--socket-path", "{}/s"]);
    daemon.signal(Signal::SIGKILL);
    assert_eq!(daemon.end(), None);
    let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir().expect("a directory"));
    let mut again = Daemon::start_in(dir, &["--socket-path", "{}/s"]);
    again.signal(Signal::SIGTERM);
    assert_eq!(again.end(), Some(0));
}

#[test]
fn a_daemon_that_was_killed_takes_up_its_targets_again() {
    let flags = ["--socket-path", "{}/s", "--state-file", "{}/state"];
    let mut daemon = Daemon::start(&flags);
    assert_eq!(
        daemon.ask("status")["ok"]["devices"][0]["device"]["policy"],
        "auto"
    );
    assert_eq!(daemon.ask("set target=512M")["ok"]["target"], 512 << 20);
    daemon.signal(Signal::SIGKILL);
    daemon.end();
    let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir().expect("a directory"));
    let again = Daemon::start_in(dir, &flags);
    let device = &again.ask("status")["ok"]["devices"][0]["device"];
    assert_eq!(device["target"], 512 << 20, "{device}");
    // Who sets a target by hand wants it to stay.
    assert_eq!(device["policy"], "manual", "{device}");
    let (code, message) = refusal(&[
        "--socket-path",
        "/tmp/x",
        "--state-file",
        "/nonexistent/state",
    ]);
    assert!(
        code != 0 && message.contains("/nonexistent/state"),
        "{message}"
    );
}

#[test]
fn files_that_are_named_by_mistake_end_the_start_and_stay() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("disk.raw").display().to_string();
    std::fs::write(&disk, vec![7; 4096]).expect("a file");
    let socket = dir.path().join("s").display().to_string();
    let start = ["--socket-path", &socket];
    let (code, message) = refusal(&[&start[..], &["--state-file", &disk]].concat());
    assert_eq!(code, 3, "{message}");
    assert!(message.contains("move it away"), "{message}");
    assert_eq!(std::fs::read(&disk).expect("a file"), vec![7; 4096]);
    let (code, message) = refusal(&[&start[..], &["--pool-cgroup", "/nonexistent"]].concat());
    assert_eq!(code, 2, "{message}");
    assert!(message.contains("/nonexistent/memory.max"), "{message}");
}

#[test]
fn capabilities_and_descriptor_are_json() {
    for (flag, key) in [
        ("--print-capabilities", "features"),
        ("--print-descriptor", "binary"),
    ] {
        let output = finish(&[flag]);
        assert!(output.status.success());
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(value["type"], "balloon");
        assert!(!value[key].is_null(), "{value}");
    }
}

#[test]
fn the_manual_page_is_written_where_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let folder = dir.path().display().to_string();
    assert!(finish(&["--man-pages", &folder]).status.success());
    let page = std::fs::read_to_string(dir.path().join("paravane-balloond.1")).expect("the page");
    assert!(page.contains("pool\\-reserve"));
}

#[test]
fn help_names_every_option_and_teaches_by_examples() {
    let output = finish(&["--help"]);
    let help = String::from_utf8(output.stdout).expect("text");
    for word in [
        "--socket-path",
        "--target",
        "--floor",
        "--ceiling",
        "--weight",
        "--policy",
        "--page-reporting",
        "--pool-reserve",
        "[pool]",
        "[[device]]",
        "vhost-user-test-device-pci",
        "--generic-vhost-user",
        "vm.toml",
        "Exit codes",
    ] {
        assert!(help.contains(word), "{word}");
    }
}

#[test]
fn what_is_wrong_is_refused_before_anything_is_served() {
    for (flags, words) in [
        (vec![], vec!["socket-path"]),
        (
            vec!["--socket-path", "/tmp/x", "--weight", "0"],
            vec!["weight", "1 to 10000"],
        ),
        (
            vec![
                "--socket-path",
                "/tmp/x",
                "--floor",
                "2G",
                "--ceiling",
                "1G",
                "--queue-size",
                "3",
                "--weight",
                "0",
            ],
            vec!["floor", "ceiling", "queue-size", "weight"],
        ),
        (
            vec!["--socket-path", "/tmp/x", "--target", "many"],
            vec!["many", "512M"],
        ),
        (
            vec!["--socket-path", "/tmp/x", "--policy", "wild"],
            vec!["dry-run"],
        ),
        (vec!["--config", "/nonexistent"], vec!["/nonexistent"]),
    ] {
        let (code, message) = refusal(&flags);
        assert_ne!(code, 0, "{flags:?}");
        for word in words {
            assert!(message.contains(word), "{flags:?}: {message}");
        }
    }
}

#[test]
fn a_config_file_names_pool_and_devices_and_its_faults_are_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("balloons.toml");
    let text = "[pool]\nsize = \"4G\"\nreserve = \"1G\"\ndry-run = true\n\
        [[device]]\nname = \"a\"\nsocket-path = \"{}/a\"\ntarget = \"64M\"\nfloor = \"1G\"\nweight = 300\n\
        [[device]]\nname = \"b\"\nsocket-path = \"{}/b\"\npolicy = \"manual\"\nstats = false\n";
    let here = dir.path().display().to_string();
    std::fs::write(&path, text.replace("{}", &here)).expect("a file");
    let daemon = Daemon::start_in(dir, &["--config", "{}/balloons.toml"]);
    let status = daemon.ask("status");
    let pool = &status["ok"]["pool"];
    assert_eq!(
        (&pool["size"], &pool["dry_run"]),
        (&(4_u64 << 30).into(), &true.into()),
        "{pool}"
    );
    let device = &status["ok"]["devices"][0]["device"];
    assert_eq!(
        (&device["target"], &device["weight"]),
        (&(64 << 20).into(), &300.into()),
        "{device}"
    );
    assert_eq!(status["ok"]["devices"][1]["device"]["policy"], "manual");
    let bad = daemon.path("bad.toml");
    for (text, word) in [
        ("[pool]\nsise = 1\n", "sise"),
        ("[[device]]\nsocket-path = \"/tmp/x\"\nflor = 1\n", "flor"),
        (
            "[pool]\nsize = \"4Q\"\n[[device]]\nsocket-path = \"/tmp/x\"\n",
            "size suffix",
        ),
    ] {
        std::fs::write(&bad, text).expect("a file");
        let (code, message) = refusal(&["--config", &bad.display().to_string()]);
        assert!(code != 0 && message.contains(word), "{message}");
    }
}

#[test]
fn a_balloon_is_set_and_what_is_wrong_changes_nothing() {
    let daemon = Daemon::start(&["--socket-path", "{}/s", "--name", "vm"]);
    let set = daemon.ask("set vm target=512M floor=1G weight=250");
    let expected = serde_json::json!({
        "target": 512 << 20, "floor": 1 << 30, "weight": 250, "policy": "manual", "inhibit": false,
        "until_restart": ["floor", "target", "weight"],
    });
    assert_eq!(set["ok"], expected, "{set}");
    let set = daemon.ask(r#"{"command":"set","device":"vm","set":{"policy":"auto","inhibit":true,"target":1048576}}"#);
    assert_eq!(
        (&set["ok"]["policy"], &set["ok"]["inhibit"]),
        (&"auto".into(), &true.into())
    );
    for bad in [
        "set vm target=many",
        "set vm target=1G weight=0",
        "set vm target=1G ceiling=512M",
        "set vm target=1G policy=wild",
        "set vm target=1G sighs=1",
        "set vm target=1G inhibit=maybe",
        "set other target=1G",
    ] {
        let answer = daemon.ask(bad);
        assert!(answer["error"].is_string(), "{bad}: {answer}");
    }
    let device = &daemon.ask("status")["ok"]["devices"][0]["device"];
    assert_eq!(
        (&device["target"], &device["weight"]),
        (&(1 << 20).into(), &250.into())
    );
}

#[test]
fn what_was_set_outlives_the_daemon_in_its_state_file() {
    let flags = ["--socket-path", "{}/s", "--state-file", "{}/state"];
    let mut daemon = Daemon::start(&flags);
    let set = daemon.ask("set target=64M floor=1G ceiling=2G weight=250 inhibit=on");
    assert_eq!(set["ok"]["until_restart"], serde_json::json!([]), "{set}");
    daemon.ask("set floor=512M");
    daemon.signal(Signal::SIGKILL);
    assert_eq!(daemon.end(), None);
    let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir().expect("a directory"));
    let again = Daemon::start_in(dir, &flags);
    let device = &again.ask("status")["ok"]["devices"][0]["device"];
    for (key, value) in [
        ("target", serde_json::json!(64 << 20)),
        ("floor", (512 << 20).into()),
        ("ceiling", (2_u64 << 30).into()),
        ("weight", 250.into()),
        ("policy", "manual".into()),
        ("inhibit", true.into()),
    ] {
        assert_eq!(device[key], value, "{key}: {device}");
    }
    let pool = again.ask("set size=4G");
    let until = serde_json::json!(["size"]);
    assert_eq!(pool["ok"]["until_restart"], until, "{pool}");
}

#[test]
fn the_pool_is_set_and_tells_how_it_stands() {
    let daemon = Daemon::start(&["--socket-path", "{}/s", "--pool-interval-ms", "50"]);
    let set = daemon.ask("set dry-run=on size=4G reserve=128M");
    let expected = serde_json::json!({"size": 4_u64 << 30, "reserve": 128 << 20, "dry-run": true,
        "until_restart": ["dry-run", "reserve", "size"]});
    assert_eq!(set["ok"], expected, "{set}");
    assert!(daemon.ask("set size=1G weight=3")["error"].is_string());
    assert_eq!(
        daemon.ask("set weight=3")["ok"]["weight"],
        3,
        "the only guest"
    );
    assert!(daemon.ask("set size=4Q")["error"].is_string());
    let start = Instant::now();
    loop {
        let pool = &daemon.ask("metrics")["ok"]["pool"];
        if pool["rounds_total"]
            .as_u64()
            .is_some_and(|rounds| rounds > 2)
        {
            assert!(
                pool["host_available_bytes"]
                    .as_u64()
                    .is_some_and(|bytes| bytes > 0),
                "{pool}"
            );
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{pool}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = daemon.ask("status");
    assert!(status["ok"]["pool"]["journal"].is_array(), "{status}");
    let device = &daemon.ask("metrics")["ok"]["devices"][0]["device"];
    assert_eq!(device["inflated_pages_total"], 0, "{device}");
}

#[test]
fn prometheus_text_names_balloon_and_pool() {
    let daemon = Daemon::start(&["--socket-path", "{}/s", "--name", "vm"]);
    let mut stream = UnixStream::connect(daemon.path("c")).expect("the control socket");
    writeln!(stream, "prometheus").expect("a command");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).expect("an answer");
    for line in [
        "paravane_balloon_inflated_pages_total{device=\"vm\"} 0",
        "paravane_balloon_target_bytes{device=\"vm\"} 0",
        "# TYPE paravane_pool_budget_bytes gauge",
        "# TYPE paravane_pool_decisions_total counter",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn inside_the_sandbox_the_pool_reads_the_host_and_no_thread_is_outside() {
    let daemon = Daemon::start(&["--socket-path", "{}/s", "--pool-interval-ms", "50"]);
    // It listens before it confines itself, and answers after.
    daemon.ask("status");
    let start = Instant::now();
    // Main, pool, control, serve.
    while confined_threads(daemon.child.id()) < 4 {
        assert!(start.elapsed() < PATIENCE, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    while daemon.ask("status")["ok"]["pool"]["host"]["available"].is_null() {
        assert!(start.elapsed() < PATIENCE, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How many threads process `pid` has; each must be confined.
fn confined_threads(pid: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let confined = tasks.filter_map(|task| {
        let status = task.expect("a thread").path().join("status");
        // One that answered a question may have ended since.
        let status = std::fs::read_to_string(status).ok()?;
        assert!(
            status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1"),
            "{status}"
        );
        Some(())
    });
    confined.count()
}
