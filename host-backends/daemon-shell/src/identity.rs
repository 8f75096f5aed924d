//! Names that a device keeps over restarts and reboots, and that other hosts do not have: the default of serial numbers
//! and addresses.
//!
//! Rule: made from this host's identity and the absolute place of what is named, with nothing that a boot or a copy of a
//! file changes.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use device_model::fingerprint;

use crate::SocketSpec;

/// Where hosts keep their identity (machine-id(5)).
const MACHINE_ID: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];

/// The number of what stands at `path`, as a `kind` of thing. The path is taken as it is written, links not followed, so
/// that a name such as /dev/disk/by-id/... counts and not what it is called after this boot.
pub fn of_path(kind: &str, path: &Path) -> u64 {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    of(&host(), kind, path.as_os_str().as_bytes())
}

/// The number of the device that is served on `socket`; without a path of its own its `name` counts.
pub fn of_socket(kind: &str, socket: &SocketSpec, name: &str) -> u64 {
    match socket.socket_path.as_ref().or(socket.connect.as_ref()) {
        Some(path) => of_path(kind, path),
        None => of(&host(), kind, name.as_bytes()),
    }
}

fn of(host: &str, kind: &str, place: &[u8]) -> u64 {
    fingerprint(&[host.as_bytes(), kind.as_bytes(), place])
}

fn host() -> String {
    let texts = MACHINE_ID
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok());
    if let Some(id) = texts.filter_map(|text| machine_id(&text)).next() {
        return id;
    }
    let name = nix::sys::utsname::uname()
        .map(|host| host.nodename().to_string_lossy().into_owned())
        .unwrap_or_default();
    tracing::warn!(
        host = name,
        "this host has no machine-id: serial numbers and addresses that are not given are made from its name, and are \
         equal on hosts of the same name (systemd-machine-id-setup makes one)"
    );
    name
}

/// The identity in the file's text, if it is one: an image that has not booted yet says `uninitialized`.
fn machine_id(text: &str) -> Option<String> {
    let id = text.trim();
    let whole = id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    (whole && id.bytes().any(|digit| digit != b'0')).then(|| id.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_kinds_and_places_have_names_of_their_own() {
        let all = [
            ("a", "net", "/run/web"),
            ("b", "net", "/run/web"),
            ("a", "disk", "/run/web"),
            ("a", "net", "/run/db"),
        ];
        let number = |(host, kind, place): &(&str, &str, &str)| of(host, kind, place.as_bytes());
        let seen: std::collections::HashSet<_> = all.iter().map(number).collect();
        assert_eq!(seen.len(), all.len());
        assert_eq!(number(&all[0]), number(&all[0]));
    }

    #[test]
    fn a_path_counts_with_its_folder_however_it_is_written() {
        let here = std::env::current_dir().unwrap();
        let whole = of_path("net", &here.join("net.sock"));
        assert_eq!(of_path("net", Path::new("net.sock")), whole);
        assert_eq!(of_path("net", Path::new("./net.sock")), whole);
        assert_ne!(of_path("net", Path::new("/elsewhere/net.sock")), whole);
    }

    #[test]
    fn a_host_that_has_not_booted_yet_has_no_identity() {
        let id = "0123456789abcdef0123456789ABCDEF";
        let text = format!("{id}\n");
        assert_eq!(machine_id(&text), Some(id.to_ascii_lowercase()));
        for text in [
            "",
            "\n",
            "uninitialized\n",
            &id[1..],
            "00000000000000000000000000000000",
        ] {
            assert_eq!(machine_id(text), None, "{text:?}");
        }
    }
}
