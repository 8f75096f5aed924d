//! What each command needs around it, and how it is seen to have worked.
//!
//! One rule: the commands themselves stand in the documents only.

use vm::documents::Example;

/// What a machine must have for some commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Kvm,
    Passt,
    Socat,
    Tun,
    /// QEMU and Debian's kernel for guests.
    Guest,
    /// A QEMU whose generic vhost-user device a user may create.
    NewerQemu,
}

/// How the commands of one example are run.
#[derive(Debug)]
pub struct Recipe {
    /// Where they stand, as [`Example::place`].
    pub place: &'static str,
    /// The start of the sentence above them.
    pub title: &'static str,
    /// For the name of the test; of the first of a chain.
    pub name: &'static str,
    /// Whether the programs of the example before go on.
    pub continues: bool,
    /// Whether each command is for itself.
    pub alternatives: bool,
    /// What a reader is taken to have; shell.
    pub before: &'static str,
    /// What must be so afterwards; shell.
    pub after: &'static str,
    /// QEMU guests that have to use what they find and end well.
    pub guests: u32,
    pub needs: &'static [Need],
}

impl Recipe {
    pub fn is_for(&self, example: &Example) -> bool {
        self.place == example.place && example.title.starts_with(self.title)
    }
}

const PLAIN: Recipe = Recipe {
    place: "",
    title: "",
    name: "",
    continues: false,
    alternatives: false,
    before: "",
    after: "",
    guests: 0,
    needs: &[],
};

pub const RECIPES: &[Recipe] = &[
    Recipe {
        place: "README.md",
        title: "A disk for a QEMU guest",
        name: "of_the_readme_for_a_disk",
        after: "grep -q '@@ disk queues 4' console-*.log\n[ $(stat -c %b disk.img) -ge 8192 ]",
        guests: 1,
        needs: &[Need::Guest],
        ..PLAIN
    },
    Recipe {
        place: "README.md",
        title: "Two QEMU guests on one switch",
        name: "of_the_readme_for_two_guests_on_a_switch",
        after: "[ $(cat console-*.log | grep -c '@@ met') = 2 ]",
        guests: 2,
        needs: &[Need::Guest],
        ..PLAIN
    },
    Recipe {
        place: "README.md",
        title: "A VM with all three devices from one file",
        name: "of_the_readme_for_a_vm_from_a_file",
        before: "cp $VMLINUX vmlinux; truncate -s 16M disk.img",
        after: "grep -q 'the guest is up' console.log\nvm_ends web",
        needs: &[Need::Kvm, Need::Passt],
        ..PLAIN
    },
    Recipe {
        place: "paravane-blockd --help",
        title: "A disk image for a virtual machine",
        name: "of_blockd_for_a_disk",
        ..PLAIN
    },
    Recipe {
        place: "paravane-blockd --help",
        title: "The machine's side, QEMU",
        continues: true,
        after: "grep -q '@@ disk queues 1' console-*.log",
        guests: 1,
        needs: &[Need::Guest],
        ..PLAIN
    },
    Recipe {
        place: "paravane-blockd --help",
        title: "Four queues past the page cache",
        name: "of_blockd_for_other_disks",
        before: "truncate -s 16M disk.raw; printf iso > cd.iso; truncate -s 1M cd.iso",
        ..PLAIN
    },
    Recipe {
        place: "paravane-blockd --help",
        title: "Many disks in one process",
        name: "of_blockd_for_many_disks",
        before: "truncate -s 16M /var/lib/images/root.raw",
        ..PLAIN
    },
    Recipe {
        place: "paravane-blockd --help",
        title: "After the image has grown",
        continues: true,
        after: "echo status | socat - UNIX:/run/paravane/control.sock | grep -q 21474836480",
        needs: &[Need::Socat],
        ..PLAIN
    },
    Recipe {
        place: "paravane-netd --help",
        title: "User-mode networking without any privilege",
        name: "of_netd_for_user_mode_networking",
        alternatives: true,
        needs: &[Need::Passt],
        ..PLAIN
    },
    Recipe {
        place: "paravane-netd --help",
        title: "The machine's side, QEMU",
        continues: true,
        after: "grep -q '@@ lease 192.0.2.2 router 192.0.2.1' console-*.log",
        guests: 1,
        needs: &[Need::Guest, Need::Passt],
        ..PLAIN
    },
    Recipe {
        place: "paravane-netd --help",
        title: "A TAP interface with four queue pairs",
        name: "of_netd_for_a_tap",
        // Only once a guest is there the interface has a carrier.
        after: "ip link show vmtap0 | grep -q UP\nip addr show vmtap0 | grep -q 192.0.2.1/24",
        needs: &[Need::Tun],
        ..PLAIN
    },
    Recipe {
        place: "paravane-netd --help",
        title: "Two machines on one switch",
        name: "of_netd_for_a_switch",
        before: "ip tuntap add dev vmtap0 mode tap vnet_hdr\nip link set vmtap0 up",
        needs: &[Need::Tun],
        ..PLAIN
    },
    Recipe {
        place: "paravane-netd --help",
        title: "Change a device while it runs",
        continues: true,
        after: "echo status | socat - UNIX:/run/paravane/net-control.sock > status\n\
                grep -q '\"link_up\":false' status\ngrep -q 100000 status",
        needs: &[Need::Socat],
        ..PLAIN
    },
    Recipe {
        place: "paravane-balloond --help",
        title: "A balloon for one virtual machine",
        name: "of_balloond_for_one_balloon",
        needs: &[Need::Socat],
        ..PLAIN
    },
    Recipe {
        place: "paravane-balloond --help",
        title: "The machine's side: QEMU 10.1",
        continues: true,
        after: "grep -q '@@ balloon' console-*.log",
        guests: 1,
        needs: &[Need::Guest, Need::NewerQemu],
        ..PLAIN
    },
    Recipe {
        place: "paravane-balloond --help",
        title: "Many machines that share",
        name: "of_balloond_for_many_balloons",
        ..PLAIN
    },
    Recipe {
        place: "paravane-balloond --help",
        title: "What it decided and why",
        continues: true,
        needs: &[Need::Socat],
        ..PLAIN
    },
    Recipe {
        place: "paravane-balloond --help",
        title: "Before memory is pinned or copied",
        continues: true,
        needs: &[Need::Socat],
        ..PLAIN
    },
    Recipe {
        place: "paravane --help",
        title: "A VM with a disk, user-mode networking and a balloon",
        name: "of_the_monitor_for_a_vm_by_flags",
        before: "cp $VMLINUX vmlinux; truncate -s 16M disk.img",
        needs: &[Need::Kvm, Need::Passt],
        ..PLAIN
    },
    Recipe {
        place: "paravane --help",
        title: "The same from a file",
        name: "of_the_monitor_for_a_vm_from_the_file_that_help_shows",
        // The file is the one of `paravane run --help`, with its disk of a daemon that runs.
        before: "cp $VMLINUX vmlinux; truncate -s 16M disk.img; cp $DESCRIPTION vm.toml\n\
                 paravane-blockd --socket-path /run/disk.sock --memory-disk 8M &\nstarted $!; ready /run/disk.sock",
        after: "vm_ends web",
        needs: &[Need::Kvm, Need::Passt],
        ..PLAIN
    },
    Recipe {
        place: "paravane --help",
        title: "With a daemon that runs already",
        name: "of_the_monitor_for_a_daemon_that_runs",
        before: "cp $VMLINUX vmlinux; printf initrd > initrd.img; truncate -s 16M disk.img",
        needs: &[Need::Kvm],
        ..PLAIN
    },
    Recipe {
        place: "paravane ctl --help",
        title: "Of a VM, of one of its daemons",
        name: "of_the_monitor_for_its_control",
        before: "cp $VMLINUX vmlinux\n\
                 printf 'name = \"web\"\\nkernel = \"vmlinux\"\\nserial = \"off\"\\n[[net]]\\nlink = \"null\"\\n' > vm.toml\n\
                 printf '[[device]]\\nname = \"vm1\"\\nsocket-path = \"/run/b.sock\"\\npolicy = \"manual\"\\n' > b.toml\n\
                 paravane run vm.toml &\n\
                 paravane-balloond --config b.toml --control-socket /run/paravane/balloond.control &\n\
                 ready /run/b.sock /run/paravane/balloond.control; vm_runs web",
        after: "vm_ends web",
        needs: &[Need::Kvm],
        ..PLAIN
    },
];
