//! The daemons that a VM brings along, as the VMM sees them: their configuration, and the process that keeps them.
//!
//! One rule: the VMM starts one process, before it confines itself; that one starts daemons and starts them again, so
//! that the VMM never has to start anything from inside its cage.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use config_file::Places;
use host_os::exit::sysexits as exit;
use host_os::sync::lock;
use nix::fcntl::FcntlArg;
use nix::fcntl::FdFlag;
use nix::fcntl::fcntl;
use serde::Deserialize;
use serde::Serialize;
use toml::Table;
use toml::Value;

use crate::devices::Device;
use crate::devices::Kind;
use crate::devices::Source;
use crate::home;
use crate::home::Home;
use crate::vm_config::VmConfig;

/// Folder with the daemons' programs, if they are neither beside this program nor in PATH.
const VARIABLE: &str = "PARAVANE_BIN_DIR";
/// How long the daemons may take to finish what is in flight when the VM has ended.
const END: Duration = Duration::from_secs(20);

/// Why the daemons do not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("No program {0}: it is neither beside this one nor in PATH; or set {VARIABLE}")]
    Program(String),
    #[error("Cannot write {}: {source}", path.display())]
    Config {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("Cannot start the daemons: {0}")]
    Start(std::io::Error),
    #[error("{message}")]
    Failed { message: String, exit_code: u8 },
}

impl Error {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Failed { exit_code, .. } => *exit_code,
            _ => exit::UNAVAILABLE,
        }
    }
}

/// What the keeper of the daemons is told, in one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Status lines as JSON.
    pub(crate) json: bool,
    /// To be removed at the end.
    pub(crate) home: PathBuf,
    pub(crate) daemons: Vec<DaemonPlan>,
}

/// One daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DaemonPlan {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) control: PathBuf,
}

/// What the keeper says, a line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Notice {
    /// A daemon was started.
    Started { daemon: String, pid: u32 },
    /// A daemon ended, and is about to be started again.
    Ended { daemon: String },
    /// All daemons serve.
    Ready,
    /// One cannot.
    Failed { message: String, exit_code: u8 },
}

/// How one daemon fares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Daemon {
    pub(crate) name: String,
    /// None between its end and its next start.
    pub(crate) pid: Option<u32>,
    pub(crate) restarts: u64,
    pub(crate) control: PathBuf,
}

/// Daemons by name.
pub(crate) type Roll = Arc<Mutex<BTreeMap<String, Daemon>>>;

/// The daemons of this VM; dropping it ends them and waits until they have.
pub(crate) struct Daemons {
    /// Its end is the end of the daemons, whoever causes it.
    input: Option<ChildStdin>,
    /// Until a thread follows it.
    output: Option<BufReader<ChildStdout>>,
    gone: Option<mpsc::Receiver<()>>,
    /// The end is ours.
    ending: Arc<AtomicBool>,
    pub(crate) roll: Roll,
}

/// The socket at which the device's backend is or will be.
pub(crate) fn socket(device: &Device, home: Option<&Home>) -> PathBuf {
    match (&device.source, home) {
        (Source::Socket(path), _) => path.clone(),
        (Source::Daemon(_), home) => {
            let folder = home.map_or(Path::new(""), |home| &home.path);
            folder.join(format!("{}.sock", device.name))
        }
    }
}

/// The control socket of the daemon that serves `device`, if this VM has it started.
pub(crate) fn control(device: &Device, home: Option<&Home>) -> Option<PathBuf> {
    let Source::Daemon(_) = device.source else {
        return None;
    };
    Some(home?.path.join(format!("{}.control", device.kind.daemon())))
}

/// Writes the daemons' configuration into `home`. None: there are none to start.
pub(crate) fn plan(config: &VmConfig, home: &Home, json: bool) -> Result<Option<Plan>, Error> {
    let devices = &config.devices;
    let mut daemons = Vec::new();
    for kind in [Kind::Disk, Kind::Net, Kind::Balloon] {
        let served = devices.iter().filter(|device| device.kind == kind);
        let (served, tables): (Vec<_>, Vec<_>) = served
            .filter_map(|device| Some((device, table(device, config, home)?)))
            .unzip();
        if tables.is_empty() {
            continue;
        }
        let name = kind.daemon();
        let control = home.path.join(format!("{name}.control"));
        let path = home.path.join(format!("{name}.toml"));
        let more = config.daemons.get(name).cloned().unwrap_or_default();
        let origin = origin(&more.places, &served);
        let text = config_text(more.table, tables, origin, &control, config);
        write_private(&path, &text).map_err(|source| Error::Config {
            path: path.clone(),
            source,
        })?;
        daemons.push(DaemonPlan {
            name: name.to_owned(),
            program: find_program(&format!("paravane-{name}"))?,
            config: path,
            control,
        });
    }
    let home = home.path.clone();
    Ok((!daemons.is_empty()).then_some(Plan {
        json,
        home,
        daemons,
    }))
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = File::options();
    let file = file.write(true).create(true).truncate(true).mode(0o600);
    file.open(path)?.write_all(text.as_bytes())
}

fn table(device: &Device, config: &VmConfig, home: &Home) -> Option<Value> {
    let Source::Daemon(keys) = &device.source else {
        return None;
    };
    let mut table = keys.clone();
    let path = socket(device, Some(home)).to_string_lossy().into_owned();
    table.insert("name".to_owned(), Value::String(device.name.clone()));
    table.insert("socket-path".to_owned(), Value::String(path));
    if device.kind != Kind::Disk {
        // As long as the VM: a daemon that comes back goes on with what was set, a VM that starts anew finds an empty
        // folder.
        let folder = match &config.user {
            Some(_) => home.path.join(home::STATE),
            None => home.path.clone(),
        };
        let state = folder.join(format!("{}.state", device.name));
        let state = Value::String(state.to_string_lossy().into_owned());
        table.entry("state-file").or_insert(state);
    }
    Some(Value::Table(table))
}

/// Where the keys of the daemon's file come from, for the daemon to name when one is wrong.
fn origin(more: &Places, served: &[&Device]) -> Table {
    let mut origin = Table::new();
    let mut add = |key: String, place: &str| {
        origin.insert(key, Value::String(place.to_owned()));
    };
    for (key, place) in more.keys() {
        add(key.to_owned(), place);
    }
    for (number, device) in served.iter().enumerate() {
        let path = format!("device.{number}");
        for (key, place) in device.places.keys() {
            let key = match device.kind.queues_key() {
                Some(theirs) if key == "queues" => theirs,
                _ => key,
            };
            add(format!("{path}.{key}"), place);
        }
        if let Some(place) = device.places.table() {
            add(path, place);
        }
    }
    origin
}

/// `more` and what the VMM has to say, which wins.
fn config_text(
    more: Table,
    devices: Vec<Value>,
    origin: Table,
    control: &Path,
    config: &VmConfig,
) -> String {
    let mut file = more;
    let text = |text: String| Value::String(text);
    let log = std::env::var("PARAVANE_LOG").unwrap_or_else(|_| "warn".to_owned());
    file.entry("log").or_insert(text(log));
    file.insert(
        "control-socket".to_owned(),
        text(control.to_string_lossy().into_owned()),
    );
    for (key, value) in [("user", &config.user), ("group", &config.group)] {
        if let Some(value) = value {
            file.insert(key.to_owned(), text(value.clone()));
        }
    }
    file.insert("end-with-stdin".to_owned(), Value::Boolean(true));
    file.insert("device".to_owned(), Value::Array(devices));
    file.insert(config_file::ORIGIN.to_owned(), Value::Table(origin));
    file.to_string()
}

fn find_program(name: &str) -> Result<PathBuf, Error> {
    let chosen = std::env::var_os(VARIABLE).map(PathBuf::from);
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| own.parent().map(Path::to_owned));
    let searched = std::env::var_os("PATH").unwrap_or_default();
    let folders = chosen.into_iter().chain(beside);
    let mut places = folders
        .chain(std::env::split_paths(&searched))
        .map(|folder| folder.join(name));
    let found = places.find(|place| place.is_file());
    found.ok_or_else(|| Error::Program(name.to_owned()))
}

impl Daemons {
    /// Starts the keeper and with it the daemons; returns when all of them serve.
    pub(crate) fn start(plan: &Plan, home: &Home) -> Result<Self, Error> {
        let own = std::env::current_exe().map_err(Error::Start)?;
        // The keeper holds the VM's folder too, and longer than we, who may be killed.
        inherit(home, true)?;
        let child = Command::new(own)
            .arg("keep")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A Ctrl-C for the VMM asks the guest to switch off; its disks have to last until then.
            .process_group(0)
            .spawn();
        inherit(home, false)?;
        let mut child = child.map_err(Error::Start)?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(mut input), Some(output)) = (input, output) else {
            return Err(Error::Start(std::io::ErrorKind::BrokenPipe.into()));
        };
        let line = serde_json::to_string(plan).map_err(|error| Error::Start(error.into()))?;
        writeln!(input, "{line}").map_err(Error::Start)?;
        let roll = plan.daemons.iter().map(|daemon| {
            let entry = Daemon {
                name: daemon.name.clone(),
                control: daemon.control.clone(),
                ..Daemon::default()
            };
            (daemon.name.clone(), entry)
        });
        let mut daemons = Self {
            input: Some(input),
            output: Some(BufReader::new(output)),
            gone: None,
            ending: Arc::default(),
            roll: Arc::new(Mutex::new(roll.collect())),
        };
        daemons.wait_until_ready()?;
        Ok(daemons)
    }

    fn wait_until_ready(&mut self) -> Result<(), Error> {
        loop {
            match self.output.as_mut().and_then(next) {
                Some(Notice::Ready) => return Ok(()),
                Some(Notice::Failed { message, exit_code }) => {
                    return Err(Error::Failed { message, exit_code });
                }
                Some(notice) => enter(&self.roll, notice),
                None => {
                    return Err(Error::Failed {
                        message: "The process that keeps the daemons ended".to_owned(),
                        exit_code: exit::UNAVAILABLE,
                    });
                }
            }
        }
    }

    /// Starts the thread that follows how the daemons fare. A thing of its own, since it is for inside the cage.
    pub(crate) fn follow(&mut self) -> std::io::Result<()> {
        let Some(mut output) = self.output.take() else {
            return Ok(());
        };
        let (say_gone, gone) = mpsc::channel::<()>();
        let (roll, ending) = (Arc::clone(&self.roll), Arc::clone(&self.ending));
        let body = move || {
            let _gone = say_gone;
            while let Some(notice) = next(&mut output) {
                enter(&roll, notice);
            }
            if !ending.load(Ordering::Acquire) {
                tracing::error!("the process that keeps the daemons was killed, and they with it");
                let mut roll = lock(&roll);
                roll.values_mut().for_each(|daemon| daemon.pid = None);
            }
        };
        self.gone = Some(gone);
        let thread = std::thread::Builder::new().name("daemons".to_owned());
        thread.spawn(body).map(drop)
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        drop(self.input.take());
        // The keeper's output ends with the keeper, and that with the last daemon.
        if let Some(output) = &mut self.output {
            let _ = std::io::copy(output, &mut std::io::sink());
        }
        if let Some(gone) = &self.gone {
            let _ = gone.recv_timeout(END);
        }
    }
}

/// Lets the next program that is started hold the folder's lock, or not.
fn inherit(home: &Home, yes: bool) -> Result<(), Error> {
    let flag = if yes {
        FdFlag::empty()
    } else {
        FdFlag::FD_CLOEXEC
    };
    let set = fcntl(&*home.lock, FcntlArg::F_SETFD(flag));
    set.map(drop).map_err(|errno| Error::Start(errno.into()))
}

fn next(output: &mut BufReader<ChildStdout>) -> Option<Notice> {
    let mut line = String::new();
    output.read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

fn enter(roll: &Roll, notice: Notice) {
    let mut roll = lock(roll);
    match notice {
        Notice::Started { daemon, pid } => {
            if let Some(entry) = roll.get_mut(&daemon) {
                entry.pid = Some(pid);
            }
        }
        Notice::Ended { daemon } => {
            if let Some(entry) = roll.get_mut(&daemon) {
                entry.pid = None;
                entry.restarts += 1;
            }
        }
        Notice::Ready | Notice::Failed { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices;

    #[test]
    fn the_daemons_configuration_is_theirs_and_names_our_sockets() {
        let keys = devices::table("path=/i,readonly=true").unwrap();
        let disk = devices::resolve(Kind::Disk, 0, keys).unwrap();
        let net = devices::table("link=null,name=lan").unwrap();
        let net = devices::resolve(Kind::Net, 0, net).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let lock = File::open(folder.path()).unwrap();
        let how = nix::fcntl::FlockArg::LockExclusive;
        let home = Home {
            path: folder.path().join("it's \"here\""),
            lock: nix::fcntl::Flock::lock(lock, how).unwrap(),
        };
        let balloon = devices::resolve(Kind::Balloon, 0, Table::new()).unwrap();
        let own = devices::table("state-file=/var/lib/web").unwrap();
        let own = devices::resolve(Kind::Balloon, 0, own).unwrap();
        let more = "log = 'debug'\ncontrol-socket = 'theirs'\n[[switch]]\nname = 'lan'";
        let more: Table = toml::from_str(more).unwrap();
        let config = crate::options::RunOptions {
            kernel: Some("k".into()),
            ..Default::default()
        };
        let mut config = crate::vm_config::resolve(config).unwrap();
        let tables = [&disk, &net, &balloon, &own];
        let tables = tables.map(|device| table(device, &config, &home).unwrap());
        config.user = Some("vms".to_owned());
        let net = Device {
            places: Places::new("vm.toml, line 7"),
            ..net
        };
        let mut places = Places::new("vm.toml, line 9");
        places.add("log", "vm.toml, line 10, key daemon.netd.log");
        let origin = origin(&places, &[&disk, &net]);
        let control = home.path.join("c");
        let text = config_text(more, tables.to_vec(), origin, &control, &config);
        let read: Table = toml::from_str(&text).unwrap();
        assert_eq!(read["log"].as_str(), Some("debug"));
        assert_eq!(read["switch"][0]["name"].as_str(), Some("lan"));
        assert_ne!(read["control-socket"].as_str(), Some("theirs"));
        assert_eq!(read["user"].as_str(), Some("vms"));
        assert!(read.get("group").is_none());
        assert_eq!(read["end-with-stdin"].as_bool(), Some(true));
        let devices = read["device"].as_array().unwrap();
        assert_eq!(devices[0]["path"].as_str(), Some("/i"));
        assert_eq!(devices[0]["num-queues"].as_integer(), Some(1));
        let socket = devices[1]["socket-path"].as_str().unwrap();
        assert_eq!(Path::new(socket), super::socket(&net, Some(&home)));
        assert!(socket.ends_with("lan.sock"));
        let state = home.path.join("balloon.state");
        assert_eq!(devices[2]["state-file"].as_str(), state.to_str());
        assert_eq!(devices[3]["state-file"].as_str(), Some("/var/lib/web"));
        let state = home.path.join("lan.state");
        assert_eq!(devices[1]["state-file"].as_str(), state.to_str());
        assert!(devices[0].get("state-file").is_none());
        let origin = read["origin"].as_table().unwrap();
        assert_eq!(origin["device.1"].as_str(), Some("vm.toml, line 7"));
        let log = origin["log"].as_str();
        assert_eq!(log, Some("vm.toml, line 10, key daemon.netd.log"));
    }
}
