//! Commands in both spellings, right and wrong.

use super::*;
use serde_json::json;

#[test]
fn both_spellings_mean_the_same() {
    for (words, json) in [
        ("status", json!({"command": "status"})),
        ("metrics", json!({"command": "metrics"})),
        ("prometheus", json!({"command": "prometheus"})),
        ("stop", json!({"command": "stop"})),
        ("resize", json!({"command": "resize"})),
        ("resize a", json!({"command": "resize", "device": "a"})),
        (
            "resize a 512",
            json!({"command": "resize", "device": "a", "bytes": 512}),
        ),
        (
            "set net0 link=down mtu=1400",
            json!({"command": "set", "device": "net0", "set": {"link": "down", "mtu": 1400}}),
        ),
        (
            "set dry-run=true",
            json!({"command": "set", "set": {"dry-run": true}}),
        ),
    ] {
        let command = Command::parse(words).expect("words");
        assert_eq!(Ok(command), Command::parse(&json.to_string()), "{words}");
    }
}

#[test]
fn wrong_commands_are_refused_with_a_sentence() {
    for wrong in [
        "{",
        "{}",
        "[]",
        "resize a b",
        "dance",
        "{\"command\":\"dance\"}",
        "{\"command\":\"set\"}",
        "{\"command\":\"set\",\"set\":3}",
        "resize a 1 2",
        "set",
        "set net0",
        "set net0 link",
        "set a=1 b",
        "set a=1 a=2",
        "\u{0}",
    ] {
        let error = Command::parse(wrong).expect_err(wrong);
        assert!(!error.is_empty());
    }
}
