//! Whole virtual machines: probe guest and unmodified Debian.
