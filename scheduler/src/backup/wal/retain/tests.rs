use std::path::PathBuf;
use std::time::SystemTime;

use bytes::Bytes;
use windlass_shared::model::time::Timestamp;

use super::super::name::{Lsn, Name};
use super::super::{BASES, WAL};
use super::*;
use crate::backup::keys::new_key;
use crate::backup::seal::seal;

mod copies;

const DAY: Duration = Duration::from_secs(24 * 3600);
const SEGMENT: u64 = 1 << 20;

/// A store with bases whose manifests are all that they are, and WAL from the beginning on.
struct Scene {
    folder: tempfile::TempDir,
    settings: BackupSettings,
    store: Store,
    signer: Signer,
    archive: Archive,
}

impl Scene {
    async fn new(keep: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = BackupSettings::new(folder.path().display().to_string(), "");
        settings.key = new_key();
        settings.keep = keep;
        settings.keep_for = Duration::ZERO;
        let store = Store::open(&settings).unwrap();
        std::fs::create_dir(folder.path().join(WAL)).unwrap();
        let (store, signer) = (store.under(BASES), Signer::of(&settings).unwrap());
        let archive = Archive::open(&settings, 7).unwrap();
        let scene = Self { folder, settings, store, signer, archive };
        for number in 0..8 {
            let raw = Bytes::from(vec![number as u8; 100]);
            let name = Name::of(1, number, SEGMENT);
            scene.archive.put(&name, raw, Timestamp::default()).await.unwrap();
        }
        let history = Bytes::from_static(b"1\t0/200000\twhy\n");
        scene.archive.put(&Name::history(2), history, Timestamp::default()).await.unwrap();
        scene
    }

    /// One that needs WAL from segment `first` on, and was made on day `day`; the id is of the clock of whoever made it.
    async fn base(&self, system: u64, first: u64, day: u32, id: u128) -> Base {
        let base: Base = serde_json::from_value(serde_json::json!({
            "format": 1, "key": self.signer.name(), "id": uuid::Uuid::from_u128(id).to_string(), "made_by": "",
            "ledger": uuid::Uuid::nil(), "version": 15, "system": system.to_string(), "segment_bytes": SEGMENT,
            "timeline": 1, "start": Lsn(first * SEGMENT), "end": Lsn(first * SEGMENT + 1),
            "from": Timestamp::default().plus(day * DAY), "encrypted": false, "tar_bytes": 0,
            "parts": [{ "bytes": 1, "sha256": "" }],
        }))
        .unwrap();
        self.store.put_manifest(&base.id, seal(&base, &self.signer).into()).await.unwrap();
        base
    }

    fn file(&self, base: &Base, name: &str) -> PathBuf {
        self.folder.path().join(BASES).join(&base.id).join(name)
    }

    async fn retain(&self, made: &Base) {
        retain(&self.settings, &self.store, &self.signer, made).await.unwrap();
    }

    /// The ids that are left, and the first segment that is.
    async fn left(&self) -> (Vec<u128>, Option<u64>) {
        let entries = self.store.entries().await.unwrap();
        let mut ids: Vec<u128> =
            entries.iter().map(|e| e.id.parse::<uuid::Uuid>().unwrap().as_u128()).collect();
        ids.sort_unstable();
        let names = self.archive.names().await.unwrap();
        assert!(names.contains(&Name::history(2)), "histories stay");
        (ids, names.iter().filter_map(|name| name.number(SEGMENT)).min())
    }
}

fn age(file: &std::path::Path, age: Duration) {
    let file = std::fs::File::options().write(true).open(file).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

/// Goal: which one is newest is the server's matter, whatever the clocks of hosts made of their ids; what was just made
/// stays in any case.
#[tokio::test]
async fn bases_are_in_the_order_of_the_servers_time() {
    let scene = Scene::new(1).await;
    scene.base(7, 1, 1, 900).await;
    scene.base(7, 2, 2, 800).await;
    let made = scene.base(7, 3, 3, 100).await;
    scene.retain(&made).await;
    assert_eq!(scene.left().await, (vec![100], Some(3)));

    // A recovered server, whose clock is behind: the WAL from its base on stays as well.
    let made = scene.base(7, 2, 1, 200).await;
    scene.retain(&made).await;
    assert_eq!(scene.left().await, (vec![100, 200], Some(3)));
}

#[tokio::test]
async fn the_young_and_those_that_are_read_stay_with_their_wal() {
    let mut scene = Scene::new(1).await;
    scene.settings.keep_for = 2 * DAY;
    let read = scene.base(7, 1, 1, 1).await;
    scene.store.note_reader(&read.id).await;
    scene.base(7, 2, 1, 2).await;
    scene.base(7, 3, 3, 3).await;
    let made = scene.base(7, 4, 4, 4).await;
    scene.retain(&made).await;
    assert_eq!(scene.left().await, (vec![1, 3, 4], Some(1)));
    age(&scene.file(&read, "read"), DAY - DAY / 24);
    scene.retain(&made).await;
    assert_eq!(scene.left().await, (vec![1, 3, 4], Some(1)), "it takes long to read one");
    age(&scene.file(&read, "read"), DAY + DAY / 24);
    scene.retain(&made).await;
    assert_eq!(scene.left().await, (vec![3, 4], Some(3)));
}

#[tokio::test]
async fn what_is_not_known_keeps_all_wal_and_other_servers_keep_theirs() {
    let scene = Scene::new(1).await;
    scene.base(8, 1, 1, 1).await;
    scene.base(8, 2, 2, 2).await;
    let bad = scene.base(7, 2, 2, 3).await;
    scene.base(7, 3, 3, 4).await;
    let made = scene.base(7, 4, 4, 5).await;
    let manifest = scene.file(&bad, "manifest");
    std::fs::write(&manifest, "damaged").unwrap();
    scene.retain(&made).await;
    assert_eq!(scene.left().await, (vec![1, 2, 3, 5], Some(0)));
    std::fs::remove_file(&manifest).unwrap();
    scene.retain(&made).await;
    assert_eq!(scene.left().await, (vec![1, 2, 5], Some(4)));
}

#[tokio::test]
async fn what_was_never_completed_goes_after_a_day() {
    let scene = Scene::new(1).await;
    let [old, young] = [1, 2].map(|id| uuid::Uuid::from_u128(id).to_string());
    for id in [&old, &young] {
        scene.store.put_part(id, 0, Bytes::from_static(b"half")).await.unwrap();
    }
    let part = scene.folder.path().join(BASES).join(&old).join("part-00000");
    let left = part.with_file_name("part-00001#1");
    std::fs::write(&left, "half").unwrap();
    age(&part, DAY + DAY / 24);
    let part_of_young = scene.folder.path().join(BASES).join(&young).join("part-00000");
    age(&part_of_young, DAY - DAY / 24);
    // A push that was killed.
    let wal = scene.folder.path().join(WAL).join("7/00000001/000000010000000000000009#1");
    std::fs::write(&wal, "half").unwrap();
    age(&wal, DAY - DAY / 24);
    let made = scene.base(7, 0, 1, 3).await;
    scene.retain(&made).await;
    assert!(!part.parent().unwrap().exists(), "with what a killed writer has left");
    assert_eq!(scene.left().await, (vec![2, 3], Some(0)));
    assert!(wal.exists(), "somebody may write it still");
    age(&wal, DAY + DAY / 24);
    scene.retain(&made).await;
    assert!(!wal.exists());
}
