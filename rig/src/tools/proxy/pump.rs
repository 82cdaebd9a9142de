//! Carries the bytes of one direction of a connection.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::faults::{Direction, Faults, Flow, LinkFaults};
use super::watcher::Watcher;
use super::{Shared, lock};

/// Pieces on their way in one direction of a connection; the sender waits when there are more.
const PIECES_MAX: usize = 256;
const READ_BYTES: usize = 16 << 10;

/// Why a connection ends before both of its sides have closed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// A side has reset it.
    Reset,
    /// A reply was to be lost.
    ReplyLost,
}

enum What {
    Bytes(Bytes),
    End,
    Stop(Stop),
}

struct Piece {
    arrived: Instant,
    /// From -1 to 1: where in the jitter it falls.
    chance: f64,
    what: What,
}

/// One direction of connection `number`, until its end has been passed on.
pub(super) async fn pump(
    read: ReadHalf<'_>,
    write: WriteHalf<'_>,
    direction: Direction,
    number: u64,
    watcher: Watcher,
    shared: &Arc<Shared>,
) -> Result<(), Stop> {
    let (to_writer, from_reader) = mpsc::channel(PIECES_MAX);
    let stream = number * 2 + u64::from(direction == Direction::Down);
    let chance = StdRng::seed_from_u64(shared.options.seed.wrapping_add(stream));
    let writer = Writer {
        write,
        direction,
        faults: shared.faults.subscribe(),
        has_lost: false,
        shared: Arc::clone(shared),
    };
    let reader = async {
        take(read, watcher, chance, to_writer).await;
        Ok(())
    };
    // The reader ends by sending what the writer ends with; a writer that fails ends both.
    tokio::try_join!(reader, writer.deliver(from_reader)).map(|_| ())
}

async fn take(
    mut read: ReadHalf<'_>,
    mut watcher: Watcher,
    mut chance: StdRng,
    to_writer: mpsc::Sender<Piece>,
) {
    loop {
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        let mut last = None;
        match read.read_buf(&mut buffer).await {
            Ok(0) => last = Some(What::End),
            Ok(_) => {
                if let Some(keep) = watcher.see(&buffer) {
                    buffer.truncate(keep);
                    last = Some(What::Stop(Stop::ReplyLost));
                }
            }
            Err(_) => last = Some(What::Stop(Stop::Reset)),
        }
        let is_last = last.is_some();
        let bytes = (!buffer.is_empty()).then(|| What::Bytes(buffer.freeze()));
        let (arrived, chance) = (Instant::now(), chance.random_range(-1.0..=1.0));
        for what in bytes.into_iter().chain(last) {
            if to_writer.send(Piece { arrived, chance, what }).await.is_err() {
                return;
            }
        }
        if is_last {
            return;
        }
    }
}

struct Writer<'a> {
    write: WriteHalf<'a>,
    direction: Direction,
    faults: watch::Receiver<Faults>,
    /// Bytes were swallowed, so nothing that comes later would make sense.
    has_lost: bool,
    shared: Arc<Shared>,
}

impl Writer<'_> {
    async fn deliver(mut self, mut pieces: mpsc::Receiver<Piece>) -> Result<(), Stop> {
        while let Some(piece) = pieces.recv().await {
            match piece.what {
                What::Bytes(bytes) => {
                    self.deliver_bytes(bytes, piece.arrived, piece.chance).await?;
                }
                What::End => {
                    self.wait_to_end(piece.arrived, piece.chance).await;
                    // Fails only when the other side has gone already.
                    let _ = self.write.shutdown().await;
                    return Ok(());
                }
                What::Stop(stop) => {
                    self.wait_to_end(piece.arrived, piece.chance).await;
                    return Err(stop);
                }
            }
        }
        Ok(())
    }

    async fn deliver_bytes(
        &mut self,
        mut bytes: Bytes,
        arrived: Instant,
        chance: f64,
    ) -> Result<(), Stop> {
        while !bytes.is_empty() {
            let now = self.turn(arrived, chance).await;
            if self.has_lost || now.flow == Flow::BlackHole {
                self.has_lost = true;
                lock(&self.shared.stats).bytes_swallowed += bytes.len() as u64;
                return Ok(());
            }
            let (size, pause) = now.next_write(bytes.len());
            let piece = bytes.split_to(size);
            self.write.write_all(&piece).await.map_err(|_| Stop::Reset)?;
            self.shared.count(|stats| match self.direction {
                Direction::Up => stats.bytes_up += size as u64,
                Direction::Down => stats.bytes_down += size as u64,
            });
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        Ok(())
    }

    /// Waits until the end of a connection may be told. After a loss that is never.
    async fn wait_to_end(&mut self, arrived: Instant, chance: f64) {
        if self.has_lost {
            std::future::pending::<()>().await;
        }
        while self.turn(arrived, chance).await.flow == Flow::BlackHole {
            changed(&mut self.faults).await;
        }
    }

    /// Waits until what arrived then is due and nothing is frozen; the faults of that moment.
    async fn turn(&mut self, arrived: Instant, chance: f64) -> LinkFaults {
        loop {
            let now = self.faults.borrow_and_update().of(self.direction).clone();
            let due = arrived + now.delay(chance);
            if now.flow == Flow::Freeze {
                changed(&mut self.faults).await;
            } else if due <= Instant::now() || now.flow == Flow::BlackHole {
                return now;
            } else {
                tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = changed(&mut self.faults) => {}
                }
            }
        }
    }
}

async fn changed(faults: &mut watch::Receiver<Faults>) {
    // The sender lives as long as the proxy, and this task not longer.
    if faults.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
