//! QEMU without hardware help, as a frontend of our daemon and as the host of nested guests.
//!
//! One rule: no device that the test did not ask for, no network outside the test's own, and the
//! serial console is the only way in.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;

use crate::console::Console;
use crate::process;
use crate::process::Process;
use crate::tool;

/// Kernel words for a machine that is slow and has no firmware to talk to.
pub const QUIET: &str =
    "console=ttyS0 quiet mitigations=off panic=-1 reboot=t tsc=reliable no_timer_check";

/// What a machine is made of.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// `-cpu`.
    pub cpu: String,
    /// Virtual processors.
    pub cpus: u32,
    /// MiB of memory, shared with the daemons.
    pub memory_mib: u32,
    /// An uncompressed kernel with a PVH entry.
    pub kernel: PathBuf,
    /// Its initial file system.
    pub initramfs: PathBuf,
    /// Words after [`QUIET`].
    pub words: String,
    /// vhost-user disks: socket and properties of the device (`,packed=on`).
    pub vhost_user: Vec<(String, String)>,
    /// Plain images that a run does not change.
    pub snapshots: Vec<PathBuf>,
    /// Another QEMU than the installed one.
    pub program: Option<PathBuf>,
    /// A daemon's socket for a balloon on QEMU's generic vhost-user device.
    pub balloon: Option<String>,
    /// Network cards.
    pub nics: Vec<Nic>,
    /// Where QEMU listens for commands ([`crate::qmp`]).
    pub commands: Option<PathBuf>,
    /// Words before the program, for example to enter a network namespace; they must `exec`.
    pub prefix: Vec<String>,
    /// MiB that can be plugged in beside, as a module in each of two slots.
    pub spare_mib: u32,
    /// Where it waits for another machine to move in, in place of a start.
    pub incoming: Option<PathBuf>,
    /// A reset boots it again; without this it ends QEMU.
    pub reboots: bool,
}

/// A network card, `net0`, `net1` and so on.
#[derive(Clone, Debug)]
pub struct Nic {
    /// What it is connected to.
    pub netdev: Netdev,
    /// Queue pairs.
    pub pairs: u16,
    /// Properties of the device (`,packed=on`).
    pub properties: String,
}

/// What a network card is connected to.
#[derive(Clone, Debug)]
pub enum Netdev {
    /// A daemon's socket.
    VhostUser(String),
    /// A back end of QEMU itself, without its id (`tap,ifname=tap0`).
    Own(String),
}

impl Nic {
    fn arguments(&self, number: usize, again: &str) -> Vec<String> {
        let Self {
            netdev,
            pairs,
            properties,
        } = self;
        let id = format!("net{number}");
        let mut arguments = Vec::new();
        match netdev {
            Netdev::VhostUser(socket) => {
                arguments.push("-chardev".into());
                arguments.push(format!("socket,id=s{id},path={socket},{again}"));
                arguments.push("-netdev".into());
                arguments.push(format!("vhost-user,id={id},chardev=s{id},queues={pairs}"));
            }
            Netdev::Own(words) => {
                arguments.push("-netdev".into());
                arguments.push(words.replacen(',', &format!(",id={id},"), 1));
            }
        }
        // QEMU 7.2 without KVM falls over its own message vectors when a vhost-user network card
        // starts; by its interrupt line it works.
        let vectors = match netdev {
            Netdev::VhostUser(_) => 0,
            Netdev::Own(_) => 2 * pairs + 2,
        };
        let multi_queue = match pairs {
            1 => format!(",vectors={vectors}"),
            _ => format!(",mq=on,vectors={vectors}"),
        };
        arguments.push("-device".into());
        arguments.push(format!(
            "virtio-net-pci,netdev={id},id=nic{number},romfile={multi_queue}{properties}"
        ));
        arguments
    }
}

/// A running machine.
#[derive(Debug)]
pub struct Running {
    /// The conversation with the guest.
    pub console: Console,
    process: Process,
}

impl Machine {
    /// A machine for a Debian guest with one vhost-user disk.
    pub fn debian(kernel: &Path, initramfs: &Path) -> Self {
        Self {
            cpu: "max".into(),
            cpus: 4,
            memory_mib: 512,
            kernel: kernel.to_path_buf(),
            initramfs: initramfs.to_path_buf(),
            ..Self::default()
        }
    }

    fn command(&self) -> anyhow::Result<Command> {
        let program = match &self.program {
            Some(program) => program.clone(),
            None => tool("qemu-system-x86_64", "qemu-system-x86")?.into(),
        };
        let mut command = process::behind(&self.prefix, &program);
        command.args([
            "-accel",
            "tcg,thread=multi,tb-size=512",
            "-M",
            "q35",
            "-nic",
            "none",
        ]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.args((!self.reboots).then_some("-no-reboot"));
        command.args(["-serial", "stdio", "-cpu", &self.cpu]);
        command.args(["-smp", &self.cpus.to_string()]);
        command.args(self.memory());
        command
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs);
        command
            .arg("-append")
            .arg(format!("{QUIET} {}", self.words));
        // The same word in seconds, which later ones have no more.
        let again = match &self.program {
            Some(_) => "reconnect-ms=1000",
            None => "reconnect=1",
        };
        for (number, (socket, properties)) in self.vhost_user.iter().enumerate() {
            let chardev = format!("socket,id=c{number},path={socket},{again}");
            let device = format!("vhost-user-blk-pci,chardev=c{number}{properties}");
            command.args(["-chardev", &chardev, "-device", &device]);
        }
        for (number, image) in self.snapshots.iter().enumerate() {
            let image = image.display();
            let drive = format!("id=d{number},file={image},format=raw,if=none,snapshot=on");
            command.args([
                "-drive",
                &drive,
                "-device",
                &format!("virtio-blk-pci,drive=d{number}"),
            ]);
        }
        if let Some(socket) = &self.balloon {
            // It does not wait for its socket at the start, so it cannot be told to reconnect.
            let chardev = format!("socket,id=balloon,path={socket}");
            let device = "vhost-user-test-device-pci,chardev=balloon,virtio-id=5,num_vqs=5,vq_size=128,config_size=16";
            command.args(["-chardev", &chardev, "-device", device]);
        }
        let nics = self.nics.iter().enumerate();
        command.args(nics.flat_map(|(number, nic)| nic.arguments(number, again)));
        if let Some(socket) = &self.commands {
            let socket = format!("unix:{},server=on,wait=off", socket.display());
            command.args(["-qmp", &socket]);
        }
        if let Some(socket) = &self.incoming {
            command.args(["-incoming", &format!("unix:{}", socket.display())]);
        }
        Ok(command)
    }

    fn memory(&self) -> [String; 6] {
        let Self {
            memory_mib,
            spare_mib,
            ..
        } = self;
        let size = match spare_mib {
            0 => format!("{memory_mib}M"),
            _ => format!("{memory_mib}M,slots=2,maxmem={}M", memory_mib + spare_mib),
        };
        let object = format!("memory-backend-memfd,id=m,size={memory_mib}M,share=on");
        ["-m", &size, "-object", &object, "-numa", "node,memdev=m"].map(Into::into)
    }

    /// Starts it; the console goes to `<logs>/console.log`, QEMU's own words to `<logs>/qemu.log`.
    ///
    /// # Errors
    /// When QEMU is missing or does not start.
    pub fn start(&self, logs: &Path) -> anyhow::Result<Running> {
        let mut command = self.command()?;
        let log = process::log_file(&logs.join("qemu.log"), &format!("{command:?}"))?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut process = Process::start("qemu", command)?;
        let output = process.child().stdout.take().context("QEMU's console")?;
        let input = process.child().stdin.take();
        let console = Console::attach(output, input, &logs.join("console.log"))?;
        Ok(Running { console, process })
    }
}

impl Running {
    /// Waits for the guest to power off.
    ///
    /// # Errors
    /// When it does not within `limit`, or QEMU fails.
    pub fn power_off(&mut self, limit: Duration) -> anyhow::Result<()> {
        self.console.drain(limit)?;
        let status = self.process.wait(limit)?;
        anyhow::ensure!(status.success(), "QEMU ended with {status}");
        Ok(())
    }
}
