use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::*;
use crate::backup::keys::new_key;

const SEGMENT: u64 = 1 << 20;

fn scene() -> (tempfile::TempDir, Archive) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join(WAL)).unwrap();
    let mut settings = BackupSettings::new(folder.path().display().to_string(), "");
    settings.key = new_key();
    let archive = Archive::open(&settings, 7).unwrap();
    (folder, archive)
}

async fn put(archive: &Archive, name: &Name) -> Result<Pushed, BackupError> {
    archive.put(name, Bytes::from(vec![7; 100]), Timestamp::default()).await
}

fn file(folder: &tempfile::TempDir, name: &Name) -> PathBuf {
    let timeline = format!("{:08X}", name.timeline);
    folder.path().join(WAL).join("7").join(timeline).join(name.as_str())
}

/// Goal: what a disk failed to write is not taken for durable because it can still be read from memory.
#[tokio::test]
async fn what_is_there_already_is_written_anew() {
    let (folder, archive) = scene();
    let name = Name::of(1, 5, SEGMENT);
    assert_eq!(put(&archive, &name).await.unwrap(), Pushed::New);
    let file = file(&folder, &name);
    let (bytes, before) = (std::fs::read(&file).unwrap(), file.metadata().unwrap().ino());
    assert_eq!(put(&archive, &name).await.unwrap(), Pushed::Same);
    assert_ne!(file.metadata().unwrap().ino(), before, "it is the same file");
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
}

#[tokio::test]
async fn where_its_folder_is_gone_nothing_is_made() {
    let (folder, archive) = scene();
    let (wal, aside) = (folder.path().join(WAL), folder.path().join("aside"));
    std::fs::rename(&wal, &aside).unwrap();
    let failed = put(&archive, &Name::of(1, 5, SEGMENT)).await;
    assert!(matches!(failed, Err(BackupError::Store(_))), "{failed:?}");
    assert!(!wal.exists(), "it would have gone to the disk below");
    std::fs::rename(&aside, &wal).unwrap();
    assert_eq!(put(&archive, &Name::of(1, 5, SEGMENT)).await.unwrap(), Pushed::New);
}

#[tokio::test]
async fn one_damaged_head_does_not_hide_how_long_segments_are() {
    let (folder, archive) = scene();
    let [older, newer] = [1, 2].map(|timeline| Name::of(timeline, 5, SEGMENT));
    let names = BTreeSet::from([older.clone(), newer.clone(), Name::history(3)]);
    for name in [&older, &newer] {
        put(&archive, name).await.unwrap();
    }
    std::fs::write(file(&folder, &newer), "damaged").unwrap();
    assert_eq!(archive.segment_bytes(&names).await.unwrap(), Some(100));
    std::fs::write(file(&folder, &older), "damaged").unwrap();
    let failed = archive.segment_bytes(&names).await;
    assert!(matches!(failed, Err(BackupError::WalDamaged { .. })), "{failed:?}");
    assert_eq!(archive.segment_bytes(&BTreeSet::new()).await.unwrap(), None);
}
