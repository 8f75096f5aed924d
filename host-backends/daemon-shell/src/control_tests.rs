//! The control socket against clients good and bad.

use super::*;

struct Echo;

impl Control for Echo {
    fn execute(&self, command: Command) -> Result<Value, String> {
        match command {
            Command::Resize {
                device: Some(device),
                bytes,
            } => Ok(json!({"device": device, "bytes": bytes})),
            Command::Resize { device: None, .. } => Err("name a device".to_owned()),
            other => Ok(json!(format!("{other:?}"))),
        }
    }
}

fn ask(lines: &str) -> Vec<Value> {
    let (client, server) = UnixStream::pair().expect("a pair");
    let thread = std::thread::spawn(move || converse(&server, &Echo));
    (&client).write_all(lines.as_bytes()).expect("a request");
    client.shutdown(std::net::Shutdown::Write).expect("an end");
    let mut answers = String::new();
    (&client).read_to_string(&mut answers).expect("answers");
    thread.join().expect("no panic").expect("no error");
    answers
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn both_spellings_mean_the_same() {
    let answers = ask("{\"command\":\"resize\",\"device\":\"a\",\"bytes\":512}\nresize a 512\n");
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0]["ok"]["bytes"], 512);
}

#[test]
fn a_wrong_line_gets_an_error_and_the_next_is_heard() {
    for wrong in [
        "{",
        "{}",
        "[]",
        "resize a b",
        "dance",
        "{\"command\":\"dance\"}",
        "resize a 1 2",
        "\u{0}",
    ] {
        let answers = ask(&format!("{wrong}\nstatus\n"));
        assert!(answers[0]["error"].is_string(), "{wrong}");
        assert_eq!(answers[1]["ok"], "Status", "{wrong}");
    }
}

#[test]
fn the_controlled_thing_can_refuse() {
    assert_eq!(ask("resize\n")[0]["error"], "name a device");
}

#[test]
fn an_endless_line_ends_the_conversation() {
    let answers = ask(&"x".repeat(100_000));
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0]["error"], "The line is too long");
}

#[test]
fn invalid_utf8_is_an_error_only() {
    let (client, server) = UnixStream::pair().expect("a pair");
    let thread = std::thread::spawn(move || converse(&server, &Echo));
    (&client).write_all(b"\xff\xfe\n").expect("a request");
    let mut answer = String::new();
    BufReader::new(&client)
        .read_line(&mut answer)
        .expect("an answer");
    assert!(answer.contains("error"));
    drop(client);
    let _ = thread.join().expect("no panic");
}
