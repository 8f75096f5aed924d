//! The control socket: one JSON object per line in, one out.
//!
//! Rule: a client can be slow, silent or wrong without holding up a device or another client; lines, clients and waiting
//! are bounded.
//!
//! ```text
//! {"command":"status"}                                   what every device is doing
//! {"command":"metrics"}                                  counters of every device
//! {"command":"resize","device":"disk0"}                  take on the image's new size
//! {"command":"resize","device":"ram0","bytes":1073741824} give a memory disk a new size
//! {"command":"stop"}                                     as SIGTERM
//! ```
//! The same without braces is understood too (`resize disk0`), so that `socat` and a human suffice. An answer is
//! `{"ok":...}` or `{"error":"..."}`.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use crate::Error;

/// Longest line, in bytes.
const MAX_LINE: u64 = 4096;
/// How much of a line that is too long is read away, in bytes.
const MAX_REST: u64 = 1 << 20;
/// Most clients at once.
const MAX_CLIENTS: usize = 8;
/// How long a client may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// What every device is doing.
    Status,
    /// Counters of every device.
    Metrics,
    /// A device looks at its size anew, or takes a given one.
    Resize {
        /// The device's name; may be left out when there is one only.
        #[serde(default)]
        device: Option<String>,
        /// New size in bytes, where the device itself can change it.
        #[serde(default)]
        bytes: Option<u64>,
    },
    /// As SIGTERM.
    Stop,
}

/// Carries out commands, from any thread.
pub trait Control: Send + Sync {
    /// The answer, or what to tell the client instead.
    ///
    /// # Errors
    /// A sentence for the client.
    fn execute(&self, command: Command) -> Result<Value, String>;
}

/// Serves `listener` in a thread of its own until the process ends.
///
/// # Errors
/// The thread cannot be started.
pub fn serve(listener: UnixListener, control: Arc<dyn Control>) -> Result<(), Error> {
    let clients = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => admit(stream, &control, &clients),
                // Out of descriptors, for example: that passes.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a control client");
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
        }
    };
    spawn(accept)
}

fn spawn(body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let thread = std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(body);
    thread.map(drop).map_err(|source| Error::Thread {
        name: "control",
        source,
    })
}

fn admit(mut stream: UnixStream, control: &Arc<dyn Control>, clients: &Arc<AtomicUsize>) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.set_write_timeout(Some(PATIENCE));
    if clients.fetch_add(1, Ordering::AcqRel) >= MAX_CLIENTS {
        clients.fetch_sub(1, Ordering::AcqRel);
        let _ = writeln!(
            stream,
            "{}",
            json!({"error": "Too many clients: close one"})
        );
        return;
    }
    let (control, count) = (Arc::clone(control), Arc::clone(clients));
    let talk = move || {
        // A client that goes away in the middle is no trouble of ours.
        let _ = converse(&stream, control.as_ref());
        count.fetch_sub(1, Ordering::AcqRel);
    };
    if spawn(talk).is_err() {
        clients.fetch_sub(1, Ordering::AcqRel);
    }
}

fn converse(stream: &UnixStream, control: &dyn Control) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader
            .by_ref()
            .take(MAX_LINE + 1)
            .read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if read as u64 > MAX_LINE {
            writeln!(writer, "{}", json!({"error": "The line is too long"}))?;
            // Unread bytes would turn our answer into a reset connection.
            std::io::copy(&mut reader.take(MAX_REST), &mut std::io::sink())?;
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if text.is_empty() {
            continue;
        }
        let command = parse(text);
        if command == Ok(Command::Stop) {
            // The answer goes out while there still is a process.
            writeln!(writer, "{}", json!({"ok": "stopping"}))?;
            let stopped = control.execute(Command::Stop);
            return stopped.map(drop).map_err(std::io::Error::other);
        }
        let answer = match command.and_then(|command| control.execute(command)) {
            Ok(value) => json!({ "ok": value }),
            Err(error) => json!({ "error": error }),
        };
        writeln!(writer, "{answer}")?;
    }
}

/// Reads a command in either spelling.
fn parse(text: &str) -> Result<Command, String> {
    if text.starts_with('{') {
        return serde_json::from_str(text).map_err(|error| format!("Malformed command: {error}"));
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        ["status"] => Ok(Command::Status),
        ["metrics"] => Ok(Command::Metrics),
        ["stop"] => Ok(Command::Stop),
        ["resize"] => Ok(Command::Resize {
            device: None,
            bytes: None,
        }),
        ["resize", device] => Ok(Command::Resize {
            device: Some((*device).to_owned()),
            bytes: None,
        }),
        ["resize", device, bytes] => Ok(Command::Resize {
            device: Some((*device).to_owned()),
            bytes: Some(
                bytes
                    .parse()
                    .map_err(|_| format!("{bytes:?} is no number of bytes"))?,
            ),
        }),
        _ => {
            Err("Unknown command: say status, metrics, resize [DEVICE [BYTES]] or stop".to_owned())
        }
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
