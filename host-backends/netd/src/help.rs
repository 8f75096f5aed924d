//! What people are told of the daemon by `--help`.

use daemon_shell::Program;

/// What the daemon is called and what is told of it.
pub const PROGRAM: Program = Program {
    name: "paravane-netd",
    about: "Serves networks to virtual machines over vhost-user",
    details: "A device's frames go to passt, a TAP interface, a switch inside this process, a packet socket, or nowhere. \
              Every flag is a key of the config file too.",
    examples: EXAMPLES,
    kind: "net",
    features: &[],
    description: "Paravane vhost-user network daemon",
};

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
