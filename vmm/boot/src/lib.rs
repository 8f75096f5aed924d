//! Boot loaders and firmware tables as pure functions.
