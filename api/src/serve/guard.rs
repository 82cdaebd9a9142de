//! Refuses HTTP/1 framing that two readers could understand in two ways (request smuggling).
//!
//! hyper follows RFC 9112 where it lets a server choose: it takes `Transfer-Encoding` over
//! `Content-Length`, and bare LF for CRLF. A proxy in front may choose otherwise, so such requests are
//! refused here. The guard follows the byte stream beside hyper: it reads heads, skips bodies, and on a
//! fault puts a byte into the head that hyper answers with 400 and a closed connection.
//!
//! It only adds refusals; what it lets pass hyper still parses for itself.

/// Longest line that is looked at. hyper refuses longer heads on its own (431).
const LINE_MAX: usize = 16 << 10;
/// HTTP/2 begins with this; the guard leaves such a connection alone.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// The framing of one connection, so far.
#[derive(Debug)]
pub struct Guard {
    at: At,
    line: Vec<u8>,
    head: Head,
    requests: u64,
}

#[derive(Debug, Default)]
struct Head {
    lines: usize,
    length: Option<u64>,
    chunked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In a line of a head.
    Head,
    /// So many bytes of a body, or of a chunk, are left.
    Body(u64),
    /// In a line with a chunk's size.
    ChunkSize,
    ChunkData(u64),
    /// In the line break after a chunk.
    ChunkEnd,
    Trailer,
    /// HTTP/2, or beyond judgement: everything passes.
    Open,
}

/// Framing that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Smuggled;

impl Default for Guard {
    fn default() -> Self {
        Self::new()
    }
}

impl Guard {
    /// At the start of a connection.
    pub fn new() -> Self {
        Self { at: At::Head, line: Vec::with_capacity(128), head: Head::default(), requests: 0 }
    }

    /// Looks at the next bytes. `Err(n)`: the byte at `n` makes the framing unacceptable.
    ///
    /// # Errors
    /// The index of that byte.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut i = 0;
        while i < bytes.len() {
            match self.at {
                At::Open => return Ok(()),
                At::Body(left) | At::ChunkData(left) => {
                    let here = left.min((bytes.len() - i) as u64);
                    i += usize::try_from(here).expect("bounded by the slice's length");
                    let left = left - here;
                    self.at = match (self.at, left) {
                        (At::Body(_), 0) => At::Head,
                        (At::Body(_), _) => At::Body(left),
                        (_, 0) => At::ChunkEnd,
                        (_, _) => At::ChunkData(left),
                    };
                }
                At::Head | At::ChunkSize | At::ChunkEnd | At::Trailer => {
                    self.byte(bytes[i]).map_err(|Smuggled| i)?;
                    i += 1;
                }
            }
        }
        Ok(())
    }

    /// Whether the bytes so far end inside of a head.
    pub fn in_head(&self) -> bool {
        self.at == At::Head && (self.head.lines > 0 || !self.line.is_empty())
    }

    fn byte(&mut self, byte: u8) -> Result<(), Smuggled> {
        let after_cr = self.line.last() == Some(&b'\r');
        match byte {
            b'\n' if after_cr => {
                self.line.pop();
                let line = std::mem::take(&mut self.line);
                let result = self.line_done(&line);
                // Keeps the allocation for the next line.
                self.line = line;
                self.line.clear();
                result
            }
            // A bare line feed, or a carriage return inside of a line.
            b'\n' => Err(Smuggled),
            _ if after_cr => Err(Smuggled),
            // A chunk that is longer than it said.
            _ if self.at == At::ChunkEnd && byte != b'\r' => Err(Smuggled),
            _ if self.line.len() >= LINE_MAX => {
                self.at = At::Open;
                Ok(())
            }
            _ => {
                self.line.push(byte);
                Ok(())
            }
        }
    }

    fn line_done(&mut self, line: &[u8]) -> Result<(), Smuggled> {
        match self.at {
            At::Head if line.is_empty() => self.head_done(),
            At::Head => self.head_line(line)?,
            At::ChunkSize => {
                let size = chunk_size(line)?;
                self.at = if size == 0 { At::Trailer } else { At::ChunkData(size) };
            }
            At::ChunkEnd if line.is_empty() => self.at = At::ChunkSize,
            At::ChunkEnd => return Err(Smuggled),
            At::Trailer if line.is_empty() => self.next_head(),
            At::Trailer => {}
            At::Body(_) | At::ChunkData(_) | At::Open => {}
        }
        Ok(())
    }

    fn head_line(&mut self, line: &[u8]) -> Result<(), Smuggled> {
        self.head.lines += 1;
        if self.head.lines == 1 {
            if self.requests == 0 && line == &PREFACE[..PREFACE.len() - 2] {
                self.at = At::Open;
            }
            return Ok(());
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            return Err(Smuggled);
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // A fold, or a space before the colon: readers disagree on whose header it is.
        if name.is_empty() || name.iter().any(|b| matches!(b, b' ' | b'\t')) {
            return Err(Smuggled);
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.head.length.is_some() || self.head.chunked {
                return Err(Smuggled);
            }
            self.head.length = Some(decimal(value)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let once = !self.head.chunked && self.head.length.is_none();
            if !once || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Smuggled);
            }
            self.head.chunked = true;
        }
        Ok(())
    }

    fn head_done(&mut self) {
        // Empty lines before a request line are allowed.
        if self.head.lines == 0 {
            return;
        }
        match (self.head.chunked, self.head.length.unwrap_or(0)) {
            (true, _) => self.at = At::ChunkSize,
            (false, 0) => self.next_head(),
            (false, length) => {
                self.next_head();
                self.at = At::Body(length);
            }
        }
    }

    fn next_head(&mut self) {
        self.requests += 1;
        self.head = Head::default();
        self.at = At::Head;
    }
}

fn decimal(value: &[u8]) -> Result<u64, Smuggled> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Smuggled);
    }
    Ok(value.iter().fold(0, |n, digit| n * 10 + u64::from(digit - b'0')))
}

fn chunk_size(line: &[u8]) -> Result<u64, Smuggled> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let extension = &line[digits..];
    if !(1..=15).contains(&digits) || !(extension.is_empty() || extension.starts_with(b";")) {
        return Err(Smuggled);
    }
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| Smuggled)?;
    u64::from_str_radix(text, 16).map_err(|_| Smuggled)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one piece and byte by byte.
    fn verdict(stream: &[u8]) -> Result<(), usize> {
        let whole = Guard::new().feed(stream);
        let mut guard = Guard::new();
        let single =
            (0..stream.len()).try_for_each(|i| guard.feed(&stream[i..=i]).map_err(|at| at + i));
        assert_eq!(whole, single);
        whole
    }

    #[test]
    fn ordinary_requests_pass() {
        let streams: [&[u8]; 5] = [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n\n\n\r\nGET / HTTP/1.1\r\n\r\n",
            b"POST / HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n4;x=1\r\na\nb\n\r\n0\r\nt: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\n\n\r\r",
        ];
        for stream in streams {
            assert_eq!(verdict(stream), Ok(()), "{}", String::from_utf8_lossy(stream));
        }
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        let heads = [
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
            "Content-Length: 3\r\nContent-Length: 3\r\n\r\n",
            "Content-Length: 3, 3\r\n\r\n",
            "Content-Length: +3\r\n\r\n",
            "Content-Length: 99999999999999999999\r\n\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "Transfer-Encoding: gzip, chunked\r\n\r\n",
            "Transfer-Encoding: xchunked\r\n\r\n",
            "Content-Length : 3\r\n\r\n",
            "X: a\r\n folded\r\n\r\n",
            "X: a\nY: b\r\n\r\n",
            "X: a\rY: b\r\n\r\n",
            "no colon\r\n\r\n",
        ];
        for head in heads {
            let stream = format!("POST / HTTP/1.1\r\n{head}");
            let at = verdict(stream.as_bytes()).expect_err(head);
            // Found before hyper has the whole head.
            assert!(at < stream.len(), "{head}");
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        for body in ["x\r\n", "\r\n", "4\r\nabcdX", "4\nabcd", "-1\r\n", "4 \r\nabcd\r\n"] {
            let stream = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            assert!(verdict(stream.as_bytes()).is_err(), "{body:?}");
        }
    }
}
