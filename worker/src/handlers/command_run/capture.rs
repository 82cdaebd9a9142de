//! Keeps the beginning and the end of a stream of any length.

use std::collections::VecDeque;

/// What is kept: memory is bounded by the maximum, however much comes.
#[derive(Debug)]
pub(super) struct Capture {
    half: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl Capture {
    /// Keeps at most `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self { half: max / 2, head: Vec::new(), tail: VecDeque::new(), total: 0 }
    }

    pub(super) fn push(&mut self, mut chunk: &[u8]) {
        self.total += chunk.len() as u64;
        let room = self.half - self.head.len();
        let (first, rest) = chunk.split_at(room.min(chunk.len()));
        self.head.extend_from_slice(first);
        chunk = &rest[rest.len().saturating_sub(self.half)..];
        let excess = (self.tail.len() + chunk.len()).saturating_sub(self.half);
        self.tail.drain(..excess.min(self.tail.len()));
        self.tail.extend(chunk);
    }

    /// As text, with a note where something was left out.
    pub(super) fn text(&self) -> String {
        let kept = (self.head.len() + self.tail.len()) as u64;
        let (left, right) = self.tail.as_slices();
        if kept == self.total {
            return String::from_utf8_lossy(&[&self.head, left, right].concat()).into_owned();
        }
        let left_out = self.total - kept;
        let head = String::from_utf8_lossy(&self.head);
        let tail = [left, right].concat();
        format!("{head}\n[{left_out} bytes left out]\n{}", String::from_utf8_lossy(&tail))
    }

    /// The last bytes, as text.
    pub(super) fn end(&self, max: usize) -> String {
        let text = if self.tail.is_empty() { self.head.as_slice() } else { &[] };
        let (left, right) = self.tail.as_slices();
        let all = [text, left, right].concat();
        String::from_utf8_lossy(&all[all.len().saturating_sub(max)..]).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_streams_are_kept_whole() {
        let mut capture = Capture::new(10);
        for chunk in ["abc", "", "defgh", "ij"] {
            capture.push(chunk.as_bytes());
        }
        assert_eq!(capture.text(), "abcdefghij");
        assert_eq!(capture.end(3), "hij");
    }

    #[test]
    fn long_streams_keep_head_and_tail_in_bounded_memory() {
        for step in [1, 7, 1_000, 100_000] {
            let mut capture = Capture::new(10);
            let all: Vec<u8> = (0..100_000u32).map(|i| b'a' + (i % 26) as u8).collect();
            for chunk in all.chunks(step) {
                capture.push(chunk);
            }
            assert!(capture.head.len() + capture.tail.len() <= 10);
            let end = String::from_utf8_lossy(&all[all.len() - 5..]);
            assert_eq!(capture.text(), format!("abcde\n[99990 bytes left out]\n{end}"));
        }
    }

    #[test]
    fn bytes_that_are_no_text_do_no_harm() {
        let mut capture = Capture::new(8);
        capture.push(&[0xff, 0xfe, b'a']);
        assert_eq!(capture.text(), "\u{fffd}\u{fffd}a");
    }
}
