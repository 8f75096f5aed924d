//! What people are told of the daemon by `--help`.

use daemon_shell::Program;

/// What the daemon is called and what is told of it.
pub const PROGRAM: Program = Program {
    name: "paravane-balloond",
    about: "Serves balloons to virtual machines over vhost-user, and moves memory between them",
    details: "Pages that a guest puts into its balloon, or reports free, go back to the host at once. With policy auto the \
              pool moves targets between floor and ceiling: it watches the guests' statistics and the host's memory, takes \
              from those with memory to spare, and gives back at once to a guest that swaps, kills processes, runs low or \
              falls silent. Every flag is a key of the config file too; those of the pool stand in its table `pool`, \
              without the word.",
    examples: EXAMPLES,
    kind: "balloon",
    features: &[],
    description: "Paravane vhost-user balloon daemon",
};

const EXAMPLES: &str = "\
Examples:
  A balloon for one virtual machine, moved by hand (with several: set NAME target=512M):
    paravane-balloond --socket-path /tmp/balloon.sock --policy manual \\
      --control-socket /tmp/control.sock
    echo 'set target=512M' | socat - UNIX:/tmp/control.sock

  The machine's side: QEMU 10.1 or later (its device of this name takes any vhost-user back-end;
  5 is the balloon). Memory must be shared; $GUEST is your other options. In our monitor's
  vm.toml it is a table `balloon` with the key `socket`; Cloud Hypervisor's option is
  --generic-vhost-user with socket=/tmp/balloon.sock,device_type=5,
  queue_sizes=[128,128,128,128,128]:
    qemu-system-x86_64 $GUEST -m 2G \\
      -object memory-backend-memfd,id=m,size=2G,share=on -numa node,memdev=m \\
      -chardev socket,id=b,path=/tmp/balloon.sock \\
      -device \\
      vhost-user-test-device-pci,chardev=b,virtio-id=5,num_vqs=5,vq_size=128,config_size=16

  Many machines that share what the host has, in one process:
    paravane-balloond --config balloons.toml

      control-socket = \"/run/paravane/balloon-control.sock\"
      [pool]
      reserve = \"2G\"              # the host keeps this available
      # size = \"32G\"              # or: all guests together get this much
      [[device]]
      name = \"web\"
      socket-path = \"/run/paravane/web-balloon.sock\"
      floor = \"1G\"                # never less
      ceiling = \"8G\"              # never more
      state-file = \"/run/paravane/web-balloon.state\"   # what is set survives a restart
      weight = 200                # twice the share of others when memory is short
      [[device]]
      name = \"batch\"
      socket-path = \"/run/paravane/batch-balloon.sock\"
      floor = \"512M\"

  What it decided and why; what it would decide; one guest taken out of its hands:
    echo status | socat - UNIX:/run/paravane/balloon-control.sock
    echo 'set dry-run=on' | socat - UNIX:/run/paravane/balloon-control.sock
    echo 'set batch policy=manual target=1G' | socat - UNIX:/run/paravane/balloon-control.sock

  Before memory is pinned or copied by somebody else, and after:
    echo 'set web inhibit=on'  | socat - UNIX:/run/paravane/balloon-control.sock
    echo 'set web inhibit=off' | socat - UNIX:/run/paravane/balloon-control.sock";
