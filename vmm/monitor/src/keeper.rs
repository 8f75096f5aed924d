//! `paravane keep`: the process that starts a VM's daemons, starts again the ones that die, and ends them with the VM.
//!
//! One rule: it lives exactly as long as its standard input, which the VMM holds and never closes but by its own end;
//! the daemons live as long as theirs, which this process holds. So whoever is killed, all below it ends.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::process::ChildStdin;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use control_protocol::Command as ControlCommand;
use host_os::exit::sysexits as exit;
use host_os::sync::lock;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::daemons::DaemonPlan;
use crate::daemons::Notice;
use crate::daemons::Plan;
use crate::home;
use crate::status::Event;
use crate::status::Status;

/// Longest plan, in bytes.
const PLAN_MOST: u64 = 1 << 20;
/// Longest line of a daemon that is passed on in one piece, in bytes.
const LINE_MOST: u64 = 8 << 10;
/// How long a daemon may take until it serves.
const START: Duration = Duration::from_secs(20);
/// How long it may take to finish what is in flight.
const END: Duration = Duration::from_secs(10);
/// Pause before a daemon is started again; it doubles up to the longest while the daemon dies young.
const PAUSE_LEAST: Duration = Duration::from_millis(50);
const PAUSE_MOST: Duration = Duration::from_secs(30);
/// From this age on a daemon's death is not the fault of its start.
const GROWN: Duration = Duration::from_secs(10);
/// Exit code with which a daemon says that its configuration is wrong.
const DAEMON_USAGE: i32 = 2;

/// Keeps the daemons until standard input ends.
pub(crate) fn run() -> u8 {
    host_os::output::start();
    // Without one of its threads a daemon would be without its keeper.
    host_os::panics::watch(|_| std::process::exit(i32::from(exit::FAILED)));
    // In the background of the terminal that the VMM's messages go to, if that stops those who write from there.
    let _ = crate::console::survive_background();
    let mut line = String::new();
    let stdin = std::io::stdin();
    let read = stdin.lock().take(PLAN_MOST).read_line(&mut line);
    let plan: Plan = match read.map(|_| serde_json::from_str(&line)) {
        Ok(Ok(plan)) => plan,
        _ => {
            host_os::tell!("paravane: this command is for `paravane run` alone");
            return exit::USAGE;
        }
    };
    let (say_done, done) = mpsc::channel();
    let kept: Vec<_> = plan
        .daemons
        .iter()
        .map(|daemon| Arc::new(Kept::new(daemon.clone(), Status { json: plan.json })))
        .collect();
    let started = kept
        .iter()
        .try_for_each(|daemon| start(daemon, say_done.clone()));
    drop(say_done);
    let code = match started {
        Ok(()) => {
            tell(&Notice::Ready);
            let _ = std::io::copy(&mut stdin.lock(), &mut std::io::sink());
            exit::SUCCESS
        }
        Err((message, exit_code)) => {
            tell(&Notice::Failed { message, exit_code });
            exit_code
        }
    };
    finish(&kept, &done);
    home::remove(&plan.home);
    code
}

fn tell(notice: &Notice) {
    if let Ok(line) = serde_json::to_string(notice) {
        // Without a VMM that listens this process is about to end anyway.
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }
}

/// One daemon over all its lives.
struct Kept {
    plan: DaemonPlan,
    status: Status,
    stopping: AtomicBool,
    life: Mutex<Life>,
}

/// What is there of the present one.
#[derive(Default)]
struct Life {
    pid: Option<Pid>,
    /// Its end asks the daemon to end.
    input: Option<ChildStdin>,
    last_words: String,
    /// How the first life ended.
    end: Option<ExitStatus>,
}

impl Kept {
    fn new(plan: DaemonPlan, status: Status) -> Self {
        Self {
            plan,
            status,
            stopping: AtomicBool::new(false),
            life: Mutex::default(),
        }
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        lock(&self.life)
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let mut child = Command::new(&self.plan.program)
            .arg("--config")
            .arg(&self.plan.config)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut life = self.life();
        life.last_words.clear();
        life.pid = i32::try_from(child.id()).ok().map(Pid::from_raw);
        // A stop that came in between has not seen this input.
        life.input = child.stdin.take().filter(|_| !self.stopping());
        tell(&Notice::Started {
            daemon: self.plan.name.clone(),
            pid: child.id(),
        });
        Ok(child)
    }

    /// Passes on what the daemon says until it has ended; returns how it did.
    fn attend(&self, mut child: Child) -> std::io::Result<ExitStatus> {
        if let Some(output) = child.stderr.take() {
            self.forward(BufReader::new(output));
        }
        // From here on its number may be another process's.
        self.life().pid = None;
        child.wait()
    }

    fn forward(&self, mut output: impl BufRead) {
        let mut line = Vec::new();
        loop {
            line.clear();
            match output.by_ref().take(LINE_MOST).read_until(b'\n', &mut line) {
                Ok(1..) => {}
                _ => return,
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            self.status.report(&Event::DaemonLog {
                daemon: &self.plan.name,
                line: text,
            });
            text.clone_into(&mut self.life().last_words);
        }
    }

    /// Goes with the daemon through all its lives. At the end of the first it drops `gone` and asks `served`, as a
    /// daemon that never served is not started again.
    fn live(&self, first: Child, gone: mpsc::Sender<()>, served: &mpsc::Receiver<()>) {
        let mut child = Some(first);
        let mut gone = Some(gone);
        let mut pause = PAUSE_LEAST;
        loop {
            let born = Instant::now();
            let end = match child.take() {
                Some(child) => self.attend(child),
                None => self.spawn().and_then(|child| self.attend(child)),
            };
            if let Some(gone) = gone.take() {
                self.life().end = end.as_ref().ok().copied();
                drop(gone);
                if served.recv().is_err() {
                    return;
                }
            }
            if self.stopping() {
                return;
            }
            if born.elapsed() > GROWN {
                pause = PAUSE_LEAST;
            }
            tell(&Notice::Ended {
                daemon: self.plan.name.clone(),
            });
            let how = end.map_or_else(|error| error.to_string(), |end| self.explain(end));
            self.status.report(&Event::DaemonEnded {
                daemon: &self.plan.name,
                how: &how,
                pause_ms: u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
            });
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MOST);
            if self.stopping() {
                return;
            }
        }
    }

    /// How the daemon ended, with its reason if it ended by itself.
    fn explain(&self, end: ExitStatus) -> String {
        let life = self.life();
        match end.code() {
            Some(1..) if !life.last_words.is_empty() => {
                format!("{}: {}", describe(end), life.last_words)
            }
            _ => describe(end),
        }
    }

    /// Waits until the daemon answers on its control socket.
    fn wait_until_ready(&self, gone: &mpsc::Receiver<()>) -> bool {
        let end = Instant::now() + START;
        while Instant::now() < end {
            let asked = control_protocol::ask(&self.plan.control, &ControlCommand::Status, START);
            if asked.is_ok() {
                return true;
            }
            match gone.recv_timeout(Duration::from_millis(5)) {
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                _ => return false,
            }
        }
        false
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => Signal::try_from(signal)
            .map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string()),
        (None, None) => "an unknown end".to_owned(),
    }
}

/// Starts one daemon for the first time, when a failure is a mistake of the description and not to be tried again.
fn start(kept: &Arc<Kept>, done: mpsc::Sender<()>) -> Result<(), (String, u8)> {
    let name = &kept.plan.name;
    let fail = |error: std::io::Error| {
        let message = format!("Cannot start {}: {error}", kept.plan.program.display());
        (message, exit::UNAVAILABLE)
    };
    let child = kept.spawn().map_err(fail)?;
    let (say_gone, gone) = mpsc::channel();
    let (say_served, served) = mpsc::channel();
    let daemon = Arc::clone(kept);
    let body = move || {
        let _done = done;
        daemon.live(child, say_gone, &served);
    };
    let thread = std::thread::Builder::new().name(name.clone());
    thread.spawn(body).map_err(fail)?;
    if kept.wait_until_ready(&gone) {
        let _ = say_served.send(());
        return Ok(());
    }
    let life = kept.life();
    let words = &life.last_words;
    let (message, code) = match life.end {
        Some(end) => (
            format!("{name} ended at its start with {}: {words}", describe(end)),
            end.code(),
        ),
        None => {
            let seconds = START.as_secs();
            (
                format!("{name} does not serve after {seconds} s: {words}"),
                None,
            )
        }
    };
    let code = match code {
        Some(DAEMON_USAGE) => exit::USAGE,
        _ => exit::UNAVAILABLE,
    };
    Err((message, code))
}

/// Ends all daemons and waits for them; one that does not end is killed.
fn finish(kept: &[Arc<Kept>], done: &mpsc::Receiver<()>) {
    for daemon in kept {
        daemon.stopping.store(true, Ordering::Release);
        daemon.life().input = None;
    }
    // No message ever comes: the threads hold the other end until their daemon has ended.
    if done.recv_timeout(END) == Err(mpsc::RecvTimeoutError::Disconnected) {
        return;
    }
    for daemon in kept {
        let life = daemon.life();
        if let Some(pid) = life.pid {
            host_os::tell!("paravane: {} does not end and is killed", daemon.plan.name);
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
    let _ = done.recv_timeout(Duration::from_secs(1));
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
