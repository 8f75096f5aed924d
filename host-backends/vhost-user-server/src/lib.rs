//! The vhost-user session: socket, state, queue workers.
