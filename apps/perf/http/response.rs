//! From the bytes of one connection to the answers in them (RFC 9112), with what is wrong told apart.
//!
//! ```text
//!   input -> Head --- 1xx ------------------------> Head
//!             |  \--- no content ------------------> answer
//!             |  \--- Content-Length, chunked -----> Body --(complete)--> answer
//!             \------ neither ---------------------> UntilEnd --(FIN)---> answer
//! ```
//!
//! A head that came in one piece, which is nearly every one, is parsed where it lies.

use crate::http::{Body, Framing, MAX_HEAD, Malformed, decimal, fields, has_token};

/// A complete answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Another request may be sent on this connection.
    pub(super) keep_alive: bool,
}

/// What one connection has brought so far of its next answer.
#[derive(Debug)]
pub(super) struct Reader {
    state: State,
    /// The beginning of a head that came in pieces.
    head: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Head,
    Body(Body, Answer),
    UntilEnd(Answer),
}

/// What a head says of what follows it.
enum Follows {
    /// Another head: this one was interim (1xx).
    Head,
    Body(Framing),
    /// Everything until the connection ends.
    UntilEnd,
}

impl Reader {
    /// Nothing has come.
    pub(super) const fn new() -> Self {
        Self { state: State::Head, head: Vec::new() }
    }

    /// Whether a part of an answer is here, so that the end of the connection cuts it off.
    pub(super) fn is_inside(&self) -> bool {
        !matches!(self.state, State::Head) || !self.head.is_empty()
    }

    /// Goes on through `input`, at most to the end of an answer: how much was used, and the answer if it is complete. Uses
    /// up all of `input` otherwise.
    ///
    /// # Errors
    /// What came is no answer that HTTP/1 allows; nothing behind it can be understood.
    pub(super) fn step(&mut self, input: &[u8]) -> Result<(usize, Option<Answer>), Malformed> {
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty()) {
            used += match &mut self.state {
                State::UntilEnd(_) => rest.len(),
                State::Body(body, _) => body.step(rest)?.used,
                State::Head => self.take_head(rest)?,
            };
            if let State::Body(body, answer) = &self.state
                && body.is_done()
            {
                let answer = *answer;
                self.state = State::Head;
                return Ok((used, Some(answer)));
            }
        }
        Ok((used, None))
    }

    /// The connection has ended in good order: the answer that this completes, if one is.
    pub(super) fn end(&mut self) -> Option<Answer> {
        match std::mem::replace(&mut self.state, State::Head) {
            State::UntilEnd(answer) => Some(answer),
            other => {
                self.state = other;
                None
            }
        }
    }

    /// Collects a head and reads it; how many bytes of `input` belong to it.
    fn take_head(&mut self, input: &[u8]) -> Result<usize, Malformed> {
        if self.head.is_empty() {
            if let Some((len, state)) = parse(input)? {
                self.state = state;
                return Ok(len);
            }
            self.head.extend_from_slice(input);
        } else {
            let before = self.head.len();
            self.head.extend_from_slice(input);
            if let Some((len, state)) = parse(&self.head)? {
                (self.state, self.head) = (state, Vec::new());
                // Without these bytes the head was not complete.
                return Ok(len.saturating_sub(before));
            }
        }
        if self.head.len() > MAX_HEAD { Err(Malformed) } else { Ok(input.len()) }
    }
}

/// The length of the head at the start of `bytes` and the state behind it; `None` if its end is not there.
fn parse(bytes: &[u8]) -> Result<Option<(usize, State)>, Malformed> {
    let mut room = fields();
    let mut response = httparse::Response::new(&mut []);
    let mut config = httparse::ParserConfig::default();
    config.ignore_invalid_headers_in_responses(false);
    let parsed = config.parse_response_with_uninit_headers(&mut response, bytes, &mut room);
    let len = match parsed.map_err(|_| Malformed)? {
        httparse::Status::Complete(len) => len,
        httparse::Status::Partial => return Ok(None),
    };
    let (Some(status), Some(minor)) = (response.code, response.version) else { return Err(Malformed) };
    let (follows, keep_alive) = read_fields(status, minor == 1, response.headers)?;
    let answer = |keep_alive| Answer { status, keep_alive };
    let state = match follows {
        Follows::Head => State::Head,
        Follows::Body(framing) => State::Body(Body::new(framing), answer(keep_alive)),
        Follows::UntilEnd => State::UntilEnd(answer(false)),
    };
    Ok(Some((len, state)))
}

/// RFC 9112 6.3: what frames the body of an answer to GET, and 9.3: whether the connection persists.
fn read_fields(
    status: u16,
    http11: bool,
    fields: &[httparse::Header<'_>],
) -> Result<(Follows, bool), Malformed> {
    let (mut length, mut chunked) = (None, false);
    let (mut keep, mut close) = (http11, false);
    for field in fields {
        let value = field.value.trim_ascii();
        if field.name.eq_ignore_ascii_case("connection") {
            keep |= has_token(value, b"keep-alive");
            close |= has_token(value, b"close");
        } else if field.name.eq_ignore_ascii_case("content-length") {
            let parsed = decimal(value).ok_or(Malformed)?;
            if length.replace(parsed).is_some_and(|other| other != parsed) {
                return Err(Malformed);
            }
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            // No coding was asked for, so that a server may use no other.
            if chunked || !http11 || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed);
            }
            chunked = true;
        }
    }
    let follows = match (status, chunked, length) {
        // Nobody asked for another protocol.
        (..100 | 101, ..) | (_, true, Some(_)) => return Err(Malformed),
        (102..200 | 100, ..) => Follows::Head,
        (204 | 304, ..) => Follows::Body(Framing::Length(0)),
        (_, true, None) => Follows::Body(Framing::Chunked),
        (_, false, Some(length)) => Follows::Body(Framing::Length(length)),
        (_, false, None) => Follows::UntilEnd,
    };
    Ok((follows, keep && !close))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answers in `input`, fed in pieces of `piece` bytes, and whether something is left when the connection ends.
    fn read(input: &str, piece: usize) -> Result<(Vec<Answer>, bool), Malformed> {
        let (mut reader, mut answers) = (Reader::new(), Vec::new());
        for piece in input.as_bytes().chunks(piece) {
            let mut used = 0;
            while used < piece.len() {
                let (n, answer) = reader.step(&piece[used..])?;
                assert!(n > 0 && (answer.is_some() || used + n == piece.len()));
                used += n;
                answers.extend(answer);
            }
        }
        answers.extend(reader.end());
        Ok((answers, reader.is_inside()))
    }

    #[test]
    fn answers_are_the_same_however_they_are_cut() {
        let input = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello\
            HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
            HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\nuntil the end";
        let answer = |status, keep_alive| Answer { status, keep_alive };
        let want = vec![
            answer(200, true),
            answer(204, true),
            answer(404, true),
            answer(200, false),
            answer(200, false),
        ];
        for piece in 1..=input.len() {
            assert_eq!(read(input, piece), Ok((want.clone(), false)), "{piece}");
        }
    }

    #[test]
    fn connection_persists_as_version_and_field_say() {
        for (head, want) in [
            ("HTTP/1.1 200 OK\r\n", true),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\n", false),
            ("HTTP/1.0 200 OK\r\n", false),
            ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", true),
        ] {
            let (answers, _) = read(&format!("{head}Content-Length: 0\r\n\r\n"), 999).unwrap();
            assert_eq!(answers, [Answer { status: 200, keep_alive: want }], "{head}");
        }
    }

    #[test]
    fn answer_that_breaks_off_is_none() {
        for input in [
            "HTTP/1.1 200",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        ] {
            assert_eq!(read(input, 7), Ok((vec![], true)), "{input}");
        }
    }

    #[test]
    fn what_http_does_not_allow_is_refused() {
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(MAX_HEAD));
        for input in [
            "SSH-2.0-OpenSSH_9.2\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/1.1 099 ?\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            long.as_str(),
        ] {
            assert_eq!(read(input, 99), Err(Malformed), "{input}");
        }
    }
}
