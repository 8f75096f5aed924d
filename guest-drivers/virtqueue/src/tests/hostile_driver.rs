//! Our device half against a hostile driver.
