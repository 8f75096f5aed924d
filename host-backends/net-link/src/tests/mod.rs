//! What links promise, apart from what needs an interface of the host.
//!
//! Rule: no test here needs privileges.

mod spec;
