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
    assert_eq!(config.disks[0], "socket=/a".parse().unwrap());
    assert_eq!(config.disks[1].queues, 4);
    assert_eq!(config.disks[1].queue_size, 512);
    assert!(config.disks[1].packed);
}

#[test]
fn every_flag_is_a_key_of_the_file_and_flags_win() {
    let (folder, path) = file(
        "name = 'n'\nkernel = 'k'\ninitrd = '/i'\ncmdline = 'c'\nmemory = '64M'\ncpus = 3\nserial = 'file:s'\n\
         on-reset = 'exit'\ndebug-exit = true\nshutdown-timeout = 5\nsandbox = 'off'\n[[disk]]\nsocket = 'd'\nqueue-size = 64\n",
    );
    let path = path.to_str().unwrap();
    let config = resolve(flags(&[path, "--cpus", "1", "--disk", "socket=/e"])).unwrap();
    assert_eq!(config.kernel, folder.path().join("k"));
    assert_eq!(config.initrd, Some("/i".into()));
    assert_eq!(config.serial, Serial::File(folder.path().join("s")));
    assert_eq!((config.cpus, config.memory), (1, 64 << 20));
    assert_eq!(config.on_reset, OnReset::Exit);
    assert_eq!(config.shutdown_timeout, Duration::from_secs(5));
    assert!(!config.sandbox);
    let sockets: Vec<_> = config
        .disks
        .iter()
        .map(|disk| disk.socket.clone())
        .collect();
    assert_eq!(sockets, [folder.path().join("d"), "/e".into()]);
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
fn unknown_keys_are_refused_by_name() {
    let (_folder, path) = file("kernel = 'k'\nmemroy = '1G'\n");
    let text = resolve(flags(&[path.to_str().unwrap()])).unwrap_err();
    assert!(text.contains("memroy"), "{text}");
}

#[test]
fn sizes_are_read_as_people_write_them() {
    for (text, bytes) in [
        ("512", 512 << 20),
        ("1G", 1 << 30),
        ("2048k", 2 << 20),
        ("1TiB", 1 << 40),
    ] {
        assert_eq!(text.parse(), Ok(Size(bytes)));
    }
    for text in [
        "",
        "G",
        "1X",
        "-1",
        "99999999999999999999",
        "99999999999999T",
    ] {
        assert!(text.parse::<Size>().is_err(), "{text}");
    }
}

#[test]
fn disks_name_what_is_wrong_with_them() {
    for text in [
        "",
        "socket",
        "queues=1",
        "socket=/a,x=1",
        "socket=/a,queues=70000",
        "socket=/a,packed=maybe",
    ] {
        assert!(text.parse::<DiskOptions>().is_err(), "{text}");
    }
}
