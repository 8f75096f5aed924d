//! `paravane ctl`: says one thing to a VM or a daemon and shows the answer, or shows what can be said.
//!
//! One rule: the answer goes to standard output as it can be read by a program; why there is none to standard error.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use control_protocol::Command;
use control_protocol::Reply;
use host_os::exit::sysexits as exit;

use crate::home;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Exit code of a command that was refused.
const REFUSED: u8 = 1;

/// What the command line says.
#[derive(Debug, clap::Args)]
pub(crate) struct CtlOptions {
    /// A VM's name, VM/DAEMON (such as web/netd), or the path of a control socket.
    #[arg(required = true)]
    target: Option<String>,
    /// The command.
    #[arg(required = true, value_name = "WORD")]
    words: Vec<String>,
    /// Print the JSON Schema of the protocol that control sockets speak, and end.
    #[arg(long, exclusive = true)]
    schema: bool,
}

/// Runs `paravane ctl`; returns the exit code.
pub(crate) fn run(options: &CtlOptions) -> u8 {
    if options.schema {
        return say(&control_protocol::schema::text(), exit::SUCCESS);
    }
    let command = match Command::from_words(&options.words) {
        Ok(command) => command,
        Err(error) => {
            host_os::tell!("paravane: {error}");
            return exit::USAGE;
        }
    };
    let target = options.target.as_deref().unwrap_or_default();
    let socket = resolve(target, &home::runtime_folder());
    match control_protocol::ask(&socket, &command, PATIENCE) {
        Ok(Reply::Value(value)) => say(&format!("{value:#}\n"), exit::SUCCESS),
        Ok(Reply::Text(text)) => say(&text, exit::SUCCESS),
        Ok(Reply::Error(error)) => {
            host_os::tell!("paravane: {error}");
            REFUSED
        }
        Err(error) => {
            host_os::tell!("paravane: {}", describe(&error));
            exit::UNAVAILABLE
        }
    }
}

/// Writes to standard output; returns `code`, or that of a failure. A reader that has read enough is none.
pub(crate) fn say(text: &str, code: u8) -> u8 {
    match host_os::exit::print("paravane", text) {
        Ok(()) => code,
        Err(_) => exit::OUTPUT,
    }
}

/// The error with its cause.
pub(crate) fn describe(error: &control_protocol::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// The control socket of what a person calls `target`. A path that exists wins over a name.
pub(crate) fn resolve(target: &str, runtime: &Path) -> PathBuf {
    let path = Path::new(target);
    if path.is_absolute() || path.exists() {
        return path.to_owned();
    }
    match target.split_once('/') {
        Some((vm, daemon)) if !vm.starts_with('.') && !daemon.contains('/') => {
            runtime.join(vm).join(format!("{daemon}.control"))
        }
        Some(_) => path.to_owned(),
        None => runtime.join(target).join(home::CONTROL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("there");
        std::fs::write(&there, "").unwrap();
        let runtime = Path::new("/r");
        let resolved = |target: &str| resolve(target, runtime);
        assert_eq!(resolved("web"), Path::new("/r/web/control"));
        assert_eq!(resolved("web/netd"), Path::new("/r/web/netd.control"));
        assert_eq!(resolved("/run/x"), Path::new("/run/x"));
        assert_eq!(resolved("./a/b"), Path::new("./a/b"));
        assert_eq!(resolved("../x"), Path::new("../x"));
        assert_eq!(resolved("a/b/c"), Path::new("a/b/c"));
        let there = there.to_str().unwrap();
        assert_eq!(resolved(there), Path::new(there));
    }
}
