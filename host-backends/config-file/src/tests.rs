//! Files right and wrong, from a person and from a program that passes on what a person wrote.

use super::*;
use serde::Deserialize;

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct House {
    name: String,
    door: Option<Door>,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Door {
    keys: u8,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Lamp {
    watts: u32,
    colour: String,
}

fn read(text: &str) -> Result<(House, Vec<Lamp>), Error> {
    let file = ConfigFile::new(Path::new("house.toml"), text);
    let mut root = file.root()?;
    let lamps = root.take_tables("lamp")?;
    let lamps: Result<_, _> = lamps.into_iter().map(Section::read).collect();
    Ok((root.read()?, lamps?))
}

fn fault(text: &str) -> String {
    read(text).expect_err("a faulty file").to_string()
}

#[test]
fn tables_are_taken_out_and_the_rest_is_read() {
    let (house, lamps) =
        read("name = 'x'\n[door]\nkeys = 2\n[[lamp]]\nwatts = 4\n[[lamp]]\n").unwrap();
    assert_eq!(house.name, "x");
    assert_eq!(house.door, Some(Door { keys: 2 }));
    assert_eq!(lamps.len(), 2);
    assert_eq!(lamps[0].watts, 4);
}

#[test]
fn a_fault_names_file_line_and_key() {
    for (text, place) in [
        ("name = 'x'\nnme = 'y'\n", "house.toml, line 2, key nme: "),
        ("name = 3\n", "house.toml, line 1, key name: "),
        (
            "\n[door]\nkeys = 300\n",
            "house.toml, line 3, key door.keys: ",
        ),
        (
            "[door]\n\nlocks = 1\n",
            "house.toml, line 3, key door.locks: ",
        ),
        (
            "[[lamp]]\nwatts = 1\n[[lamp]]\nwatts = -1\n",
            "house.toml, line 4, key watts: ",
        ),
        ("[[lamp]]\nwats = 1\n", "house.toml, line 2, key wats: "),
        ("name = 'x'\nlamp = 3\n", "house.toml, line 2, key lamp: "),
        ("name = 'x'\n[lamp]\n", "house.toml, line 2, key lamp: "),
        ("name = 'x'\n\nname = 'y'\n", "house.toml, line 3"),
        ("not toml", "house.toml, line 1"),
    ] {
        let fault = fault(text);
        assert!(fault.starts_with(place), "{text:?}: {fault}");
        assert!(!fault.contains('\n'), "{fault:?}");
    }
}

#[test]
fn a_fault_in_what_was_passed_on_names_where_it_comes_from() {
    let file = "name = 'x'\n[[lamp]]\nwatts = -1\n[origin]\n";
    let passed = |more: &str| fault(&format!("{file}{more}"));
    let places = "'lamp.0' = 'vm.toml, line 7'\n'lamp.0.watts' = 'vm.toml, line 9, key watts'\n";
    let known = passed(places);
    assert!(known.starts_with("vm.toml, line 9, key watts: "), "{known}");
    let table = passed("'lamp.0' = 'vm.toml, line 7'\n");
    assert!(table.starts_with("vm.toml, line 7, key watts: "), "{table}");
    let name = fault("name = 5\n[origin]\nname = 'vm.toml, line 2, key daemon.x.name'");
    assert!(
        name.starts_with("vm.toml, line 2, key daemon.x.name: "),
        "{name}"
    );
}

#[test]
fn places_are_those_of_all_keys_and_go_along_with_what_is_below() {
    let text = "name = 'x'\n[door]\nkeys = 2\n[[lamp]]\nwatts = 4\n[[lamp]]\ncolour = 'red'\n";
    let file = ConfigFile::new(Path::new("h"), text);
    let places = file.root().unwrap().places();
    assert_eq!(places.of("name"), Some("h, line 1, key name"));
    assert_eq!(places.of("door.keys"), Some("h, line 3, key door.keys"));
    assert_eq!(
        places.of("lamp.1.colour"),
        Some("h, line 7, key lamp.1.colour")
    );
    let lamp = places.below("lamp.1");
    assert_eq!(lamp.of("colour"), Some("h, line 7, key lamp.1.colour"));
    assert_eq!(lamp.of("watts"), Some("h, line 6, key lamp.1"));
    assert_eq!(
        lamp.locate("colour is no colour: say red"),
        "h, line 7, key lamp.1.colour: colour is no colour: say red"
    );
    assert_eq!(
        lamp.locate("`colour` is no colour"),
        "h, line 7, key lamp.1.colour: `colour` is no colour"
    );
    assert_eq!(
        lamp.locate("colour: red or blue"),
        "h, line 7, key lamp.1.colour: red or blue"
    );
    assert_eq!(
        lamp.locate("it is dark"),
        "h, line 6, key lamp.1: it is dark"
    );
    assert_eq!(Places::default().locate("watts: no"), "watts: no");
}

#[test]
fn a_missing_file_is_named() {
    let error = ConfigFile::read(Path::new("/nonexistent/file")).expect_err("no file");
    assert!(error.to_string().contains("/nonexistent/file"));
}
