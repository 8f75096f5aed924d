//! Tests of the VM's description. One rule: flags and file are parsed as the user's are.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: RunOptions,
}

fn flags(arguments: &[&str]) -> RunOptions {
    let all = ["paravane"].iter().chain(arguments);
    Flags::try_parse_from(all).unwrap().options
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vm.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn flags_alone_describe_a_vm() {
    let config = resolve(flags(&[
        "--kernel",
        "k",
        "--memory",
        "1G",
        "--cpus",
        "2",
        "--debug-exit",
        "--disk",
        "socket=/a",
        "--disk",
        "socket=/b,queues=4,queue-size=512,packed=on",
    ]))
    .unwrap();
    assert_eq!(config.memory, 1 << 30);
    assert_eq!(config.cpus, 2);
    assert!(config.debug_exit && config.sandbox);
    assert_eq!(config.devices[0].source, Source::Socket("/a".into()));
    assert_eq!(config.devices[1].queues, 4);
    assert_eq!(config.devices[1].queue_size, 512);
    assert!(config.devices[1].packed);
    assert_eq!(config.devices[1].name, "disk1");
}

#[test]
fn every_flag_is_a_key_of_the_file_and_flags_win() {
    let (folder, path) = file(
        "name = 'n'\nkernel = 'k'\ninitrd = '/i'\ncmdline = 'c'\nmemory = '64M'\ncpus = 3\nserial = 'file:s'\n\
         on-reset = 'exit'\ndebug-exit = true\nshutdown-timeout = 5\nsandbox = 'off'\n[[disk]]\nsocket = 'd'\nqueue-size = 64\n\
         [[net]]\nlink = 'passt'\n[balloon]\nfloor = '64M'\n",
    );
    let path = path.to_str().unwrap();
    let config = resolve(flags(&[
        path,
        "--cpus",
        "1",
        "--disk",
        "socket=/e",
        "--balloon",
        "socket=/b",
    ]))
    .unwrap();
    assert_eq!(config.kernel, folder.path().join("k"));
    assert_eq!(config.initrd, Some("/i".into()));
    assert_eq!(config.serial, Serial::File(folder.path().join("s")));
    assert_eq!((config.cpus, config.memory), (1, 64 << 20));
    assert_eq!(config.on_reset, OnReset::Exit);
    assert_eq!(config.shutdown_timeout, Duration::from_secs(5));
    assert!(!config.sandbox);
    let sources: Vec<_> = config.devices.iter().map(|device| &device.source).collect();
    assert_eq!(sources[0], &Source::Socket(folder.path().join("d")));
    assert_eq!(sources[1], &Source::Socket("/e".into()));
    let Source::Daemon(net) = sources[2] else {
        panic!("a daemon");
    };
    assert_eq!(net["link"].as_str(), Some("passt"));
    assert_eq!(sources[3], &Source::Socket("/b".into()), "the flag's");
}

#[test]
fn all_mistakes_are_reported_together() {
    let mut options = flags(&["--memory", "3K", "--disk", "socket=/a,queue-size=3"]);
    options.cpus = Some(0);
    let text = resolve(options).unwrap_err();
    for word in ["kernel", "memory", "cpus", "queue-size"] {
        assert!(text.contains(word), "{word} in {text}");
    }
}

#[test]
fn a_table_for_a_daemon_needs_that_daemon() {
    let (_folder, path) = file("[[net]]\n[daemon.netd]\nlog = 'debug'\n[[daemon.netd.switch]]\n");
    let path = path.to_str().unwrap();
    let config = resolve(flags(&[path, "--kernel", "k"])).unwrap();
    assert_eq!(config.daemons["netd"].table["log"].as_str(), Some("debug"));
    for other in [
        "[daemon.blockd]",
        "[[net]]\nsocket='a'\n[daemon.netd]",
        "[daemon.x]",
    ] {
        let (_folder, path) = file(other);
        let error = resolve(flags(&[path.to_str().unwrap(), "--kernel", "k"])).unwrap_err();
        assert!(error.contains("daemon."), "{other}: {error}");
    }
}

#[test]
fn unknown_keys_are_refused_by_name() {
    let (_folder, path) = file("kernel = 'k'\nmemroy = '1G'\n");
    let text = resolve(flags(&[path.to_str().unwrap()])).unwrap_err();
    assert!(text.contains("memroy"), "{text}");
}

#[test]
fn a_mistake_in_the_file_is_told_with_its_line_and_key() {
    let text = "kernel = 'k'\nmemory = '3K'\ncpus = 0\n[[disk]]\npath = 'i'\nqueue-size = 3\n[[net]]\nsocket = 'n'\nlnk = 1\n";
    let (_folder, path) = file(text);
    let path = path.to_str().unwrap();
    let told = resolve(flags(&[path])).unwrap_err();
    for place in [
        "line 2, key memory: ",
        "line 3, key cpus: ",
        "line 6, key disk.0.queue-size: ",
        "line 9, key net.0.lnk: ",
    ] {
        assert!(
            told.contains(&format!("{path}, {place}")),
            "{place}: {told}"
        );
    }
    // What a flag overrides is not what is wrong.
    let flag = resolve(flags(&[
        path,
        "--cpus",
        "0",
        "--disk",
        "path=i,queue-size=5",
    ]));
    let told = flag.unwrap_err();
    assert!(told.contains("\n--cpus: at least 1"), "{told}");
    assert!(told.contains("\n--disk: queue-size: "), "{told}");
    let (_folder, path) = file("kernel = 'k'\n\ncpus = 'two'\n");
    let told = resolve(flags(&[path.to_str().unwrap()])).unwrap_err();
    assert!(told.contains("vm.toml, line 3, key cpus: "), "{told}");
}

#[test]
fn two_devices_of_one_name_are_a_mistake() {
    let text = resolve(flags(&[
        "--kernel",
        "k",
        "--disk",
        "socket=/a",
        "--net",
        "socket=/b,name=disk0",
        "--net",
        "name=net0",
    ]));
    assert_eq!(
        text.unwrap_err(),
        "--net: name: another device is named \"disk0\""
    );
}

#[test]
fn a_balloon_needs_no_keys() {
    let config = resolve(flags(&["--balloon", "--kernel", "k"])).unwrap();
    assert_eq!(config.devices[0].name, "balloon");
}
