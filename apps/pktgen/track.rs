//! What comes back: which frames, in which order, how late.

use super::template::{STAMP_LEN, syn_base};
use hdrhistogram::Histogram;
use ntytcp::wire::{
    EtherType, EthernetHeader, Icmpv4Message, IpProtocol, Ipv4Header, TcpFlags, TcpHeader, UdpHeader,
};
use std::time::Duration;

/// How far behind the latest a frame may come and still be told from one that came before.
const WINDOW: u64 = 1 << 16;
/// The longest latency that is told from longer ones.
const LONGEST: Duration = Duration::from_secs(60);

/// Which numbers came.
#[derive(Debug)]
pub(super) struct Sequence {
    /// Bit `n % WINDOW` says whether number `n` came, of those that are less than [`WINDOW`] behind `next`.
    seen: Box<[u64]>,
    /// One beyond the greatest that came.
    next: u64,
    /// Frames with a number that came once already, or too long ago to know.
    pub duplicates: u64,
    /// Frames that came after one with a greater number.
    pub reordered: u64,
    /// Different numbers that came.
    pub unique: u64,
}

impl Default for Sequence {
    fn default() -> Self {
        let seen = vec![0; (WINDOW / 64) as usize].into();
        Self { seen, next: 0, duplicates: 0, reordered: 0, unique: 0 }
    }
}

impl Sequence {
    /// The frame with this number came. Whether it came for the first time.
    pub(super) fn came(&mut self, number: u64) -> bool {
        if number >= self.next {
            // What lies between is missing so far; of more than a window everything is.
            if number - self.next >= WINDOW {
                self.seen.fill(0);
            } else {
                for missing in self.next..number {
                    self.mark(missing, false);
                }
            }
            self.mark(number, true);
            self.next = number + 1;
        } else if self.next - number > WINDOW || self.mark(number, true) {
            self.duplicates += 1;
            return false;
        } else {
            self.reordered += 1;
        }
        self.unique += 1;
        true
    }

    /// Notes whether the number came; what was noted before.
    fn mark(&mut self, number: u64, came: bool) -> bool {
        let Some(word) = self.seen.get_mut((number % WINDOW / 64) as usize) else { return false };
        let bit = 1 << (number % 64);
        let before = *word & bit != 0;
        *word = if came { *word | bit } else { *word & !bit };
        before
    }

    /// Numbers that must have been sent, for who did not send them.
    pub(super) fn known(&self) -> u64 {
        self.next
    }
}

/// Everything that is known of what came back.
#[derive(Debug)]
pub(super) struct Tracker {
    /// Tells our frames from others; `None` takes that of the first that comes.
    tag: Option<u16>,
    pub sequence: Sequence,
    /// Nanoseconds; `None` for who did not send them.
    pub latency: Option<Histogram<u64>>,
    /// When the last SYNs were sent, which have no room for it.
    syns: Box<[u64]>,
    /// Our frames, and bytes of them.
    pub frames: u64,
    pub bytes: u64,
    /// Frames whose checksum is wrong, and which are not looked at further.
    pub damaged: u64,
    /// Of SYNs: those that were answered by an RST.
    pub refused: u64,
    /// Everything else.
    pub others: u64,
}

/// What a frame of ours says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Says {
    /// Its tag, number and time.
    Stamp(u16, u64, u64),
    /// The sequence number of the SYN that it is or answers, and whether it refuses.
    Syn(u32, bool),
    Damaged,
    Nothing,
}

impl Tracker {
    /// For who sends with this tag.
    pub(super) fn of_sender(tag: u16) -> Self {
        let limit = u64::try_from(LONGEST.as_nanos()).unwrap_or(u64::MAX);
        // Three digits are what a latency is good for; the bounds are those of the library's own documentation.
        let latency = Histogram::new_with_bounds(1, limit, 3).ok();
        Self { latency, syns: vec![0; WINDOW as usize].into(), ..Self::with_tag(Some(tag)) }
    }

    /// For who only receives.
    pub(super) fn of_receiver() -> Self {
        Self::with_tag(None)
    }

    fn with_tag(tag: Option<u16>) -> Self {
        let (sequence, latency, syns) = (Sequence::default(), None, Box::default());
        Self { tag, sequence, latency, syns, frames: 0, bytes: 0, damaged: 0, refused: 0, others: 0 }
    }

    /// A SYN with this number is sent now.
    pub(super) fn syn_sent(&mut self, number: u64, nanos: u64) {
        if let Some(sent) = self.syns.get_mut((number % WINDOW) as usize) {
            *sent = nanos;
        }
    }

    /// A frame came, `sent` frames after the beginning; its checksum is to be `verified` where it has one.
    pub(super) fn came(&mut self, frame: &[u8], verify: bool, sent: u64, nanos: u64) {
        match says(frame, verify) {
            Says::Stamp(tag, number, time) if self.tag.is_none_or(|own| own == tag) => {
                self.tag = Some(tag);
                self.count(frame, number, nanos.saturating_sub(time));
            }
            Says::Syn(seq, refused) => match self.tag.and_then(|tag| syn_number(tag, seq, sent)) {
                Some(number) => {
                    let time = self.syns.get((number % WINDOW) as usize).copied().unwrap_or(nanos);
                    self.refused += u64::from(refused);
                    self.count(frame, number, nanos.saturating_sub(time));
                }
                None => self.others += 1,
            },
            Says::Damaged => self.damaged += 1,
            Says::Stamp(..) | Says::Nothing => self.others += 1,
        }
    }

    fn count(&mut self, frame: &[u8], number: u64, latency: u64) {
        self.frames += 1;
        self.bytes += frame.len() as u64;
        if self.sequence.came(number)
            && let Some(histogram) = &mut self.latency
        {
            histogram.saturating_record(latency);
        }
    }
}

/// The number of one of the last [`WINDOW`] SYNs of `sent`, by its sequence number.
fn syn_number(tag: u16, seq: u32, sent: u64) -> Option<u64> {
    let number = seq.wrapping_sub(syn_base(tag));
    let age = (sent as u32).wrapping_sub(number);
    if age == 0 || u64::from(age) > WINDOW { None } else { sent.checked_sub(age.into()) }
}

fn says(frame: &[u8], verify: bool) -> Says {
    let Ok((link, packet)) = EthernetHeader::parse(frame) else { return Says::Nothing };
    if link.ethertype != EtherType::IPV4 {
        return Says::Nothing;
    }
    let Ok((ip, datagram)) = Ipv4Header::parse(packet) else { return Says::Damaged };
    if ip.is_fragment() {
        return Says::Nothing;
    }
    let (src, dst) = (ip.src.into(), ip.dst.into());
    let payload = match ip.protocol {
        IpProtocol::UDP => match UdpHeader::parse(datagram) {
            Ok(_) if verify && !UdpHeader::verify(src, dst, datagram) => return Says::Damaged,
            Ok((_, payload)) => payload,
            Err(_) => return Says::Damaged,
        },
        IpProtocol::TCP => match TcpHeader::parse(datagram) {
            Ok(_) if verify && !TcpHeader::verify(src, dst, datagram) => return Says::Damaged,
            Ok((tcp, _)) if tcp.flags.contains(TcpFlags::ACK) => {
                let refused = tcp.flags.contains(TcpFlags::RST);
                if !refused && !tcp.flags.contains(TcpFlags::SYN) {
                    return Says::Nothing;
                }
                // What is acknowledged is the SYN, and what it carried.
                return Says::Syn(tcp.ack.0.wrapping_sub(1), refused);
            }
            Ok((tcp, _)) if tcp.flags.contains(TcpFlags::SYN) => return Says::Syn(tcp.seq.0, false),
            Ok(_) => return Says::Nothing,
            Err(_) => return Says::Damaged,
        },
        IpProtocol::ICMP => match Icmpv4Message::parse(datagram) {
            Ok(Icmpv4Message::EchoReply { payload, .. } | Icmpv4Message::EchoRequest { payload, .. }) => {
                payload
            }
            Ok(_) => return Says::Nothing,
            Err(_) => return Says::Damaged,
        },
        _ => return Says::Nothing,
    };
    match payload.first_chunk::<STAMP_LEN>() {
        Some(&[t0, t1, n0, n1, n2, n3, n4, n5, n6, n7, a, b, c, d, e, f, g, h]) => Says::Stamp(
            u16::from_be_bytes([t0, t1]),
            u64::from_be_bytes([n0, n1, n2, n3, n4, n5, n6, n7]),
            u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        ),
        None => Says::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn a_syn_is_found_again_across_the_wrap() {
        let base = syn_base(7);
        for sent in [1, WINDOW, (1 << 32) + 5] {
            let last = sent - 1;
            assert_eq!(syn_number(7, base.wrapping_add(last as u32), sent), Some(last));
            assert_eq!(syn_number(7, base.wrapping_add(sent as u32), sent), None, "not sent yet");
        }
        assert_eq!(syn_number(7, base, WINDOW + 1), None, "too long ago");
        assert_eq!(syn_number(7, base.wrapping_sub(1), 5), None, "of somebody else");
    }

    proptest! {
        #[test]
        fn numbers_are_counted_as_a_set_counts_them(
            steps in prop::collection::vec(prop_oneof![8 => 0..40_u64, 1 => 0..(3 * WINDOW)], 1..200), back in 0..30_u64
        ) {
            let (mut sequence, mut model) = (Sequence::default(), HashSet::new());
            let (mut greatest, mut at, mut reordered, mut duplicates) = (None, 0_u64, 0, 0);
            for step in steps {
                at = (at + step).saturating_sub(back);
                let recent = greatest.is_none_or(|g: u64| g < at || g - at < WINDOW);
                let fresh = recent && model.insert(at);
                prop_assert_eq!(sequence.came(at), fresh);
                duplicates += u64::from(!fresh);
                reordered += u64::from(fresh && greatest.is_some_and(|g| g > at));
                greatest = greatest.max(Some(at));
            }
            prop_assert_eq!(sequence.duplicates, duplicates);
            prop_assert_eq!(sequence.reordered, reordered);
            prop_assert_eq!(sequence.unique, model.len() as u64);
            prop_assert_eq!(sequence.known(), greatest.map_or(0, |g| g + 1));
        }

        #[test]
        fn no_frame_is_too_odd(frame in prop::collection::vec(any::<u8>(), 0..100), verify: bool) {
            Tracker::of_receiver().came(&frame, verify, 0, 0);
        }
    }
}
