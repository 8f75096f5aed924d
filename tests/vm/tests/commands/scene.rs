//! A shell in a place of its own, where the commands find what a reader is taken to have.
//!
//! One rule: the shell gets the commands letter by letter; around them it only waits, as a reader does, and looks.

use std::fmt::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use anyhow::ensure;
use vm::binaries;
use vm::debian;
use vm::documents;
use vm::documents::Example;
use vm::kernel;
use vm::kernel::Kernel;
use vm::netns::Namespace;
use vm::newer_qemu;
use vm::paths;
use vm::process;
use vm::process::Process;
use vm::qemu::QUIET;
use vm::tree;

use crate::recipes::Need;
use crate::recipes::Recipe;

/// A chain of examples, guests without hardware help included.
const LIMIT: Duration = Duration::from_secs(400);

/// Words of the shell around the commands.
const PRELUDE: &str = include_str!("prelude.sh");

/// Runs a chain of examples, each as its recipe says.
pub fn run(name: &str, chain: &[&Recipe], examples: &[Example]) -> anyhow::Result<()> {
    let needs = |need| chain.iter().any(|recipe| recipe.needs.contains(&need));
    for (need, tool) in [(Need::Passt, "passt"), (Need::Socat, "socat")] {
        if needs(need) {
            vm::tool(tool, tool)?;
        }
    }
    if needs(Need::Kvm) {
        vm::kvm()?;
    }
    if needs(Need::Tun) && !Path::new("/dev/net/tun").exists() {
        return Err(vm::skip("no /dev/net/tun"));
    }
    let logs = paths::logs(&format!("commands-{name}"))?;
    let place = Place::new(&logs.join("work"))?;
    let mut script = place.head(needs(Need::Guest), needs(Need::NewerQemu))?;
    for recipe in chain {
        let example = examples.iter().find(|example| recipe.is_for(example));
        let example = example.with_context(|| format!("No example {:?}", recipe.title))?;
        script.push_str(&shell(recipe, example));
    }
    script.push_str("end_programs\necho '@@ all good'\n");
    let file = place.folder.join("script");
    std::fs::write(&file, script)?;
    let net = Namespace::new()?;
    net.uplink("up0", "192.0.2.2/24", "192.0.2.1")?;
    net.set("net/ipv4/ping_group_range", "0 2147483647")?;
    let mut command = net.command("unshare", "util-linux")?;
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    let log = logs.join("script.log");
    let out = process::log_file(&log, name)?;
    command.arg("sh").arg(&file).current_dir(&place.folder);
    command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out);
    let mut process = Process::start("commands", command)?;
    let ended = process.wait(LIMIT);
    let text = std::fs::read_to_string(&log)?;
    let status = ended.with_context(|| tail(&text))?;
    ensure!(
        status.success() && text.ends_with("@@ all good\n"),
        "{status}\n{}",
        tail(&text)
    );
    Ok(())
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(40)..)
        .unwrap_or_default()
        .join("\n")
}

/// The folder where the commands run.
struct Place {
    folder: PathBuf,
    programs: PathBuf,
}

impl Place {
    fn new(folder: &Path) -> anyhow::Result<Self> {
        let programs = binaries::folder()?;
        std::fs::create_dir_all(folder.join("bin"))?;
        std::fs::create_dir_all(folder.join("target"))?;
        std::os::unix::fs::symlink(&programs, folder.join("target/release"))?;
        Ok(Self {
            folder: folder.to_path_buf(),
            programs,
        })
    }

    /// What comes before all commands.
    fn head(&self, guest: bool, newer: bool) -> anyhow::Result<String> {
        let folder = self.folder.display();
        let root = paths::root();
        // By its path: the name is the stand-in's below.
        let cargo = match std::env::var("CARGO") {
            Ok(cargo) => cargo,
            Err(_) => vm::tool("cargo", "cargo")?,
        };
        // The programs were built before, by the same words: building them here again would be a second build of all.
        tree::script(
            &self.folder.join("bin/cargo"),
            &format!(
                "#!/bin/sh\nset -eu\n[ \"$1 $2\" = 'build --release' ]\nshift 2\n\
                 while [ $# -gt 0 ]; do [ \"$1\" = -p ]; (cd {}; {cargo} pkgid --offline \"$2\"); shift 2; done\n",
                root.display()
            ),
        )?;
        // A guest's code that says where it is and waits: mov edx,0x3f8; mov al,LETTER; out dx,al; ... sti; hlt; jmp.
        let mut code = vec![0xba, 0xf8, 3, 0, 0];
        code.extend(b"the guest is up\n".iter().flat_map(|c| [0xb0, *c, 0xee]));
        code.extend([0xfb, 0xf4, 0xeb, 0xfc]);
        std::fs::write(self.folder.join("tiny"), kernel::elf(&code))?;
        let help = documents::help(&self.programs.join("paravane"), &["run", "--help"])?;
        let description = description(&help).context("`paravane run --help` has a description")?;
        std::fs::write(self.folder.join("description"), description)?;
        let mut head = format!(
            "cd {folder}\nVMLINUX={folder}/tiny DESCRIPTION={folder}/description\n\
             export PATH={folder}/bin:{}:$PATH:/usr/sbin:/sbin\n",
            self.programs.display()
        );
        if guest {
            let kernel = debian::cloud_kernel()?;
            writeln!(head, "export GUEST='{}'", self.guest(&kernel, newer)?)?;
        }
        Ok(head + PRELUDE)
    }

    /// What stands for a reader's guest: Debian's kernel without hardware help.
    fn guest(&self, kernel: &Kernel, newer: bool) -> anyhow::Result<String> {
        let qemu = if newer {
            newer_qemu::program()?.display().to_string()
        } else {
            vm::tool("qemu-system-x86_64", "qemu-system-x86")?
        };
        // Each guest's console is a file of its own, and its exit code another.
        tree::script(
            &self.folder.join("bin/qemu-system-x86_64"),
            &format!(
                "#!/bin/sh\n{qemu} \"$@\" -serial file:console-$$.log\ncode=$?\necho $code > qemu-$$.status\nexit $code\n"
            ),
        )?;
        let initramfs = self.folder.join("initramfs");
        let mut modules = [
            kernel::DISK_MODULES,
            kernel::NET_MODULES,
            kernel::BALLOON_MODULES,
        ]
        .concat();
        let mut known = Vec::new();
        modules.retain(|module| {
            !known.contains(module) && {
                known.push(*module);
                true
            }
        });
        let scenario = include_str!("../../guest/commands.sh");
        tree::initramfs(&initramfs, kernel, &modules, None, scenario)?;
        let config = self.folder.join("guest.cfg");
        let text = format!(
            "[machine]\n  type = \"q35\"\n  kernel = \"{}\"\n  initrd = \"{}\"\n  append = \"{QUIET}\"\n",
            kernel.vmlinux.display(),
            initramfs.display()
        );
        std::fs::write(&config, text)?;
        Ok(format!(
            "-readconfig {} -accel tcg,thread=multi -cpu max -smp 4 -nodefaults -no-user-config -display none \
             -no-reboot -global virtio-net-pci.vectors=0",
            config.display()
        ))
    }
}

/// The VM's description in `paravane run --help`.
fn description(help: &str) -> Option<String> {
    let (_, text) = help.split_once("as a TOML file with the same names:\n")?;
    let lines = text.lines().map_while(|line| line.strip_prefix("  "));
    Some(lines.collect::<Vec<_>>().join("\n") + "\n")
}

/// Whether a reader would give this command a terminal of its own, or the machine's background.
fn goes_on(command: &str) -> bool {
    let mut words = command.split_whitespace();
    let program = words.next().and_then(|word| word.rsplit('/').next());
    let daemons = ["paravane-blockd", "paravane-netd", "paravane-balloond"];
    let vm = program == Some("paravane") && words.next() == Some("run");
    vm || program.is_some_and(|program| daemons.contains(&program))
}

/// The sockets that a program makes, by its words or by the file that they name.
fn sockets(command: &str, file: &str) -> Vec<String> {
    let mut sockets = Vec::new();
    let mut words = command.split_whitespace();
    while let Some(word) = words.next() {
        if ["--socket-path", "--control-socket"].contains(&word) {
            sockets.extend(words.next().map(ToString::to_string));
        }
    }
    if command.contains("--config") {
        for line in file.lines() {
            let pair = line
                .split_once(" = ")
                .map(|(key, value)| (key.trim(), value));
            if let Some(("socket-path" | "control-socket", value)) = pair {
                sockets.extend(value.split('"').nth(1).map(ToString::to_string));
            }
        }
    }
    sockets
}

/// One example for the shell.
fn shell(recipe: &Recipe, example: &Example) -> String {
    let mut lines = vec![String::new()];
    if !recipe.continues {
        lines.push("end_programs".into());
    }
    lines.push(recipe.before.into());
    let name = example.commands.iter().find_map(|command| {
        let mut words = command.split_whitespace();
        words
            .find(|word| word.ends_with(".toml"))
            .map(ToString::to_string)
    });
    if let (Some(name), false) = (name, example.content.is_empty()) {
        lines.push(format!(
            "cat > {name} <<'PARAVANE'\n{}PARAVANE",
            example.content
        ));
    }
    let files = format!("{}\n{}", example.content, example.commands.join("\n"));
    for (at, command) in example.commands.iter().enumerate() {
        if at > 0 && recipe.alternatives {
            lines.push("end_programs".into());
        }
        if command.contains("socat") {
            // Socat waits half a second for an answer: on a busy machine it may have to be said again.
            lines.push(format!(
                "said() {{\n{command}\n}}\nuntil_true answered\ncat answer"
            ));
        } else if goes_on(command) {
            let written = command.trim_end();
            let background = if written
                .split(" #")
                .next()
                .unwrap_or_default()
                .trim_end()
                .ends_with('&')
            {
                ""
            } else {
                " &"
            };
            lines.push(format!("{written}{background}\nstarted $!"));
            lines.push(format!("ready {}", sockets(command, &files).join(" ")));
            if command.contains(" run ") {
                lines.push("vm_runs".into());
            }
        } else {
            lines.push(command.clone());
        }
    }
    if recipe.guests > 0 {
        lines.push(format!("guests_end {}", recipe.guests));
    }
    lines.push("all_run".into());
    lines.push(recipe.after.into());
    lines.join("\n") + "\n"
}
