//! A small writer that shows what a cut takes: it acknowledges records with and without fsync.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{PowerCut, PowerCutError};

const RECORD_BYTES: usize = 64;
/// Longest wait for the records before a cut.
const RECORDS_MAX: Duration = Duration::from_secs(30);

/// What one cut took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Records that were acknowledged before the cut.
    pub acknowledged: u64,
    /// Of those, records that are not on the copy.
    pub lost: u64,
}

/// Writes `records` records or more, cuts the power in the middle of writing, and counts what is lost.
///
/// With `with_fsync` a record is acknowledged after `fdatasync`, else after `write`. Blocks until done.
/// Errors when the disk is full, or so slow that the records take 30 s.
pub fn measure(disk: &mut PowerCut, with_fsync: bool, records: u64) -> Result<Loss, PowerCutError> {
    // A name of its own: records of an earlier call must not be taken for records of this one.
    let name = format!("records-{}", disk.cuts);
    let file = File::create_new(disk.data().join(&name))?;
    if with_fsync {
        // The file's name must be there too.
        file.sync_all()?;
        File::open(disk.data())?.sync_all()?;
    }
    let (acknowledged, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(&file, with_fsync, &acknowledged, &stop));
        let deadline = Instant::now() + RECORDS_MAX;
        while acknowledged.load(Ordering::SeqCst) < records
            && !writer.is_finished()
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Read before the cut begins: what comes later may or may not be on the copy.
        let before = acknowledged.load(Ordering::SeqCst);
        let after = disk.cut();
        stop.store(true, Ordering::SeqCst);
        writer.join().expect("the writer does not panic")?;
        if before < records {
            return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
        }
        let kept = kept(&after?.data().join(name))?;
        Ok(Loss { acknowledged: before, lost: before.saturating_sub(kept) })
    })
}

fn write(
    mut file: &File,
    with_fsync: bool,
    acknowledged: &AtomicU64,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        file.write_all(&record(number))?;
        if with_fsync {
            file.sync_data()?;
        } else {
            // Else it would fill the disk while the other does a few hundred.
            std::thread::sleep(Duration::from_micros(50));
        }
        number += 1;
        acknowledged.store(number, Ordering::SeqCst);
    }
    Ok(())
}

fn record(number: u64) -> [u8; RECORD_BYTES] {
    let mut record = [b'.'; RECORD_BYTES];
    record[..8].copy_from_slice(&number.to_le_bytes());
    record
}

/// How many records are whole and in order.
fn kept(file: &Path) -> std::io::Result<u64> {
    let bytes = match std::fs::read(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        other => other?,
    };
    let whole = bytes.chunks_exact(RECORD_BYTES).zip(0..);
    Ok(whole.take_while(|(bytes, number)| *bytes == record(*number)).count() as u64)
}
