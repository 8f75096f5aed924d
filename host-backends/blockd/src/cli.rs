//! The command line: one disk by flags, or many by a config file.

use std::path::PathBuf;

use block_backend::BlockSpec;
use clap::Parser;
use daemon_shell::ProcessSpec;
use daemon_shell::ServiceSpec;
use daemon_shell::SocketSpec;

const EXAMPLES: &str = "\
Examples:
  A disk image for a virtual machine:
    truncate -s 10G disk.raw
    paravane-blockd --socket-path /tmp/disk.sock --path disk.raw

  The machine's side, QEMU for example. Memory must be shared; $GUEST is your other options:
    qemu-system-x86_64 $GUEST -m 2G \\
      -object memory-backend-memfd,id=m,size=2G,share=on -numa node,memdev=m \\
      -chardev socket,id=d,path=/tmp/disk.sock,reconnect=1 \\
      -device vhost-user-blk-pci,chardev=d,num-queues=1

  Four queues past the page cache, a read-only CD image, a scratch disk in memory:
    paravane-blockd --socket-path a.sock --path disk.raw --num-queues 4 --cache none
    paravane-blockd --socket-path b.sock --path cd.iso --readonly
    paravane-blockd --socket-path c.sock --memory-disk 4G

  Many disks in one process:
    paravane-blockd --config disks.toml

      control-socket = \"/run/paravane/control.sock\"
      [[device]]
      name = \"root\"
      socket-path = \"/run/paravane/root.sock\"
      path = \"/var/lib/images/root.raw\"
      num-queues = 4
      [[device]]
      socket-path = \"/run/paravane/scratch.sock\"
      memory-disk = \"4G\"
      cache = \"unsafe\"

  After the image has grown, tell the guest (or send SIGHUP):
    truncate -s 20G /var/lib/images/root.raw
    echo 'resize root' | socat - UNIX:/run/paravane/control.sock";

/// Serves disks to virtual machines over vhost-user.
///
/// An image is always raw: its format is never guessed from its content. Every flag is a key of the config file too.
#[derive(Debug, Parser)]
#[command(name = "paravane-blockd", version, max_term_width = 110)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{}", daemon_shell::exit::HELP))]
#[command(after_help = "See --help for examples and exit codes.")]
pub struct Cli {
    /// Serve the disks of this TOML file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["disk", "socket", "service"])]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub socket: SocketSpec,
    #[command(flatten)]
    pub disk: BlockSpec,
    #[command(flatten)]
    pub service: ServiceSpec,
    #[command(flatten)]
    pub process: ProcessSpec,
    /// Print what this daemon can do, as vhost-user.json prescribes, and end.
    #[arg(long, exclusive = true)]
    pub print_capabilities: bool,
    /// Print the descriptor for /usr/share/qemu/vhost-user/50-paravane-blockd.json, and end.
    #[arg(long, exclusive = true)]
    pub print_descriptor: bool,
    /// Write the manual page into this folder, and end.
    #[arg(long, value_name = "FOLDER", exclusive = true, hide = true)]
    pub man_pages: Option<PathBuf>,
}
