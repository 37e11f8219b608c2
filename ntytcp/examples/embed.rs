//! A program with a TCP/IP stack of its own: an echo server behind a TAP, with the kernel at the other end of the link.
//!
//! As root, or in a shell of `unshare -Urn`: `cargo run -p ntytcp --example embed &`, then `nc 10.0.0.2 7`.

use ntytcp::device::spec::{OpenOptions, open};
use ntytcp::fifo::{Consumer, Producer};
use ntytcp::shard::Shard;
use ntytcp::stack::SocketKind;
use ntytcp::tcp::ListenOptions;
use std::{collections::HashMap, error::Error};

fn main() -> Result<(), Box<dyn Error>> {
    // The kernel's side of the link is 10.0.0.1, ours 10.0.0.2.
    let device = open("tap:nty0", &OpenOptions::default().with_host_addr([10, 0, 0, 1], 24))?;
    let mut shard = Shard::with_device(device, vec!["10.0.0.2/24".parse()?])?;
    shard.stack_mut().tcp_listen("0.0.0.0:7".parse()?, ListenOptions::default())?;
    let mut streams = HashMap::new();
    loop {
        // A burst of frames in, what is due, what is owed out; then what that meant to the sockets.
        shard.turn()?;
        let (now, stack) = (shard.now(), shard.stack_mut());
        while let Some(event) = stack.poll_event() {
            let id = event.socket;
            if id.kind == SocketKind::Listener {
                while let Ok((id, peer)) = stack.tcp_accept(now, id) {
                    println!("{peer} is here");
                    streams.extend(stack.tcp_split(id).map(|ends| (id, ends)));
                }
            } else if let Some((tx, rx)) = streams.get_mut(&id) {
                if echo(tx, rx) {
                    stack.tcp_wake(now, id)?;
                } else {
                    stack.tcp_close(now, id)?;
                    streams.remove(&id);
                }
            }
        }
        shard.wait(None, &[])?;
    }
}

/// Moves what has arrived to what is to be sent, as far as there is room; whether there may be more to come.
fn echo(tx: &mut Producer, rx: &mut Consumer) -> bool {
    while let Some(bytes) = rx.peek(0, tx.free()).next() {
        let n = tx.write(bytes);
        if rx.consume(n) == 0 {
            break;
        }
    }
    !rx.is_finished() && rx.is_producer_alive()
}
