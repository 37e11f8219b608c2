//! One device of the forwarder: what leaves through it, and what it counts.
//!
//! Devices differ in what they can do. A frame whose checksum or whose cutting was left to us by the device it came from is handed on
//! in that state to one that can finish it, and is finished here for one that cannot.

use ntytcp::device::offload::complete_checksum;
use ntytcp::device::spec::BoxedDevice;
use ntytcp::device::train::Train;
use ntytcp::device::{Caps, Gso, GsoKind, RxChecksum, RxFrame, TxChecksum, TxMeta, TxQueue as _, Verdict};

/// Why a frame went nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Loss {
    /// No Ethernet frame, no sound packet of its kind.
    Malformed,
    /// A rule denies it.
    Denied,
    /// Larger than what it should leave through carries.
    TooBig,
    /// A train that nobody can cut.
    Uncuttable,
    /// No room in the ring that it should leave through.
    TxFull,
    /// Not for our station, or of another VLAN.
    NotForUs,
    /// For an address of ours, and nothing that we answer.
    Local,
    /// To a group or everybody: not routed.
    Group,
    /// Of a kind that is not routed.
    Unrouted,
    /// Its time to live is over.
    TtlExceeded,
    /// No route to its destination.
    NoRoute,
    /// Its next hop does not answer, or too much waits for the answer.
    NoNeighbor,
}

impl Loss {
    pub(super) const ALL: [(Self, &'static str); 12] = [
        (Self::Malformed, "malformed"),
        (Self::Denied, "denied"),
        (Self::TooBig, "too-big"),
        (Self::Uncuttable, "uncuttable"),
        (Self::TxFull, "tx-full"),
        (Self::NotForUs, "not-for-us"),
        (Self::Local, "local"),
        (Self::Group, "group"),
        (Self::Unrouted, "unrouted"),
        (Self::TtlExceeded, "ttl-exceeded"),
        (Self::NoRoute, "no-route"),
        (Self::NoNeighbor, "no-neighbor"),
    ];
}

/// What passed a port.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub rx_frames: u64,
    pub rx_bytes: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
    /// Frames that were cut here because the device cannot, and completed checksums.
    pub cut: u64,
    pub completed: u64,
    /// Frames that arrived here and were answered: ARP, ping, ICMP errors.
    pub arp_answered: u64,
    pub echoed: u64,
    pub icmp_errors: u64,
    /// By `Loss as usize`; of a frame that arrived here.
    lost: [u64; Loss::ALL.len()],
}

impl Counts {
    pub(super) fn lose(&mut self, loss: Loss) {
        if let Some(count) = self.lost.get_mut(loss as usize) {
            *count += 1;
        }
    }

    #[cfg(test)]
    pub(super) fn lost(&self, loss: Loss) -> u64 {
        self.lost.get(loss as usize).copied().unwrap_or(0)
    }

    /// Each by its name.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let Self { rx_frames, rx_bytes, tx_frames, tx_bytes, cut, completed, .. } = *self;
        let Self { arp_answered, echoed, icmp_errors, lost, .. } = *self;
        let first = [
            ("rx-frames", rx_frames),
            ("rx-bytes", rx_bytes),
            ("tx-frames", tx_frames),
            ("tx-bytes", tx_bytes),
            ("tx-cut", cut),
            ("tx-checksums", completed),
            ("arp-answered", arp_answered),
            ("echoed", echoed),
            ("icmp-errors", icmp_errors),
        ];
        first.into_iter().chain(Loss::ALL.into_iter().zip(lost).map(|((_, name), count)| (name, count)))
    }
}

/// A packet on its way to a port, with what is unfinished of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parcel<'a> {
    /// The Ethernet header.
    pub head: &'a [u8],
    /// What is behind it.
    pub packet: &'a [u8],
    /// Its checksum, where counted from the start of the packet.
    pub checksum: RxChecksum,
    /// It is a train of pieces with so much payload.
    pub gso_size: Option<u16>,
}

/// The checksum of a received frame, where counted from so many bytes behind its start (`behind`) and so many before (`before`).
pub(super) fn moved(checksum: RxChecksum, behind: usize, before: usize) -> RxChecksum {
    match checksum {
        RxChecksum::Partial { start, offset } => {
            let start =
                (usize::from(start) + before).checked_sub(behind).and_then(|at| u16::try_from(at).ok());
            // What begins in front of the packet is nothing that can be completed.
            start.map_or(RxChecksum::Unknown, |start| RxChecksum::Partial { start, offset })
        }
        other => other,
    }
}

/// Writes the parcel into the device's ring, as it is or finished.
pub(super) fn send(device: &mut BoxedDevice, counts: &mut Counts, parcel: Parcel<'_>) -> Result<(), Loss> {
    let caps = *device.caps();
    if let Some(size) = parcel.gso_size {
        return send_train(device, counts, &caps, parcel, size);
    }
    let Parcel { head, packet, checksum, .. } = parcel;
    if packet.len() > caps.mtu {
        return Err(Loss::TooBig);
    }
    let to = device.reserve(head.len() + packet.len()).ok_or(Loss::TxFull)?;
    let (to_head, to_packet) = to.split_at_mut_checked(head.len()).ok_or(Loss::TxFull)?;
    to_head.copy_from_slice(head);
    to_packet.copy_from_slice(packet);
    let meta = match moved(checksum, 0, head.len()) {
        RxChecksum::Partial { start, offset } if caps.tx_checksum => {
            TxMeta { checksum: TxChecksum::Partial { start, offset }, gso: None }
        }
        RxChecksum::Partial { start, offset } => {
            complete_checksum(to, start, offset);
            counts.completed += 1;
            TxMeta::default()
        }
        RxChecksum::Unknown | RxChecksum::Verified => TxMeta::default(),
    };
    device.commit(meta);
    counts.tx_frames += 1;
    counts.tx_bytes += (head.len() + packet.len()) as u64;
    Ok(())
}

fn send_train(
    device: &mut BoxedDevice,
    counts: &mut Counts,
    caps: &Caps,
    Parcel { head, packet, .. }: Parcel<'_>,
    size: u16,
) -> Result<(), Loss> {
    let train = Train::parse(packet, size).ok_or(Loss::Uncuttable)?;
    if train.piece_len(0) > caps.mtu {
        return Err(Loss::TooBig);
    }
    let whole = train.kind().filter(|_| packet.len() <= caps.tso_max && caps.tx_checksum);
    if let Some(kind) = whole {
        let to = device.reserve(head.len() + packet.len()).ok_or(Loss::TxFull)?;
        let (to_head, to_packet) = to.split_at_mut_checked(head.len()).ok_or(Loss::TxFull)?;
        to_head.copy_from_slice(head);
        to_packet.copy_from_slice(packet);
        let meta = uncut(&train, kind, size, head.len());
        put_pseudo_sum(to_packet, train.l4_start() + train.checksum_offset(), train.pseudo_sum());
        device.commit(meta);
        counts.tx_frames += 1;
        counts.tx_bytes += (head.len() + packet.len()) as u64;
        return Ok(());
    }
    for n in 0..train.pieces() {
        let len = head.len() + train.piece_len(n);
        let to = device.reserve(len).ok_or(Loss::TxFull)?;
        let (to_head, to_packet) = to.split_at_mut_checked(head.len()).ok_or(Loss::TxFull)?;
        to_head.copy_from_slice(head);
        train.write(n, to_packet).ok_or(Loss::Uncuttable)?;
        device.commit(TxMeta::default());
        counts.tx_frames += 1;
        counts.tx_bytes += len as u64;
    }
    counts.cut += 1;
    Ok(())
}

/// What a device is told of a train that it is to cut, behind so many bytes of Ethernet header.
fn uncut(train: &Train<'_>, kind: GsoKind, size: u16, head: usize) -> TxMeta {
    let start = (head + train.l4_start()) as u16;
    let checksum = TxChecksum::Partial { start, offset: train.checksum_offset() as u16 };
    let header_len = (head + train.header_len()) as u16;
    TxMeta { checksum, gso: Some(Gso { kind, size, header_len }) }
}

/// A train that was put together by a device may come with a whole checksum; who cuts it wants the pseudo-header's sum, which this is.
fn put_pseudo_sum(packet: &mut [u8], at: usize, sum: u16) {
    if let Some(field) = packet.get_mut(at..at + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

/// Sends the frame, whose Ethernet header has so many bytes, back from where it lies, through the device that it came from.
pub(super) fn reply(
    counts: &mut Counts,
    caps: &Caps,
    frame: &mut RxFrame<'_>,
    head: usize,
) -> Result<(), Loss> {
    let (len, checksum) = (frame.len(), frame.meta.checksum);
    let meta = match (frame.meta.gso_size, checksum) {
        (Some(size), _) => {
            let packet = frame.bytes_mut().get_mut(head..).ok_or(Loss::Malformed)?;
            let train = Train::parse(packet, size).ok_or(Loss::Uncuttable)?;
            // Whoever hands over trains takes them; there is no room to cut one in its own place.
            let kind = train.kind().filter(|_| packet.len() <= caps.tso_max).ok_or(Loss::Uncuttable)?;
            let (meta, sum) = (uncut(&train, kind, size, head), train.pseudo_sum());
            let at = train.l4_start() + train.checksum_offset();
            put_pseudo_sum(packet, at, sum);
            meta
        }
        (None, RxChecksum::Partial { start, offset }) if caps.tx_checksum => {
            TxMeta { checksum: TxChecksum::Partial { start, offset }, gso: None }
        }
        (None, RxChecksum::Partial { start, offset }) => {
            complete_checksum(frame.bytes_mut(), start, offset);
            counts.completed += 1;
            TxMeta::default()
        }
        (None, RxChecksum::Unknown | RxChecksum::Verified) => TxMeta::default(),
    };
    frame.verdict = Verdict::Reply(meta);
    counts.tx_frames += 1;
    counts.tx_bytes += len as u64;
    Ok(())
}
