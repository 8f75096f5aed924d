//! What people are told of the daemon by `--help`.

use daemon_shell::Program;

/// What the daemon is called and what is told of it.
pub const PROGRAM: Program = Program {
    name: "paravane-blockd",
    about: "Serves disks to virtual machines over vhost-user",
    details: "An image is always raw: its format is never guessed from its content. Every flag is a key of the config \
              file too.",
    examples: EXAMPLES,
    kind: "block",
    features: &["read-only", "blk-file"],
    description: "Paravane vhost-user block daemon",
};

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
