//! Rules on the syntax tree: sizes, error enums, attributes, and where ring indices are compared.
//!
//! One rule: a rule here sees code, never comments or strings.

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::Visit;

use crate::report;
use crate::tree;
use crate::tree::Source;

const FUNCTION_LINES: usize = 70;
const PRODUCT_LINES: usize = 500;
const INLINE_TEST_LINES: usize = 120;

/// Collects violations of one file.
struct Visitor<'a> {
    path: &'a str,
    long_functions: Vec<String>,
    ring_comparisons: Vec<String>,
    error_enums: Vec<String>,
    error_impls: Vec<String>,
    error_messages: Vec<String>,
    bare_allows: Vec<String>,
    inline_tests: Vec<String>,
    test_prefixes: Vec<String>,
}

impl<'a> Visitor<'a> {
    fn new(path: &'a str) -> Self {
        Self {
            path,
            long_functions: Vec::new(),
            ring_comparisons: Vec::new(),
            error_enums: Vec::new(),
            error_impls: Vec::new(),
            error_messages: Vec::new(),
            bare_allows: Vec::new(),
            inline_tests: Vec::new(),
            test_prefixes: Vec::new(),
        }
    }

    fn at(&self, span: Span, what: &str) -> String {
        format!("{}:{}: {what}", self.path, span.start().line)
    }

    fn function(&mut self, name: &syn::Ident, attributes: &[syn::Attribute], whole: Span) {
        let lines = whole.end().line - name.span().start().line + 1;
        if lines > FUNCTION_LINES {
            self.long_functions
                .push(self.at(name.span(), &format!("{name}: {lines} lines")));
        }
        let is_test = attributes.iter().any(|a| a.path().is_ident("test"));
        if is_test && name.to_string().starts_with("test_") {
            self.test_prefixes
                .push(self.at(name.span(), &name.to_string()));
        }
    }
}

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

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig.ident, &item.attrs, item.span());
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig.ident, &item.attrs, item.span());
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.function(&item.sig.ident, &item.attrs, item.span());
        syn::visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let lines = item.span().end().line - item.mod_token.span().start().line;
        let test = item.attrs.iter().any(|attribute| {
            let syn::Meta::List(list) = &attribute.meta else {
                return false;
            };
            list.path.is_ident("cfg") && list.tokens.to_string().contains("test")
        });
        if test && item.content.is_some() && lines > INLINE_TEST_LINES {
            let what = format!("{}: {lines} lines, move it to a sibling file", item.ident);
            self.inline_tests.push(self.at(item.ident.span(), &what));
        }
        syn::visit::visit_item_mod(self, item);
    }

    fn visit_expr_binary(&mut self, item: &'ast syn::ExprBinary) {
        use syn::BinOp::{Ge, Gt, Le, Lt};
        let ordered = matches!(item.op, Lt(_) | Gt(_) | Le(_) | Ge(_));
        let is_position = |side| is_ring_position(self.path, side);
        if ordered && (is_position(&item.left) || is_position(&item.right)) {
            self.ring_comparisons
                .push(self.at(item.span(), "ordered comparison of a ring index"));
        }
        syn::visit::visit_expr_binary(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        if derives_error(&item.attrs) {
            if matches!(item.vis, syn::Visibility::Public(_)) {
                self.error_enums
                    .push(self.at(item.ident.span(), &item.ident.to_string()));
            }
            for variant in &item.variants {
                if let Some(message) = error_message(&variant.attrs).filter(|m| !well_formed(m)) {
                    self.error_messages
                        .push(self.at(variant.ident.span(), &message));
                }
            }
        }
        syn::visit::visit_item_enum(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let last = |path: &syn::Path| path.segments.last().map(|s| s.ident.to_string());
        let name = item.trait_.as_ref().and_then(|name| last(&name.0));
        if name.is_some_and(|name| name == "Error" || name == "StdError") {
            self.error_impls
                .push(self.at(item.impl_token.span, "an error by `impl`"));
        }
        syn::visit::visit_item_impl(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let nested = match &attribute.meta {
            syn::Meta::List(list) => list.tokens.to_string(),
            _ => String::new(),
        };
        let allow = attribute.path().is_ident("allow")
            || (attribute.path().is_ident("cfg_attr") && nested.contains("allow ("));
        // `allow` with a reason is for what only some builds of a shared file need.
        if allow && !nested.contains("reason") {
            self.bare_allows
                .push(self.at(attribute.span(), "use #[expect(.., reason = \"..\")]"));
        }
        if attribute.path().is_ident("expect") && !nested.contains("reason") {
            self.bare_allows
                .push(self.at(attribute.span(), "expect without a reason"));
        }
        syn::visit::visit_attribute(self, attribute);
    }
}

fn derives_error(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("derive") => {
            let derived = list.tokens.to_string().replace(' ', "");
            derived
                .split(',')
                .any(|name| name == "Error" || name == "thiserror::Error")
        }
        _ => false,
    })
}

/// The literal of `#[error("...")]`.
fn error_message(attributes: &[syn::Attribute]) -> Option<String> {
    let attribute = attributes
        .iter()
        .find(|attribute| attribute.path().is_ident("error"))?;
    let syn::Meta::List(list) = &attribute.meta else {
        return None;
    };
    let first = list.tokens.clone().into_iter().next()?;
    let literal: syn::LitStr = syn::parse2(first.into()).ok()?;
    Some(literal.value())
}

/// Capital first, no full stop.
fn well_formed(message: &str) -> bool {
    let first = message.chars().next();
    !message.ends_with('.') && first.is_some_and(|c| !c.is_lowercase())
}

fn collect(pick: impl Fn(Visitor<'_>) -> Vec<String>, product_only: bool) -> Vec<String> {
    collect_in(tree::rust(), pick, product_only)
}

fn collect_in(
    files: &[Source],
    pick: impl Fn(Visitor<'_>) -> Vec<String>,
    product_only: bool,
) -> Vec<String> {
    let mut all = Vec::new();
    for file in files {
        if product_only && file.is_test() {
            continue;
        }
        let parsed = syn::parse_file(&file.text)
            .unwrap_or_else(|error| panic!("{} is not Rust: {error}", file.path));
        let mut visitor = Visitor::new(&file.path);
        visitor.visit_file(&parsed);
        all.extend(pick(visitor));
    }
    all
}

#[test]
fn functions_fit_on_a_screen() {
    let bad = collect(|v| v.long_functions, false);
    report("A function has at most 70 lines", &bad);
}

#[test]
fn product_files_are_short() {
    let bad: Vec<String> = tree::rust()
        .iter()
        .filter(|file| !file.is_test())
        .map(|file| (file, file.text.lines().count()))
        .filter(|(_, lines)| *lines > PRODUCT_LINES)
        .map(|(file, lines)| format!("{}: {lines} lines", file.path))
        .collect();
    report("A product file has at most 500 lines", &bad);
}

#[test]
fn long_tests_stand_in_a_sibling_file() {
    let bad = collect(|v| v.inline_tests, true);
    report("Inline test modules are short", &bad);
}

#[test]
fn ring_indices_are_compared_in_one_module() {
    let mut bad = collect(|v| v.ring_comparisons, true);
    bad.retain(|place| !place.starts_with("guest-drivers/virtqueue/src/index"));
    report(
        "Ring indices wrap: compare them through virtqueue::index",
        &bad,
    );
}

/// Libraries with more than one error, and how many: a core without an allocator has one for each kind of
/// call, so that who calls need not handle what cannot come.
const SEVERAL_ERRORS: &[(&str, usize)] = &[
    ("guest-drivers/virtqueue", 3),
    ("guest-drivers/block-driver", 3),
    ("guest-drivers/net-driver", 4),
];

/// What a library in `dir` shows as errors beyond those that it may.
fn errors_too_many(files: &[Source], dir: &str) -> Vec<String> {
    let shown = |visitor: Visitor<'_>| [visitor.error_enums, visitor.error_impls].concat();
    let mut errors = collect_in(files, shown, true);
    errors.retain(|place| place.starts_with(&format!("{dir}/")));
    let known = SEVERAL_ERRORS.iter().find(|(known, _)| *known == dir);
    let good = match known {
        Some((_, count)) => errors.len() == *count,
        None => errors.len() <= 1,
    };
    if good { Vec::new() } else { errors }
}

#[test]
fn a_library_has_one_error_enum() {
    let libraries = tree::members().into_iter().filter(|(_, dir, package)| {
        let library = package.targets.iter().any(cargo_metadata::Target::is_lib);
        library && !dir.starts_with("tests/")
    });
    let mut bad = Vec::new();
    for (_, dir, _) in libraries {
        let files: Vec<Source> = tree::rust()
            .iter()
            .filter(|file| file.path.starts_with(&format!("{dir}/")))
            .cloned()
            .collect();
        bad.extend(errors_too_many(&files, &dir));
    }
    report(
        "A library shows one error, or as many as tests/tidy says",
        &bad,
    );
}

#[test]
fn a_second_error_is_seen_however_it_is_made() {
    let derived = "#[derive(Debug, thiserror::Error)]\npub enum Error {}\n";
    let by_hand = "pub struct Other;\nimpl core::error::Error for Other {}\n";
    let files = |text: &str| {
        [Source {
            path: "host-backends/one/src/lib.rs".into(),
            text: text.into(),
        }]
    };
    let both = format!("{derived}{by_hand}");
    for (text, count) in [(derived, 0), (by_hand, 0), (both.as_str(), 2)] {
        let found = errors_too_many(&files(text), "host-backends/one");
        assert_eq!(found.len(), count, "{found:?}");
    }
}

#[test]
fn an_ordered_comparison_of_ring_positions_is_seen() {
    let found = |path: &str, text: &str| {
        let files = [Source {
            path: path.into(),
            text: format!("fn a() {{ let b = {text}; }}"),
        }];
        collect_in(&files, |visitor| visitor.ring_comparisons, true).len()
    };
    for text in [
        "self.next_avail < other",
        "(x) >= ring.used_idx()",
        "seen_used as u32 > 3",
    ] {
        assert_eq!(found("host-backends/one/src/lib.rs", text), 1, "{text}");
    }
    let common = "self.lent.returned < self.lent.added";
    let ring_crate = "guest-drivers/virtqueue/src/split/driver.rs";
    assert_eq!(found(ring_crate, common), 1);
    assert_eq!(found("host-backends/one/src/lib.rs", common), 0);
    assert_eq!(found(ring_crate, "self.next_avail == other"), 0);
}

#[test]
fn error_messages_start_with_a_capital_and_have_no_full_stop() {
    let bad = collect(|v| v.error_messages, true);
    report("Error messages: capital first, no full stop", &bad);
}

#[test]
fn lints_are_expected_with_a_reason_and_never_allowed() {
    let bad = collect(|v| v.bare_allows, false);
    report("`#[expect(lint, reason = ..)]`, not `allow`", &bad);
}

#[test]
fn names_of_tests_are_sentences() {
    let bad = collect(|v| v.test_prefixes, false);
    report("Test names carry no `test_` prefix", &bad);
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

#[test]
fn ring_memory_is_read_and_written_through_atomics_only() {
    let mut bad = Vec::new();
    for file in tree::rust() {
        if !file.path.starts_with("guest-drivers/virtqueue/src/") || file.is_test() {
            continue;
        }
        let found = if file.path == RING_MEMORY {
            other_steps(&file.text)
        } else {
            let line = crate::code::named(file, "unsafe");
            line.map(|line| format!("{line}: unsafe"))
                .into_iter()
                .collect()
        };
        bad.extend(
            found
                .into_iter()
                .map(|what| format!("{}:{what}", file.path)),
        );
    }
    report("virtqueue touches memory in one file, by atomics", &bad);
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
