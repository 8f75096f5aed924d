//! What becomes of the daemon when nobody hears it.

#[path = "../../daemon-shell/tests/manners/mod.rs"]
#[macro_use]
mod manners;

manners!(env!("CARGO_BIN_EXE_paravane-balloond"), &[]);
