//! Translation, refusals, the log and the guard. One rule: hostile geometry is refused before anything is mapped.
