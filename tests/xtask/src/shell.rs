//! Running other programs: echoed, streamed line by line, from the workspace root.
//!
//! One rule: standard output is for results; with `--json` everything else goes to standard error.

use std::io::BufRead;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use anyhow::Context;

/// The workspace root.
pub fn root() -> PathBuf {
    vm::paths::root()
}

/// A cargo command in the workspace root.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    command
}

/// The command as one would type it.
pub fn typed(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let name = program
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let mut words: Vec<String> = command
        .get_envs()
        .filter_map(|(key, value)| {
            Some(format!(
                "{}={:?}",
                key.to_string_lossy(),
                value?.to_string_lossy()
            ))
        })
        .collect();
    words.extend(name);
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

/// Says what comes next.
pub fn say(text: &str) {
    host_os::tell!("==> {text}");
}

/// Runs a command and gives each line of its output to `line`. Both of its streams come through one pipe, so that what
/// cargo says of a test program stands before what the program says.
pub fn stream(command: &mut Command, mut line: impl FnMut(&str)) -> anyhow::Result<bool> {
    say(&typed(command));
    let (output, input) = std::io::pipe().context("A pipe")?;
    command
        .stdin(Stdio::null())
        .stdout(input.try_clone().context("A pipe")?)
        .stderr(input);
    let child = command.spawn();
    let mut child = child.with_context(|| format!("Start {}", typed(command)))?;
    // The command keeps the ends that it was given, and the pipe would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut reader = BufReader::new(output);
    let mut raw = Vec::new();
    while reader.read_until(b'\n', &mut raw)? > 0 {
        line(String::from_utf8_lossy(&raw).trim_end());
        raw.clear();
    }
    Ok(child.wait()?.success())
}

/// Runs a command whose output the user sees as it is.
pub fn show(command: &mut Command) -> anyhow::Result<bool> {
    say(&typed(command));
    let status = command
        .status()
        .with_context(|| format!("Start {}", typed(command)))?;
    Ok(status.success())
}
