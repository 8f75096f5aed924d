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

use crate::process;

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

/// Stops the processors, or lets them go on.
///
/// # Errors
/// When QEMU refuses.
pub fn run(socket: &Path, on: bool) -> anyhow::Result<()> {
    execute(socket, if on { "cont" } else { "stop" }, &json!({})).map(drop)
}

/// Plugs in a module of memory that daemons may map.
///
/// # Errors
/// When QEMU has no slot or no room for it.
pub fn plug_memory(socket: &Path, name: &str, mib: u64) -> anyhow::Result<()> {
    let size = mib << 20;
    let memory = format!("memory-{name}");
    let object =
        json!({ "qom-type": "memory-backend-memfd", "id": memory, "size": size, "share": true });
    execute(socket, "object-add", &object)?;
    let module = json!({ "driver": "pc-dimm", "id": name, "memdev": memory });
    execute(socket, "device_add", &module).map(drop)
}

/// Asks the guest to give a module back; QEMU takes it out when it has.
///
/// # Errors
/// When QEMU does not know it, or the guest does not give it within `limit`.
pub fn unplug_memory(socket: &Path, name: &str, limit: Duration) -> anyhow::Result<()> {
    execute(socket, "device_del", &json!({ "id": name }))?;
    process::wait_until("the module of memory is out", limit, || {
        let modules = execute(socket, "query-memory-devices", &json!({}))?;
        let modules = modules.as_array().context("No list of memory")?;
        Ok(!modules.iter().any(|module| module["data"]["id"] == name))
    })?;
    let memory = json!({ "id": format!("memory-{name}") });
    execute(socket, "object-del", &memory).map(drop)
}

/// Starts to move the machine to the QEMU that waits at `to`; 0 bytes a second is no limit.
///
/// # Errors
/// When QEMU refuses.
pub fn migrate(socket: &Path, to: &Path, bytes_per_second: u64) -> anyhow::Result<()> {
    let limit = match bytes_per_second {
        0 => 1 << 40,
        some => some,
    };
    let parameters = json!({ "max-bandwidth": limit });
    execute(socket, "migrate-set-parameters", &parameters)?;
    let uri = format!("unix:{}", to.display());
    execute(socket, "migrate", &json!({ "uri": uri })).map(drop)
}

/// How far the move is: `status`, and under `ram` how much went over.
///
/// # Errors
/// When QEMU does not answer.
pub fn migration(socket: &Path) -> anyhow::Result<Value> {
    execute(socket, "query-migrate", &json!({}))
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
