//! Back-ends in processes of their own, to be killed. One rule: the process is the test program again, and what it runs
//! is one ignored test, its body.

use anyhow::Context as _;
use anyhow::Result;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

const SOCKET_VARIABLE: &str = "PARAVANE_BACK_END_SOCKET";
const SETTINGS_VARIABLE: &str = "PARAVANE_BACK_END_SETTINGS";

/// The child; killed when dropped.
pub struct BackEnd(Child);

impl BackEnd {
    /// Starts the process; `body` names the ignored test that serves at `path`.
    pub fn spawn(body: &str, path: &Path) -> Result<Self> {
        Self::spawn_with(body, path, "")
    }

    /// The same with `settings` for the body.
    pub fn spawn_with(body: &str, path: &Path, settings: &str) -> Result<Self> {
        let _ = std::fs::remove_file(path);
        let mut command = Self::command(body, path)?;
        Ok(Self(command.env(SETTINGS_VARIABLE, settings).spawn()?))
    }

    /// Starts the process for a caller that ends it; `body` names the ignored test that uses `path`.
    pub fn child(body: &str, path: &Path) -> Result<Child> {
        Ok(Self::command(body, path)?.spawn()?)
    }

    fn command(body: &str, path: &Path) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["--exact", body, "--ignored"])
            .env(SOCKET_VARIABLE, path)
            .stdout(Stdio::null());
        Ok(command)
    }

    /// Where the body is to serve.
    pub fn socket() -> Result<PathBuf> {
        let path = std::env::var_os(SOCKET_VARIABLE);
        Ok(path
            .context("only other tests run this, as a process")?
            .into())
    }

    /// What the body was given.
    pub fn settings() -> Result<String> {
        std::env::var(SETTINGS_VARIABLE).context("no settings")
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it has not ended.
    pub fn is_alive(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|ended| ended.is_none())
    }
}

impl Drop for BackEnd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
