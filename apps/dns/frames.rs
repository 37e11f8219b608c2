//! DNS over a byte stream: every message behind a two-octet length (RFC 1035 4.2.2), any number of queries in
//! flight and answered in order (RFC 7766 6.2.1).

use super::answer::Transport;
use super::store::Zones;

/// Octets of the length in front of a message.
pub const PREFIX: usize = 2;
/// The room that one answer may take in a stream, its length included.
pub const ANSWER_MAX: usize = PREFIX + u16::MAX as usize;

/// The complete messages at the front of a receive buffer, in order.
///
/// Borrows the buffer; [`Frames::consumed`] says how much of it has been handed out and may be dropped. A
/// message is at most 65,535 octets, so a buffer of [`ANSWER_MAX`] octets always makes progress.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    buf: &'a [u8],
    consumed: usize,
}

/// Splits `buf` into the messages that are there in full.
pub fn frames(buf: &[u8]) -> Frames<'_> {
    Frames { buf, consumed: 0 }
}

impl Frames<'_> {
    /// Octets at the front of the buffer that belong to messages already returned.
    pub fn consumed(&self) -> usize {
        self.consumed
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.buf.get(self.consumed..)?.split_first_chunk::<PREFIX>()?;
        let len = usize::from(u16::from_be_bytes(*len));
        let message = rest.get(..len)?;
        self.consumed += PREFIX + len;
        Some(message)
    }
}

/// What one call of [`answer_stream`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Octets of the input that are done with.
    pub consumed: usize,
    /// Octets of the output that are to be sent.
    pub produced: usize,
    /// The peer sent something that is no query (shorter than a header, or a response): send what was produced and
    /// close.
    pub close: bool,
}

/// Answers the complete queries at the front of `input` into `output`, each behind its length.
///
/// Stops when less than [`ANSWER_MAX`] octets of `output` are left, so that no answer is cut for want of room in it;
/// the rest of `input` waits until the output is drained, which is the back-pressure on a peer that asks faster than
/// it reads. With an `output` of at least [`ANSWER_MAX`] every call with a complete query in `input` makes progress.
pub fn answer_stream(zones: &Zones, input: &[u8], output: &mut [u8]) -> Progress {
    let mut queue = frames(input);
    let mut done = Progress { consumed: 0, produced: 0, close: false };
    while let Some(room) = output.get_mut(done.produced..).filter(|room| room.len() >= ANSWER_MAX) {
        let Some(query) = queue.next() else { break };
        done.consumed = queue.consumed();
        let Some((prefix, body)) = room.split_first_chunk_mut::<PREFIX>() else { break };
        let Some(front) = body.get_mut(..query.len()) else { break };
        front.copy_from_slice(query);
        let Some(len) = zones.answer(body, query.len(), Transport::Tcp) else {
            done.close = true;
            break;
        };
        // `answer` never exceeds 65,535 octets over TCP.
        *prefix = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
        done.produced += PREFIX + len;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_whole_and_the_rest_waits() {
        let stream = b"\x00\x03abc\x00\x00\x00\x02de\x00\x05par";
        let mut queue = frames(stream);
        assert_eq!(queue.by_ref().collect::<Vec<_>>(), [&b"abc"[..], b"", b"de"]);
        assert_eq!(queue.consumed(), 11);
        assert_eq!(frames(b"\x00").next(), None);
        assert_eq!(frames(b"").consumed(), 0);
    }

    #[test]
    fn every_cut_of_a_stream_gives_the_same_messages() {
        let stream = b"\x00\x03abc\x00\x01x\x00\x04wxyz";
        let whole: Vec<_> = frames(stream).map(<[u8]>::to_vec).collect();
        for cut in 0..=stream.len() {
            let mut first = frames(&stream[..cut]);
            let mut got: Vec<_> = first.by_ref().map(<[u8]>::to_vec).collect();
            got.extend(frames(&stream[first.consumed()..]).map(<[u8]>::to_vec));
            assert_eq!(got, whole, "cut at {cut}");
        }
    }
}
