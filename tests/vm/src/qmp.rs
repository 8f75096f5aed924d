//! Commands to a running QEMU (QMP), on its socket.
//!
//! One rule: each command has its own connection, and its answer is looked at.

use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use serde_json::Value;
use serde_json::json;

/// QEMU answers at once, but the computer may be busy.
const ANSWER: Duration = Duration::from_secs(30);

/// Executes one command and returns what it gives back.
///
/// # Errors
/// When QEMU cannot be reached or refuses.
pub fn execute(socket: &Path, command: &str, arguments: &Value) -> anyhow::Result<Value> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("Connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(ANSWER))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut greeting = String::new();
    reader.read_line(&mut greeting)?;
    let negotiation = json!({ "execute": "qmp_capabilities" });
    let request = json!({ "execute": command, "arguments": arguments });
    let mut answer = Value::Null;
    for words in [negotiation, request] {
        stream.write_all(format!("{words}\n").as_bytes())?;
        answer = returned(&mut reader).with_context(|| format!("QEMU, told {words}"))?;
    }
    Ok(answer)
}

/// Plugs the cable of a network card in or out.
///
/// # Errors
/// When QEMU does not know it.
pub fn set_link(socket: &Path, nic: &str, up: bool) -> anyhow::Result<()> {
    execute(socket, "set_link", &json!({ "name": nic, "up": up })).map(drop)
}

/// The next answer; events come in between.
fn returned(reader: &mut impl BufRead) -> anyhow::Result<Value> {
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            bail!("It hung up");
        }
        let mut line: Value = serde_json::from_str(&line)?;
        if let Some(value) = line.get_mut("return") {
            return Ok(value.take());
        }
        if let Some(error) = line.get("error") {
            bail!("It answered {error}");
        }
    }
}
