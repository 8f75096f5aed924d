//! The protocol as JSON Schema, made from its types.
//!
//! Rule: the file beside this crate's manifest is what [`text`] gives; a test says how to write it anew.

use schemars::JsonSchema;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde::Serialize;

use crate::command::Command;
use crate::command::Response;
use crate::settings::BalloonSettings;
use crate::settings::NetSettings;
use crate::settings::PoolSettings;
use crate::settings::Settled;

/// One line of the protocol: a request from the client, or a response to it. After `prometheus` there comes text in the
/// Prometheus exposition format instead.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(title = "Control protocol of Paravane's daemons and VMs")]
#[expect(dead_code, reason = "it is never sent, only described")]
enum Line {
    /// From the client.
    Request(Command),
    /// To the client.
    Response(Response),
}

/// The schema (JSON Schema 2020-12), indented and with a newline at its end. The answers to `set` are among its `$defs`.
pub fn text() -> String {
    let mut generator: SchemaGenerator = SchemaSettings::draft2020_12().into_generator();
    generator.subschema_for::<Settled<NetSettings>>();
    generator.subschema_for::<Settled<BalloonSettings>>();
    generator.subschema_for::<Settled<PoolSettings>>();
    let schema = generator.into_root_schema_for::<Line>();
    // Text and numbers cannot fail to become JSON.
    format!("{:#}\n", serde_json::json!(schema))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/control-protocol.schema.json");

    #[test]
    fn the_file_that_is_shipped_is_the_schema_of_the_types() {
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(FILE, text()).unwrap();
        }
        let shipped = std::fs::read_to_string(FILE).unwrap_or_default();
        assert_eq!(
            shipped,
            text(),
            "write it anew: UPDATE_SCHEMA=1 cargo test -p control-protocol"
        );
    }

    #[test]
    fn the_schema_has_every_command_and_every_key_of_set() {
        let schema: serde_json::Value = serde_json::from_str(&text()).unwrap();
        let commands = schema["$defs"]["Command"]["oneOf"].as_array().unwrap();
        let names: Vec<_> = commands
            .iter()
            .map(|command| command["properties"]["command"]["const"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "status",
                "metrics",
                "prometheus",
                "resize",
                "set",
                "power-button",
                "reset",
                "stop"
            ]
        );
        let net = schema["$defs"]["NetSettings"]["properties"].as_object();
        let keys: Vec<_> = net.unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            ["capture", "link", "mtu", "rate-bytes", "rate-packets"]
        );
    }
}
