//! Rules on errors: a library shows one.
//!
//! One rule: an error is what implements `Error`, by derive or by hand.

use syn::spanned::Spanned;

use crate::Rule;
use crate::tree::Source;
use crate::tree::Tree;

/// One error that product code shows.
#[derive(Clone, Debug)]
pub struct Found {
    dir: String,
    name: String,
    place: String,
}

impl Found {
    fn new(file: &Source, name: &str, line: usize) -> Self {
        Self {
            dir: file.crate_dir().into(),
            name: name.into(),
            place: format!("{}:{line}: {name}", file.path),
        }
    }
}

/// Whether the attributes derive an error.
pub fn is_derived(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("derive") => {
            let derived = list.tokens.to_string().replace(' ', "");
            let mut names = derived.split(',');
            names.any(|name| name == "Error" || name == "thiserror::Error")
        }
        _ => false,
    })
}

/// An error by derive, where others see it.
pub fn derived(file: &Source, name: &syn::Ident, visibility: &syn::Visibility) -> Option<Found> {
    let public = matches!(visibility, syn::Visibility::Public(_));
    public.then(|| Found::new(file, &name.to_string(), name.span().start().line))
}

/// An error by hand.
pub fn implemented(file: &Source, item: &syn::ItemImpl) -> Option<Found> {
    let name = &item.trait_.as_ref()?.0;
    let name = name.segments.last()?.ident.to_string();
    let syn::Type::Path(own) = &*item.self_ty else {
        return None;
    };
    let own = own.path.segments.last()?.ident.to_string();
    let error = name == "Error" || name == "StdError";
    error.then(|| Found::new(file, &own, item.span().start().line))
}

/// Errors of libraries besides the one that each may show, and why. The list may only shrink: an entry that is no
/// error any more is struck.
#[rustfmt::skip]
const SEVERAL: &[(&str, &str, &str)] = &[
    ("guest-drivers/virtqueue",    "ConfigError",  "of set-up alone: who serves a ring need not handle it"),
    ("guest-drivers/virtqueue",    "AddError",     "of adding alone, and the ring is as before"),
    ("guest-drivers/block-driver", "Refusal",      "of a request that comes back with its buffer"),
    ("guest-drivers/block-driver", "RequestError", "of a request that the device answered"),
    ("guest-drivers/net-driver",   "Refusal",      "of a frame that comes back with its buffer"),
    ("guest-drivers/net-driver",   "CommandError", "of a command that the device answered"),
    ("guest-drivers/net-driver",   "Discard",      "of a received frame, which is dropped"),
];

fn several(tree: &Tree) -> Vec<String> {
    let mut bad = Vec::new();
    let libraries = tree
        .crates()
        .iter()
        .filter(|member| tree.is_library(member) && member.group() != "tests");
    for member in libraries {
        let all = tree
            .findings()
            .errors
            .iter()
            .filter(|error| error.dir == member.dir);
        let known = |name: &str| {
            SEVERAL
                .iter()
                .any(|(dir, known, _)| *dir == member.dir && *known == name)
        };
        let (listed, rest): (Vec<_>, Vec<_>) = all.partition(|error| known(&error.name));
        if rest.len() > 1 {
            bad.extend(rest.iter().map(|error| error.place.clone()));
        }
        let gone = |name: &&&str| !listed.iter().any(|error| error.name == ***name);
        let entries = SEVERAL.iter().filter(|(dir, ..)| *dir == member.dir);
        let gone = entries.map(|(_, name, _)| name).filter(gone);
        bad.extend(
            gone.map(|name| format!("{}: {name} is no error any more: strike it", member.dir)),
        );
    }
    bad
}

#[test]
fn a_library_has_one_error() {
    const MANIFEST: (&str, &str) = ("vmm/kvm/Cargo.toml", "[package]\nname = 'kvm'\n");
    const DERIVED: &str = "#[derive(Debug, thiserror::Error)]\npub enum Error {}\n";
    const BY_HAND: &str = "pub struct Other;\nimpl core::error::Error for Other {}\n";
    Rule {
        asks: "A library shows one error, or those besides that tests/tidy lists",
        finds: several,
        breaches: &[
            (&[MANIFEST, ("vmm/kvm/src/lib.rs", DERIVED), ("vmm/kvm/src/other.rs", BY_HAND)], "other.rs:2: Other"),
            (&[MANIFEST, ("vmm/kvm/src/lib.rs", BY_HAND), ("vmm/kvm/src/other.rs", "impl StdError for Third {}\n")], "lib.rs:2: Other"),
            (
                &[
                    ("guest-drivers/virtqueue/Cargo.toml", "[package]\nname = 'virtqueue'\n"),
                    ("guest-drivers/virtqueue/src/lib.rs", "impl Error for RingError {}\nimpl Error for AddError {}\n"),
                ],
                "ConfigError is no error any more",
            ),
            (
                &[
                    ("guest-drivers/virtqueue/Cargo.toml", "[package]\nname = 'virtqueue'\n"),
                    (
                        "guest-drivers/virtqueue/src/lib.rs",
                        "impl Error for A {}\nimpl Error for B {}\nimpl Error for ConfigError {}\nimpl Error for AddError {}\n",
                    ),
                ],
                "lib.rs:2: B",
            ),
        ],
        fine: &[
            &[MANIFEST, ("vmm/kvm/src/lib.rs", DERIVED), ("vmm/kvm/src/tests.rs", BY_HAND)],
            &[MANIFEST, ("vmm/kvm/src/lib.rs", DERIVED), ("vmm/kvm/src/a.rs", "#[derive(Error)]\npub(crate) enum Inner {}\n")],
            &[MANIFEST, ("vmm/kvm/src/main.rs", DERIVED), ("vmm/kvm/src/other.rs", BY_HAND)],
            &[
                ("guest-drivers/virtqueue/Cargo.toml", "[package]\nname = 'virtqueue'\n"),
                ("guest-drivers/virtqueue/src/lib.rs", "impl Error for A {}\nimpl Error for ConfigError {}\nimpl Error for AddError {}\n"),
            ],
        ],
    }
    .holds();
}
