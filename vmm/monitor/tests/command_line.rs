//! The command line as its users meet it: help that teaches, errors that say what to change, exit codes that scripts
//! can tell apart.
//!
//! One rule: nothing here needs KVM; what runs a guest is in tests/vm.

use std::process::Command;

/// Exit code, standard output, standard error.
#[expect(
    clippy::unwrap_used,
    reason = "a program that cannot be started fails the test"
)]
fn paravane(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_paravane"))
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn help_teaches_by_example_and_names_the_exit_codes() {
    let (code, help, _) = paravane(&["--help"]);
    assert_eq!(code, 0);
    assert!(help.contains("paravane run --kernel vmlinux"), "{help}");
    let (code, help, _) = paravane(&["run", "--help"]);
    assert_eq!(code, 0);
    for word in [
        "[[disk]]",
        "[[net]]",
        "[balloon]",
        "PARAVANE_BIN_DIR",
        "XDG_RUNTIME_DIR",
        "--net",
        "--balloon",
        "Ctrl-A x",
        "Exit codes",
        "port 0xf4",
        "--cmdline",
        "--sandbox",
    ] {
        assert!(help.contains(word), "{word} in {help}");
    }
}

#[test]
fn status_and_ctl_teach_too_and_what_is_not_for_people_is_hidden() {
    let (_, help, _) = paravane(&["--help"]);
    for word in ["status", "ctl", "paravane run vm.toml", "--net link=passt"] {
        assert!(help.contains(word), "{word} in {help}");
    }
    assert!(!help.contains("keep "), "{help}");
    for (command, words) in [
        ("status", &["--json", "--prometheus", "Exit codes"][..]),
        ("ctl", &["power-button", "set net0 link=down", "Exit codes"]),
    ] {
        let (code, help, _) = paravane(&[command, "--help"]);
        assert_eq!(code, 0);
        for word in words {
            assert!(help.contains(word), "{word} in {help}");
        }
    }
}

#[test]
fn wrong_usage_has_its_own_exit_code_and_names_the_mistake() {
    let cases: &[(&[&str], &str)] = &[
        (&[], "Usage"),
        (&["run", "--memroy", "1G"], "--memroy"),
        (&["run"], "kernel"),
        (&["run", "--kernel", "k", "--memory", "lots"], "lots"),
        (&["run", "--kernel", "k", "--cpus", "0"], "cpus"),
        (&["run", "--kernel", "k", "--disk", "queues=2"], "socket"),
        (&["run", "--kernel", "k", "--disk", "socket=a,x=1"], "\"x\""),
        (&["run", "--kernel", "k", "--net", "mtu"], "KEY=VALUE"),
        (
            &["run", "--kernel", "k", "--net", "socket=a,link=b"],
            "link",
        ),
        (&["run", "/nonexistent/vm.toml"], "/nonexistent/vm.toml"),
    ];
    for (arguments, word) in cases {
        let (code, _, error) = paravane(arguments);
        assert_eq!(code, 64, "{arguments:?}: {error}");
        assert!(error.contains(word), "{word} in {error}");
    }
}

#[test]
fn a_kernel_that_cannot_be_read_is_named() {
    let (code, _, error) = paravane(&["run", "--kernel", "/nonexistent/vmlinux"]);
    assert_eq!(code, 66, "{error}");
    assert!(
        error.contains("/nonexistent/vmlinux: No such file"),
        "{error}"
    );
}

#[test]
fn errors_are_json_when_status_is() {
    let (code, output, error) = paravane(&["run", "--json"]);
    assert_eq!((code, output.as_str()), (64, ""));
    assert!(
        error.starts_with(r#"{"event":"error","message":"kernel: "#),
        "{error}"
    );
    assert!(error.trim_end().ends_with(r#""exit_code":64}"#), "{error}");
}
