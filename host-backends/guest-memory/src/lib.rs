//! Guest memory as the host sees it: regions, translation, volatile access, dirty log.
