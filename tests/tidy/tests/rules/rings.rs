//! Rules on rings: their positions are compared in one module, their memory is touched in one file.
//!
//! One rule: positions wrap, and the peer writes what we read; both are dealt with once.

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::Visit;

use crate::Rule;
use crate::code;
use crate::tree::Tree;

/// Names that hold a position in a ring. Comparing two of them must respect the wrap.
const RING_POSITIONS: &[&str] = &[
    "avail_idx",
    "used_idx",
    "avail_index",
    "used_index",
    "next_avail",
    "next_used",
    "last_avail",
    "last_used",
    "avail_event",
    "used_event",
    "shadow_idx",
    "last_used_idx",
    "last_avail_idx",
    "old_idx",
    "new_idx",
    "seen_avail",
    "seen_used",
];

/// Common words, which hold a position in the crates that work on rings.
const POSITIONS_OF_RING_CRATES: &[&str] = &["added", "avail", "published", "returned"];
const RING_CRATES: &[&str] = &[
    "guest-drivers/virtqueue/",
    "host-backends/device-model/",
    "host-backends/vhost-user-server/",
    "vmm/vhost-user-frontend/",
];

fn is_ring_position(path: &str, expression: &syn::Expr) -> bool {
    let name = match expression {
        syn::Expr::Path(path) => path.path.segments.last().map(|s| s.ident.to_string()),
        syn::Expr::Field(field) => match &field.member {
            syn::Member::Named(name) => Some(name.to_string()),
            syn::Member::Unnamed(_) => None,
        },
        syn::Expr::MethodCall(call) => Some(call.method.to_string()),
        syn::Expr::Paren(inner) => return is_ring_position(path, &inner.expr),
        syn::Expr::Reference(inner) => return is_ring_position(path, &inner.expr),
        syn::Expr::Cast(inner) => return is_ring_position(path, &inner.expr),
        _ => None,
    };
    let Some(name) = name else { return false };
    let ring_crate = RING_CRATES.iter().any(|crates| path.starts_with(crates));
    RING_POSITIONS.contains(&name.as_str())
        || (ring_crate && POSITIONS_OF_RING_CRATES.contains(&name.as_str()))
}

/// Whether this orders positions of a ring by plain comparison.
pub fn is_ordered_comparison(path: &str, item: &syn::ExprBinary) -> bool {
    use syn::BinOp::{Ge, Gt, Le, Lt};
    let ordered = matches!(item.op, Lt(_) | Gt(_) | Le(_) | Ge(_));
    ordered && (is_ring_position(path, &item.left) || is_ring_position(path, &item.right))
}

fn comparisons(tree: &Tree) -> Vec<String> {
    let mut bad = tree.findings().ring_comparisons.clone();
    bad.retain(|place| !place.starts_with("guest-drivers/virtqueue/src/index"));
    bad
}

#[test]
fn ring_indices_are_compared_in_one_module() {
    const COMMON: &str = "fn a() { let b = self.lent.returned < self.lent.added; }";
    Rule {
        asks: "Ring indices wrap: compare them through virtqueue::index",
        finds: comparisons,
        breaches: &[
            (
                &[(
                    "host-backends/one/src/lib.rs",
                    "fn a() { let b = self.next_avail < other; }",
                )],
                "lib.rs:1",
            ),
            (
                &[(
                    "host-backends/one/src/lib.rs",
                    "fn a() { let b = (x) >= ring.used_idx(); }",
                )],
                "lib.rs:1",
            ),
            (
                &[(
                    "vmm/one/src/lib.rs",
                    "fn a() { let b = seen_used as u32 > 3; }",
                )],
                "lib.rs:1",
            ),
            (
                &[("guest-drivers/virtqueue/src/split/driver.rs", COMMON)],
                "driver.rs:1",
            ),
            (
                &[("host-backends/device-model/src/queue.rs", COMMON)],
                "queue.rs:1",
            ),
        ],
        fine: &[
            &[("host-backends/one/src/lib.rs", COMMON)],
            &[(
                "host-backends/one/src/tests.rs",
                "fn a() { let b = self.next_avail < other; }",
            )],
            &[(
                "guest-drivers/virtqueue/src/index.rs",
                "fn a() { let b = self.next_avail < other; }",
            )],
            &[(
                "guest-drivers/virtqueue/src/split/driver.rs",
                "fn a() { let b = self.next_avail == other; }",
            )],
        ],
    }
    .holds();
}

/// The file that touches ring memory, and what an `unsafe` block there may do: make a place, and move an integer
/// through an atomic. Anything else (a plain or volatile read, a copy, a reference) could see half of an index.
const RING_MEMORY: &str = "guest-drivers/virtqueue/src/memory.rs";
const ATOMIC_STEPS: &[&str] = &["add", "from_ptr", "load", "store"];

/// What the `unsafe` blocks of a file do besides [`ATOMIC_STEPS`], or with a dereferenced pointer.
fn other_steps(text: &str) -> Vec<String> {
    struct Blocks {
        inside: usize,
        bad: Vec<String>,
    }
    impl Blocks {
        fn see(&mut self, name: &str, span: Span) {
            if self.inside > 0 && !ATOMIC_STEPS.contains(&name) && name != "as_ptr" {
                self.bad.push(format!("{}: {name}", span.start().line));
            }
        }
    }
    impl<'ast> Visit<'ast> for Blocks {
        fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
            self.inside += 1;
            syn::visit::visit_expr_unsafe(self, block);
            self.inside -= 1;
        }

        fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
            if let syn::Expr::Path(path) = &*call.func {
                let name = path.path.segments.last().map(|s| s.ident.to_string());
                self.see(&name.unwrap_or_default(), call.span());
            }
            syn::visit::visit_expr_call(self, call);
        }

        fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
            self.see(&call.method.to_string(), call.span());
            syn::visit::visit_expr_method_call(self, call);
        }

        fn visit_expr_unary(&mut self, item: &'ast syn::ExprUnary) {
            if matches!(item.op, syn::UnOp::Deref(_)) {
                self.see("*", item.span());
            }
            syn::visit::visit_expr_unary(self, item);
        }

        fn visit_macro(&mut self, item: &'ast syn::Macro) {
            // The body of a `macro_rules!` arm: its functions are written out as the compiler sees them.
            for arm in item.tokens.clone() {
                if let proc_macro2::TokenTree::Group(group) = arm {
                    let text = group.stream().to_string();
                    let text = text.replace("$ int", "Int").replace("$ atomic", "Atomic");
                    if let Ok(file) = syn::parse_file(&text) {
                        self.visit_file(&file);
                    }
                }
            }
        }
    }
    let mut blocks = Blocks {
        inside: 0,
        bad: Vec::new(),
    };
    blocks.visit_file(&syn::parse_file(text).expect("a source file is Rust"));
    blocks.bad
}

fn plain_accesses(tree: &Tree) -> Vec<String> {
    let mut bad = Vec::new();
    let folder = "guest-drivers/virtqueue/src/";
    for file in tree.product().filter(|file| file.path.starts_with(folder)) {
        let found = if file.path == RING_MEMORY {
            other_steps(&file.text)
        } else {
            let line = code::named(file, "unsafe");
            let line = line.map(|line| format!("{line}: unsafe"));
            line.into_iter().collect()
        };
        bad.extend(
            found
                .into_iter()
                .map(|what| format!("{}:{what}", file.path)),
        );
    }
    bad
}

#[test]
fn ring_memory_is_read_and_written_through_atomics_only() {
    Rule {
        asks: "virtqueue touches memory in one file, by atomics",
        finds: plain_accesses,
        breaches: &[
            (
                &[(
                    RING_MEMORY,
                    "fn a(p: *mut u16) { let b = unsafe { p.read() }; }",
                )],
                "1: read",
            ),
            (
                &[(
                    "guest-drivers/virtqueue/src/index.rs",
                    "fn a() { unsafe { b() } }",
                )],
                "index.rs:1: unsafe",
            ),
        ],
        fine: &[&[
            (
                RING_MEMORY,
                "fn a(p: *mut u16) { let b = unsafe { AtomicU16::from_ptr(p) }; }",
            ),
            (
                "guest-drivers/virtqueue/src/tests/mod.rs",
                "fn a() { unsafe { b() } }",
            ),
        ]],
    }
    .holds();
}

#[test]
fn an_access_that_is_not_atomic_is_seen() {
    let block = |body: &str| format!("fn a(p: *mut u16) {{ let b = unsafe {{ {body} }}; }}");
    let in_macro =
        |body: &str| format!("macro_rules! word {{ ($int:ty) => {{ {} }} }}", block(body));
    for body in [
        "*p",
        "p.read()",
        "p.read_volatile()",
        "core::ptr::read(p)",
        "core::ptr::copy_nonoverlapping(p, q, 1)",
        "&mut *p",
    ] {
        assert_eq!(other_steps(&block(body)).len(), 1, "{body}");
        assert_eq!(other_steps(&in_macro(body)).len(), 1, "{body} in a macro");
    }
    for body in ["AtomicU16::from_ptr(p)", "T::load(p.as_ptr(), order)"] {
        assert!(other_steps(&block(body)).is_empty(), "{body}");
    }
}
