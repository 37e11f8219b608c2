//! Where the body of a request or a response ends, and which of its bytes are content (RFC 9112 sections 6 and 7).

use super::request::Framing;

/// The most bytes of chunk extensions and trailers that one body may spend.
const MAX_OVERHEAD: u32 = 16 * 1024;

/// The body breaks the chunked coding; nothing after it can be understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Malformed;

/// The state of a body that is being received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Body {
    state: State,
    overhead: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// So many bytes to come, none of them framing.
    Length(u64),
    /// In the hexadecimal size of a chunk, after so many digits.
    Size { value: u64, digits: u8 },
    /// In what may follow the size.
    Extension { value: u64 },
    /// Before the LF that ends the line of the size.
    SizeLf { value: u64 },
    /// In the chunk.
    Data { left: u64 },
    /// Before the CR that ends the chunk.
    DataCr,
    /// Before the LF that ends the chunk.
    DataLf,
    /// At the start of a line behind the last chunk.
    TrailerStart,
    /// In a trailer field.
    Trailer,
    /// Before the LF of the last line.
    LastLf,
    /// Behind the last byte.
    Done,
}

/// One step through a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step<'i> {
    /// How much of the input was used.
    pub(crate) used: usize,
    /// Content, if this step found some.
    pub(crate) data: &'i [u8],
}

impl Body {
    /// A body framed like this, of which no byte has come.
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(n) => State::Length(n),
            Framing::Chunked => State::Size { value: 0, digits: 0 },
        };
        Self { state, overhead: 0 }
    }

    /// Whether the last byte was seen.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Done | State::Length(0))
    }

    /// Goes on through `input`, up to and including the next run of content.
    pub(crate) fn step<'i>(&mut self, input: &'i [u8]) -> Result<Step<'i>, Malformed> {
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty() && !self.is_done()) {
            if let State::Length(left) | State::Data { left } = self.state {
                let n = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - n as u64;
                self.state = match self.state {
                    State::Length(_) => State::Length(left),
                    _ if left == 0 => State::DataCr,
                    _ => State::Data { left },
                };
                return Ok(Step { used: used + n, data: rest.get(..n).unwrap_or_default() });
            }
            if let Some(&byte) = rest.first() {
                self.state = self.frame(byte)?;
                used += 1;
            }
        }
        Ok(Step { used, data: &[] })
    }

    /// One byte of chunk framing. Lines end in CRLF and nothing else: a lenient reader here is what request smuggling
    /// feeds on.
    fn frame(&mut self, byte: u8) -> Result<State, Malformed> {
        Ok(match (self.state, byte) {
            (State::Size { value, digits }, b) if b.is_ascii_hexdigit() => {
                // 15 digits are 2^60 bytes, and cannot overflow.
                let digit = char::from(b).to_digit(16).ok_or(Malformed)?;
                let digits = if digits < 15 { digits + 1 } else { return Err(Malformed) };
                State::Size { value: (value << 4) | u64::from(digit), digits }
            }
            (State::Size { digits: 0, .. }, _) => return Err(Malformed),
            (State::Size { value, .. } | State::Extension { value }, b'\r') => State::SizeLf { value },
            (State::Size { value, .. }, b';' | b' ' | b'\t') => State::Extension { value },
            (State::Extension { value }, b) if b != b'\n' => {
                self.spend()?;
                State::Extension { value }
            }
            (State::SizeLf { value: 0 }, b'\n') => State::TrailerStart,
            (State::SizeLf { value }, b'\n') => State::Data { left: value },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { value: 0, digits: 0 },
            (State::TrailerStart, b'\r') => State::LastLf,
            (State::LastLf, b'\n') => State::Done,
            (State::TrailerStart, b'\n') => return Err(Malformed),
            (State::Trailer, b'\n') => State::TrailerStart,
            (State::TrailerStart | State::Trailer, _) => {
                self.spend()?;
                State::Trailer
            }
            _ => return Err(Malformed),
        })
    }

    fn spend(&mut self) -> Result<(), Malformed> {
        self.overhead += 1;
        if self.overhead > MAX_OVERHEAD { Err(Malformed) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content, and how many bytes were left over behind the body; fed in pieces of `piece` bytes.
    fn decode(framing: Framing, input: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), Malformed> {
        let (mut body, mut content, mut used) = (Body::new(framing), Vec::new(), 0);
        while used < input.len() && !body.is_done() {
            let step = body.step(&input[used..input.len().min(used + piece)])?;
            content.extend_from_slice(step.data);
            used += step.used;
        }
        Ok((content, input.len() - used, body.is_done()))
    }

    #[test]
    fn chunks_are_joined_however_they_are_cut() {
        let input = b"5\r\nhello\r\n00A;x=\"y\"\r\n, world...\r\n0\r\nTrailer: t\r\n\r\nGET";
        for piece in 1..=input.len() {
            let (content, rest, done) = decode(Framing::Chunked, input, piece).unwrap();
            assert_eq!((content.as_slice(), rest, done), (b"hello, world...".as_slice(), 3, true), "{piece}");
        }
        assert_eq!(decode(Framing::Length(3), b"abcd", 9), Ok((b"abc".to_vec(), 1, true)));
        assert_eq!(decode(Framing::Length(0), b"abcd", 9), Ok((vec![], 4, true)));
    }

    #[test]
    fn broken_chunking_is_refused() {
        for input in [
            "\r\n",
            "x\r\n",
            "5\nhello",
            "5\r\nhelloX",
            "5\r\nhello\rX",
            "5 \nhello",
            "-1\r\n",
            "1000000000000000\r\n",
            "0\r\n\n",
            "5;\nhello",
        ] {
            assert_eq!(decode(Framing::Chunked, input.as_bytes(), 99), Err(Malformed), "{input:?}");
        }
        for flood in [format!("5;{}", "x".repeat(1 << 16)), format!("0\r\n{}", "a: b\r\n".repeat(1 << 14))] {
            assert_eq!(decode(Framing::Chunked, flood.as_bytes(), 1024), Err(Malformed));
        }
    }
}
