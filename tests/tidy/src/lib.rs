//! The workspace rules, as tests: `cargo test -p tidy` checks what the compiler and clippy cannot.
//!
//! One rule: a rule is data or one small function under `tests/rules/`, and a violation names the
//! file, the line and what to do. This library itself is empty.
