//! The block device over disk engines.
