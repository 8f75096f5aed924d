//! vhost-user messages: structs, encode, decode, feature tables; no sockets.
