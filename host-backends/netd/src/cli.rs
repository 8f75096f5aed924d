//! The command line: one network device by flags, or many by a config file.

use std::path::PathBuf;

use clap::Parser;
use daemon_shell::ProcessSpec;
use daemon_shell::ServiceSpec;
use daemon_shell::SocketSpec;
use net_backend::NetSpec;

const EXAMPLES: &str = "\
Examples:
  User-mode networking without any privilege (starts passt, which must be installed):
    paravane-netd --socket-path /tmp/net.sock
    paravane-netd --socket-path /tmp/net.sock --link passt:tcp-ports=2222:22

  The machine's side, QEMU for example. Memory must be shared; $GUEST is your other options:
    qemu-system-x86_64 $GUEST -m 2G \\
      -object memory-backend-memfd,id=m,size=2G,share=on -numa node,memdev=m \\
      -chardev socket,id=n,path=/tmp/net.sock,reconnect=1 -netdev vhost-user,id=net0,chardev=n \\
      -device virtio-net-pci,netdev=net0

  A TAP interface with four queue pairs (QEMU then: queues=4 at -netdev, mq=on,vectors=10 at
  -device):
    ip tuntap add dev vmtap0 mode tap user $USER multi_queue vnet_hdr
    ip addr add 192.0.2.1/24 dev vmtap0; ip link set vmtap0 up
    paravane-netd --socket-path /tmp/net.sock --link tap:vmtap0 --queue-pairs 4

  Two machines on one switch, a third port to the host through a TAP interface:
    paravane-netd --config net.toml

      control-socket = \"/run/paravane/net-control.sock\"
      [[switch]]
      name = \"lan\"
      uplink = \"tap:vmtap0\"
      [[device]]
      name = \"a\"
      socket-path = \"/run/paravane/a.sock\"
      link = \"switch:lan\"
      capture = \"/run/paravane/a.pcapng\"
      capture-paused = true
      [[device]]
      name = \"b\"
      socket-path = \"/run/paravane/b.sock\"
      link = \"switch:lan\"
      mac = \"52:54:00:00:00:0b\"
      rate-bytes = 125000000

  The guest of b is held to its `mac`: give its virtual machine monitor the same (QEMU:
  mac=52:54:00:00:00:0b), and every guest one of its own. What makes a device useless stands
  in the log and under `conditions` in `status`.

  Change a device while it runs, and look at it:
    echo 'set a link=down' | socat - UNIX:/run/paravane/net-control.sock
    echo 'set a rate-packets=100000 capture=on' | socat - UNIX:/run/paravane/net-control.sock
    echo status | socat - UNIX:/run/paravane/net-control.sock";

/// Serves networks to virtual machines over vhost-user.
///
/// A device's frames go to passt, a TAP interface, a switch inside this process, a packet socket, or nowhere.
/// Every flag is a key of the config file too.
#[derive(Debug, Parser)]
#[command(name = "paravane-netd", version, max_term_width = 110)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{}", daemon_shell::exit::HELP))]
#[command(after_help = "See --help for examples and exit codes.")]
pub struct Cli {
    /// Serve the devices of this TOML file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["net", "socket", "service"])]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub socket: SocketSpec,
    #[command(flatten)]
    pub net: NetSpec,
    #[command(flatten)]
    pub service: ServiceSpec,
    #[command(flatten)]
    pub process: ProcessSpec,
    /// Print what this daemon can do, as vhost-user.json prescribes, and end.
    #[arg(long, exclusive = true)]
    pub print_capabilities: bool,
    /// Print the descriptor for /usr/share/qemu/vhost-user/50-paravane-netd.json, and end.
    #[arg(long, exclusive = true)]
    pub print_descriptor: bool,
    /// Write the manual page into this folder, and end.
    #[arg(long, value_name = "FOLDER", exclusive = true, hide = true)]
    pub man_pages: Option<PathBuf>,
}
