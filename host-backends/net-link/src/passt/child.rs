//! passt as a child.
//!
//! Rule: it ends with us, however we end, and can be started again when this process may no longer start programs.
//!
//! A shell keeps it: for each line that it reads from us it starts passt, and kills the one before if that still runs.
//! When we end, passt loses its only client, for which it ends by itself (`--one-off`), and the shell loses its input
//! and kills a passt that hangs: guests can bring that of Debian 12 into an endless loop.

use std::ffi::OsString;
use std::fs::File;
use std::fs::Permissions;
use std::io;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::ChildStdin;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use crate::Error;
use crate::PasstSpec;

/// How long passt may take to listen.
const START: Duration = Duration::from_secs(10);
/// Least time between two starts.
const PAUSE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(5);
/// `$0` is our process: a start that was ordered too late would wait for a client for ever. The shell also removes the
/// directory, which we may not when we are confined, and cannot when we were killed. It leads the process group that its
/// last `kill` means.
const KEEPER: &str = r#"
folder=$1
shift
running=
while read -r _ && kill -0 "$0" 2>/dev/null; do
    if [ -n "$running" ]; then
        kill "$running" 2>/dev/null
        wait "$running"
    fi
    (
        passt=
        trap 'kill -KILL "$passt"; wait "$passt"' TERM
        "$@" </dev/null &
        passt=$!
        wait "$passt"
        echo "passt ended with $?" >&2
    ) &
    running=$!
done
(
    sleep 1
    rm -rf -- "$folder"
    kill -KILL 0
) &
late=$!
wait $running
kill "$late"
rm -rf -- "$folder""#;
const ENDED: &str = "passt ended with";
/// How long to wait for the shell's end.
const END: Duration = Duration::from_millis(300);

/// A passt that we started.
pub(super) struct Child {
    keeper: std::process::Child,
    /// Each line is a start.
    starts: Option<ChildStdin>,
    folder: PathBuf,
    socket: PathBuf,
    started: Instant,
    /// Least time until the next start.
    pause: Duration,
    command: String,
}

impl Child {
    /// Starts passt; [`Child::connect`] waits for it.
    pub fn start(spec: &PasstSpec) -> Result<Self, Error> {
        let program = spec.binary.clone().unwrap_or_else(|| "passt".into());
        let program = find(&program).ok_or(Error::NoPasst { program })?;
        let folder = make_folder().map_err(|source| Error::Passt {
            what: "cannot make a directory for its socket".to_owned(),
            source,
        })?;
        let socket = folder.join("socket");
        let words = words(program, &socket, spec);
        let command: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let command = command.join(" ");
        let log = File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(folder.join("log"));
        let keeper = log.and_then(|log| {
            Command::new("/bin/sh")
                .args(["-c", KEEPER, &std::process::id().to_string()])
                .arg(&folder)
                .args(&words)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(log)
                // Not ended by what a terminal sends to us.
                .process_group(0)
                .spawn()
        });
        let mut keeper = match keeper {
            Ok(keeper) => keeper,
            Err(source) => {
                let _ = std::fs::remove_dir_all(&folder);
                let what = "cannot start a shell to keep it".to_owned();
                return Err(Error::Passt { what, source });
            }
        };
        let mut child = Self {
            starts: keeper.stdin.take(),
            keeper,
            folder,
            socket,
            started: Instant::now(),
            pause: PAUSE,
            command,
        };
        child.order();
        Ok(child)
    }

    /// Where passt listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits until passt listens, and connects.
    pub fn connect(&self) -> io::Result<UnixStream> {
        let end = Instant::now() + START;
        loop {
            let stream = UnixStream::connect(&self.socket);
            let failed = self.log().contains(ENDED) || Instant::now() > end;
            if stream.is_ok() || failed {
                return stream;
            }
            std::thread::sleep(POLL);
        }
    }

    /// Starts passt again, unless it is about to listen.
    pub fn revive(&mut self) {
        if self.started.elapsed() >= self.pause {
            // Twice the time after each start that was of no use.
            self.pause = (self.pause * 2).min(START);
            self.order();
        }
    }

    /// It listens.
    pub fn is_up(&mut self) {
        self.pause = PAUSE;
    }

    fn order(&mut self) {
        self.started = Instant::now();
        let sent = self.starts.as_mut().map(|starts| starts.write_all(b"\n"));
        if !matches!(sent, Some(Ok(()))) {
            tracing::warn!("The shell that keeps passt has ended, passt cannot be started again");
            self.starts = None;
        }
    }

    /// What passt said before it failed.
    pub fn explain(&self, source: io::Error) -> Error {
        let log = self.log();
        let said: Vec<_> = log.lines().rev().take(3).collect();
        let said = if said.is_empty() {
            "it said nothing".to_owned()
        } else {
            said.into_iter().rev().collect::<Vec<_>>().join("; ")
        };
        let what = format!("`{}` does not listen: {said}", self.command);
        Error::Passt { what, source }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Its client is gone; if it never had one, it has now, and the shell ends when passt has.
        self.starts = None;
        drop(UnixStream::connect(&self.socket));
        let end = Instant::now() + END;
        while matches!(self.keeper.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(POLL);
        }
    }
}

/// The program and its arguments.
fn words(program: PathBuf, socket: &Path, spec: &PasstSpec) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec![program.into()];
    for word in [
        "--foreground",
        "--quiet",
        "--stderr",
        "--one-off",
        "--socket",
    ] {
        words.push(word.into());
    }
    words.push(socket.into());
    for (key, value) in &spec.arguments {
        words.push(format!("--{key}").into());
        words.extend(value.as_ref().map(OsString::from));
    }
    words
}

/// The program in the PATH, or where a name with a slash says.
fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 || program.is_absolute() {
        return program.is_file().then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// A directory that only we and passt can enter.
fn make_folder() -> io::Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let base = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|folder| folder.is_dir())
        .unwrap_or_else(std::env::temp_dir);
    let pid = std::process::id();
    for _ in 0..1000 {
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = base.join(format!("paravane-passt-{pid}-{nth}"));
        match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(()) => {
                give_to_nobody(&folder);
                return Ok(folder);
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Started by root, passt of 2023 becomes `nobody` before it listens; passt of 2025 listens first, but without root's
/// right to enter any directory: it enters as a member of our group.
fn give_to_nobody(folder: &Path) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    if let Ok(Some(nobody)) = nix::unistd::User::from_name("nobody") {
        let group = Some(nix::unistd::getegid());
        let _ = nix::unistd::chown(folder, Some(nobody.uid), group);
        let _ = std::fs::set_permissions(folder, Permissions::from_mode(0o770));
    }
}
