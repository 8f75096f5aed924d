//! The daemon as a process: how it starts, refuses, is asked, and ends.
#![expect(
    clippy::expect_used,
    reason = "a test fails by panic, in its helpers too"
)]

mod front_end;
mod process;

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::front_end::FrontEnd;
use crate::process::Daemon;
use crate::process::PATIENCE;
use crate::process::finish;
use crate::process::refusal;

const NULL: [&str; 4] = ["--socket-path", "{}/s", "--link", "null"];

#[test]
fn sigterm_and_sigint_end_it_cleanly() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start(&NULL);
        assert!(daemon.path("s").exists());
        daemon.signal(signal);
        assert_eq!(daemon.end(), Some(0), "{}", daemon.log());
        assert!(
            !daemon.path("s").exists() && !daemon.path("c").exists(),
            "{}",
            daemon.log()
        );
    }
}

#[test]
fn a_connected_front_end_does_not_keep_it_from_ending() {
    let mut daemon = Daemon::start(&NULL);
    let _front_end = UnixStream::connect(daemon.path("s")).expect("a connection");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end(), Some(0));
}

#[test]
fn after_kill_nine_it_starts_again_with_the_same_address() {
    let mut daemon = Daemon::start(&NULL);
    let mac = daemon.device(0)["mac"].clone();
    assert!(mac.is_string());
    daemon.signal(Signal::SIGKILL);
    assert_eq!(daemon.end(), None);
    assert!(daemon.path("s").exists(), "the stale socket file is there");
    let mut again = Daemon::start_in(daemon.take_dir(), &NULL);
    assert_eq!(again.device(0)["mac"], mac);
    again.signal(Signal::SIGTERM);
    assert_eq!(again.end(), Some(0));
}

#[test]
fn capabilities_and_descriptor_are_json() {
    for (flag, key) in [
        ("--print-capabilities", "features"),
        ("--print-descriptor", "binary"),
    ] {
        let output = finish(&[flag]);
        assert!(output.status.success());
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(value["type"], "net");
        assert!(!value[key].is_null(), "{value}");
    }
}

#[test]
fn the_manual_page_is_written_where_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let folder = dir.path().display().to_string();
    assert!(finish(&["--man-pages", &folder]).status.success());
    let page = std::fs::read_to_string(dir.path().join("paravane-netd.1")).expect("the page");
    assert!(page.contains("queue\\-pairs"));
    let (code, message) = refusal(&["--man-pages", "/nonexistent"]);
    assert_eq!(code, 1);
    assert!(message.contains("/nonexistent"));
}

#[test]
fn help_names_every_option_with_a_text_and_an_example() {
    let output = finish(&["--help"]);
    let help = String::from_utf8(output.stdout).expect("text");
    for word in [
        "--socket-path",
        "--link",
        "--queue-pairs",
        "--mac-filter",
        "--sandbox",
        "[[device]]",
        "[[switch]]",
        "ip tuntap add",
        "multi_queue",
        "passt",
        "Exit codes",
        "qemu",
    ] {
        assert!(help.contains(word), "{word}");
    }
    let lines: Vec<_> = help.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        if line.starts_with("      --") {
            let text = lines.get(at + 1).expect("a text");
            assert!(text.starts_with("          "), "{line} has no help");
        }
    }
}

#[test]
fn wrong_command_lines_exit_with_two_and_say_why() {
    let faults: [(&[&str], &str); 14] = [
        (&["--link", "null"], "socket-path"),
        (&["--link", "carrier-pigeon", "--socket-path", "s"], "tap:"),
        (&["--link", "switch:a b", "--socket-path", "s"], "letters"),
        (
            &["--link", "null", "--queue-pairs", "0", "--socket-path", "s"],
            "1 to 127",
        ),
        (
            &[
                "--link",
                "null",
                "--queue-size",
                "100",
                "--socket-path",
                "s",
            ],
            "power of two",
        ),
        (
            &["--link", "null", "--mtu", "100", "--socket-path", "s"],
            "1280",
        ),
        (
            &[
                "--link",
                "null",
                "--mac",
                "01:00:00:00:00:01",
                "--socket-path",
                "s",
            ],
            "single station",
        ),
        (
            &["--link", "null", "--mac", "nobody", "--socket-path", "s"],
            "52:54:00",
        ),
        (
            &["--link", "null", "--capture-paused", "--socket-path", "s"],
            "capture",
        ),
        (
            &[
                "--link",
                "null",
                "--feature-mask",
                "xyz",
                "--socket-path",
                "s",
            ],
            "0x130000000",
        ),
        (&["--config", "x", "--link", "null"], "--config"),
        (&["--config", "/nonexistent"], "/nonexistent"),
        (&["--log", "=,=", "--link", "null"], "log filter"),
        (&["--frobnicate"], "frobnicate"),
    ];
    for (flags, word) in faults {
        let (code, message) = refusal(flags);
        assert_eq!(code, 2, "{flags:?}: {message}");
        assert!(message.contains(word), "{flags:?}: {message}");
    }
}

#[test]
fn a_link_that_cannot_be_opened_exits_with_three_and_names_it() {
    let (code, message) = refusal(&["--socket-path", "s", "--link", "packet:nosuchif0"]);
    assert_eq!(code, 3, "{message}");
    assert!(message.contains("no interface nosuchif0"), "{message}");
}

#[test]
fn a_socket_in_use_exits_with_four() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let _owner = UnixListener::bind(&path).expect("a socket");
    let path = path.display().to_string();
    let (code, message) = refusal(&["--socket-path", &path, "--link", "null"]);
    assert_eq!(code, 4);
    assert!(message.contains("Another process"), "{message}");
}

#[test]
fn wrong_config_files_name_the_device_and_the_mend() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("net.toml");
    let good = "[[device]]\nname = \"a\"\nlink = \"null\"\nsocket-path = \"a\"\n[[device]]\nname = \"b\"\nsocket-path = \"b\"\n";
    for (bad, code, words) in [
        ("link = \"packet:nosuchif0\"\n", 3, ["b", "nosuchif0"]),
        (
            "link = \"switch:lan\"\n",
            2,
            ["line 8, key link", "[[switch]]"],
        ),
        (
            "link = \"null\"\ncolour = 1\n",
            2,
            ["line 9, key colour", "net.toml"],
        ),
        (
            "link = \"null\"\nmac = \"x\"\n",
            2,
            ["line 9, key mac", "52:54:00"],
        ),
        (
            "link = \"null\"\nqueue-size = 3\n",
            2,
            ["line 9, key queue-size", "power of two"],
        ),
        (
            "link = \"null\"\nmtu = -1\n[origin]\n\"device.1.mtu\" = \"vm.toml, line 3, key net.0.mtu\"\n",
            2,
            ["vm.toml, line 3, key net.0.mtu: ", "-1"],
        ),
        (
            "link = \"null\"\n[[switch]]\nname = \"a b\"\n",
            2,
            ["a b", "letters"],
        ),
        (
            "link = \"null\"\n[[switch]]\nnick = \"a\"\n",
            2,
            ["nick", "name"],
        ),
        ("link = \"null\"\n[[wire]]\n", 2, ["wire", "net.toml"]),
    ] {
        std::fs::write(&config, format!("{good}{bad}")).expect("a config file");
        let (got, message) = refusal(&["--config", &config.display().to_string()]);
        assert_eq!(got, code, "{message}");
        for word in words {
            assert!(message.contains(word), "{bad}: {message}");
        }
    }
}

#[test]
fn the_front_end_sees_one_control_queue_after_all_pairs() {
    let daemon = Daemon::start(&[&NULL[..], &["--queue-pairs", "4"]].concat());
    let mut front_end = FrontEnd::connect(&daemon.path("s"));
    let features = front_end.number(FrontEnd::GET_FEATURES);
    for bit in [
        0, 1, 3, 5, 11, 12, 15, 16, 17, 21, 22, 32, 34, 53, 56, 57, 60,
    ] {
        assert_ne!(features & 1 << bit, 0, "feature {bit} is not on offer");
    }
    let protocol = front_end.number(FrontEnd::GET_PROTOCOL_FEATURES);
    for (bit, name) in [(0, "MQ"), (2, "RARP"), (4, "NET_MTU"), (9, "CONFIG")] {
        assert_ne!(protocol & 1 << bit, 0, "{name} is not on offer");
    }
    assert_eq!(front_end.number(FrontEnd::GET_QUEUE_NUM), 9);
}

#[test]
fn without_offloads_and_control_queue_their_features_are_gone() {
    let daemon = Daemon::start(
        &[
            &NULL[..],
            &[
                "--csum",
                "false",
                "--control-queue",
                "false",
                "--packed",
                "false",
            ],
        ]
        .concat(),
    );
    let mut front_end = FrontEnd::connect(&daemon.path("s"));
    let features = front_end.number(FrontEnd::GET_FEATURES);
    for bit in [0, 1, 2, 7, 11, 17, 18, 21, 22, 34, 54, 56, 57, 60] {
        assert_eq!(features & 1 << bit, 0, "feature {bit} is on offer");
    }
    assert_eq!(front_end.number(FrontEnd::GET_QUEUE_NUM), 2);
}

#[test]
fn one_process_serves_many_cards_and_is_asked_about_each() {
    let dir = tempfile::tempdir().expect("a directory");
    let here = dir.path().display();
    let config = format!(
        "[[switch]]\nname = \"lan\"\n\
         [[device]]\nname = \"left\"\nsocket-path = \"{here}/a\"\nlink = \"switch:lan\"\nqueue-pairs = 2\n\
         mac = \"52:54:00:12:34:56\"\n\
         [[device]]\nsocket-path = \"{here}/b\"\nlink = \"switch:lan\"\nmtu = 9000\nsocket-mode = \"600\"\n"
    );
    std::fs::write(dir.path().join("net.toml"), config).expect("a config file");
    let mut daemon = Daemon::start_in(dir, &["--config", "{}/net.toml"]);
    for socket in ["a", "b"] {
        UnixStream::connect(daemon.path(socket)).expect("somebody listens");
    }
    let status = daemon.ask("status");
    assert_eq!(status["ok"]["devices"][0]["name"], "left");
    assert_eq!(status["ok"]["devices"][1]["name"], "device2");
    assert_eq!(daemon.device(0)["mac"], "52:54:00:12:34:56");
    assert_eq!(daemon.device(0)["mtu"], 1500);
    assert_eq!(daemon.device(1)["mtu"], 9000);
    assert_eq!(daemon.device(1)["spec"]["link"], "switch:lan");
    let metrics = daemon.ask("{\"command\":\"metrics\"}");
    let card = &metrics["ok"]["devices"][0]["device"];
    assert_eq!(card["transmit_frames_total"], 0, "{metrics}");
    assert_eq!(card["control_refused_total"], 0, "{metrics}");
    assert_eq!(daemon.ask("stop")["ok"], "stopping");
    assert_eq!(daemon.end(), Some(0));
}

#[test]
fn link_and_mtu_are_set_while_it_runs_and_nonsense_changes_nothing() {
    let daemon = Daemon::start(&[&NULL[..], &["--name", "net0"]].concat());
    assert_eq!(daemon.device(0)["link_up"], true);
    let answer = daemon.ask("set net0 link=down mtu=9000");
    assert_eq!(answer["ok"]["link"], "down", "{answer}");
    assert_eq!(answer["ok"]["mtu_at_once"], true, "{answer}");
    let until = serde_json::json!(["link", "mtu"]);
    assert_eq!(answer["ok"]["until_restart"], until, "{answer}");
    assert_eq!(daemon.device(0)["link_up"], false);
    assert_eq!(daemon.device(0)["mtu"], 9000);
    for nonsense in [
        "set net0 link=sideways",
        "set net0 link=up mtu=12",
        "set net0 link=up mtu=70000",
        "set net0 link=up colour=red",
        "set net0 link=up mtu=large",
    ] {
        let answer = daemon.ask(nonsense);
        assert!(answer["error"].is_string(), "{nonsense}: {answer}");
    }
    assert_eq!(daemon.device(0)["link_up"], false);
    assert_eq!(daemon.device(0)["mtu"], 9000);
    let answer = daemon.ask(r#"{"command":"set","device":"net0","set":{"link":"up"}}"#);
    assert_eq!(answer["ok"]["link"], "up", "{answer}");
}

#[test]
fn what_was_set_outlives_the_daemon_in_its_state_file_or_the_answer_says_that_it_does_not() {
    let flags = [&NULL[..], &["--name", "net0", "--state-file", "{}/state"]].concat();
    let mut daemon = Daemon::start(&flags);
    let answer = daemon.ask("set link=down mtu=1400 rate-bytes=1000");
    let none = serde_json::json!([]);
    assert_eq!(answer["ok"]["until_restart"], none, "{answer}");
    daemon.ask("set rate-packets=7 rate-bytes=2000");
    daemon.signal(Signal::SIGKILL);
    assert_eq!(daemon.end(), None);
    let again = Daemon::start_in(daemon.take_dir(), &flags);
    let card = again.device(0);
    assert_eq!(
        (&card["link_up"], &card["mtu"]),
        (&false.into(), &1400.into())
    );
    let limits = (&card["rate_bytes"], &card["rate_packets"]);
    assert_eq!(limits, (&2000.into(), &7.into()));
    let plain = Daemon::start(&NULL);
    let answer = plain.ask("set link=down rate-packets=7");
    let until = serde_json::json!(["link", "rate-packets"]);
    assert_eq!(answer["ok"]["until_restart"], until, "{answer}");
}

#[test]
fn limits_and_recordings_are_set_while_it_runs() {
    let flags = [
        "--capture",
        "{}/frames.pcap",
        "--capture-paused",
        "--rate-bytes",
        "1000",
    ];
    let daemon = Daemon::start(&[&NULL[..], &flags].concat());
    let card = daemon.device(0);
    assert_eq!(
        (&card["capturing"], &card["rate_bytes"]),
        (&false.into(), &1000.into())
    );
    let answer = daemon.ask("set device1 capture=on rate-packets=7 rate-bytes=0");
    assert!(answer["ok"].is_object(), "{answer}");
    let card = daemon.device(0);
    assert_eq!(card["capturing"], true);
    assert_eq!(
        (&card["rate_bytes"], &card["rate_packets"]),
        (&0.into(), &7.into())
    );
    assert!(daemon.path("frames.pcap").exists());
    let plain = Daemon::start(&NULL);
    let answer = plain.ask("set device1 rate-packets=7 capture=on");
    assert!(answer["error"].is_string(), "{answer}");
    assert_eq!(plain.device(0)["rate_packets"], 0, "nothing has changed");
    let (code, message) = refusal(&[
        "--link",
        "null",
        "--socket-path",
        "s",
        "--capture",
        "/nonexistent/x",
    ]);
    assert_eq!(code, 3, "{message}");
    assert!(message.contains("/nonexistent/x"), "{message}");
}

#[test]
fn what_makes_a_card_useless_is_in_its_status_and_the_log() {
    let mut daemon = Daemon::start(&[&NULL[..], &["--name", "net0"]].concat());
    assert_eq!(daemon.device(0)["conditions"], serde_json::json!([]));
    assert!(daemon.ask("set net0 rate-bytes=1000")["ok"].is_object());
    let conditions = &daemon.device(0)["conditions"];
    assert_eq!(conditions[0]["kind"], "rate-limit", "{conditions}");
    let message = conditions[0]["message"].as_str().expect("words");
    assert!(message.contains("1000"), "{message}");
    assert!(daemon.log().contains(message), "{}", daemon.log());
    let metrics = daemon.ask("metrics");
    assert_eq!(metrics["ok"]["devices"][0]["device"]["conditions"], 1);
    assert!(daemon.ask("set net0 rate-bytes=0")["ok"].is_object());
    assert_eq!(daemon.device(0)["conditions"], serde_json::json!([]));
    assert_eq!(daemon.ask("stop")["ok"], "stopping");
    assert_eq!(daemon.end(), Some(0));
}

#[test]
fn a_front_end_that_talks_nonsense_is_dropped_and_the_next_is_served() {
    let daemon = Daemon::start(&NULL);
    for bytes in [
        &[0xff; 64][..],
        &[1, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
    ] {
        let mut stream = UnixStream::connect(daemon.path("s")).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(bytes).expect("nonsense");
        let mut sink = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut sink);
    }
    let mut front_end = FrontEnd::connect(&daemon.path("s"));
    assert_ne!(front_end.number(FrontEnd::GET_FEATURES), 0);
}

#[test]
fn prometheus_text_names_every_card() {
    let daemon = Daemon::start(&[&NULL[..], &["--name", "net0"]].concat());
    let text = daemon.ask_text("prometheus");
    for line in [
        "paravane_net_transmit_frames_total{device=\"net0\"} 0",
        "paravane_net_link_up{device=\"net0\"} 1",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn it_may_open_as_many_files_as_the_system_allows() {
    // Fewer than its devices need.
    let flags = [
        "--socket-path",
        "{}/s",
        "--link",
        "null",
        "--queue-pairs",
        "64",
    ];
    let daemon = Daemon::start_with_few_files(16, &flags);
    let (now, most) = daemon.files_allowed();
    assert!(most > 16, "the system allows no more than the test does");
    assert_eq!(now, most);
}

#[test]
fn a_file_that_is_no_recording_ends_the_start_and_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("disk.raw").display().to_string();
    std::fs::write(&disk, vec![7; 4096]).expect("a file");
    let socket = dir.path().join("s").display().to_string();
    let start = ["--link", "null", "--socket-path", &socket, "--capture"];
    let (code, message) = refusal(&[&start[..], &[&disk]].concat());
    assert_eq!(code, 3, "{message}");
    assert!(message.contains("move it away"), "{message}");
    assert_eq!(std::fs::read(&disk).expect("a file"), vec![7; 4096]);
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    // It would wait for a reader for ever.
    let (code, message) = refusal(&[&start[..], &[&fifo.display().to_string()]].concat());
    assert_eq!(code, 3, "{message}");
    assert!(message.contains("regular file"), "{message}");
}

#[test]
fn inside_the_sandbox_it_has_a_filter_and_no_new_privileges() {
    let daemon = Daemon::start(&NULL);
    // It listens before it confines itself, and answers after.
    daemon.ask("status");
    let start = Instant::now();
    // Main, control, serve.
    while daemon.confined_threads() < 3 {
        assert!(start.elapsed() < PATIENCE, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}
