//! The unsafe ledger: which crates may contain `unsafe`, and how each use is explained.
//!
//! One rule: a crate enters the ledger with a reason, and nothing outside it contains the keyword.

use proc_macro2::TokenStream;
use proc_macro2::TokenTree;
use syn::visit::Visit;

use crate::Rule;
use crate::tree::Source;
use crate::tree::Tree;

/// Path prefix, and why the files there need `unsafe`.
#[rustfmt::skip]
const LEDGER: &[(&str, &str)] = &[
    ("guest-drivers/fallible-alloc/",   "lists and shared values over memory that may be refused"),
    ("guest-drivers/virtqueue/",        "atomic and volatile access to ring memory shared with the peer"),
    ("guest-drivers/driver-platform/src/dma.rs", "declares the contract of DMA memory; no unsafe block"),
    ("guest-drivers/driver-fakes/",     "fake DMA memory is handed out as raw pointers, as real DMA memory is"),
    ("host-backends/guest-memory/",     "mapping guest RAM, and the SIGBUS handler that survives its truncation"),
    ("host-backends/block-backend/src/engine", "system calls on guest memory: io_uring, preadv, mapped images"),
    ("host-backends/net-link/",         "system calls on guest memory: readv, writev, packet rings; and io_uring in its benchmark, to compare"),
    ("host-backends/host-os/",          "signal handlers, and process-wide calls without a safe form"),
    ("host-backends/daemon-shell/",     "inherited file descriptors and process-wide calls"),
    ("vmm/kvm/",                        "KVM ioctls and the mapping of guest RAM"),
    ("vmm/monitor/src/sandbox_tests.rs", "tries the ioctl that types into a terminal, which no safe wrapper makes"),
    ("tests/probe-guest/",              "a freestanding guest: page tables, ports, MMIO"),
    ("tests/bench/",                    "native io_uring and mapped memory for comparison"),
    ("tests/vm/src/disk_load/discard.rs", "the ioctl that discards a part of a block device"),
    ("tests/fuzz/",                     "hands raw ring memory to the code under test"),
];

fn in_ledger(path: &str) -> bool {
    LEDGER.iter().any(|(prefix, _)| path.starts_with(prefix))
}

/// Lines that hold the keyword `unsafe`, macros included, comments and strings not. The `unsafe`
/// of an attribute (`#[unsafe(no_mangle)]`) counts: it is one.
fn unsafe_lines(file: &Source) -> Vec<usize> {
    fn walk(stream: TokenStream, lines: &mut Vec<usize>) {
        for token in stream {
            match token {
                TokenTree::Ident(ident) if ident == "unsafe" => {
                    lines.push(ident.span().start().line);
                }
                TokenTree::Group(group) => walk(group.stream(), lines),
                _ => {}
            }
        }
    }
    let stream: TokenStream = file.text.parse().expect("a source file is Rust");
    let mut lines = Vec::new();
    walk(stream, &mut lines);
    lines
}

fn outside_the_ledger(tree: &Tree) -> Vec<String> {
    let mut bad = Vec::new();
    for file in tree.rust().filter(|file| !in_ledger(&file.path)) {
        bad.extend(unsafe_lines(file).into_iter().map(|line| file.at(line)));
    }
    bad
}

#[test]
fn unsafe_stands_only_in_the_ledger() {
    const OUTSIDE: &str = "vmm/boot/src/lib.rs";
    Rule {
        asks: "`unsafe` outside the ledger of tests/tidy",
        finds: outside_the_ledger,
        breaches: &[
            (&[(OUTSIDE, "fn a() { unsafe { b() } }\n")], "lib.rs:1"),
            (
                &[(OUTSIDE, "macro_rules! a { () => { unsafe { b() } } }\n")],
                "lib.rs:1",
            ),
            (
                &[(OUTSIDE, "#[unsafe(no_mangle)]\nfn a() {}\n")],
                "lib.rs:1",
            ),
            (
                &[("vmm/boot/src/tests.rs", "fn a() { unsafe { b() } }\n")],
                "tests.rs:1",
            ),
        ],
        fine: &[&[
            (OUTSIDE, "// unsafe\nconst A: &str = \"unsafe\";\n"),
            ("vmm/kvm/src/lib.rs", "fn a() { unsafe { b() } }\n"),
        ]],
    }
    .holds();
}

/// Entries without any, as far as their files are in the tree.
fn dead_entries(tree: &Tree) -> Vec<String> {
    let entries = LEDGER.iter().map(|(prefix, _)| *prefix);
    let dead = entries.filter(|prefix| {
        let mut files = tree.rust().filter(|file| file.path.starts_with(prefix));
        !files.any(|file| !unsafe_lines(file).is_empty())
    });
    // A small tree has not all crates.
    let group = |prefix: &&str| tree.has(prefix.split('/').next().unwrap_or_default());
    dead.filter(group).map(ToString::to_string).collect()
}

#[test]
fn every_ledger_entry_is_used() {
    Rule {
        asks: "Ledger entries without any `unsafe`: strike them",
        finds: dead_entries,
        breaches: &[(
            &[("vmm/kvm/src/lib.rs", "// unsafe\nfn a() {}\n")],
            "vmm/kvm/",
        )],
        fine: &[],
    }
    .holds();
}

fn unexplained(tree: &Tree) -> Vec<String> {
    let mut bad = Vec::new();
    for file in tree.rust() {
        let lines: Vec<&str> = file.text.lines().collect();
        let kept_by_trait = lines_of_trait_methods(file);
        let found = unsafe_lines(file).into_iter();
        let found =
            found.filter(|line| !kept_by_trait.contains(line) && !explained(&lines, line - 1));
        bad.extend(found.map(|line| file.at(line)));
    }
    bad
}

#[test]
fn every_unsafe_use_has_its_safety_comment() {
    const KVM: &str = "vmm/kvm/src/lib.rs";
    Rule {
        asks: "`unsafe` without `// SAFETY:` above it (functions and traits: `# Safety`)",
        finds: unexplained,
        breaches: &[
            (&[(KVM, "fn a() {\n    unsafe { b() }\n}\n")], "lib.rs:2"),
            (&[(KVM, "/// Does.\npub unsafe fn a() {}\n")], "lib.rs:2"),
            (
                &[(
                    KVM,
                    "// SAFETY: b is.\nconst C: u8 = 1;\n\nfn a() { unsafe { b() } }\n",
                )],
                "lib.rs:4",
            ),
        ],
        fine: &[&[(
            KVM,
            "/// Does.\n///\n/// # Safety\n/// Is not.\npub unsafe fn a() {}\n\
             fn c() {\n    // SAFETY: b is.\n    unsafe { b() }\n}\n\
             impl D for E { unsafe fn f() {} }\n",
        )]],
    }
    .holds();
}

/// `unsafe fn` in an implementation of a trait: the contract stands on the trait.
fn lines_of_trait_methods(file: &Source) -> Vec<usize> {
    struct Methods(Vec<usize>);
    impl<'ast> Visit<'ast> for Methods {
        fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
            let methods = item.items.iter().filter_map(|item| match item {
                syn::ImplItem::Fn(method) => Some(method.sig.fn_token.span.start().line),
                _ => None,
            });
            if item.trait_.is_some() {
                self.0.extend(methods);
            }
            syn::visit::visit_item_impl(self, item);
        }
    }
    let mut methods = Methods(Vec::new());
    methods.visit_file(&syn::parse_file(&file.text).expect("a source file is Rust"));
    methods.0
}

/// Looks for the explanation on the line itself and in the comments and attributes directly above
/// the statement it belongs to.
fn explained(lines: &[&str], at: usize) -> bool {
    let marked = |line: &str| line.contains("// SAFETY: ") || line.contains("/// # Safety");
    let own = lines[at].trim();
    let pointer_type = ["unsafe fn(", "unsafe extern \"C\" fn("]
        .iter()
        .any(|t| own.contains(t));
    // In a macro's implementation of a trait, which has no syntax tree, the contract is the trait's.
    let in_macro = own.starts_with("unsafe fn") && lines.iter().any(|l| l.contains("macro_rules!"));
    if in_macro || marked(own) || pointer_type || own.starts_with('#') {
        return true;
    }
    let mut above = lines[..at].iter().rev().map(|line| line.trim());
    // A statement may begin some lines above its block; a blank line or a finished one ends it.
    let mut in_comment = false;
    for line in above.by_ref().take(40) {
        let comment = line.starts_with("//") || line.starts_with('#');
        if marked(line) {
            return true;
        }
        let ends = line.is_empty() || line.ends_with(';') || line.ends_with('}');
        if !comment && (in_comment || ends) {
            return false;
        }
        in_comment |= comment;
    }
    false
}

fn misspelled(tree: &Tree) -> Vec<String> {
    let mut bad = Vec::new();
    for file in tree
        .rust()
        .filter(|file| !file.path.starts_with("tests/tidy/"))
    {
        let found = file.lines().filter(|(_, line)| {
            let line = line.trim();
            let comment = line.trim_start_matches('/').trim_start().to_lowercase();
            let spelled = line.starts_with("//") && comment.starts_with("safety:");
            spelled && !line.starts_with("// SAFETY: ")
        });
        bad.extend(found.map(|(number, _)| file.at(number)));
    }
    bad
}

#[test]
fn safety_comments_are_spelled_one_way() {
    Rule {
        asks: "Write `// SAFETY: ...`",
        finds: misspelled,
        breaches: &[
            (&[("vmm/kvm/src/lib.rs", "// Safety: b is.\n")], "lib.rs:1"),
            (&[("vmm/kvm/src/lib.rs", "/// SAFETY: b is.\n")], "lib.rs:1"),
        ],
        fine: &[&[("vmm/kvm/src/lib.rs", "// SAFETY: b is.\n/// # Safety\n")]],
    }
    .holds();
}
