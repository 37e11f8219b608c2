//! TCP sockets where more than one connection, neighbor or setting matters; packet traces are in `tests/tcp_scripts`.

use super::kit::*;
use crate::rng::seed_from;
use crate::stack::{ConfigError, SocketError, Stack, StackConfig};
use crate::tcp::{KeepAlive, ListenOptions, TcpSocketOptions};
use crate::time::Duration;

#[test]
fn options_out_of_range_are_refused_wherever_they_are_given() {
    let mut host = Host::new();
    let options = TcpSocketOptions { recv_buffer: 0, ..TcpSocketOptions::default() };
    let listen = ListenOptions { socket: Some(options), ..ListenOptions::default() };
    assert_eq!(host.stack.tcp_listen(at(US, 80), listen), Err(SocketError::Invalid));
    let now = host.now;
    assert_eq!(host.stack.tcp_connect(now, None, at(PEER, 80), Some(options)), Err(SocketError::Invalid));
    assert_eq!(host.stack.tcp_connections().connections, 0);
    let conn = host.stack.tcp_connect(now, None, at(PEER, 80), None).unwrap();
    let always = KeepAlive { idle: Duration::ZERO, interval: Duration::ZERO, count: 3 };
    assert_eq!(host.stack.tcp_set_keepalive(now, conn, Some(always)), Err(SocketError::Invalid));
    assert_eq!(host.stack.tcp_set_user_timeout(conn, Some(Duration::ZERO)), Err(SocketError::Invalid));
    assert_eq!(host.stack.tcp_set_keepalive(now, conn, Some(KeepAlive::default())), Ok(()));
}

#[test]
fn a_stack_with_settings_out_of_range_is_not_made() {
    let refused = |change: fn(&mut StackConfig)| {
        let mut config = StackConfig::default();
        change(&mut config);
        match Stack::new(config, seed_from(1)) {
            Err(ConfigError::Range { name, .. }) => name,
            _ => "nothing",
        }
    };
    assert_eq!(refused(|config| config.pages = 0), "pages");
    assert_eq!(refused(|config| config.pages = usize::MAX), "pages");
    assert_eq!(refused(|config| config.tcp.initial_window = u32::MAX), "tcp initial_window");
}
