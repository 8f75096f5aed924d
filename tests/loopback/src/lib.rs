//! Driver core against backend in one process.
