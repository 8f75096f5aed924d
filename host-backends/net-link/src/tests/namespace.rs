//! A network namespace for one test.
//!
//! Rule: nothing outlives the thread that made it.

use std::process::Command;
use std::time::Duration;

use nix::sched::CloneFlags;

/// Runs `test` in a thread with a network namespace of its own, if that is possible here.
pub(crate) fn run(name: &'static str, test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(errno) = nix::sched::unshare(CloneFlags::CLONE_NEWNET) {
            println!("SKIPS ITSELF {name}: no network namespace ({errno}), needs root");
            return;
        }
        if !std::path::Path::new("/dev/net/tun").exists() {
            println!("SKIPS ITSELF {name}: no /dev/net/tun");
            return;
        }
        // What the kernel says of its own accord would be in the way.
        for path in ["all", "default"] {
            let path = format!("/proc/sys/net/ipv6/conf/{path}/disable_ipv6");
            let _ = std::fs::write(path, "1");
        }
        ip("link set lo up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// `ip` with these words.
pub(crate) fn ip(words: &str) {
    let status = Command::new("ip").args(words.split_whitespace()).status();
    assert!(status.expect("ip(8)").success(), "ip {words}");
}

/// Waits until the interface carries frames, which takes the kernel a moment after its first queue is opened.
pub(crate) fn wait_until_up(interface: &str) {
    for _ in 0..1000 {
        let output = Command::new("ip")
            .args(["-o", "link", "show", interface])
            .output()
            .expect("ip(8)");
        if String::from_utf8_lossy(&output.stdout).contains("state UP") {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{interface} does not come up");
}
