//! The serving end against clients good and bad.

use super::*;
use serde_json::json;

struct Echo;

impl Answers for Echo {
    fn answer(&self, command: Command) -> Answer {
        match command {
            Command::Metrics => Answer::Error("no".to_owned()),
            Command::Prometheus => Answer::Text("one\ntwo\n".to_owned()),
            Command::Stop => Answer::Last(json!("ending"), Box::new(|| {})),
            other => Answer::Value(json!(other)),
        }
    }
}

fn ask(lines: &str) -> String {
    let (client, server) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || converse(&server, &Echo));
    (&client).write_all(lines.as_bytes()).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = String::new();
    (&client).read_to_string(&mut answers).unwrap();
    thread.join().unwrap().unwrap();
    answers
}

#[test]
fn each_line_gets_its_answer_and_an_error_ends_nothing() {
    assert_eq!(
        ask("status\n\nmetrics\n reset \n"),
        "{\"ok\":{\"command\":\"status\"}}\n{\"error\":\"no\"}\n{\"ok\":{\"command\":\"reset\"}}\n"
    );
    let answers = ask("dance\n{\nstatus\n");
    assert_eq!(answers.matches("{\"error\":").count(), 2, "{answers}");
    assert!(answers.ends_with("{\"ok\":{\"command\":\"status\"}}\n"));
}

#[test]
fn a_text_and_a_last_answer_end_the_conversation() {
    assert_eq!(ask("prometheus\nstatus\n"), "one\ntwo\n");
    assert_eq!(ask("stop\nstatus\n"), "{\"ok\":\"ending\"}\n");
}

#[test]
fn an_endless_line_ends_the_conversation() {
    assert_eq!(
        ask(&"x".repeat(100_000)),
        "{\"error\":\"The line is too long\"}\n"
    );
}

#[test]
fn invalid_utf8_harms_nobody() {
    let (client, server) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || converse(&server, &Echo));
    (&client).write_all(b"\xff\xfe\n").unwrap();
    let mut answer = String::new();
    BufReader::new(&client).read_line(&mut answer).unwrap();
    assert!(answer.contains("Unknown command"), "{answer}");
    drop(client);
    let _ = thread.join().unwrap();
}

#[test]
fn silent_clients_are_bounded_and_the_next_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    serve(crate::bind_private(&path).unwrap(), Arc::new(Echo)).unwrap();
    let silent: Vec<_> = (0..MAX_CLIENTS)
        .map(|_| {
            let mut client = UnixStream::connect(&path).unwrap();
            // An answer shows that it has been admitted.
            writeln!(client, "hello").unwrap();
            let mut line = String::new();
            BufReader::new(&client).read_line(&mut line).unwrap();
            client
        })
        .collect();
    let mut answer = String::new();
    UnixStream::connect(&path)
        .unwrap()
        .read_to_string(&mut answer)
        .unwrap();
    assert!(answer.contains("Too many clients"), "{answer}");
    drop(silent);
}
