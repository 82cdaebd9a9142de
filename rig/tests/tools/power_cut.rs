//! A power cut takes what was not brought to the disk, that alone, and leaves nothing behind.
//!
//! These tests fail on a machine that cannot do it, unless `WINDLASS_RIG_NO_POWER_CUT=1` says so.

use std::path::Path;

use windlass_rig::tools::power_cut::leftovers::{clean, devices_under, mounts_under};
use windlass_rig::tools::power_cut::{PowerCut, missing, writer};
use windlass_shared::testkit::redis_server::{RedisOptions, RedisServer};

use crate::child::{Running, rig};

const DISK_BYTES: u64 = 64 << 20;

/// Whether the machine's owner says that it cannot. Else it must.
fn is_excused() -> bool {
    if std::env::var("WINDLASS_RIG_NO_POWER_CUT").is_ok_and(|value| value == "1") {
        eprintln!("no power cuts on this machine: {:?}", missing());
        return true;
    }
    let how = "install it, or set WINDLASS_RIG_NO_POWER_CUT=1 to do without these tests";
    assert!(missing().is_empty(), "missing: {}; {how}", missing().join("; "));
    false
}

fn folder_of(disk: &PowerCut) -> std::path::PathBuf {
    disk.data().parent().unwrap().to_owned()
}

fn assert_nothing_left(folder: &Path) {
    assert!(!folder.exists(), "{}", folder.display());
    assert_eq!(mounts_under(folder).unwrap(), Vec::<std::path::PathBuf>::new());
    assert_eq!(devices_under(folder).unwrap(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn what_was_synced_is_kept_and_what_was_not_is_lost() {
    if is_excused() {
        return;
    }
    let mut disk = PowerCut::start(DISK_BYTES).unwrap();
    for _ in 0..3 {
        let synced = writer::measure(&mut disk, true, 200).unwrap();
        assert_eq!(synced.lost, 0, "{synced:?}");
        let hoped = writer::measure(&mut disk, false, 1_000).unwrap();
        assert!(hoped.lost > 0, "{hoped:?}");
    }
}

#[test]
fn a_disk_goes_on_from_what_a_cut_has_left() {
    if is_excused() {
        return;
    }
    let mut disk = PowerCut::start(DISK_BYTES).unwrap();
    let folder = folder_of(&disk);
    let place = disk.data().to_owned();
    let keep = |name: &str| {
        let path = place.join(name);
        std::fs::write(&path, name).unwrap();
        std::fs::File::open(&path).unwrap().sync_all().unwrap();
        std::fs::File::open(&place).unwrap().sync_all().unwrap();
    };
    keep("one");
    std::fs::write(place.join("hoped"), "for").unwrap();
    let mut is_off = false;
    disk.fall_back(|| is_off = true).unwrap();
    assert!(is_off, "the servers are killed");
    assert_eq!(disk.data(), place);
    assert_eq!(std::fs::read_to_string(place.join("one")).unwrap(), "one");
    // Its name may have reached the disk, what is in it has not.
    assert_eq!(std::fs::read_to_string(place.join("hoped")).unwrap_or_default(), "");
    // A second cut is one of what goes on, not of what was before.
    keep("two");
    disk.fall_back(|| ()).unwrap();
    let after = disk.cut().unwrap();
    for name in ["one", "two"] {
        assert_eq!(std::fs::read_to_string(place.join(name)).unwrap(), name);
        assert_eq!(std::fs::read_to_string(after.data().join(name)).unwrap(), name);
    }
    drop((after, disk));
    assert_nothing_left(&folder);
}

#[test]
fn redis_keeps_what_its_settings_promise() {
    if is_excused() {
        return;
    }
    let mut disk = PowerCut::start(DISK_BYTES).unwrap();
    let mut kept = Vec::new();
    for policy in ["always", "no"] {
        let folder = disk.data().join(policy);
        std::fs::create_dir(&folder).unwrap();
        let on = |folder: &Path| RedisOptions {
            args: [
                "--dir",
                folder.to_str().unwrap(),
                "--appendonly",
                "yes",
                "--appendfsync",
                policy,
            ]
            .map(str::to_owned)
            .to_vec(),
            ..RedisOptions::default()
        };
        let server = RedisServer::start(on(&folder));
        for n in 0..200 {
            server.command(&["SET", &n.to_string(), "1"]).expect_ok();
        }
        let after = disk.cut().unwrap();
        drop(server);
        let server = RedisServer::start(on(&after.data().join(policy)));
        kept.push(server.command(&["DBSIZE"]).text().parse::<u32>().unwrap());
        drop(server);
    }
    assert_eq!(kept[0], 200, "synced at every write");
    assert!(kept[1] < 200, "never synced: {}", kept[1]);
}

#[test]
fn the_disk_itself_goes_on_and_each_cut_is_of_its_moment() {
    if is_excused() {
        return;
    }
    let mut disk = PowerCut::start(DISK_BYTES).unwrap();
    let write = |name: &str| {
        let file = std::fs::File::create(disk.data().join(name)).unwrap();
        file.sync_all().unwrap();
        std::fs::File::open(disk.data()).unwrap().sync_all().unwrap();
    };
    write("a");
    let write_b = disk.data().join("b");
    let first = disk.cut().unwrap();
    std::fs::File::create(&write_b).unwrap().sync_all().unwrap();
    std::fs::File::open(disk.data()).unwrap().sync_all().unwrap();
    let second = disk.cut().unwrap();
    assert!(first.data().join("a").exists() && !first.data().join("b").exists());
    assert!(second.data().join("a").exists() && second.data().join("b").exists());
    let folder = folder_of(&disk);
    // In the wrong order: the cuts outlive the disk.
    drop(disk);
    assert!(first.data().join("a").exists());
    drop((first, second));
    assert_nothing_left(&folder);
}

#[test]
fn a_panic_leaves_nothing() {
    if is_excused() {
        return;
    }
    let folder = std::sync::Mutex::new(None);
    let panicked = std::panic::catch_unwind(|| {
        let mut disk = PowerCut::start(DISK_BYTES).unwrap();
        *folder.lock().unwrap() = Some(folder_of(&disk));
        let after = disk.cut().unwrap();
        assert!(after.data().join("missing").exists(), "this fails");
    });
    assert!(panicked.is_err());
    assert_nothing_left(&folder.into_inner().unwrap().expect("the disk was made"));
}

#[test]
fn what_a_killed_process_leaves_is_removed_and_what_lives_is_not() {
    if is_excused() {
        return;
    }
    let mut tool = Running::start(&mut rig(&["power-cut", "hold"]));
    let data = tool.line();
    let folder = Path::new(&data).parent().unwrap();
    assert!(!mounts_under(folder).unwrap().is_empty());
    let living = PowerCut::start(DISK_BYTES).unwrap();
    assert!(folder.exists(), "its process lives");
    tool.kill();
    let output = rig(&["power-cut", "clean"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // Another test's disk may have cleaned first, on its start.
    assert!(text.contains(folder.to_str().unwrap()) || !folder.exists(), "{text}");
    assert_nothing_left(folder);
    assert!(living.data().exists());
    assert!(!mounts_under(&folder_of(&living)).unwrap().is_empty());
    assert!(!clean(&std::env::temp_dir()).unwrap().contains(&folder_of(&living)));
}
