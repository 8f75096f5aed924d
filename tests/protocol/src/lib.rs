//! The vhost-user server against scripted and foreign frontends.
