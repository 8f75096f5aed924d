//! The workspace rules, as tests.
