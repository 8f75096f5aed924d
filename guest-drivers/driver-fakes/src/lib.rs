//! A fake platform that punishes driver mistakes, by seed.
