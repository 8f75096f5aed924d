//! Config files right and wrong.

use super::*;
use clap::Args;
use serde::Deserialize;
use vhost_user_server::Polling;

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Lamp {
    watts: u32,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize, Args)]
#[serde(deny_unknown_fields, default)]
struct House {
    #[arg(skip)]
    lawn: Vec<Lawn>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Lawn {
    acres: u32,
}

impl SharedOptions for House {
    const TABLES: &'static [&'static str] = &["lawn"];

    fn or(self, file: Self) -> Self {
        file
    }
}

fn read(text: &str) -> Result<Config<House, Lamp>, Error> {
    parse(&ConfigFile::new(Path::new("lamps.toml"), text), |table| {
        table.read()
    })
}

fn fault(text: &str) -> String {
    crate::exit::chain(&read(text).expect_err("a faulty file"))
}

#[test]
fn a_whole_file_is_understood() {
    let config = read(
        r#"
        log = "warn"
        control-socket = "/run/control"
        [[lawn]]
        acres = 2
        [[device]]
        name = "hall"
        socket-path = "/run/hall"
        socket-mode = "660"
        poll = 20
        watts = 40
        [[device]]
        connect = "/run/vm"
        poll = "off"
        "#,
    )
    .expect("a sound file");
    assert_eq!(config.process.log.as_deref(), Some("warn"));
    assert_eq!(config.shared.lawn, [Lawn { acres: 2 }]);
    let [hall, other] = config.devices.as_slice() else {
        panic!("two devices");
    };
    assert_eq!(hall.device, Lamp { watts: 40 });
    assert_eq!(hall.socket.socket_mode, Some(0o660));
    assert_eq!(
        hall.service.poll,
        Polling::Window(std::time::Duration::from_micros(20))
    );
    assert_eq!((&*hall.name, &*other.name), ("hall", "device2"));
    assert_eq!(other.service.poll, Polling::Off);
}

#[test]
fn a_fault_names_file_line_and_key() {
    for (text, place) in [
        ("colour = 1\n[[device]]", "lamps.toml, line 1, key colour: "),
        (
            "[[device]]\n[[device]]\nwats = 1",
            "lamps.toml, line 3, key wats: ",
        ),
        ("[[device]]\n\nfd = 'x'", "lamps.toml, line 3, key fd: "),
        (
            "[[device]]\npoll = 'sometimes'",
            "lamps.toml, line 2, key poll: ",
        ),
        (
            "[[device]]\n[[lawn]]\nmiles = 1\n",
            "lamps.toml, line 3, key lawn.0.miles: ",
        ),
        (
            "[[device]]\nname = 'a'\n[[device]]\nname = 'a'",
            "lamps.toml, line 4, key name: ",
        ),
        ("log = 'info'", "lamps.toml, line 1: "),
    ] {
        let fault = fault(text);
        assert!(fault.starts_with(place), "{text:?}: {fault}");
    }
    let message = fault("[[device]]\nwats = 1");
    assert!(
        message.contains("`wats`") && message.contains("`watts`"),
        "{message}"
    );
}

#[test]
fn wrong_values_are_refused() {
    for text in [
        "",
        "device = 3",
        "[device]",
        "[[device]]\nwatts = -1",
        "[[device]]\nfd = \"x\"",
        "[[device]]\nsocket-mode = \"9\"",
        "[[device]]\nsocket-mode = \"1777\"",
        "[[device]]\nname = 3",
        "sandbox = \"maybe\"\n[[device]]",
        "[[device]]\n[[garden]]",
        "[[device]]\nwatts = 1\nwatts = 2",
        "not toml",
        "\u{0}",
    ] {
        fault(text);
    }
}

#[test]
fn what_a_device_is_asked_to_be_is_refused_at_its_place() {
    let config = read("[[device]]\nname = 'hall'\nwatts = 4\n").expect("a sound file");
    let hall = &config.devices[0];
    let wrong = hall.wrong(&["watts is 4: give 40".to_owned(), "it is dark".to_owned()]);
    assert_eq!(
        wrong.to_string(),
        "hall: lamps.toml, line 3, key watts: watts is 4: give 40; lamps.toml, line 1: it is dark"
    );
}

#[test]
fn a_missing_file_is_named() {
    let none = load::<House, Lamp>(Path::new("/nonexistent/file"), |table| table.read());
    let error = none.expect_err("no file");
    assert!(error.to_string().contains("/nonexistent/file"));
}

#[test]
fn flags_beat_the_file() {
    let flags = ProcessSpec {
        log: Some("debug".to_owned()),
        ..ProcessSpec::default()
    };
    let file = ProcessSpec {
        log: Some("warn".to_owned()),
        control_socket: Some("x".into()),
        ..ProcessSpec::default()
    };
    let both = flags.or(file);
    assert_eq!(both.log.as_deref(), Some("debug"));
    assert_eq!(both.control_socket.as_deref(), Some(Path::new("x")));
}
