//! The disk's daemon, in a process of its own: what `paravane-blockd` runs, its sandbox included. One rule: it ends only by
//! being killed.

use anyhow::Context as _;
use anyhow::Result;
use block_backend::BlockDevice;
use block_backend::BlockSpec;
use daemon_shell::Needs;
use daemon_shell::ProcessSpec;
use daemon_shell::Served;
use daemon_shell::ServiceSpec;
use daemon_shell::SocketSpec;
use daemon_shell::Unit;
use device_model::Device;
use metrics::Samples;
use protocol::BackEnd;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// A disk that is served.
pub struct Disk {
    process: Option<BackEnd>,
    body: &'static str,
    settings: String,
    folder: TempDir,
}

impl Disk {
    /// Serves a disk of `spec`; `body` names the ignored test that calls [`serve`].
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(body: &'static str, spec: &BlockSpec) -> Result<Self> {
        let mut disk = Self {
            process: None,
            body,
            settings: serde_json::to_string(spec)?,
            folder: tempfile::tempdir()?,
        };
        disk.restart()?;
        Ok(disk)
    }

    /// Kills the process and starts another.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.process = None;
        let process = BackEnd::spawn_with(self.body, &self.socket(), &self.settings)?;
        self.process = Some(process);
        Ok(())
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("disk.sock")
    }

    /// Whether the process lives; it never ends by itself.
    pub fn is_alive(&mut self) -> bool {
        self.process.as_mut().is_some_and(BackEnd::is_alive)
    }

    /// Its threads that wait for the medium and cannot be interrupted.
    ///
    /// # Errors
    /// There is no process.
    pub fn stuck_threads(&self) -> Result<usize> {
        let process = self.process.as_ref().context("no process")?;
        let mut stuck = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", process.id()))? {
            let stat = std::fs::read_to_string(task?.path().join("stat")).unwrap_or_default();
            let state = stat
                .rsplit_once(") ")
                .and_then(|(_, rest)| rest.chars().next());
            stuck += usize::from(state == Some('D'));
        }
        Ok(stuck)
    }
}

struct Unadorned(Arc<BlockDevice>);

impl Served for Unadorned {
    fn device(&self) -> Arc<dyn Device> {
        self.0.clone()
    }

    fn kind(&self) -> &'static str {
        "block"
    }

    fn status(&self) -> Value {
        Value::Null
    }

    fn metrics(&self) -> Samples {
        Samples::default()
    }

    fn needs(&self) -> Needs {
        Needs {
            syscalls: self.0.syscalls().to_vec(),
            ..Needs::default()
        }
    }
}

/// What the process runs; call it in an ignored test.
///
/// # Errors
/// Whatever keeps a daemon from serving.
pub fn serve() -> Result<()> {
    let socket_path = Some(BackEnd::socket()?);
    let spec: BlockSpec = serde_json::from_str(&BackEnd::settings()?)?;
    let process = ProcessSpec {
        log: Some(std::env::var("PARAVANE_TEST_LOG").unwrap_or_else(|_| "off".to_owned())),
        ..ProcessSpec::default()
    };
    daemon_shell::begin(&process)?;
    let unit = Unit {
        name: "disk".to_owned(),
        socket: SocketSpec {
            socket_path,
            ..SocketSpec::default()
        },
        service: ServiceSpec::default(),
        served: Arc::new(Unadorned(BlockDevice::open(spec)?)),
    };
    daemon_shell::run(&process, vec![unit])?;
    Ok(())
}
