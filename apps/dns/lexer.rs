//! Cuts a master file (RFC 1035 5.1) into entries and tokens that know their line.
//!
//! Parentheses, comments and line ends disappear here; escapes and quotation marks stay in the tokens for the
//! library that reads them.

use super::zone::Problem;

/// One token, as written: escapes not resolved, quotation marks kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Token<'a> {
    pub(super) text: &'a [u8],
    /// Nothing separates it from the token before it, as in `alpn="h2"`.
    pub(super) glued: bool,
}

impl Token<'_> {
    pub(super) fn is_quoted(&self) -> bool {
        self.text.starts_with(b"\"")
    }

    /// The token for a message to a person.
    pub(super) fn shown(&self) -> String {
        printable(&String::from_utf8_lossy(self.text))
    }
}

/// The text on one line, control characters escaped, and no longer than a line.
pub(super) fn printable(text: &str) -> String {
    const LINE: usize = 80;
    let escaped = text.chars().flat_map(|c| {
        let (plain, control) =
            if c.is_control() { (None, Some(c.escape_default())) } else { (Some(c), None) };
        plain.into_iter().chain(control.into_iter().flatten())
    });
    let mut line: String = escaped.take(LINE).collect();
    if text.chars().nth(LINE).is_some() {
        line.push_str("...");
    }
    line
}

/// Reads entry after entry. After an error nothing more can be read.
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    /// The line that `at` is in, from 1.
    line: u32,
}

/// One logical line: a directive or a record.
pub(super) struct Entry<'a> {
    /// The line of its first token.
    pub(super) line: u32,
    /// It begins with white space: the owner is that of the record before it.
    pub(super) indented: bool,
    pub(super) tokens: Vec<Token<'a>>,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        // Some editors put a byte order mark in front of UTF-8.
        Self { text: text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text), at: 0, line: 1 }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn bump(&mut self) -> Option<u8> {
        let octet = self.peek()?;
        self.at += 1;
        self.line = self.line.saturating_add(u32::from(octet == b'\n'));
        Some(octet)
    }

    /// The next entry that has any token, or `None` at the end; or what is wrong, and in which line.
    pub(super) fn entry(&mut self) -> Result<Option<Entry<'a>>, (u32, Problem)> {
        let mut entry = Entry { line: self.line, indented: false, tokens: Vec::new() };
        let mut open: Vec<u32> = Vec::new();
        let (mut is_line_start, mut glued) = (true, false);
        while let Some(octet) = self.peek() {
            match octet {
                b' ' | b'\t' | b'\r' => {
                    self.bump();
                    entry.indented |= is_line_start && entry.tokens.is_empty();
                    glued = false;
                }
                b'\n' => {
                    self.bump();
                    glued = false;
                    if open.is_empty() && !entry.tokens.is_empty() {
                        return Ok(Some(entry));
                    } else if open.is_empty() {
                        (entry.indented, is_line_start) = (false, true);
                        continue;
                    }
                }
                b';' => {
                    while self.peek().is_some_and(|octet| octet != b'\n') {
                        self.bump();
                    }
                }
                b'(' => {
                    open.push(self.line);
                    self.bump();
                    glued = false;
                }
                b')' => {
                    open.pop().ok_or((self.line, Problem::ClosedTooOften))?;
                    self.bump();
                    glued = false;
                }
                _ => {
                    if entry.tokens.is_empty() {
                        entry.line = self.line;
                    }
                    let text = self.token(octet == b'"')?;
                    entry.tokens.push(Token { text, glued });
                    glued = true;
                }
            }
            is_line_start = false;
        }
        match open.first() {
            Some(&line) => Err((line, Problem::NotClosed("("))),
            None => Ok((!entry.tokens.is_empty()).then_some(entry)),
        }
    }

    /// The token that begins here.
    fn token(&mut self, quoted: bool) -> Result<&'a [u8], (u32, Problem)> {
        let (start, line) = (self.at, self.line);
        if quoted {
            self.bump();
        }
        loop {
            match self.peek() {
                None if quoted => return Err((line, Problem::NotClosed("\""))),
                None => break,
                Some(b'\\') => {
                    self.bump();
                    if self.peek().is_none_or(|octet| octet == b'\n') {
                        return Err((line, Problem::Syntax("nothing follows the backslash".into())));
                    }
                    self.bump();
                }
                Some(b'"') if quoted => {
                    self.bump();
                    break;
                }
                Some(b' ' | b'\t' | b'\r' | b'\n' | b';' | b'(' | b')' | b'"') if !quoted => break,
                Some(_) => {
                    self.bump();
                }
            }
        }
        Ok(self.text.get(start..self.at).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line, indentation and tokens of every entry.
    fn entries(text: &str) -> Vec<(u32, bool, Vec<String>)> {
        let mut lexer = Lexer::new(text.as_bytes());
        let mut all = Vec::new();
        while let Some(entry) = lexer.entry().unwrap() {
            all.push((entry.line, entry.indented, entry.tokens.iter().map(Token::shown).collect()));
        }
        all
    }

    #[test]
    fn parentheses_comments_and_quotes() {
        let text = "; head\n\n  \na SOA ( x ; one\n  y\n) z\n\tb \"q ; (\" c\\;d;e\nk=\"v w\"";
        let strings = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            entries(text),
            [
                (4, false, strings(&["a", "SOA", "x", "y", "z"])),
                (7, true, strings(&["b", "\"q ; (\"", "c\\;d"])),
                (8, false, strings(&["k=", "\"v w\""])),
            ]
        );
        let mut lexer = Lexer::new(b"k=\"v\" \"w\"");
        let tokens = lexer.entry().unwrap().unwrap().tokens;
        assert_eq!(tokens.iter().map(|t| t.glued).collect::<Vec<_>>(), [false, true, false]);
    }

    #[test]
    fn what_is_not_closed_is_told_by_the_line_that_opened_it() {
        let error =
            |text: &str| Lexer::new(text.as_bytes()).entry().err().map(|(line, p)| (line, p.to_string()));
        assert_eq!(error("\na (\n b\n").unwrap(), (2, "( is not closed".into()));
        assert_eq!(error("a \"b\nc\n").unwrap(), (1, "\" is not closed".into()));
        assert_eq!(error("a )").unwrap(), (1, ") without (".into()));
    }
}
