//! `paravane status`: all VMs of this user with their devices, daemons and counters.
//!
//! One rule: it only asks; one that does not answer is said so and holds up the others for a moment at most.

use std::fmt::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use control_protocol::Command;
use control_protocol::Reply;
use host_os::exit::sysexits as exit;
use metrics::Exposition;
use serde_json::Value;
use serde_json::json;

use crate::ctl;
use crate::home;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the command line says.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusOptions {
    /// VMs by name, or control sockets by path [default: all VMs of this user].
    target: Vec<String>,
    /// As one JSON object.
    #[arg(long, conflicts_with = "prometheus")]
    json: bool,
    /// Counters as Prometheus text.
    #[arg(long)]
    prometheus: bool,
}

/// Runs `paravane status`; returns the exit code.
pub(crate) fn run(options: &StatusOptions) -> u8 {
    let runtime = home::runtime_folder();
    let sockets: Vec<(String, PathBuf)> = if options.target.is_empty() {
        let running = home::running().into_iter();
        running
            .map(|(name, folder)| (name, folder.join(home::CONTROL)))
            .collect()
    } else {
        let named = options.target.iter();
        named
            .map(|target| (target.clone(), ctl::resolve(target, &runtime)))
            .collect()
    };
    if options.prometheus {
        return prometheus(&sockets);
    }
    let mut missing = false;
    let mut found = Vec::new();
    for (name, socket) in &sockets {
        match inspect(socket) {
            Ok(value) => found.push(value),
            // One that has just ended is none of those that run.
            Err(_) if options.target.is_empty() => {}
            Err(error) => {
                host_os::tell!("paravane: {name}: {error}");
                missing = true;
            }
        }
    }
    let text = if options.json {
        format!("{:#}\n", json!({ "vms": found }))
    } else if found.is_empty() && !missing {
        "No VM runs.\n".to_owned()
    } else {
        found.iter().map(describe).collect()
    };
    let code = if missing {
        exit::UNAVAILABLE
    } else {
        exit::SUCCESS
    };
    ctl::say(&text, code)
}

fn ask(socket: &Path, command: &Command) -> Result<Reply, String> {
    control_protocol::ask(socket, command, PATIENCE).map_err(|error| ctl::describe(&error))
}

fn value(socket: &Path, command: &Command) -> Result<Value, String> {
    match ask(socket, command)? {
        Reply::Value(value) => Ok(value),
        Reply::Error(error) => Err(error),
        Reply::Text(_) => Err("It answers something else".to_owned()),
    }
}

/// A VM's status with what its daemons say, or a daemon's with its counters.
fn inspect(socket: &Path) -> Result<Value, String> {
    let mut status = value(socket, &Command::Status)?;
    if status.get("cpus").is_none() {
        let metrics = value(socket, &Command::Metrics)?;
        return Ok(json!({"socket": socket, "status": status, "metrics": metrics}));
    }
    let daemons = status.get_mut("daemons").and_then(Value::as_array_mut);
    for daemon in daemons.into_iter().flatten() {
        let control = daemon.get("control").and_then(Value::as_str);
        let Some(control) = control.map(PathBuf::from) else {
            continue;
        };
        let said = [("status", Command::Status), ("metrics", Command::Metrics)]
            .map(|(name, command)| (name, value(&control, &command)));
        if let Some(object) = daemon.as_object_mut() {
            for (name, said) in said {
                let said = said.unwrap_or_else(|error| json!({ "error": error }));
                object.insert(name.to_owned(), said);
            }
        }
    }
    Ok(status)
}

fn prometheus(sockets: &[(String, PathBuf)]) -> u8 {
    let mut text = Exposition::default();
    let mut code = exit::SUCCESS;
    for (name, socket) in sockets {
        match ask(socket, &Command::Prometheus) {
            Ok(Reply::Text(own)) => text.absorb(&own, &[]),
            other => {
                host_os::tell!("paravane: {name}: {other:?}");
                code = exit::UNAVAILABLE;
                continue;
            }
        }
        let status = value(socket, &Command::Status).unwrap_or_default();
        let vm = status.get("name").and_then(Value::as_str).unwrap_or(name);
        let daemons = status.get("daemons").and_then(Value::as_array);
        for daemon in daemons.into_iter().flatten() {
            let control = daemon.get("control").and_then(Value::as_str);
            let control = control.map(Path::new).unwrap_or(Path::new(""));
            // A daemon that is being started again has nothing to count yet.
            if let Ok(Reply::Text(own)) = ask(control, &Command::Prometheus) {
                text.absorb(&own, &[("vm", vm)]);
            }
        }
    }
    ctl::say(&text.text(), code)
}

/// One VM, or one daemon, for a person.
fn describe(one: &Value) -> String {
    let mut text = String::new();
    let out = &mut text;
    let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0);
    let word = |value: &Value, key: &str| {
        let word = value.get(key).and_then(Value::as_str);
        word.unwrap_or_default().to_owned()
    };
    if one.get("cpus").is_none() {
        let _ = writeln!(out, "{}", word(one, "socket"));
        describe_counters(out, one);
        return text;
    }
    let seconds = one.get("uptime_seconds").and_then(Value::as_f64);
    let _ = writeln!(
        out,
        "{}  pid {}, {} vCPU, {}, up {:.0} s, {} resets",
        word(one, "name"),
        number(one, "pid"),
        number(one, "cpus"),
        size(number(one, "memory_bytes")),
        seconds.unwrap_or(0.0),
        number(one, "resets"),
    );
    for device in list(one, "devices") {
        let numbers = device.get("numbers").cloned().unwrap_or_default();
        let _ = writeln!(
            out,
            "  {:<8} {:<8} {}",
            word(device, "name"),
            word(device, "type"),
            facts(&numbers).join(", ")
        );
        if let Some(error) = device.get("last_error").and_then(Value::as_str) {
            let _ = writeln!(out, "           {error}");
        }
    }
    for daemon in list(one, "daemons") {
        let pid = match daemon.get("pid").and_then(Value::as_u64) {
            Some(pid) => format!("pid {pid}"),
            None => "being started".to_owned(),
        };
        let name = word(daemon, "name");
        let restarts = number(daemon, "restarts");
        let _ = writeln!(out, "  {name:<8} daemon   {pid}, {restarts} restarts");
        describe_counters(out, daemon);
    }
    text
}

/// The counters of a daemon's devices that are not zero.
fn describe_counters(out: &mut String, daemon: &Value) {
    let Some(metrics) = daemon.get("metrics") else {
        return;
    };
    for device in list(metrics, "devices") {
        let name = device.get("name").and_then(Value::as_str).unwrap_or("?");
        let counters = device.get("device").cloned().unwrap_or_default();
        let facts = facts(&counters).join(", ");
        let facts = if facts.is_empty() {
            "nothing yet"
        } else {
            &*facts
        };
        let _ = writeln!(out, "    {name}: {facts}");
        for wrong in conditions(daemon, name) {
            let _ = writeln!(out, "      {wrong}");
        }
    }
}

/// What a daemon's device says is wrong with it.
fn conditions<'a>(daemon: &'a Value, name: &str) -> impl Iterator<Item = &'a str> {
    let devices = daemon.get("status").into_iter();
    let devices = devices.flat_map(|status| list(status, "devices"));
    let named = |device: &&Value| device.get("name").and_then(Value::as_str) == Some(name);
    let device = devices.filter(named).find_map(|found| found.get("device"));
    let each = device
        .into_iter()
        .flat_map(|device| list(device, "conditions"));
    each.filter_map(|condition| condition.get("message").and_then(Value::as_str))
}

/// Numbers that are not zero and what is true or false, in words.
fn facts(numbers: &Value) -> Vec<String> {
    let Some(object) = numbers.as_object() else {
        return Vec::new();
    };
    let said = object.iter().filter_map(|(key, value)| {
        let key = key.strip_suffix("_total").unwrap_or(key);
        let key = key.replace(['_', '-'], " ");
        match value {
            Value::Bool(true) => Some(key),
            Value::Bool(false) if key == "link up" => Some("link down".to_owned()),
            Value::Bool(false) => Some(format!("not {key}")),
            Value::Number(number) => match (number.as_u64(), key.strip_suffix(" bytes")) {
                (Some(bytes), Some("mtu")) => Some(format!("mtu {bytes}")),
                // Of a balloon, nothing is something.
                (Some(bytes), Some(what)) if bytes != 0 || ["actual", "target"].contains(&what) => {
                    Some(format!("{what} {}", size(bytes)))
                }
                (Some(0), _) => None,
                (_, _) => Some(format!("{key} {number}")),
            },
            _ => None,
        }
    });
    said.collect()
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    let list = value.get(key).and_then(Value::as_array);
    list.into_iter().flatten()
}

/// Bytes as people say them.
fn size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        let one = 1u64 << shift;
        if bytes >= one {
            let whole = bytes >> shift;
            let tenth = ((bytes & (one - 1)) * 10) >> shift;
            return if tenth == 0 {
                format!("{whole} {unit}")
            } else {
                format!("{whole}.{tenth} {unit}")
            };
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_is_described_with_its_devices_daemons_and_counters() {
        let vm = json!({
            "name": "web", "pid": 7, "cpus": 2, "memory_bytes": 1u64 << 30, "uptime_seconds": 12.4, "resets": 1,
            "devices": [
                {"name": "balloon", "type": "balloon", "last_error": "Cannot connect",
                 "numbers": {"connected": false, "reconnects_total": 3, "queues": 5, "capacity_bytes": null,
                             "target_bytes": 256u64 << 20, "actual_bytes": 0}},
            ],
            "daemons": [
                {"name": "blockd", "pid": 8, "restarts": 1,
                 "metrics": {"devices": [{"name": "disk0", "device": {"reads_total": 5, "writes_total": 0, "read_bytes_total": 2048}},
                                         {"name": "net0", "device": {"conditions": 1}}]},
                 "status": {"devices": [{"name": "disk0", "device": {}},
                                        {"name": "net0", "device": {"conditions": [
                                            {"kind": "mtu", "message": "The MTU of the card is 9000"}]}}]}},
                {"name": "netd", "pid": null, "restarts": 0, "metrics": {"error": "away"}},
            ],
        });
        assert_eq!(
            describe(&vm),
            "web  pid 7, 2 vCPU, 1 GiB, up 12 s, 1 resets\n\
             \x20 balloon  balloon  actual 0 bytes, not connected, queues 5, reconnects 3, target 256 MiB\n\
             \x20          Cannot connect\n\
             \x20 blockd   daemon   pid 8, 1 restarts\n\
             \x20   disk0: read 2 KiB, reads 5\n\
             \x20   net0: conditions 1\n\
             \x20     The MTU of the card is 9000\n\
             \x20 netd     daemon   being started, 0 restarts\n"
        );
        // Whatever else answers, nothing breaks.
        for odd in [
            json!({}),
            json!({"cpus": 1}),
            json!([1]),
            json!({"cpus": 1, "devices": [3, null]}),
        ] {
            describe(&odd);
        }
    }

    #[test]
    fn bytes_are_said_as_people_do() {
        let said: Vec<_> = [0, 1023, 1536, 5 << 20, (1 << 40) + (1 << 39), u64::MAX]
            .map(size)
            .into();
        assert_eq!(
            said,
            [
                "0 bytes",
                "1023 bytes",
                "1.5 KiB",
                "5 MiB",
                "1.5 TiB",
                "16777215.9 TiB"
            ]
        );
    }
}
