//! What can be said about a VM: one schema for flags and TOML.
//!
//! One rule: a key and a flag of the same name mean the same; flags win over the file, disks add up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use clap::ValueEnum;
use config_file::Places;
use host_os::ByteSize;
use serde::Deserialize;
use toml::Table;

use crate::devices;

pub(crate) const EXAMPLES: &str = "\
Examples:
  A VM with a disk, user-mode networking and a balloon; their daemons start and end with it:
    paravane run --kernel vmlinux --cmdline 'console=ttyS0 root=/dev/vda' --memory 1G --cpus 2 \\
        --disk path=disk.img --net link=passt --balloon

  The same from a file, and how it fares:
    paravane run vm.toml
    paravane status
    paravane ctl web set net0 link=down

  With a daemon that runs already:
    paravane-blockd --socket-path /run/disk.sock --path disk.img &
    paravane run --kernel vmlinux --initrd initrd.img --disk socket=/run/disk.sock";

pub(crate) const RUN_HELP: &str = "\
The VM's description, as flags or as a TOML file with the same names:
  name = \"web\"
  kernel = \"vmlinux\"            # ELF with a PVH entry (a bzImage unpacked to its vmlinux)
  cmdline = \"console=ttyS0 root=/dev/vda\"
  memory = \"1G\"
  cpus = 2
  [[disk]]
  path = \"disk.img\"            # keys of paravane-blockd: one is started for the VM's disks
  queues = 2
  [[disk]]
  socket = \"/run/disk.sock\"     # or a vhost-user-blk backend that runs
  [[net]]
  link = \"passt\"               # keys of paravane-netd, or a socket
  [balloon]
  floor = \"256M\"               # keys of paravane-balloond, or a socket
  [daemon.netd]
  log = \"debug\"                # more of that daemon's config file, tables included

A device with a socket has the keys name, queues (disk), queue-size, packed, mtu and mac (net; the address is for
backends that have none of their own, such as DPDK's). Without one, name, queues,
queue-size and packed are the VMM's and all others the daemon's; paravane-blockd --help and so on list them. The
daemons' programs are looked for in PARAVANE_BIN_DIR, beside this one, and in PATH. One that dies is started again and
the guest goes on, its balloon and cards as they were set (state-file, by default in the VM's folder); all of them
end with the VM, however it ends. Their logs come out here (PARAVANE_LOG chooses).

While it runs, the VM has a folder with a control socket in PARAVANE_RUNTIME_DIR, XDG_RUNTIME_DIR/paravane,
/run/paravane (root) or /tmp/paravane-UID, by which status and ctl find it.

On a terminal the guest gets every key; Ctrl-A x ends the VM, Ctrl-A Ctrl-A sends Ctrl-A.
SIGTERM and SIGINT press the power button and end the VM after --shutdown-timeout seconds, or at once if the guest
does not listen to the button or the signal comes again.

Exit codes:
  0    the guest switched off, or was told to stop
  64   wrong usage or description      66   a file cannot be read or is no kernel
  69   KVM or a backend is not there   70   KVM cannot go on with the guest
  N    with --debug-exit: the byte that the guest wrote to port 0xf4";

pub(crate) const CTL_HELP: &str = "\
Commands of a VM:
  status, metrics, prometheus            how it and its devices fare
  set DEVICE KEY=VALUE ...               changes a device while it runs (daemons that the VM has started)
  resize DEVICE [BYTES]                  takes on an image's new size
  power-button, reset, stop              as on the machine's front
Commands of a daemon: status, metrics, prometheus, set, resize, stop.
A `set` answers with what is now, and under `until_restart` with the keys of it that a restart of the daemon undoes.
--schema prints the protocol of the control sockets as JSON Schema.

Examples:
  Of a VM, of one of its daemons, and of a daemon by itself:
    paravane ctl web set net0 link=down
    paravane ctl web/netd metrics
    paravane ctl /run/paravane/balloond.control set vm1 target=1G

Exit codes: 0 done, 1 refused, 64 wrong usage, 69 nobody answers";

pub(crate) const STATUS_HELP: &str = "\
Shows all running VMs of this user, or those that are named, or what answers on the control sockets that are named.

Exit codes: 0, or 69 if something that was named does not answer";

/// Flags of `paravane run`; the TOML file has the same keys.
#[derive(Debug, Default, Clone, Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct RunOptions {
    /// TOML file with the VM's description; relative paths in it start at its folder.
    #[arg(value_name = "VM.TOML")]
    #[serde(skip)]
    pub(crate) file: Option<PathBuf>,
    /// Name of the VM; no two of a user's running VMs have the same [default: the kernel's and the process's].
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Kernel: a 64-bit ELF file with a PVH entry point.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// Initial RAM disk.
    #[arg(long, value_name = "FILE")]
    pub(crate) initrd: Option<PathBuf>,
    /// Kernel command line.
    #[arg(long, value_name = "TEXT")]
    pub(crate) cmdline: Option<String>,
    /// RAM: bytes, or a number with K, M, G or T (powers of 1024) [default: 512M].
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<ByteSize>,
    /// Number of vCPUs [default: 1].
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<u32>,
    /// A disk, may be repeated: `socket=PATH[,queues=N][,queue-size=N][,packed=on]` of a daemon that runs, or keys of
    /// one that is started, such as `path=IMAGE,cache=none,queues=4`.
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = devices::table)]
    pub(crate) disk: Vec<Table>,
    /// A network, may be repeated: `socket=PATH[,queue-size=N][,packed=on][,mtu=N][,mac=MAC]`, or keys of the daemon, such as
    /// `link=passt` or `link=tap:vmtap0,queue-pairs=2`.
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = devices::table)]
    pub(crate) net: Vec<Table>,
    /// A memory balloon: `socket=PATH[,packed=on]`, or keys of the daemon, such as `floor=512M`.
    #[arg(
        long,
        value_name = "KEY=VALUE,...",
        num_args = 0..=1,
        default_missing_value = "",
        value_parser = devices::table
    )]
    pub(crate) balloon: Option<Table>,
    /// More of the daemons' config files, by daemon.
    #[arg(skip)]
    pub(crate) daemon: BTreeMap<String, Table>,
    /// Where the keys stand in the file.
    #[arg(skip)]
    #[serde(skip)]
    pub(crate) places: Places,
    /// Serial port: stdio, off, or file:PATH, which output is added to [default: stdio].
    #[arg(long, value_name = "WHERE")]
    pub(crate) serial: Option<Serial>,
    /// What a guest's reset does [default: restart].
    #[arg(long, value_enum)]
    pub(crate) on_reset: Option<OnReset>,
    /// End with the byte that the guest writes to port 0xf4 as exit code.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) debug_exit: Option<bool>,
    /// Seconds that a guest has to switch off after SIGTERM [default: 10].
    #[arg(long, value_name = "SECONDS")]
    pub(crate) shutdown_timeout: Option<u64>,
    /// Confine the VMM itself with seccomp and Landlock [default: on].
    #[arg(long, value_enum)]
    pub(crate) sandbox: Option<Sandbox>,
    /// Become this user, by name or number, when everything is open that needs root; the daemons that are started do the
    /// same. The kernel and the initrd, which are read again at a restart, must be readable for it.
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Become a member of this group rather than of the user's own.
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// Status lines on standard error as JSON, one object per line.
    #[arg(long)]
    #[serde(skip)]
    pub(crate) json: bool,
}

/// Where the serial port goes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Serial {
    /// Standard input and output.
    Stdio,
    /// Nowhere: the machine has no serial port.
    Off,
    /// Output is added to a file, no input.
    File(PathBuf),
}

impl FromStr for Serial {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stdio" => Ok(Self::Stdio),
            "off" => Ok(Self::Off),
            _ => match text.strip_prefix("file:") {
                Some(path) if !path.is_empty() => Ok(Self::File(path.into())),
                _ => Err(format!("{text:?} is none of stdio, off, file:PATH")),
            },
        }
    }
}

impl TryFrom<String> for Serial {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Whether the VMM confines itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sandbox {
    /// Only the files and system calls that a VM needs.
    On,
    /// Nothing beyond the user's permissions.
    Off,
}

/// What a reset of the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnReset {
    /// Loads the kernel again and starts it.
    Restart,
    /// Ends the VM with exit code 0.
    Exit,
}
