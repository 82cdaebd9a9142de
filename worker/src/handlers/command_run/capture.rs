//! Keeps the beginning and the end of a stream of any length.

use std::collections::VecDeque;

use crate::handlers::json_text::{beginning, end, json_len};

/// Room for the note between beginning and end.
const NOTE_BYTES: usize = 64;

/// What is kept: memory is bounded by the maximum, however much comes.
#[derive(Debug)]
pub(super) struct Capture {
    half: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

/// A stream as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) text: String,
    /// Something was left out in the middle.
    pub(super) truncated: bool,
}

impl Capture {
    /// Keeps at most `max` bytes.
    pub(super) fn new(max: usize) -> Self {
        Self { half: max / 2, head: Vec::new(), tail: VecDeque::new(), total: 0 }
    }

    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.total += chunk.len() as u64;
        let room = self.half - self.head.len();
        let (first, rest) = chunk.split_at(room.min(chunk.len()));
        self.head.extend_from_slice(first);
        let last = &rest[rest.len().saturating_sub(self.half)..];
        let excess = (self.tail.len() + last.len()).saturating_sub(self.half);
        self.tail.drain(..excess.min(self.tail.len()));
        self.tail.extend(last);
    }

    /// As text that takes at most `json_max` bytes in a JSON string, with a note where something is left out.
    /// What is no UTF-8 becomes U+FFFD.
    pub(super) fn kept(&self, json_max: usize) -> Kept {
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        if (self.head.len() + tail.len()) as u64 == self.total {
            let text =
                String::from_utf8_lossy(&[self.head.as_slice(), &tail].concat()).into_owned();
            if json_len(&text) <= json_max {
                return Kept { text, truncated: false };
            }
            return self.cut(&text, &text, json_max);
        }
        let head = String::from_utf8_lossy(without_cut_end(&self.head));
        let tail = String::from_utf8_lossy(without_cut_start(&tail));
        self.cut(&head, &tail, json_max)
    }

    fn cut(&self, head: &str, tail: &str, json_max: usize) -> Kept {
        let half = json_max.saturating_sub(NOTE_BYTES) / 2;
        let (head, tail) = (beginning(head, half), end(tail, half));
        let left_out = self.total.saturating_sub((head.len() + tail.len()) as u64);
        Kept { text: format!("{head}\n[{left_out} bytes left out]\n{tail}"), truncated: true }
    }

    /// The last bytes, as text.
    pub(super) fn end(&self, max: usize) -> String {
        let head = if self.tail.len() < max { self.head.as_slice() } else { &[] };
        let last: Vec<u8> = head.iter().chain(&self.tail).copied().collect();
        let last = &last[last.len().saturating_sub(max)..];
        String::from_utf8_lossy(without_cut_start(last)).trim().to_owned()
    }
}

/// Without the first bytes of a character whose rest is cut off.
fn without_cut_end(bytes: &[u8]) -> &[u8] {
    let last = bytes.len().saturating_sub(3);
    for at in (last..bytes.len()).rev() {
        let needed = match bytes[at] {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return bytes,
        };
        return if at + needed > bytes.len() { &bytes[..at] } else { bytes };
    }
    bytes
}

/// Without the last bytes of a character whose beginning is cut off.
fn without_cut_start(bytes: &[u8]) -> &[u8] {
    let cut = bytes.iter().take(3).take_while(|b| (0x80..=0xbf).contains(*b)).count();
    &bytes[cut..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured(max: usize, chunks: &[&str]) -> Capture {
        let mut capture = Capture::new(max);
        for chunk in chunks {
            capture.push(chunk.as_bytes());
        }
        capture
    }

    #[test]
    fn short_streams_are_kept_whole() {
        let capture = captured(10, &["abc", "", "defgh", "ij"]);
        assert_eq!(capture.kept(100), Kept { text: "abcdefghij".into(), truncated: false });
        assert_eq!((capture.end(3), capture.end(100)), ("hij".into(), "abcdefghij".into()));
        assert_eq!(captured(10, &[]).kept(0), Kept { text: String::new(), truncated: false });
    }

    #[test]
    fn long_streams_keep_their_beginning_and_end_however_they_are_cut() {
        let text: String = (0..1000).map(|n| format!("{n} ")).collect();
        let whole = captured(20, &[&text]).kept(1_000);
        assert!(whole.truncated);
        assert_eq!(
            whole.text,
            format!("0 1 2 3 4 \n[{} bytes left out]\n7 998 999 ", text.len() - 20)
        );
        for size in [1, 3, 7, 20, 333] {
            let chunks: Vec<&str> =
                text.as_bytes().chunks(size).map(|c| std::str::from_utf8(c).unwrap()).collect();
            assert_eq!(captured(20, &chunks).kept(1_000), whole, "{size}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut capture = Capture::new(1 << 10);
        for _ in 0..1_000 {
            capture.push(&[b'x'; 64 << 10]);
        }
        assert!(capture.head.capacity() + capture.tail.capacity() <= 4 << 10);
        assert_eq!(capture.total, 1_000 * (64 << 10));
    }

    #[test]
    fn cuts_go_between_characters_and_leave_room_for_escapes() {
        let capture = captured(10, &["aäöü€", "😀äöüz"]);
        let kept = capture.kept(1_000).text;
        assert!(
            kept.starts_with("aäö\n[") && kept.ends_with("\nöüz") && !kept.contains('\u{fffd}'),
            "{kept}"
        );
        let capture = captured(1_000, &[&"\u{1}".repeat(1_000)]);
        let kept = capture.kept(664);
        assert!(kept.truncated && json_len(&kept.text) <= 664);
        assert_eq!(kept.text.matches('\u{1}').count(), 100);
        let mut binary = Capture::new(8);
        binary.push(&[0xff; 9]);
        assert!(binary.kept(1_000).text.starts_with("\u{fffd}\u{fffd}\u{fffd}\u{fffd}\n["));
    }
}
