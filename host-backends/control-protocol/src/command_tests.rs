//! Commands in both spellings, right and wrong.

use super::*;
use serde_json::json;

#[test]
fn both_spellings_mean_the_same_and_a_value_passed_on_is_read_as_itself() {
    for (words, json) in [
        ("status", json!({"command": "status"})),
        ("metrics", json!({"command": "metrics"})),
        ("prometheus", json!({"command": "prometheus"})),
        ("power-button", json!({"command": "power-button"})),
        ("reset", json!({"command": "reset"})),
        ("stop", json!({"command": "stop"})),
        ("resize", json!({"command": "resize"})),
        ("resize a", json!({"command": "resize", "device": "a"})),
        (
            "resize a 512",
            json!({"command": "resize", "device": "a", "bytes": 512}),
        ),
        (
            "resize a 1G",
            json!({"command": "resize", "device": "a", "bytes": "1G"}),
        ),
        (
            "set net0 link=down mtu=1400 a=b=c e=",
            json!({"command": "set", "device": "net0", "set": {"link": "down", "mtu": 1400, "a": "b=c", "e": ""}}),
        ),
        (
            "set dry-run=true",
            json!({"command": "set", "set": {"dry-run": true}}),
        ),
    ] {
        let command = Command::parse(words).expect("words");
        assert_eq!(Command::parse(&json.to_string()).as_ref(), Ok(&command));
        let passed_on = serde_json::to_string(&command).expect("JSON");
        assert_eq!(Command::parse(&passed_on), Ok(command), "{words}");
    }
}

#[test]
fn a_word_of_a_command_line_may_have_blanks() {
    let command = Command::from_words(&["set", "net0", "link=up and away"]).expect("words");
    let json = r#"{"command":"set","device":"net0","set":{"link":"up and away"}}"#;
    assert_eq!(Command::parse(json), Ok(command));
}

#[test]
fn wrong_commands_are_refused_with_a_sentence() {
    for wrong in [
        "",
        "{",
        "{}",
        "[]",
        "resize a b",
        "resize a 1 2",
        "dance",
        "{\"command\":\"dance\"}",
        "{\"command\":\"resize\",\"loud\":true}",
        "{\"command\":\"set\"}",
        "{\"command\":\"set\",\"set\":3}",
        "set",
        "set net0",
        "set net0 link",
        "set a=1 b",
        "set a=1 a=2",
        "set =1",
        "\u{0}",
    ] {
        let error = Command::parse(wrong).expect_err(wrong);
        assert!(!error.is_empty());
    }
}
