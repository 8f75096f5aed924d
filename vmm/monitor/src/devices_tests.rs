//! Devices described right and wrong. One rule: a message names the key.

use super::*;

fn device(kind: Kind, text: &str) -> Result<Device, String> {
    resolve(kind, 3, table(text)?).map_err(|wrong| wrong.join("; "))
}

#[test]
fn a_device_with_a_socket_has_the_keys_of_the_vmm_only() {
    let disk = device(Kind::Disk, "socket=/a,queues=4,queue-size=512,packed=on").unwrap();
    assert_eq!(disk.source, Source::Socket("/a".into()));
    assert_eq!((disk.queues, disk.queue_size, disk.packed), (4, 512, true));
    assert_eq!(disk.name, "disk3");
    let net = device(Kind::Net, "socket=/a,mtu=9000,name=lan").unwrap();
    assert_eq!((net.mtu, net.name.as_str()), (Some(9000), "lan"));
    assert_eq!(net.mac[..3], [0x52, 0x54, 0]);
    assert_eq!(net.mac, device(Kind::Net, "socket=/a").unwrap().mac);
    assert_ne!(net.mac, device(Kind::Net, "socket=/b").unwrap().mac);
    let given = device(Kind::Net, "socket=/a,mac=02:00:00:00:00:7f").unwrap();
    assert_eq!(given.mac, [2, 0, 0, 0, 0, 0x7f]);
    for wrong in [
        "2",
        "03:00:00:00:00:00",
        "02:00:00:00:00",
        "02:00:00:00:00:100",
        "",
    ] {
        let error = device(Kind::Net, &format!("socket=/a,mac={wrong}")).unwrap_err();
        assert!(error.contains("mac"), "{wrong}: {error}");
    }
    let balloon = device(Kind::Balloon, "socket=/a").unwrap();
    assert_eq!(balloon.name, "balloon");
    for (kind, text) in [
        (Kind::Disk, "socket=/a,path=/b"),
        (Kind::Disk, "socket=/a,mtu=9000"),
        (Kind::Net, "socket=/a,link=passt"),
        (Kind::Net, "socket=/a,queues=2"),
        (Kind::Balloon, "socket=/a,floor=1G"),
    ] {
        let error = device(kind, text).unwrap_err();
        assert!(error.contains("go with a socket"), "{text}: {error}");
    }
}

#[test]
fn other_keys_are_the_daemons_and_both_sides_hear_of_queues() {
    let disk = device(
        Kind::Disk,
        "path=/i,queues=4,queue-size=64,readonly=true,serial=\"7\"",
    );
    let Source::Daemon(keys) = disk.unwrap().source else {
        panic!("a daemon");
    };
    assert_eq!(keys["num-queues"].as_integer(), Some(4));
    assert_eq!(keys["queue-size"].as_integer(), Some(64));
    assert_eq!(keys["readonly"].as_bool(), Some(true));
    assert_eq!(keys["serial"].as_str(), Some("7"));
    let disk = device(Kind::Disk, "memory-disk=1M,num-queues=2").unwrap();
    assert_eq!(disk.queues, 2, "the daemon's own spelling");
    let net = device(Kind::Net, "link=passt,mtu=1400").unwrap();
    let Source::Daemon(keys) = net.source else {
        panic!("a daemon");
    };
    assert_eq!((net.mtu, keys["mtu"].as_integer()), (None, Some(1400)));
    assert!(device(Kind::Net, "").is_ok(), "the daemon has defaults");
    assert!(device(Kind::Balloon, "").is_ok());
}

#[test]
fn what_is_wrong_is_named() {
    for (text, word) in [
        ("", "socket"),
        ("socket", "socket"),
        ("queues=1", "memory-disk"),
        ("socket=/a,x=1", "\"x\""),
        ("socket=/a,queues=70000", "queues"),
        ("socket=/a,queues=0", "queues"),
        ("socket=/a,queue-size=3", "queue-size"),
        ("socket=/a,packed=maybe", "packed"),
        ("socket=/a,socket=/b", "twice"),
        ("socket=", "socket"),
        ("socket=7", "socket"),
    ] {
        let error = device(Kind::Disk, text).unwrap_err();
        assert!(error.contains(word), "{text}: {error}");
    }
}

#[test]
fn paths_of_a_file_start_at_its_folder() {
    let mut keys =
        table("socket=s,path=p,image-path=/abs,state-file=b,capture=c,link=passt,mac=x").unwrap();
    anchor(&mut keys, Path::new("/vms"));
    assert_eq!(keys["socket"].as_str(), Some("/vms/s"));
    assert_eq!(keys["path"].as_str(), Some("/vms/p"));
    assert_eq!(keys["image-path"].as_str(), Some("/abs"));
    assert_eq!(keys["state-file"].as_str(), Some("/vms/b"));
    assert_eq!(keys["capture"].as_str(), Some("/vms/c"));
    assert_eq!(keys["link"].as_str(), Some("passt"));
}
