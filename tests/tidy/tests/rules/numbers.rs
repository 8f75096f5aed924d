//! Rules on wire numbers: where something lies in a virtio structure is said in virtio-spec, and nowhere else.
//!
//! One rule: what is seen are numbers in the code (ranges of bytes, places given to a function, constants that say what
//! they are an offset in), in files that work on virtio structures; arithmetic that hides one is not.

use proc_macro2::Span;
use syn::spanned::Spanned;

use crate::Rule;
use crate::code;
use crate::tree::Source;
use crate::tree::Tree;

/// One place in a wire structure that stands as a number.
#[derive(Clone, Debug)]
pub struct Found {
    path: String,
    /// As it is written, or the constant's name.
    what: String,
    line: usize,
}

/// What is known of, and why it stands. The list may only shrink: an entry that is not found any more is struck.
#[rustfmt::skip]
const KNOWN: &[(&str, &str, &str)] = &[
    ("host-backends/net-backend/src/path/from_link.rs", "4..6",      "the hash report, in bytes that are made here as one piece"),
    ("host-backends/net-backend/src/path/transmit.rs",  "4..6",      "the same"),
    ("host-backends/net-backend/src/rss.rs",            "KEY_BYTES", "what we offer; the specification has a least only"),
    ("host-backends/net-backend/src/rss.rs",            "12..20",    "addresses of an IPv4 header, which is not virtio's"),
];

/// Whether the file works on structures of virtio.
fn concerns(file: &Source) -> bool {
    let product = ["host-backends/", "guest-drivers/", "vmm/"];
    let at_home = file.path.starts_with("guest-drivers/virtio-spec/");
    let product = product.iter().any(|group| file.path.starts_with(group));
    product && !at_home && file.path.contains("/src/") && code::named(file, "virtio_spec").is_some()
}

fn number(expression: &syn::Expr) -> Option<u64> {
    let syn::Expr::Lit(literal) = expression else {
        return None;
    };
    match &literal.lit {
        syn::Lit::Int(number) => number.base10_parse().ok(),
        _ => None,
    }
}

fn found(file: &Source, what: String, span: Span) -> Option<Found> {
    concerns(file).then(|| Found {
        path: file.path.clone(),
        what,
        line: span.start().line,
    })
}

/// `6..8`: bytes of something. What begins at 0 may be a count.
pub fn range(file: &Source, item: &syn::ExprRange) -> Option<Found> {
    let start = number(item.start.as_deref()?)?;
    let end = number(item.end.as_deref()?)?;
    let bytes = start > 0 && [1, 2, 4, 6, 8].contains(&end.checked_sub(start)?);
    let what = format!("{start}..{end}");
    bytes.then(|| found(file, what, item.span()))?
}

/// `number(6, 2)`: a place and a width.
pub fn call(file: &Source, item: &syn::ExprCall) -> Option<Found> {
    let numbers: Option<Vec<u64>> = item.args.iter().map(number).collect();
    let numbers = numbers.filter(|n| n.len() == 2)?;
    let width = matches!(numbers.as_slice(), [_, 1 | 2 | 4 | 8]);
    let what = format!("({}, {})", numbers.first()?, numbers.last()?);
    width.then(|| found(file, what, item.span()))?
}

/// `/// Offset of ..` or `/// Bytes of ..` a structure of virtio, over a number.
pub fn constant(file: &Source, item: &syn::ItemConst) -> Option<Found> {
    number(&item.expr)?;
    let documents = item
        .attrs
        .iter()
        .filter_map(|attribute| match &attribute.meta {
            syn::Meta::NameValue(value) if value.path.is_ident("doc") => match &value.value {
                syn::Expr::Lit(syn::ExprLit {
                    lit: syn::Lit::Str(text),
                    ..
                }) => Some(text.value()),
                _ => None,
            },
            _ => None,
        });
    let text: String = documents.collect();
    let place = text.contains("Offset of") || text.contains("Bytes of");
    let virtio = ["virtio", "virtq", "vring", "sec. "];
    let wire = place && virtio.iter().any(|word| text.contains(word));
    wire.then(|| found(file, item.ident.to_string(), item.ident.span()))?
}

fn unknown(tree: &Tree) -> Vec<String> {
    let known = |one: &&Found| {
        let mut list = KNOWN.iter();
        !list.any(|(path, what, _)| *path == one.path && *what == one.what)
    };
    let all = &tree.findings().wire_numbers;
    let bad = all.iter().filter(known);
    let mut bad: Vec<String> = bad
        .map(|one| format!("{}:{}: {}", one.path, one.line, one.what))
        .collect();
    for (path, what, _) in KNOWN {
        let there = all.iter().any(|one| one.path == *path && one.what == *what);
        if tree.has(path) && !there {
            bad.push(format!("{path}: {what} is gone: strike it from tests/tidy"));
        }
    }
    bad
}

#[test]
fn wire_numbers_stand_in_virtio_spec() {
    const PLACE: &str = "host-backends/one/src/lib.rs";
    Rule {
        asks: "Offsets and sizes of virtio structures come from virtio-spec (`offset_of!`, `size_of`)",
        finds: unknown,
        breaches: &[
            (&[(PLACE, "use virtio_spec::net; fn a(b: &[u8]) { b.get(6..8); }")], "6..8"),
            (&[(PLACE, "use virtio_spec::net; const A: &[Range<usize>] = &[32..33];")], "32..33"),
            (&[(PLACE, "fn a() { let up = number(6, 2) & u64::from(virtio_spec::net::UP); }")], "(6, 2)"),
            (&[(PLACE, "use virtio_spec::net;\n/// Offset of `mtu` (virtio 1.4, 5.1.4).\nconst MTU: usize = 10;")], "3: MTU"),
        ],
        fine: &[
            &[(PLACE, "use other::net; fn a(b: &[u8]) { b.get(12..16); }")],
            &[(PLACE, "use virtio_spec::net; fn a(b: &[u8]) { for c in 0..8 {} b.get(AT..AT + 2); d(1, 2000); }")],
            &[(PLACE, "use virtio_spec::net;\n#[cfg(test)]\nmod tests { fn a(b: &[u8]) { b.get(6..8); } }")],
            &[(PLACE, "use virtio_spec::net;\n/// Offset of `mtu` (virtio 1.4, 5.1.4).\nconst MTU: usize = offset_of!(net::Config, mtu);")],
            &[("guest-drivers/virtio-spec/src/net.rs", "use virtio_spec::net; fn a(b: &[u8]) { b.get(6..8); }")],
        ],
    }
    .holds();
}
