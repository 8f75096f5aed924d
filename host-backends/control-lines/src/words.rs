//! Requests in plain words, for people and for `socat`.
//!
//! Rule: a value is a number or true or false if it reads as one, and text otherwise.

use serde_json::Map;
use serde_json::Value;

/// `key=value` words as an object.
///
/// # Errors
/// A sentence that names the word without a key, or the key that comes twice.
pub fn assignments(words: &[&str]) -> Result<Map<String, Value>, String> {
    let mut object = Map::new();
    for word in words {
        let (key, text) = word
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| format!("{word:?} is not KEY=VALUE"))?;
        if object.insert(key.to_owned(), value(text)).is_some() {
            return Err(format!("{key:?} is given twice"));
        }
    }
    Ok(object)
}

/// What one word says.
pub fn value(text: &str) -> Value {
    match text.parse::<serde_json::Number>() {
        Ok(number) => Value::Number(number),
        Err(_) => match text {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            text => Value::String(text.to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_become_what_they_look_like() {
        let object = assignments(&["mtu=9000", "link=down", "dry=true", "a=b=c", "e="]).unwrap();
        assert_eq!(
            Value::Object(object),
            json!({"mtu": 9000, "link": "down", "dry": true, "a": "b=c", "e": ""})
        );
        assert!(assignments(&["link"]).unwrap_err().contains("link"));
        assert!(assignments(&["=1"]).is_err());
        assert!(assignments(&["a=1", "a=2"]).unwrap_err().contains("twice"));
    }
}
