//! What a guest driver needs of its operating system.
