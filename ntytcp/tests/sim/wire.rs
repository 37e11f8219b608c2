//! A device wrapper that watches what a stack puts on the wire, and records a failing run as pcapng.
//!
//! What must hold for every frame that is sent: its checksum is right, the acknowledgment number never goes back, the right
//! edge of the receive window never goes back, and no data lies beyond the window that the peer has announced.

use ntytcp::device::pcap::{Direction, PcapWriter};
use ntytcp::device::{
    Caps, Device, DeviceError, RxChecksum, RxFrame, RxMeta, TxChecksum, TxMeta, TxQueue, Verdict,
};
use ntytcp::time::{Duration, Instant};
use ntytcp::wire::{EtherType, EthernetHeader, IpProtocol, Ipv4Header, Seq, TcpFlags, TcpHeader};
use std::collections::HashMap;
use std::path::Path;

/// Local port, remote port.
type Ports = (u16, u16);

/// What was seen of one connection on one end's wire.
#[derive(Clone, Copy, Default, Debug)]
struct Flow {
    /// The last acknowledgment sent, and the window's right edge.
    told: Option<(Seq, Seq)>,
    our_scale: u8,
    peer_scale: u8,
    /// The right edge of the peer's window, as it arrived here.
    peer_edge: Option<Seq>,
}

/// A watched device.
pub struct Wire<D> {
    pub inner: D,
    now: Instant,
    open: Option<Vec<u8>>,
    watch: Watch,
}

struct Watch {
    flows: HashMap<Ports, Flow>,
    capture: Option<PcapWriter>,
    /// Bytes of TCP payload sent, for how much was sent more than once.
    payload: u64,
}

impl<D: Device> Wire<D> {
    /// Watches `inner`, and records to `capture`.
    pub fn new(inner: D, capture: Option<&Path>) -> Self {
        let capture = capture.map(|path| PcapWriter::create(path, Duration::ZERO).unwrap());
        let watch = Watch { flows: HashMap::new(), capture, payload: 0 };
        Self { inner, now: Instant::ZERO, open: None, watch }
    }

    /// Bytes of TCP payload sent so far.
    pub fn payload_sent(&self) -> u64 {
        self.watch.payload
    }
}

impl Watch {
    fn record(&mut self, now: Instant, direction: Direction, frame: &[u8]) {
        if let Some(capture) = &mut self.capture {
            capture.write(now, direction, frame).unwrap();
        }
    }

    fn sent(&mut self, now: Instant, frame: &[u8], meta: TxMeta) {
        self.record(now, Direction::Outbound, frame);
        let complete = meta.checksum == TxChecksum::Complete;
        let Some((header, text, sound)) = segment(frame) else { return };
        assert!(sound || !complete, "sent with a wrong checksum: {header:?}");
        self.payload += text.len() as u64;
        let flow = self.flows.entry((header.src_port, header.dst_port)).or_default();
        if header.flags.contains(TcpFlags::RST) {
            return;
        }
        if header.flags.contains(TcpFlags::SYN) {
            *flow = Flow { peer_edge: flow.peer_edge, peer_scale: flow.peer_scale, ..Flow::default() };
            flow.our_scale = header.options.window_scale.unwrap_or(0);
            return;
        }
        let edge = header.ack + (u32::from(header.window) << flow.our_scale);
        if let Some((ack, last)) = flow.told {
            assert!(header.ack.after_eq(ack), "the acknowledgment went back: {header:?}");
            // RFC 7323 2.4: the window field is in units of the scale, so the edge may seem to go back by less than one.
            let unit = (1 << flow.our_scale) - 1;
            assert!((edge + unit).after_eq(last), "the window shrank by {}: {header:?}", last.since(edge));
        }
        flow.told = Some((header.ack, flow.told.map_or(edge, |(_, last)| last.max(edge))));
        if let Some(peer) = flow.peer_edge.filter(|_| !text.is_empty()) {
            // A window probe may lie one byte beyond.
            let end = header.seq + text.len() as u32;
            assert!(end.before_eq(peer + 1), "sent {} beyond the peer's window: {header:?}", end.since(peer));
        }
    }

    fn received(&mut self, now: Instant, frame: &[u8], meta: RxMeta) {
        self.record(now, Direction::Inbound, frame);
        let trusted = meta.checksum != RxChecksum::Unknown;
        let Some((header, ..)) = segment(frame).filter(|&(_, _, sound)| sound || trusted) else { return };
        let flow = self.flows.entry((header.dst_port, header.src_port)).or_default();
        let syn = header.flags.contains(TcpFlags::SYN);
        if syn {
            flow.peer_scale = header.options.window_scale.unwrap_or(0);
        }
        if header.flags.contains(TcpFlags::ACK) {
            let shift = if syn { 0 } else { flow.peer_scale };
            let edge = header.ack + (u32::from(header.window) << shift);
            flow.peer_edge = Some(flow.peer_edge.filter(|_| !syn).map_or(edge, |last| last.max(edge)));
        }
    }
}

/// The TCP header and text in a frame, and whether its checksum is right.
fn segment(frame: &[u8]) -> Option<(TcpHeader, &[u8], bool)> {
    let (link, packet) = EthernetHeader::parse(frame).ok()?;
    let (ip, segment) = Ipv4Header::parse(packet).ok().filter(|_| link.ethertype == EtherType::IPV4)?;
    if ip.protocol != IpProtocol::TCP {
        return None;
    }
    let sound = TcpHeader::verify(ip.src.into(), ip.dst.into(), segment);
    TcpHeader::parse(segment).ok().map(|(header, text)| (header, text, sound))
}

impl<D: Device> TxQueue for Wire<D> {
    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn reserve(&mut self, len: usize) -> Option<&mut [u8]> {
        self.inner.reserve(len)?;
        let mut buf = self.open.take().unwrap_or_default();
        buf.resize(len, 0);
        Some(self.open.insert(buf))
    }

    fn commit(&mut self, meta: TxMeta) {
        let Some(frame) = self.open.take() else { return };
        self.watch.sent(self.now, &frame, meta);
        if let Some(room) = self.inner.reserve(frame.len()) {
            room.copy_from_slice(&frame);
            self.inner.commit(meta);
        }
    }
}

impl<D: Device> Device for Wire<D> {
    fn rx_burst(&mut self, sink: &mut dyn FnMut(&mut [RxFrame<'_>])) -> Result<usize, DeviceError> {
        let (watch, now) = (&mut self.watch, self.now);
        self.inner.rx_burst(&mut |burst| {
            burst.iter().for_each(|frame| watch.received(now, frame.bytes(), frame.meta));
            sink(burst);
            for frame in burst {
                if let Verdict::Reply(meta) = frame.verdict {
                    watch.sent(now, frame.bytes(), meta);
                }
            }
        })
    }

    fn flush(&mut self) -> Result<(), DeviceError> {
        self.inner.flush()
    }

    fn set_now(&mut self, now: Instant) {
        self.now = now;
        self.inner.set_now(now);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.inner.next_deadline()
    }
}
