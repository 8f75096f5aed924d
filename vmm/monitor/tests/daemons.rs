//! The daemons of a VM as `paravane run` keeps them, and the commands that ask about VMs, with a daemon that this test
//! is itself.
//!
//! One rule: nothing here needs KVM or a daemon of ours; whole VMs are in tests/vm.
#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails fails the test that called it"
)]

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use control_protocol::Answer;
use control_protocol::Answers;
use control_protocol::Command as ControlCommand;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::Value;
use serde_json::json;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);
/// Where the daemon that this test can be finds its control socket.
const CONTROL: &str = "FAKE_DAEMON_CONTROL";

struct Fake;

impl Answers for Fake {
    fn answer(&self, command: ControlCommand) -> Answer {
        match command {
            ControlCommand::Status => {
                Answer::Value(json!({"name": "web", "pid": 1, "devices": []}))
            }
            ControlCommand::Metrics => Answer::Value(
                json!({"devices": [{"name": "disk0", "device": {"reads_total": 5, "writes_total": 0}}]}),
            ),
            ControlCommand::Prometheus => {
                Answer::Text("# TYPE paravane_x_total counter\nparavane_x_total 7\n".to_owned())
            }
            // What it is to say stands where a device's name does.
            ControlCommand::Resize {
                device: Some(text), ..
            } => {
                host_os::tell!("{text}");
                Answer::Value(json!("said"))
            }
            _ => Answer::Error("What?".to_owned()),
        }
    }
}

/// Not a test: what the scripts below start. It lives as long as its standard input.
#[test]
#[ignore = "run by the other tests, as a daemon"]
fn fake_daemon() {
    let control = PathBuf::from(std::env::var_os(CONTROL).unwrap());
    let listener = control_protocol::bind_private(&control).unwrap();
    control_protocol::serve(listener, Arc::new(Fake)).unwrap();
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    std::fs::remove_file(control).unwrap();
}

/// A runtime folder with programs in it.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
        path
    }

    /// A program that is the daemon of this file, after doing `first`.
    fn daemon(&self, name: &str, first: &str) -> Value {
        let control = self.path("home").join(format!("{name}.control"));
        let own = std::env::current_exe().unwrap();
        let program = self.script(
            name,
            &format!(
                "{first}\nexport {CONTROL}='{}'\nexec '{}' --exact fake_daemon --ignored --nocapture -q >/dev/null",
                control.display(),
                own.display()
            ),
        );
        json!({"name": name, "program": program, "config": self.path("unused"), "control": control})
    }

    fn keep(&self, daemons: &[Value]) -> Keeper {
        std::fs::create_dir_all(self.path("home")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_paravane"))
            .arg("keep")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(self.path("log")).unwrap())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        let plan = json!({"json": true, "home": self.path("home"), "daemons": daemons});
        writeln!(input, "{plan}").unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Keeper {
            child,
            input: Some(input),
            output,
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap()
    }

    fn paravane(&self, arguments: &[&str]) -> Output {
        let alone = self.path("paravane");
        let program = if alone.exists() {
            alone
        } else {
            env!("CARGO_BIN_EXE_paravane").into()
        };
        Command::new(program)
            .args(arguments)
            .env("PARAVANE_RUNTIME_DIR", self.path("runtime"))
            .env("PARAVANE_BIN_DIR", self.path("bin"))
            .env("PATH", "/nonexistent")
            .output()
            .unwrap()
    }
}

struct Keeper {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Keeper {
    fn notice(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or(Value::Null)
    }

    /// Skips to the notice `event`.
    fn until(&mut self, event: &str) -> Value {
        loop {
            let notice = self.notice();
            if notice["event"] == event {
                return notice;
            }
            assert!(!notice.is_null(), "no {event}");
        }
    }

    fn end(&mut self) -> Option<i32> {
        self.input = None;
        self.child.wait().unwrap().code()
    }
}

fn alive(pid: &Value) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn send(pid: &Value, signal: Signal) {
    let pid = i32::try_from(pid.as_u64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn daemons_are_ready_when_they_answer_and_end_with_the_vmm() {
    let place = Place::new();
    let mut keeper = place.keep(&[place.daemon("a", "sleep 0.2"), place.daemon("b", "")]);
    let first = keeper.notice();
    assert_eq!(
        (&first["event"], &first["daemon"]),
        (&json!("started"), &json!("a"))
    );
    let second = keeper.until("started");
    keeper.until("ready");
    for name in ["a", "b"] {
        let control = place.path("home").join(format!("{name}.control"));
        let say = ControlCommand::parse("resize hello").unwrap();
        control_protocol::ask(&control, &say, PATIENCE).unwrap();
    }
    eventually("the log", || place.log().matches("hello").count() == 2);
    assert!(
        place
            .log()
            .contains(r#"{"event":"daemon-log","daemon":"a","line":"hello"}"#)
    );
    assert_eq!(keeper.end(), Some(0));
    assert!(!alive(&first["pid"]) && !alive(&second["pid"]));
    assert!(!place.path("home").exists());
}

#[test]
fn a_daemon_that_is_killed_is_started_again() {
    let place = Place::new();
    let mut keeper = place.keep(&[place.daemon("a", "")]);
    let mut pid = keeper.until("started")["pid"].clone();
    keeper.until("ready");
    for _ in 0..3 {
        send(&pid, Signal::SIGKILL);
        keeper.until("ended");
        let next = keeper.until("started")["pid"].clone();
        assert_ne!(next, pid);
        pid = next;
        let control = place.path("home").join("a.control");
        eventually("the answer", || {
            control_protocol::ask(&control, &ControlCommand::Status, PATIENCE).is_ok()
        });
    }
    assert_eq!(place.log().matches("SIGKILL").count(), 3);
    assert_eq!(keeper.end(), Some(0));
    assert!(!alive(&pid));
}

#[test]
fn a_keeper_that_is_killed_takes_its_daemons_along() {
    let place = Place::new();
    let mut keeper = place.keep(&[place.daemon("a", "")]);
    let pid = keeper.until("started")["pid"].clone();
    keeper.until("ready");
    keeper.child.kill().unwrap();
    eventually("the daemon's end", || !alive(&pid));
}

#[test]
fn one_wrong_daemon_stops_the_start_and_the_others() {
    let place = Place::new();
    let wrong = place.daemon("b", "echo 'unknown field `lnk`' >&2; exit 2");
    let mut keeper = place.keep(&[place.daemon("a", ""), wrong]);
    let pid = keeper.until("started")["pid"].clone();
    let failed = keeper.until("failed");
    let message = failed["message"].as_str().unwrap();
    assert!(
        message.contains("b ended") && message.contains("lnk"),
        "{message}"
    );
    assert_eq!(failed["exit_code"], 64);
    assert_eq!(keeper.child.wait().unwrap().code(), Some(64));
    assert!(!alive(&pid));
}

#[test]
fn a_daemon_that_does_not_end_is_killed() {
    let place = Place::new();
    let stubborn = place.daemon("a", "sleep 60 <&0 & exec </dev/zero");
    let mut keeper = place.keep(&[stubborn]);
    let pid = keeper.until("started")["pid"].clone();
    keeper.until("ready");
    assert_eq!(keeper.end(), Some(0));
    eventually("the daemon's end", || !alive(&pid));
}

#[test]
fn without_a_plan_the_keeper_says_what_it_is_for() {
    for input in ["", "rubbish\n", "{}\n"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_paravane"))
            .arg("keep")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        let mut message = String::new();
        let mut stderr = child.stderr.take().unwrap();
        stderr.read_to_string(&mut message).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(64));
        assert!(message.contains("paravane run"), "{message}");
    }
}

/// A VM that answers, in `place`'s runtime folder.
fn serve(place: &Place, name: &str) {
    let folder = place.path("runtime").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let listener = control_protocol::bind_private(&folder.join("control")).unwrap();
    control_protocol::serve(listener, Arc::new(Fake)).unwrap();
}

#[test]
fn status_shows_what_answers_and_leaves_out_what_is_stale() {
    let place = Place::new();
    let none = place.paravane(&["status"]);
    assert_eq!(text(&none.stdout), "No VM runs.\n");
    assert_eq!(none.status.code(), Some(0));
    serve(&place, "web");
    let stale = place.path("runtime/stale");
    std::fs::create_dir_all(&stale).unwrap();
    drop(control_protocol::bind_private(&stale.join("control")).unwrap());
    std::fs::create_dir_all(place.path("runtime/empty")).unwrap();
    let shown = place.paravane(&["status"]);
    assert!(
        text(&shown.stdout).contains("disk0: reads 5\n"),
        "{shown:?}"
    );
    assert!(!text(&shown.stdout).contains("stale"));
    let json = place.paravane(&["status", "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["vms"].as_array().unwrap().len(), 1);
    let prometheus = place.paravane(&["status", "--prometheus"]);
    assert_eq!(
        text(&prometheus.stdout),
        "# TYPE paravane_x_total counter\nparavane_x_total 7\n"
    );
    let named = place.paravane(&["status", "stale"]);
    assert_eq!(named.status.code(), Some(69));
    assert!(text(&named.stderr).contains("stale"));
}

#[test]
fn ctl_says_one_thing_and_its_exit_code_tells_how_it_went() {
    let place = Place::new();
    serve(&place, "web");
    let good = place.paravane(&["ctl", "web", "metrics"]);
    let value: Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!(value["devices"][0]["device"]["reads_total"], 5);
    assert_eq!(good.status.code(), Some(0));
    let refused = place.paravane(&["ctl", "web", "stop"]);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(text(&refused.stderr), "paravane: What?\n");
    let unknown = place.paravane(&["ctl", "web", "dance", "now"]);
    assert_eq!(unknown.status.code(), Some(64));
    assert!(text(&unknown.stderr).contains("power-button"));
    let socket = place.path("runtime/web/control");
    let raw = place.paravane(&["ctl", socket.to_str().unwrap(), "prometheus"]);
    assert!(text(&raw.stdout).starts_with("# TYPE"));
    for target in ["nobody", "web/netd", "/nonexistent/control"] {
        let absent = place.paravane(&["ctl", target, "status"]);
        assert_eq!(absent.status.code(), Some(69), "{absent:?}");
    }
    assert_eq!(place.paravane(&["ctl", "web"]).status.code(), Some(64));
}

#[test]
fn ctl_prints_the_schema_of_what_can_be_said() {
    let place = Place::new();
    let schema = place.paravane(&["ctl", "--schema"]);
    assert_eq!(schema.status.code(), Some(0), "{schema:?}");
    let schema: Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert!(schema["$defs"]["Command"].is_object(), "{schema}");
    let both = place.paravane(&["ctl", "--schema", "web", "status"]);
    assert_eq!(both.status.code(), Some(64), "{both:?}");
}

fn run(place: &Place, description: &str) -> Output {
    let kernel = place.path("kernel");
    std::fs::write(&kernel, "no kernel").unwrap();
    let file = place.path("vm.toml");
    std::fs::write(&file, format!("kernel = 'kernel'\n{description}")).unwrap();
    place.paravane(&["run", file.to_str().unwrap()])
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

#[test]
fn a_daemon_that_cannot_be_found_or_started_ends_the_run_and_leaves_nothing() {
    let place = Place::new();
    // Beside the program that was built there may be daemons.
    std::fs::copy(env!("CARGO_BIN_EXE_paravane"), place.path("paravane")).unwrap();
    let missing = run(&place, "[[net]]\nlink = 'null'");
    assert_eq!(missing.status.code(), Some(69));
    let message = text(&missing.stderr);
    assert!(
        message.contains("paravane-netd") && message.contains("PARAVANE_BIN_DIR"),
        "{message}"
    );
    std::fs::create_dir(place.path("bin")).unwrap();
    // Only this text of the shell's can be run without PATH.
    place.script("bin/paravane-netd", "echo 'bad link' >&2; exit 2");
    let wrong = run(&place, "[[net]]\nlink = 'nul'");
    assert_eq!(wrong.status.code(), Some(64), "{wrong:?}");
    assert!(text(&wrong.stderr).contains("netd: bad link"), "{wrong:?}");
    assert!(is_empty(&place.path("runtime")));
}

#[test]
fn a_name_in_use_or_unusable_is_refused() {
    let place = Place::new();
    serve(&place, "web");
    // The test holds no lock, as a VM does; so take it.
    let folder = std::fs::File::open(place.path("runtime/web")).unwrap();
    let how = nix::fcntl::FlockArg::LockExclusiveNonblock;
    let _lock = nix::fcntl::Flock::lock(folder, how).unwrap();
    for (name, word) in [("web", "runs already"), ("a/b", "a/b"), ("..", "letters")] {
        let refused = run(&place, &format!("name = '{name}'"));
        assert_eq!(refused.status.code(), Some(64), "{refused:?}");
        assert!(text(&refused.stderr).contains(word), "{refused:?}");
    }
    assert!(place.path("runtime/web/control").exists());
}
