//! The examples of systemd units: systemd understands them, and the daemons the flags in them.
#![expect(
    clippy::expect_used,
    reason = "a test fails by panic, in its helpers too"
)]

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use daemon_shell::ProcessSpec;
use daemon_shell::ServiceSpec;
use daemon_shell::SocketSpec;

fn units() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["systemd", "../../vmm/monitor/systemd"];
    let entries = folders.map(|folder| std::fs::read_dir(here.join(folder)).expect("a folder"));
    let paths = entries.into_iter().flatten();
    let mut paths: Vec<_> = paths.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

#[test]
fn systemd_understands_them() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        println!("SKIPS ITSELF systemd_understands_them: systemd-analyze is not installed");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut copies = Vec::new();
    for unit in units() {
        let text = std::fs::read_to_string(&unit).expect("a unit");
        // systemd wants the programs to be there, and a user that is not there is no fault of the unit.
        let lines = text
            .lines()
            .map(|line| match line.strip_prefix("ExecStart=") {
                Some(words) => format!(
                    "ExecStart=/bin/true {}",
                    words.split_once(' ').map_or("", |(_, flags)| flags)
                ),
                None => line.to_owned(),
            });
        let name = unit
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .replace('@', "@web");
        let copy = folder.path().join(name);
        std::fs::write(&copy, lines.collect::<Vec<_>>().join("\n") + "\n").expect("a copy");
        copies.push(copy);
    }
    assert!(copies.len() >= 6);
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).args(&copies);
    let output = verify.output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // A container may have no manager to ask; what it says of our files counts.
    let ours: Vec<_> = said
        .lines()
        .filter(|line| line.contains("paravane"))
        .collect();
    assert!(ours.is_empty(), "{}", ours.join("\n"));
}

#[test]
fn their_flags_are_flags_of_the_daemons() {
    let mut known = clap::Command::new("daemon");
    known = ProcessSpec::augment_args(known);
    known = ServiceSpec::augment_args(known);
    known = SocketSpec::augment_args(known);
    let mut known: BTreeSet<_> = known
        .get_arguments()
        .filter_map(|argument| argument.get_long().map(str::to_owned))
        .collect();
    // Of every daemon's own, and of the disk.
    known.extend(["config", "path"].map(str::to_owned));
    let mut found = 0;
    for unit in units() {
        let text = std::fs::read_to_string(&unit).expect("a unit");
        let starts = text.lines().filter(|line| line.starts_with("ExecStart="));
        for word in starts.flat_map(str::split_whitespace) {
            if let Some(flag) = word.strip_prefix("--") {
                assert!(known.contains(flag), "{}: --{flag}", unit.display());
                found += 1;
            }
        }
    }
    assert!(found >= 5);
}
