//! The daemon as a process: how it starts, refuses, is asked, and ends.
#![expect(
    clippy::expect_used,
    reason = "a test fails by panic, in its helpers too"
)]

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
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
    let mut command = Command::new(env!("CARGO_BIN_EXE_paravane-blockd"));
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

fn image(dir: &TempDir) -> String {
    let path = dir.path().join("image");
    std::fs::write(&path, vec![0; 1 << 20]).expect("an image");
    path.display().to_string()
}

#[test]
fn sigterm_and_sigint_end_it_cleanly() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start(&["--socket-path", "{}/s", "--memory-disk", "1M"]);
        assert!(daemon.path("s").exists());
        daemon.signal(signal);
        assert_eq!(daemon.end(), Some(0), "{}", daemon.log());
        assert!(
            !daemon.path("s").exists() && !daemon.path("c").exists(),
            "{}",
            daemon.log()
        );
    }
}

#[test]
fn a_connected_front_end_does_not_keep_it_from_ending() {
    let mut daemon = Daemon::start(&["--socket-path", "{}/s", "--memory-disk", "1M"]);
    let _front_end = UnixStream::connect(daemon.path("s")).expect("a connection");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end(), Some(0));
}

#[test]
fn the_end_of_standard_input_ends_it_when_told_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("s");
    let mut child = program()
        .args(["--end-with-stdin", "--memory-disk", "1M", "--socket-path"])
        .arg(&socket)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the daemon starts");
    let mut input = child.stdin.take().expect("its input");
    input.write_all(b"nothing that counts\n").expect("a write");
    let start = Instant::now();
    while UnixStream::connect(&socket).is_err() {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(child.try_wait().expect("a child").is_none());
    drop(input);
    assert_eq!(child.wait().expect("its end").code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn after_kill_nine_it_starts_again_on_the_same_paths() {
    let dir = tempfile::tempdir().expect("a directory");
    let image = image(&dir);
    let flags = ["--socket-path", "{}/s", "--path", &image];
    let mut daemon = Daemon::start_in(dir, &flags);
    daemon.signal(Signal::SIGKILL);
    assert_eq!(daemon.end(), None);
    assert!(daemon.path("s").exists(), "the stale socket file is there");
    let dir = std::mem::replace(&mut daemon.dir, tempfile::tempdir().expect("a directory"));
    let mut again = Daemon::start_in(dir, &flags);
    again.signal(Signal::SIGTERM);
    assert_eq!(again.end(), Some(0));
}

#[test]
fn the_default_serial_stays_while_path_and_host_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let (image, other) = (image(&dir), dir.path().join("other").display().to_string());
    std::fs::copy(&image, &other).expect("another image");
    let serial = |image: &str| {
        let daemon = Daemon::start(&["--socket-path", "{}/s", "--path", image]);
        let status = daemon.ask("status");
        let serial = status["ok"]["devices"][0]["device"]["spec"]["serial"].clone();
        serial.as_str().expect("a serial").to_owned()
    };
    let first = serial(&image);
    assert_eq!(first.len(), 16, "it fits the 20 bytes that there are");
    // The same place in another inode, as after a boot or a restore.
    std::fs::remove_file(&image).expect("the image");
    std::fs::copy(&other, &image).expect("another inode");
    assert_eq!(serial(&image), first);
    assert_ne!(serial(&other), first);
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
        assert_eq!(value["type"], "block");
        assert!(!value[key].is_null(), "{value}");
    }
}

#[test]
fn the_manual_page_is_written_where_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let folder = dir.path().display().to_string();
    assert!(finish(&["--man-pages", &folder]).status.success());
    let page = std::fs::read_to_string(dir.path().join("paravane-blockd.1")).expect("the page");
    assert!(page.contains("socket\\-path"));
    let (code, message) = refusal(&["--man-pages", "/nonexistent"]);
    assert_eq!(code, 1);
    assert!(message.contains("/nonexistent"));
}

#[test]
fn help_names_every_option_with_a_text_and_an_example() {
    let output = finish(&["--help"]);
    let help = String::from_utf8(output.stdout).expect("text");
    for word in [
        "--socket-path",
        "--fd",
        "--connect",
        "--path",
        "--cache",
        "--sandbox",
        "[[device]]",
        "Exit codes",
        "qemu",
    ] {
        assert!(help.contains(word), "{word}");
    }
    let lines: Vec<_> = help.lines().collect();
    for (at, line) in lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.trim_start().starts_with("--"))
    {
        if line.contains("paravane") || line.starts_with("    ") && !line.starts_with("      --") {
            continue;
        }
        let text = lines.get(at + 1).expect("a text");
        assert!(text.starts_with("          "), "{line} has no help");
    }
}

#[test]
fn wrong_command_lines_exit_with_two_and_say_why() {
    for (flags, word) in [
        (&["--socket-path", "s"][..], "memory-disk"),
        (&["--memory-disk", "1M"], "socket-path"),
        (
            &[
                "--memory-disk",
                "1M",
                "--socket-path",
                "a",
                "--connect",
                "b",
            ],
            "exclude",
        ),
        (
            &["--memory-disk", "1M", "--path", "x", "--socket-path", "a"],
            "exclude",
        ),
        (&["--memory-disk", "1M", "--fd", "0"], "standard stream"),
        (&["--memory-disk", "1M", "--fd", "99"], "99"),
        (
            &[
                "--memory-disk",
                "1M",
                "--socket-path",
                "a",
                "--queue-size",
                "100",
            ],
            "power of two",
        ),
        (&["--config", "x", "--path", "y"], "--config"),
        (&["--config", "/nonexistent"], "/nonexistent"),
        (&["--log", "=,=", "--memory-disk", "1M"], "log filter"),
        (&["--frobnicate"], "frobnicate"),
    ] {
        let (code, message) = refusal(flags);
        assert_eq!(code, 2, "{flags:?}: {message}");
        assert!(message.contains(word), "{flags:?}: {message}");
    }
}

#[test]
fn a_missing_image_exits_with_three_and_teaches() {
    let (code, message) = refusal(&["--socket-path", "s", "--path", "/nonexistent/disk"]);
    assert_eq!(code, 3);
    assert!(message.contains("truncate -s"), "{message}");
}

#[test]
fn a_locked_image_is_told_at_the_start_and_has_its_socket_all_the_same() {
    use nix::fcntl::FcntlArg;
    let dir = tempfile::tempdir().expect("a directory");
    let image = image(&dir);
    let file = std::fs::File::options()
        .write(true)
        .open(&image)
        .expect("the image");
    let whole = whole_file();
    nix::fcntl::fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)).expect("a lock");
    let daemon = Daemon::start(&["--socket-path", "{}/s", "--path", &image]);
    assert!(daemon.path("s").exists());
    assert!(
        daemon.log().contains("the image is in use"),
        "{}",
        daemon.log()
    );
}

/// A write lock on a whole file.
fn whole_file() -> nix::libc::flock {
    nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[test]
fn a_socket_in_use_exits_with_four() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let _owner = UnixListener::bind(&path).expect("a socket");
    let (code, message) = refusal(&[
        "--socket-path",
        &path.display().to_string(),
        "--memory-disk",
        "1M",
    ]);
    assert_eq!(code, 4);
    assert!(message.contains("Another process"), "{message}");
}

#[test]
fn one_wrong_device_of_a_config_file_stops_the_start_and_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("disks.toml");
    let text = "[[device]]\nname = \"a\"\nmemory-disk = \"1M\"\nsocket-path = \"a\"\n[[device]]\nname = \"b\"\n";
    for (bad, code, words) in [
        ("path = \"/nonexistent\"\n", 3, "device b"),
        ("colour = 1\n", 2, "disks.toml, line 7, key colour: "),
        ("memory-disk = \"1Q\"\n", 2, "line 7, key memory-disk: "),
        ("memory-disk = \"1M\"\nnum-queues = 0\n", 2, "b: "),
    ] {
        std::fs::write(&config, format!("{text}{bad}socket-path = \"b\"\n"))
            .expect("a config file");
        let (got, message) = refusal(&["--config", &config.display().to_string()]);
        assert_eq!(got, code, "{message}");
        assert!(message.contains(words), "{bad}: {message}");
    }
}

#[test]
fn one_process_serves_many_devices_and_is_asked_about_each() {
    let dir = tempfile::tempdir().expect("a directory");
    let here = dir.path().display();
    let image = image(&dir);
    let config = format!(
        "[[device]]\nname = \"root\"\nsocket-path = \"{here}/a\"\npath = \"{image}\"\nnum-queues = 2\n\
         [[device]]\nsocket-path = \"{here}/b\"\nmemory-disk = 1048576\nsocket-mode = \"600\"\n"
    );
    std::fs::write(dir.path().join("disks.toml"), config).expect("a config file");
    let mut daemon = Daemon::start_in(dir, &["--config", "{}/disks.toml"]);
    for socket in ["a", "b"] {
        UnixStream::connect(daemon.path(socket)).expect("somebody listens");
    }
    let status = daemon.ask("status");
    assert_eq!(status["ok"]["devices"][0]["name"], "root");
    assert_eq!(status["ok"]["devices"][1]["name"], "device2");
    assert_eq!(status["ok"]["devices"][1]["device"]["engine"], "map");
    let metrics = daemon.ask("{\"command\":\"metrics\"}");
    assert_eq!(metrics["ok"]["devices"][0]["device"]["reads_total"], 0);
    let resized = daemon.ask("resize device2 2M");
    let expected = serde_json::json!({"bytes": 2 << 20, "until_restart": true});
    assert_eq!(resized["ok"], expected, "{resized}");
    assert!(daemon.ask("resize device2 1000")["error"].is_string());
    assert!(daemon.ask("resize root 4096")["error"].is_string());
    assert!(
        daemon.ask("resize nobody")["error"]
            .as_str()
            .expect("text")
            .contains("root, device2")
    );
    assert!(daemon.ask("resize")["error"].is_string());
    assert_eq!(daemon.ask("stop")["ok"], "stopping");
    assert_eq!(daemon.end(), Some(0));
}

#[test]
fn a_grown_image_is_seen_after_sighup_and_after_resize() {
    let dir = tempfile::tempdir().expect("a directory");
    let image = image(&dir);
    let daemon = Daemon::start_in(dir, &["--socket-path", "{}/s", "--path", &image]);
    let file = std::fs::File::options()
        .write(true)
        .open(&image)
        .expect("the image");
    file.set_len(2 << 20).expect("growth");
    let resized = daemon.ask("resize");
    let expected = serde_json::json!({"bytes": 2 << 20, "until_restart": false});
    assert_eq!(resized["ok"], expected, "{resized}");
    file.set_len(3 << 20).expect("growth");
    daemon.signal(Signal::SIGHUP);
    let start = Instant::now();
    while daemon.ask("status")["ok"]["devices"][0]["device"]["bytes"] != 3 << 20 {
        assert!(start.elapsed() < PATIENCE, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts the daemon by a shell that puts `socket` at descriptor 3.
fn start_with_socket(socket: &Path, script: &str) -> Child {
    let listener = UnixListener::bind(socket).expect("a socket");
    Command::new("/bin/sh")
        .args(["-c", &format!("exec 3<&0 0</dev/null; {script}"), "sh"])
        .arg(env!("CARGO_BIN_EXE_paravane-blockd"))
        .stdin(OwnedFd::from(listener))
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell")
}

#[test]
fn an_inherited_socket_and_one_of_systemd_are_served() {
    for script in [
        "exec \"$1\" --fd 3 --memory-disk 1M",
        "export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$1\" --memory-disk 1M",
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("s");
        let mut child = start_with_socket(&socket, script);
        let stream = UnixStream::connect(&socket).expect("somebody listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // GET_FEATURES: request 1, version 1, no payload.
        (&stream)
            .write_all(&[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
            .expect("a message");
        let mut reply = [0; 20];
        std::io::Read::read_exact(&mut &stream, &mut reply).expect("a reply");
        assert_eq!(reply[0], 1);
        kill(
            Pid::from_raw(i32::try_from(child.id()).expect("a pid")),
            Signal::SIGTERM,
        )
        .expect("a signal");
        assert_eq!(child.wait().expect("its end").code(), Some(0));
    }
}

#[test]
fn it_runs_without_the_sandbox_when_told_so() {
    let mut daemon = Daemon::start(&[
        "--socket-path",
        "{}/s",
        "--memory-disk",
        "1M",
        "--sandbox",
        "off",
    ]);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end(), Some(0));
    assert!(daemon.log().contains("the sandbox is off"));
}

#[test]
fn inside_the_sandbox_it_has_a_filter_and_no_new_privileges() {
    let daemon = Daemon::start(&["--socket-path", "{}/s", "--memory-disk", "1M"]);
    // It listens before it confines itself, and answers after.
    daemon.ask("status");
    let start = Instant::now();
    // Main, control, serve.
    while confined_threads(daemon.child.id()) < 3 {
        assert!(start.elapsed() < PATIENCE, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(5));
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
