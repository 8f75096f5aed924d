//! Config files right and wrong.

use super::*;
use vhost_user_server::Polling;

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Lamp {
    watts: u32,
}

type Parsed = Result<(ProcessSpec, Vec<DeviceSpec<Lamp>>), Error>;

fn read(text: &str) -> Parsed {
    parse(text, Path::new("lamps.toml"))
}

fn fault(text: &str) -> String {
    crate::exit::chain(&read(text).expect_err("a faulty file"))
}

#[test]
fn a_whole_file_is_understood() {
    let (process, devices) = read(
        r#"
        log = "warn"
        control-socket = "/run/control"
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
    assert_eq!(process.log.as_deref(), Some("warn"));
    assert_eq!(devices.len(), 2);
    assert_eq!(devices[0].device, Lamp { watts: 40 });
    assert_eq!(devices[0].socket.socket_mode, Some(0o660));
    assert_eq!(
        devices[0].service.poll,
        Polling::Window(std::time::Duration::from_micros(20))
    );
    assert_eq!(devices[1].service.name.as_deref(), Some("device2"));
    assert_eq!(devices[1].service.poll, Polling::Off);
}

#[test]
fn unknown_keys_are_refused_by_name() {
    assert!(fault("colour = 1\n[[device]]").contains("colour"));
    let message = fault("[[device]]\n[[device]]\nwats = 1");
    assert!(
        message.contains("device 2") && message.contains("wats") && message.contains("watts"),
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
        "[[device]]\npoll = \"sometimes\"",
        "[[device]]\nname = 3",
        "sandbox = \"maybe\"\n[[device]]",
        "[[device]]\nname = \"a\"\n[[device]]\nname = \"a\"",
        "[[device]]\nwatts = 1\nwatts = 2",
        "not toml",
        "\u{0}",
    ] {
        fault(text);
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = load::<Lamp>(Path::new("/nonexistent/file")).expect_err("no file");
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

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct House {
    lawn: Vec<Lawn>,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Lawn {
    acres: u32,
}

#[test]
fn a_daemon_may_have_tables_of_its_own() {
    let read = |text: &str| {
        let parsed: Result<(ProcessSpec, House, Vec<DeviceSpec<Lamp>>), Error> =
            parse_with(text, Path::new("house.toml"), &["lawn"]);
        parsed.map_err(|error| crate::exit::chain(&error))
    };
    let text = "log = \"warn\"\n[[lawn]]\nacres = 2\n[[device]]\nsocket-path = \"a\"\n";
    let (process, house, devices) = read(text).expect("a sound file");
    assert_eq!(process.log.as_deref(), Some("warn"));
    assert_eq!(house.lawn, [Lawn { acres: 2 }]);
    assert_eq!(devices.len(), 1);
    let (_, house, _) = read("[[device]]\nsocket-path = \"a\"\n").expect("a sound file");
    assert_eq!(house, House::default());
    for (bad, word) in [
        ("[[lawn]]\nmiles = 1\n", "miles"),
        ("[[garden]]\n", "garden"),
    ] {
        let fault = read(&format!("{text}{bad}")).expect_err("a faulty file");
        assert!(fault.contains(word), "{fault}");
    }
}
