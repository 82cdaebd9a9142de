//! Where frames of the Redis protocol (RESP2 and RESP3) begin and end in a stream of bytes.

/// Deepest nesting of aggregates.
const DEPTH_MAX: usize = 64;
/// A header line's first bytes are kept; those that carry a number are shorter.
const LINE_KEPT: usize = 64;

/// These bytes are not RESP, or are nested too deeply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

/// Finds the ends of frames. An inline command is a frame of one line.
#[derive(Debug)]
pub struct Framer {
    /// The header line so far.
    line: Vec<u8>,
    /// Bytes of a string that are still to come, with its line end.
    skip: u64,
    /// Values that are missing at each level of nesting.
    open: Vec<u64>,
    /// The first bytes of the frame.
    head: Vec<u8>,
    head_max: usize,
    inside: bool,
}

impl Framer {
    /// Keeps the first `head_max` bytes of each frame for [`Self::take_head`].
    pub fn new(head_max: usize) -> Self {
        Self { line: vec![], skip: 0, open: vec![], head: vec![], head_max, inside: false }
    }

    /// Whether a frame has begun and not ended.
    pub fn is_inside(&self) -> bool {
        self.inside
    }

    /// The first bytes of the frame that has just ended.
    pub fn take_head(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.head)
    }

    /// Reads up to the end of one frame, or all of `bytes`. Returns how many bytes were used and whether
    /// the frame ended with them.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(usize, bool), Broken> {
        let mut at = 0;
        let mut ended = false;
        while at < bytes.len() && !ended {
            self.inside = true;
            let from = at;
            if self.skip > 0 {
                let left = bytes.len() - at;
                let n = usize::try_from(self.skip).map_or(left, |skip| skip.min(left));
                at += n;
                self.skip -= n as u64;
                ended = self.skip == 0 && self.value_ended();
            } else {
                let byte = bytes[at];
                at += 1;
                if self.line.len() < LINE_KEPT {
                    self.line.push(byte);
                }
                if byte == b'\n' {
                    ended = self.line_ended()?;
                    self.line.clear();
                }
            }
            let room = self.head_max - self.head.len();
            self.head.extend_from_slice(&bytes[from..at.min(from + room)]);
        }
        if ended {
            self.inside = false;
        }
        Ok((at, ended))
    }

    /// Whether the header line completes the frame.
    fn line_ended(&mut self) -> Result<bool, Broken> {
        let sort = self.line[0];
        let size = |line: &[u8]| -> Result<i64, Broken> {
            let text = std::str::from_utf8(&line[1..]).map_err(|_| Broken)?;
            text.trim_end().parse().map_err(|_| Broken)
        };
        let values = match sort {
            b'$' | b'=' | b'!' => {
                let Ok(bytes) = u64::try_from(size(&self.line)?) else {
                    return Ok(self.value_ended());
                };
                self.skip = bytes.checked_add(2).ok_or(Broken)?;
                return Ok(false);
            }
            b'*' | b'~' | b'>' => size(&self.line)?,
            b'%' => size(&self.line)?.checked_mul(2).ok_or(Broken)?,
            // Attributes come before the value that they are about.
            b'|' => {
                size(&self.line)?.checked_mul(2).and_then(|n| n.checked_add(1)).ok_or(Broken)?
            }
            _ => 0,
        };
        match u64::try_from(values) {
            Ok(0) | Err(_) => Ok(self.value_ended()),
            Ok(_) if self.open.len() >= DEPTH_MAX => Err(Broken),
            Ok(values) => {
                self.open.push(values);
                Ok(false)
            }
        }
    }

    /// One value is complete; whether that completes the frame.
    fn value_ended(&mut self) -> bool {
        while let Some(missing) = self.open.last_mut() {
            *missing -= 1;
            if *missing > 0 {
                return false;
            }
            self.open.pop();
        }
        true
    }
}

/// The first word of a command, in capitals.
pub fn first_word(command: &[u8]) -> String {
    let mut lines = command.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let word = if first.starts_with(b"*") { lines.nth(1).unwrap_or_default() } else { first };
    let text = String::from_utf8_lossy(word);
    text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAMES: [&str; 12] = [
        "*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
        "PING\r\n",
        "+OK\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "*0\r\n",
        "*2\r\n*1\r\n:1\r\n%1\r\n+a\r\n$0\r\n\r\n",
        ">3\r\n+message\r\n+c\r\n$4\r\n*1\r\n\r\n",
        "|1\r\n+ttl\r\n:3\r\n*1\r\n:2\r\n",
        "-ERR *3 $5\r\n",
        "=6\r\ntxt:*1\r\n",
        "_\r\n",
    ];

    #[test]
    fn frames_end_where_they_end_however_the_stream_is_cut() {
        let stream = FRAMES.concat().into_bytes();
        for size in 1..=stream.len() {
            let mut framer = Framer::new(1 << 16);
            let mut heads = Vec::new();
            for mut piece in stream.chunks(size) {
                while !piece.is_empty() {
                    let (used, ended) = framer.feed(piece).expect("well formed");
                    piece = &piece[used..];
                    if ended {
                        heads.push(String::from_utf8(framer.take_head()).expect("text"));
                    }
                }
            }
            assert_eq!(heads, FRAMES, "in pieces of {size}");
            assert!(!framer.is_inside());
        }
    }

    #[test]
    fn what_is_no_frame_is_named_and_memory_is_bounded() {
        assert_eq!(Framer::new(0).feed(b"*x\r\n"), Err(Broken));
        assert_eq!(Framer::new(0).feed(&b"*1\r\n".repeat(DEPTH_MAX + 1)), Err(Broken));
        let mut framer = Framer::new(8);
        let big = format!("$1000\r\n{}\r\n", "x".repeat(1000));
        assert_eq!(framer.feed(big.as_bytes()), Ok((big.len(), true)));
        assert_eq!(framer.take_head().len(), 8);
    }

    #[test]
    fn the_first_word_names_the_command() {
        assert_eq!(first_word(b"*2\r\n$7\r\nevalsha\r\n$1\r\na\r\n"), "EVALSHA");
        assert_eq!(first_word(b"ping\r\n"), "PING");
        assert_eq!(first_word(b""), "");
    }
}
