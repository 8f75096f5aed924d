//! Whether a daemon exports all that it counts, in the manner of those who read it.

use std::collections::BTreeSet;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;

use super::Program;
use super::Serving;

impl Serving {
    fn text(&self) -> String {
        let mut stream = UnixStream::connect(self.path("c")).expect("the control socket");
        writeln!(stream, "prometheus").expect("a command");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        text
    }
}

/// `promtool check metrics` has nothing against the text.
pub fn accepted_by_promtool(program: &Program) {
    let text = program.serve(&[], |_| {}).text();
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Ok(promtool) => promtool,
        Err(error) => {
            println!(
                "SKIPS ITSELF accepted_by_promtool: no promtool ({error}), install prometheus"
            );
            return;
        }
    };
    let mut input = promtool.stdin.take().expect("its input");
    input.write_all(text.as_bytes()).expect("the text");
    drop(input);
    let output = promtool.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}

/// Each number in the JSON is in the text, under the same name, and the text has no other.
pub fn the_same_in_json_and_text(program: &Program) {
    let serving = program.serve(&[], |_| {});
    let text = serving.text();
    let line = serving.ask("metrics");
    let answer: Value = serde_json::from_str(&line).expect("JSON");
    let mut names = BTreeSet::new();
    let mut add = |subject: &str, object: &Value| {
        for (key, value) in object.as_object().expect("an object") {
            if value.is_number() || value.is_boolean() {
                names.insert(format!("paravane_{subject}_{key}"));
            }
        }
    };
    for (subject, value) in answer["ok"].as_object().expect("an object") {
        if subject != "devices" {
            add(subject, value);
            continue;
        }
        for device in value.as_array().expect("devices") {
            add("vhost_user", &device["vhost_user"]);
            add(device["type"].as_str().expect("a word"), &device["device"]);
            let queues = device["queues"].as_array().expect("queues");
            queues.iter().for_each(|queue| add("queue", queue));
        }
    }
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let exported: BTreeSet<_> = types
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(names, exported);
    assert!(
        names.contains("paravane_queue_given_back_total"),
        "{names:?}"
    );
}
