//! Why frames are dropped, and how often everything happened.
//!
//! Every frame that the stack refuses has a [`DropReason`]; there is no drop without a counter. All counters are plain
//! integers of one shard, read by whoever owns the shard.

/// Declares an enum with a stable kebab-case name per variant.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// Why the stack refused a frame, packet or segment.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum DropReason { $($(#[$doc])* $name,)+ }

        impl DropReason {
            /// Every reason, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name under which the counter is shown.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

reasons! {
    /// Shorter than its headers say.
    Truncated = "truncated",
    /// A header field that contradicts the packet or the standard.
    Malformed = "malformed",
    /// The IPv4 header checksum is wrong.
    IpChecksum = "ip-checksum",
    /// The TCP, UDP or ICMP checksum is wrong.
    L4Checksum = "l4-checksum",
    /// The Ethernet destination is another station.
    NotForUs = "not-for-us",
    /// The IP destination is none of our addresses.
    NotOurAddress = "not-our-address",
    /// A source address that no host can have (multicast, broadcast, loopback, our own).
    BadSource = "bad-source",
    /// An Ethernet type that the stack does not speak.
    UnknownEtherType = "unknown-ethertype",
    /// An IP protocol that the stack does not speak.
    UnknownProtocol = "unknown-protocol",
    /// An ARP packet that asks for or says nothing useful.
    ArpIgnored = "arp-ignored",
    /// An IP option that must not be followed (source route).
    IpOption = "ip-option",
    /// A fragment that overlaps another (RFC 5722).
    FragmentOverlap = "fragment-overlap",
    /// Fragment memory is exhausted.
    FragmentMemory = "fragment-memory",
    /// A datagram whose fragments did not all come in time.
    FragmentTimeout = "fragment-timeout",
    /// Nobody listens on the port.
    NoSocket = "no-socket",
    /// The socket's receive queue is full.
    SocketFull = "socket-full",
    /// An ICMP message that no socket is concerned by.
    IcmpIgnored = "icmp-ignored",
    /// An answer that the ICMP or RST rate limit withheld.
    RateLimited = "rate-limited",
    /// No route to the destination.
    NoRoute = "no-route",
    /// The next hop did not answer, and the packets that waited for it were given up.
    NeighborFailed = "neighbor-failed",
    /// Too many packets wait for the next hop's address.
    NeighborQueueFull = "neighbor-queue-full",
    /// Too many packets of the stack's own wait for room in the ring.
    OutboxFull = "outbox-full",
    /// The packet is larger than the MTU and must not be fragmented.
    TooBig = "too-big",
    /// A TCP segment outside the receive window.
    TcpOutOfWindow = "tcp-out-of-window",
    /// PAWS: a timestamp older than the last (RFC 7323).
    TcpPaws = "tcp-paws",
    /// An ACK of something never sent, or long since.
    TcpBadAck = "tcp-bad-ack",
    /// A RST that does not hit RCV.NXT exactly, or is not acceptable (RFC 5961).
    TcpBadReset = "tcp-bad-reset",
    /// A segment without ACK or with flags that make no sense in its state.
    TcpBadFlags = "tcp-bad-flags",
    /// The SYN queue is full.
    TcpSynQueueFull = "tcp-syn-queue-full",
    /// The accept queue is full.
    TcpAcceptQueueFull = "tcp-accept-queue-full",
    /// Out-of-order data beyond the bounds of the reassembly queue.
    TcpReassemblyFull = "tcp-reassembly-full",
    /// Data for a socket that was closed.
    TcpDataAfterClose = "tcp-data-after-close",
    /// A limit on the number of connections was reached.
    ConnectionLimit = "connection-limit",
}

/// One count per reason.
#[derive(Clone, Debug)]
struct Drops([u64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

/// Declares the counters of one shard.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// What one shard counted since it started.
        #[derive(Clone, Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)+
            drops: Drops,
        }

        impl Counters {
            /// Adds what another shard counted.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
                self.drops.0.iter_mut().zip(&other.drops.0).for_each(|(sum, n)| *sum += n);
            }

            /// Every counter that is not a drop, by name.
            pub fn events(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Frames received.
    rx_frames,
    /// Bytes received, Ethernet headers included.
    rx_bytes,
    /// Frames sent, in-place replies included.
    tx_frames,
    /// Bytes sent, Ethernet headers included.
    tx_bytes,
    /// Times a full transmit ring held the stack back.
    tx_backpressure,
    /// ARP requests and replies received.
    arp_rx,
    /// ARP requests and replies sent.
    arp_tx,
    /// Other stations seen using one of our addresses (RFC 5227).
    address_conflicts,
    /// IP packets received whole.
    ip_rx,
    /// IP packets sent.
    ip_tx,
    /// IP fragments received.
    fragments_rx,
    /// IP fragments sent.
    fragments_tx,
    /// Datagrams put together from fragments.
    reassembled,
    /// ICMP messages received.
    icmp_rx,
    /// ICMP messages sent.
    icmp_tx,
    /// UDP datagrams received for a socket.
    udp_rx,
    /// UDP datagrams sent.
    udp_tx,
    /// TCP segments received.
    tcp_rx,
    /// TCP segments sent; a train that the device cuts counts once.
    tcp_tx,
    /// TCP segments received on the header-prediction path.
    tcp_fast_path,
    /// Connections opened by us that reached ESTABLISHED.
    tcp_active_opens,
    /// Connections opened by a peer that reached ESTABLISHED.
    tcp_passive_opens,
    /// Connections that ended by a RST, ours or the peer's.
    tcp_resets,
    /// RST segments sent.
    tcp_rst_tx,
    /// Segments sent again.
    tcp_retransmits,
    /// Retransmission timeouts.
    tcp_timeouts,
    /// Fast retransmits (three duplicate ACKs).
    tcp_fast_retransmits,
    /// Zero-window probes sent.
    tcp_probes,
    /// Keepalive probes sent.
    tcp_keepalives,
    /// Challenge ACKs sent (RFC 5961).
    tcp_challenge_acks,
    /// Segments that arrived out of order.
    tcp_out_of_order,
    /// Connections given up: retransmission, persist or keepalive got no answer.
    tcp_gave_up,
    /// Connections reset because the peer kept its window closed after the application had closed the socket.
    tcp_orphans_reset,
}

impl Counters {
    /// Counts one drop.
    pub fn drop(&mut self, reason: DropReason) {
        if let Some(n) = self.drops.0.get_mut(reason as usize) {
            *n += 1;
        }
    }

    /// Drops for one reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.0.get(reason as usize).copied().unwrap_or(0)
    }

    /// Every drop reason that has happened, with its count.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&r| (r, self.dropped(r))).filter(|&(_, n)| n > 0)
    }
}
