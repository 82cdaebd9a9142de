//! From a dump to parts and back, in bounded memory: compressed (zstd), then encrypted (age), then cut.
//!
//! Both ways run on a thread of their own, between two channels of a few chunks each: whoever is slower holds up the other.

use std::io::{self, Read, Write};

use age::{Decryptor, Encryptor};
use bytes::{Buf as _, Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::{Receiver, Sender};

use super::keys::hex;
use super::manifest::Part;

/// Bytes of a dump that go through at once.
pub(super) const CHUNK: usize = 256 << 10;
/// Chunks on their way.
pub(super) const CHUNKS: usize = 8;
/// More costs much time and saves little.
const LEVEL: i32 = 3;
/// Largest memory that a stream may ask for when it is decompressed (a power of two): what this level writes.
const WINDOW_LOG_MAX: u32 = 27;

/// Parts of a dump, ready to be stored.
pub(super) type Cut = (Part, Bytes);

/// Makes parts of a dump; bytes of the dump. Blocks. Ends early when nobody takes the parts any more.
pub(super) fn pack(
    dump: Receiver<Bytes>,
    parts: Sender<Cut>,
    part_bytes: usize,
    recipients: &[age::x25519::Recipient],
) -> io::Result<u64> {
    let mut dump = Chunks { from: dump, chunk: Bytes::new() };
    let cutter = Cutter { to: parts, part: BytesMut::new(), part_bytes: part_bytes.max(1) };
    let (read, cutter) = if recipients.is_empty() {
        let mut out = zstd::Encoder::new(cutter, LEVEL)?;
        out.include_checksum(true)?;
        let read = io::copy(&mut dump, &mut out)?;
        (read, out.finish()?)
    } else {
        let whom = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
        let sealed = Encryptor::with_recipients(whom).map_err(io::Error::other)?;
        let mut out = zstd::Encoder::new(sealed.wrap_output(cutter)?, LEVEL)?;
        out.include_checksum(true)?;
        let read = io::copy(&mut dump, &mut out)?;
        (read, out.finish()?.finish()?)
    };
    cutter.finish()?;
    Ok(read)
}

/// Makes the dump of parts again. Blocks. Ends early, without an error, when nobody takes it any more.
pub(super) fn unpack(
    parts: Receiver<Bytes>,
    dump: &Sender<Bytes>,
    encrypted: bool,
    identities: &[age::x25519::Identity],
) -> io::Result<()> {
    let parts = Chunks { from: parts, chunk: Bytes::new() };
    if encrypted {
        let whom = identities.iter().map(|identity| identity as &dyn age::Identity);
        let opened = Decryptor::new(parts).and_then(|sealed| sealed.decrypt(whom));
        expand(opened.map_err(io::Error::other)?, dump)
    } else {
        expand(parts, dump)
    }
}

/// Whether one of the identities opens what begins with these bytes.
pub(super) fn opens(start: &[u8], identities: &[age::x25519::Identity]) -> bool {
    let whom = identities.iter().map(|identity| identity as &dyn age::Identity);
    Decryptor::new(start).is_ok_and(|sealed| sealed.decrypt(whom).is_ok())
}

fn expand(from: impl Read, dump: &Sender<Bytes>) -> io::Result<()> {
    let mut decoder = zstd::Decoder::new(from)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        let read = (&mut decoder).take(CHUNK as u64).read_to_end(&mut chunk)?;
        if read == 0 || dump.blocking_send(chunk.into()).is_err() {
            return Ok(());
        }
    }
}

/// Chunks of a channel, as a reader.
struct Chunks {
    from: Receiver<Bytes>,
    chunk: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.from.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

/// A writer that cuts what it gets into parts.
struct Cutter {
    to: Sender<Cut>,
    part: BytesMut,
    part_bytes: usize,
}

impl Cutter {
    fn send(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.part).freeze();
        let sha256 = hex(&Sha256::digest(&bytes));
        let part = Part { bytes: bytes.len() as u64, sha256 };
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.to.blocking_send((part, bytes)).map_err(gone)
    }

    fn finish(mut self) -> io::Result<()> {
        if self.part.is_empty() { Ok(()) } else { self.send() }
    }
}

impl Write for Cutter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(self.part_bytes - self.part.len());
        self.part.extend_from_slice(&bytes[..n]);
        if self.part.len() == self.part_bytes {
            self.send()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
