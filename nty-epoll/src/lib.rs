//! Sockets and a custom epoll over [`ntytcp`].
