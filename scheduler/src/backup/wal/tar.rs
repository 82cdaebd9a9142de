//! Reads the tar stream of `pg_basebackup`, as it comes.
//!
//! Only what PostgreSQL writes is understood: files and folders, with names of at most 100 bytes and a prefix. Anything
//! else is refused.

use std::io;

const BLOCK: usize = 512;

/// An entry of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Relative, without `.` and `..`.
    pub(super) path: String,
    /// A file's bytes; `None`: a folder.
    pub(super) bytes: Option<u64>,
}

/// What is done with entries.
pub(super) trait Sink {
    /// One begins.
    fn begin(&mut self, entry: &Entry) -> io::Result<()>;
    /// More of the file that began last.
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// It is complete.
    fn end(&mut self) -> io::Result<()>;
}

/// A stream half-read.
pub(super) struct Reader<S> {
    sink: S,
    head: Vec<u8>,
    /// Of the present file, and then of what fills its last block.
    left: u64,
    fill: u64,
    empty_blocks: u32,
}

impl<S: Sink> Reader<S> {
    pub(super) fn new(sink: S) -> Self {
        Self { sink, head: Vec::with_capacity(BLOCK), left: 0, fill: 0, empty_blocks: 0 }
    }

    /// Takes the next bytes.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let (file, rest) = bytes.split_at(upto(self.left, bytes));
                self.sink.bytes(file)?;
                self.left -= file.len() as u64;
                bytes = rest;
                if self.left == 0 {
                    self.sink.end()?;
                }
            } else if self.fill > 0 {
                let n = upto(self.fill, bytes);
                self.fill -= n as u64;
                bytes = &bytes[n..];
            } else {
                let (head, rest) = bytes.split_at(upto((BLOCK - self.head.len()) as u64, bytes));
                self.head.extend_from_slice(head);
                bytes = rest;
                if self.head.len() == BLOCK {
                    self.begin()?;
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> io::Result<()> {
        let head = std::mem::replace(&mut self.head, Vec::with_capacity(BLOCK));
        if head.iter().all(|b| *b == 0) {
            self.empty_blocks += 1;
            return Ok(());
        }
        if self.empty_blocks > 0 {
            return Err(wrong("something follows the end of the stream"));
        }
        let entry = entry(&head)?;
        self.sink.begin(&entry)?;
        if let Some(bytes) = entry.bytes {
            self.left = bytes;
            self.fill = bytes.next_multiple_of(BLOCK as u64) - bytes;
            if bytes == 0 {
                self.sink.end()?;
            }
        }
        Ok(())
    }

    /// The sink, after the whole stream.
    ///
    /// # Errors
    /// It ended early.
    pub(super) fn finish(self) -> io::Result<S> {
        if self.left > 0 || self.fill > 0 || !self.head.is_empty() || self.empty_blocks < 2 {
            return Err(wrong("the stream ends early"));
        }
        Ok(self.sink)
    }
}

fn upto(most: u64, bytes: &[u8]) -> usize {
    usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len())
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("tar: {why}"))
}

fn entry(head: &[u8]) -> io::Result<Entry> {
    let sum: u64 = head.iter().map(|b| u64::from(*b)).sum();
    let own: u64 = head[148..156].iter().map(|b| u64::from(*b)).sum();
    if number(&head[148..156]) != Some(sum - own + 8 * u64::from(b' ')) {
        return Err(wrong("a head is damaged"));
    }
    let (name, prefix) = (text(&head[..100])?, text(&head[345..500])?);
    let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
    let path = path.trim_end_matches('/').to_owned();
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    let path = path.strip_prefix("./").map(str::to_owned).unwrap_or(path);
    if !path.split('/').all(is_plain) {
        return Err(wrong("an entry leads out of its folder"));
    }
    match head[156] {
        b'0' | 0 => {
            let bytes = number(&head[124..136]).ok_or_else(|| wrong("a size cannot be read"))?;
            Ok(Entry { path, bytes: Some(bytes) })
        }
        b'5' => Ok(Entry { path, bytes: None }),
        _ => Err(wrong("there is a link, as tablespaces are, or something else that is no file")),
    }
}

fn text(field: &[u8]) -> io::Result<String> {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    let text = std::str::from_utf8(&field[..end]).map_err(|_| wrong("a name is no text"))?;
    Ok(text.to_owned())
}

/// Octal digits; of what is too large for them, the number itself after a byte with the highest bit.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field[1..].split_at(field.len() - 9);
        let fits = field[0] == 0x80 && high.iter().all(|b| *b == 0);
        return fits.then(|| low.first_chunk().map(|low| u64::from_be_bytes(*low))).flatten();
    }
    let digits = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Seen(Vec<(Entry, Vec<u8>, bool)>);

    impl Sink for Seen {
        fn begin(&mut self, entry: &Entry) -> io::Result<()> {
            self.0.push((entry.clone(), Vec::new(), entry.bytes.is_none()));
            Ok(())
        }
        fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.last_mut().unwrap().1.extend_from_slice(bytes);
            Ok(())
        }
        fn end(&mut self) -> io::Result<()> {
            self.0.last_mut().unwrap().2 = true;
            Ok(())
        }
    }

    fn block(path: &str, sort: u8, size: &[u8; 12]) -> Vec<u8> {
        let mut head = vec![0; BLOCK];
        head[..path.len()].copy_from_slice(path.as_bytes());
        head[124..136].copy_from_slice(size);
        head[156] = sort;
        head[148..156].fill(b' ');
        let sum: u64 = head.iter().map(|b| u64::from(*b)).sum();
        head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        head
    }

    fn octal(n: u64) -> [u8; 12] {
        format!("{n:011o}\0").into_bytes().try_into().unwrap()
    }

    fn stream() -> Vec<u8> {
        let mut all = block("base/", b'5', &octal(0));
        all.extend(block("base/1", b'0', &octal(700)));
        all.extend(vec![7; 700]);
        all.extend(vec![0; 1024 - 700]);
        all.extend(block("empty", b'0', &octal(0)));
        all.extend(block("full", b'0', &octal(512)));
        all.extend(vec![9; 512]);
        all.extend(vec![0; 2 * BLOCK]);
        all
    }

    #[test]
    fn a_stream_is_read_however_it_is_cut() {
        for cut in [1, 7, 512, 513, 100_000] {
            let mut reader = Reader::new(Seen::default());
            for chunk in stream().chunks(cut) {
                reader.feed(chunk).unwrap();
            }
            let seen = reader.finish().unwrap().0;
            let found: Vec<_> =
                seen.iter().map(|(e, b, done)| (e.path.as_str(), b.len(), *done)).collect();
            assert_eq!(
                found,
                [("base", 0, true), ("base/1", 700, true), ("empty", 0, true), ("full", 512, true)]
            );
            assert!(seen[1].1.iter().all(|b| *b == 7) && seen[3].1.iter().all(|b| *b == 9));
        }
    }

    #[test]
    fn a_stream_that_ends_early_is_refused() {
        let all = stream();
        for end in [1, 600, 1100, 1500, all.len() - 1, all.len() - BLOCK] {
            let mut reader = Reader::new(Seen::default());
            reader.feed(&all[..end]).unwrap();
            assert!(reader.finish().is_err(), "{end}");
        }
    }

    #[test]
    fn links_damage_and_ways_out_are_refused() {
        let mut damaged = block("a", b'0', &octal(0));
        damaged[0] = b'b';
        for head in [
            block("link", b'2', &octal(0)),
            block("../a", b'0', &octal(0)),
            block("/etc/a", b'0', &octal(0)),
            block("a//b", b'0', &octal(0)),
            damaged,
        ] {
            assert!(Reader::new(Seen::default()).feed(&head).is_err());
        }
    }

    #[test]
    fn large_sizes_are_read() {
        let mut size = [0; 12];
        size[0] = 0x80;
        size[4..].copy_from_slice(&(9u64 << 30).to_be_bytes());
        let entry = entry(&block("big", b'0', &size)).unwrap();
        assert_eq!(entry.bytes, Some(9 << 30));
    }
}
