//! Network namespaces for tests: made with the test, gone with it, with no name in the system.
//!
//! One rule: nothing here touches the host's own network; a namespace lives as long as the process
//! that holds it.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;

use crate::process;
use crate::process::Process;
use crate::skip;
use crate::tool;

/// A process that only unshares has this long.
const START: Duration = Duration::from_secs(10);

/// A network of its own: loopback and what the test puts into it.
#[derive(Debug)]
pub struct Namespace {
    holder: Process,
    prefix: Vec<String>,
}

impl Namespace {
    /// A fresh namespace with loopback up. Who is not root gets it in a user namespace, where that
    /// is allowed.
    ///
    /// # Errors
    /// [`crate::Skip`] when this machine does not let us.
    pub fn new() -> anyhow::Result<Self> {
        let (unshare, nsenter) = (
            tool("unshare", "util-linux")?,
            tool("nsenter", "util-linux")?,
        );
        let root = nix::unistd::geteuid().is_root();
        let mut command = Command::new(unshare);
        command.arg("--net");
        if !root {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["sleep", "infinity"]);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        let mut holder = Process::start("namespace", command)?;
        let id = holder.id();
        let own = std::fs::read_link("/proc/self/ns/net")?;
        process::wait_until("a network namespace", START, || {
            if !holder.running() {
                return Err(skip("this machine gives us no network namespace"));
            }
            let theirs = std::fs::read_link(format!("/proc/{id}/ns/net"));
            // The program takes its name only once the namespace is there.
            let name = std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
            Ok(theirs.is_ok_and(|theirs| theirs != own) && name.trim() == "sleep")
        })?;
        let mut prefix = vec![nsenter, format!("--net=/proc/{id}/ns/net")];
        if !root {
            prefix.push(format!("--user=/proc/{id}/ns/user"));
            prefix.push("--preserve-credentials".into());
        }
        let namespace = Self { holder, prefix };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Words that start a program inside; they `exec`.
    pub fn prefix(&self) -> &[String] {
        &self.prefix
    }

    /// The process whose namespace it is, for tools that want one.
    pub fn id(&self) -> u32 {
        self.holder.id()
    }

    /// A command that runs inside.
    ///
    /// # Errors
    /// [`crate::Skip`] when the program is not installed.
    pub fn command(&self, program: &str, package: &str) -> anyhow::Result<Command> {
        Ok(process::behind(
            &self.prefix,
            Path::new(&tool(program, package)?),
        ))
    }

    /// Runs `ip` with these words.
    ///
    /// # Errors
    /// When it fails; its output is in the error.
    pub fn ip(&self, words: &str) -> anyhow::Result<String> {
        process::run(self.command("ip", "iproute2")?.args(words.split(' ')))
    }

    /// Sets a parameter of the namespace (`net/ipv4/ping_group_range`).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set(&self, parameter: &str, value: &str) -> anyhow::Result<()> {
        let line = format!("echo '{value}' > /proc/sys/{parameter}");
        process::run(self.command("sh", "dash")?.args(["-c", &line])).map(drop)
    }

    /// A TAP that guests reach the host through: `address` with prefix length, queue pairs, and its
    /// owner when the daemon is not root.
    ///
    /// # Errors
    /// [`crate::Skip`] without `/dev/net/tun`; otherwise when the kernel refuses.
    pub fn tap(&self, tap: &Tap<'_>) -> anyhow::Result<()> {
        if !Path::new("/dev/net/tun").exists() {
            return Err(skip("no /dev/net/tun"));
        }
        let Tap {
            name, address, mtu, ..
        } = tap;
        let many = if tap.pairs > 1 { " multi_queue" } else { "" };
        let owner = tap.owner.map_or(String::new(), |id| format!(" user {id}"));
        self.ip(&format!(
            "tuntap add dev {name} mode tap vnet_hdr{many}{owner}"
        ))?;
        self.ip(&format!("link set {name} mtu {mtu} up"))?;
        self.ip(&format!("addr add {address} dev {name}")).map(drop)
    }

    /// A pair of interfaces inside, `name` with an address and a default route through the other:
    /// enough for programs that want to see a connected host.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn uplink(&self, name: &str, address: &str, router: &str) -> anyhow::Result<()> {
        self.ip(&format!("link add {name} type veth peer name {name}p"))?;
        self.ip(&format!("addr add {address} dev {name}"))?;
        self.ip(&format!("link set {name} up"))?;
        self.ip(&format!("link set {name}p up"))?;
        self.ip(&format!("route add default via {router} dev {name}"))?;
        // Last: a router that is one of our own addresses is refused. It answers echoes.
        self.ip(&format!("addr add {router}/32 dev {name}p"))
            .map(drop)
    }

    /// Starts a server inside that lives as long as the returned process; output to `<logs>/<name>.log`.
    ///
    /// # Errors
    /// [`crate::Skip`] when the program is not installed.
    pub fn serve(
        &self,
        (program, package): (&str, &str),
        arguments: &[&str],
        logs: &Path,
    ) -> anyhow::Result<Process> {
        let mut command = self.command(program, package)?;
        command.args(arguments).stdin(Stdio::null());
        let file = PathBuf::from(program);
        let name = file.file_name().context("A program has a name")?;
        let log = logs.join(format!("{}.log", name.to_string_lossy()));
        let log = process::log_file(&log, &format!("{command:?}"))?;
        command.stdout(log.try_clone()?).stderr(log);
        Process::start(program, command)
    }
}

/// What a TAP is like.
#[derive(Clone, Copy, Debug)]
pub struct Tap<'a> {
    /// Its name.
    pub name: &'a str,
    /// The host's address with prefix length.
    pub address: &'a str,
    /// Its MTU.
    pub mtu: u16,
    /// Queue pairs.
    pub pairs: u16,
    /// Who may open it besides root.
    pub owner: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_a_network_of_its_own() -> anyhow::Result<()> {
        let namespace = match Namespace::new() {
            Ok(namespace) => namespace,
            Err(error) if error.is::<crate::Skip>() => {
                println!("SKIP a_namespace_has_a_network_of_its_own: {error}");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let links = namespace.ip("-brief link")?;
        assert_eq!(links.lines().count(), 1, "{links}");
        assert!(links.starts_with("lo"), "{links}");
        Ok(())
    }
}
