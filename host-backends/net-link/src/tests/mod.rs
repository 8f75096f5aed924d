//! What links promise, against the host's kernel where that is possible.
//!
//! Rule: a test that needs an interface makes its own network namespace, or skips itself and says so.

mod frames;
mod interface;
mod namespace;
mod packet;
mod passt;
mod passt_child;
mod source;
mod spec;
mod tap;
