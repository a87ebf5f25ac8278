//! What sled adds to the contract: records outlive the process, however it ends, and damage is set aside.
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use session_store::{Expected, Key, Lease, Reported, Revision, Sled, Store, StoreError, Swap, Table, Upkeep};

/// Set for the copies of this program that a test starts as processes of their own: the directory they use.
const DIRECTORY: &str = "SESSION_STORE_TEST_DIRECTORY";

fn key(name: impl Into<Bytes>) -> Key {
    Key::new(Table::Sessions, name).unwrap()
}

fn open(path: &Path) -> Sled {
    Sled::open(path).unwrap_or_else(|error| panic!("{error}"))
}

async fn write(store: &Sled, name: &str, value: impl Into<Bytes>) -> Result<Revision, StoreError> {
    let key = key(name.to_owned());
    let value = value.into();
    let mut expected = Expected::Absent;
    loop {
        match store.swap(&key, expected, value.clone(), Lease::Forever).await? {
            Swap::Done(revision) => return Ok(revision),
            Swap::Lost(record) => {
                expected = record.map_or(Expected::Absent, |record| Expected::At(record.revision))
            }
        }
    }
}

async fn value(store: &Sled, name: &str) -> Option<Bytes> {
    store.get(&key(name.to_owned())).await.unwrap()?.value
}

/// A test of this program as a process of its own.
fn child(test: &str, directory: &Path, through: &[&str]) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut words = through.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    words.push(program.display().to_string());
    words.extend([test, "--exact", "--nocapture"].map(str::to_owned));
    Command::new(&words[0])
        .args(&words[1..])
        .env(DIRECTORY, directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {words:?}: {error}"))
}

/// The part that a test plays as a process of its own.
fn directory_of_child() -> Option<std::path::PathBuf> {
    std::env::var_os(DIRECTORY).map(Into::into)
}

#[tokio::test]
async fn records_reports_and_epoch_outlive_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let pair = Key::new(Table::Pairs, "pair").unwrap();
    let store = open(&path);
    let epoch = store.epoch().await.unwrap();
    let first = write(&store, "kept", "one").await.unwrap();
    store
        .report(
            &pair,
            b"a",
            4,
            "report".into(),
            Lease::For(Duration::from_secs(900)),
        )
        .await
        .unwrap();
    store
        .report(
            &pair,
            b"b",
            1,
            "report".into(),
            Lease::For(Duration::from_secs(900)),
        )
        .await
        .unwrap();
    store.withdraw(&pair, b"b", 1).await.unwrap();
    let before = store.get(&pair).await.unwrap().unwrap();
    let removed = write(&store, "removed", "one").await.unwrap();
    store.remove(&key("removed"), None).await.unwrap();
    drop(store);

    let store = open(&path);
    assert_eq!(store.quarantined(), None);
    assert_eq!(store.epoch().await.unwrap(), epoch);
    assert_eq!(value(&store, "kept").await.unwrap(), "one");
    assert_eq!(store.get(&pair).await.unwrap().unwrap(), before);
    let straggler = store
        .report(&pair, b"b", 1, "late".into(), Lease::Forever)
        .await
        .unwrap();
    assert_eq!(straggler, Reported::Stale { stored: 1 });
    assert_eq!(value(&store, "removed").await, None);
    assert!(write(&store, "removed", "two").await.unwrap() > removed.max(first));
}

#[tokio::test]
async fn one_process_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path);
    let second = Sled::open(&path)
        .err()
        .expect("the directory is taken")
        .to_string();
    assert!(second.contains("another process uses it"), "{second}");
    drop(store);
    open(&path);
    let nowhere = Sled::open(directory.path().join("no/such/parent")).err().unwrap();
    assert!(matches!(nowhere, StoreError::Directory { .. }), "{nowhere}");
}

/// Writers that say aloud what was acknowledged to them, until they are killed.
async fn say_what_is_acknowledged(path: &Path) {
    let store = open(path);
    join_all((0..16).map(|writer| {
        let store = &store;
        async move {
            for number in 0_u64.. {
                let value = Bytes::from(vec![b'v'; 20 + (number % 300) as usize]);
                write(store, &format!("{writer}/{number}"), value).await.unwrap();
                println!("acknowledged {writer} {number}");
            }
        }
    }))
    .await;
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_to_a_kill() {
    if let Some(path) = directory_of_child() {
        return say_what_is_acknowledged(&path).await;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut acknowledged: Vec<(String, u64)> = Vec::new();
    for round in 1..=4 {
        let mut child = child("nothing_acknowledged_is_lost_to_a_kill", &path, &[]);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut heard = 0;
        for line in lines.map_while(Result::ok) {
            // The test harness talks too, on the same line at times.
            let Some((_, said)) = line.split_once("acknowledged ") else {
                continue;
            };
            // The last line may be cut.
            let Some((writer, number)) = said.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse() else { continue };
            acknowledged.push((writer.to_owned(), number));
            heard += 1;
            if heard == 300 * round {
                // SIGKILL, while all writers write; what is in the pipe by then was acknowledged too.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(
            heard >= 300 * round,
            "round {round}: the writers ended by themselves"
        );
        let store = open(&path);
        assert_eq!(store.quarantined(), None);
        for (writer, number) in &acknowledged {
            let name = format!("{writer}/{number}");
            // A cut number names a record that was acknowledged before.
            let length = value(&store, &name)
                .await
                .unwrap_or_else(|| panic!("{name} is lost"))
                .len();
            assert_eq!(length, 20 + (number % 300) as usize, "{name}");
        }
    }
}

/// The files of a closed store, the largest first.
fn files(path: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.metadata().unwrap().is_file())
        .map(|entry| (std::cmp::Reverse(entry.metadata().unwrap().len()), entry.path()))
        .collect();
    files.sort();
    files.into_iter().map(|(_, path)| path).collect()
}

#[tokio::test]
async fn a_directory_that_does_not_open_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path);
    let epoch = store.epoch().await.unwrap();
    write(&store, "old", "one").await.unwrap();
    drop(store);
    let conf = path.join("conf");
    assert!(files(&path).contains(&conf), "sled's files have other names now");
    std::fs::write(&conf, b"this is no configuration").unwrap();

    let store = open(&path);
    let aside = store.quarantined().expect("it was set aside").to_owned();
    assert!(aside.join("conf").is_file(), "nothing is thrown away");
    assert_ne!(store.epoch().await.unwrap(), epoch);
    assert_eq!(value(&store, "old").await, None);
    write(&store, "new", "one").await.unwrap();
    let epoch = store.epoch().await.unwrap();
    drop(store);
    let store = open(&path);
    assert_eq!((store.quarantined(), store.epoch().await.unwrap()), (None, epoch));
    assert_eq!(value(&store, "new").await.unwrap(), "one");
}

#[tokio::test]
async fn garbage_anywhere_never_stops_the_server() {
    for seed in 0..12_u64 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let store = open(&path);
        let epoch = store.epoch().await.unwrap();
        for number in 0..200 {
            write(&store, &number.to_string(), vec![number as u8; 500])
                .await
                .unwrap();
        }
        drop(store);
        let largest = &files(&path)[0];
        let length = largest.metadata().unwrap().len();
        let file = std::fs::OpenOptions::new().write(true).open(largest).unwrap();
        if seed == 0 {
            file.set_len(length / 2).unwrap();
        } else {
            let noise: Vec<u8> = (0..256)
                .map(|at: u64| (at.wrapping_mul(seed * 2_654_435_761) >> 7) as u8)
                .collect();
            file.write_all_at(&noise, (seed * 7919) % length.min(120_000))
                .unwrap();
        }
        drop(file);
        let store = open(&path);
        // What is there is right; what is not there is absent.
        let mut missing = 0;
        for number in 0..200 {
            match value(&store, &number.to_string()).await {
                Some(value) => assert_eq!(value, vec![number as u8; 500]),
                None => missing += 1,
            }
        }
        if store.quarantined().is_some() {
            assert_ne!(store.epoch().await.unwrap(), epoch);
            assert_eq!(missing, 200);
        }
        write(&store, "new", "one").await.unwrap();
    }
}

/// The database without this crate. Its threads keep the lock for a moment after it was closed.
fn raw(path: &Path) -> sled::Db {
    loop {
        match sled::open(path) {
            Ok(db) => return db,
            Err(error) => assert!(error.to_string().contains("acquire lock"), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn a_damaged_record_is_set_aside_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path);
    let epoch = store.epoch().await.unwrap();
    write(&store, "whole", "one").await.unwrap();
    write(&store, "damaged", "one").await.unwrap();
    drop(store);
    let damaged = {
        let db = raw(&path);
        let records = db.open_tree("records").unwrap();
        let (name, bytes) = records
            .iter()
            .map(Result::unwrap)
            .find(|(name, _)| name.ends_with(b"damaged"))
            .unwrap();
        let mut bytes = bytes.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        records.insert(&name, bytes.clone()).unwrap();
        records.insert(b"\xffof no table", "x").unwrap();
        db.flush().unwrap();
        bytes
    };
    let store = open(&path);
    assert_eq!(store.quarantined(), None);
    assert_ne!(store.epoch().await.unwrap(), epoch);
    assert_eq!(value(&store, "damaged").await, None);
    assert_eq!(value(&store, "whole").await.unwrap(), "one");
    write(&store, "damaged", "two").await.unwrap();
    drop(store);
    let aside = raw(&path).open_tree("set-aside").unwrap();
    assert_eq!(aside.len(), 2);
    assert!(aside.iter().any(|item| item.unwrap().1 == damaged));
}

#[tokio::test]
async fn a_store_that_has_grown_gives_space_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let upkeep = Upkeep {
        flushes: 50,
        small: 2 * 1024 * 1024,
        swollen: 3,
    };
    let store = Sled::open_with(&path, upkeep).unwrap();
    let epoch = store.epoch().await.unwrap();
    let kept = write(&store, "kept", "one").await.unwrap();
    let mut largest = 0;
    for number in 0..300_u64 {
        // Nothing that compresses.
        let value: Vec<u8> = (0..40_000_u64)
            .map(|at| (at.wrapping_mul(number + 1).wrapping_mul(2_654_435_761) >> 11) as u8)
            .collect();
        write(&store, &format!("passing {}", number % 8), value)
            .await
            .unwrap();
        largest = largest.max(store.size_on_disk().await.unwrap());
    }
    let size = store.size_on_disk().await.unwrap();
    assert!(
        largest > 2 * 1024 * 1024 && size < 9 * 1024 * 1024,
        "{size} bytes after {largest}"
    );
    assert!(
        size < 300 * 40_000 * 3 / 4,
        "{size} bytes are as much as was written"
    );
    let record = store.get(&key("kept")).await.unwrap().unwrap();
    assert_eq!((record.revision, store.epoch().await.unwrap()), (kept, epoch));
    drop(store);
    let store = open(&path);
    assert_eq!(store.epoch().await.unwrap(), epoch);
    assert_eq!(value(&store, "kept").await.unwrap(), "one");
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        2,
        "the store and its lock"
    );
}

#[tokio::test]
async fn an_exchange_that_was_interrupted_is_finished_or_undone() {
    let directory = tempfile::tempdir().unwrap();
    let (path, old, compact) = ["store", "store.old", "store.compact"]
        .map(|name| directory.path().join(name))
        .into();
    let store = open(&path);
    write(&store, "kept", "one").await.unwrap();
    drop(store);
    // Before the first rename: half a copy. Between both: no store. After both: the old one is still there.
    std::fs::create_dir(&compact).unwrap();
    assert_eq!(value(&open(&path), "kept").await.unwrap(), "one");
    std::fs::rename(&path, &old).unwrap();
    std::fs::create_dir(&compact).unwrap();
    assert_eq!(value(&open(&path), "kept").await.unwrap(), "one");
    std::fs::create_dir(&old).unwrap();
    assert_eq!(value(&open(&path), "kept").await.unwrap(), "one");
    assert!(!old.exists() && !compact.exists());
}

/// Fills a small disk, frees it, and goes on.
async fn fill_the_disk(disk: &Path) {
    let path = disk.join("store");
    let store = open(&path);
    let ballast = disk.join("ballast");
    std::fs::write(&ballast, vec![7; 8 * 1024 * 1024]).unwrap();
    let mut acknowledged = 0_u64;
    let error = loop {
        let value: Vec<u8> = (0..20_000)
            .map(|at: u64| (at.wrapping_mul(acknowledged + 3) >> 5) as u8)
            .collect();
        match write(&store, &acknowledged.to_string(), value).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 100_000, "the disk is larger than it was made");
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("free some"), "{error}");
    assert!(acknowledged > 10, "the disk is full too early");
    // What takes space back goes on.
    assert!(store.remove(&key("0"), None).await.unwrap());
    std::fs::remove_file(&ballast).unwrap();
    write(&store, "after", "one").await.unwrap();
    assert_eq!(store.quarantined(), None);
    for number in 1..acknowledged {
        let value = value(&store, &number.to_string()).await;
        assert_eq!(value.expect("it was acknowledged").len(), 20_000);
    }
    drop(store);
    let store = open(&path);
    assert_eq!(value(&store, "after").await.unwrap(), "one");
    println!("went on after {acknowledged}");
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_loses_nothing_acknowledged() {
    if let Some(disk) = directory_of_child() {
        return fill_the_disk(&disk).await;
    }
    let disk = tempfile::tempdir().unwrap();
    // A mount of its own, in a namespace that goes with the process.
    let mount = "mount --make-rprivate / && mount -t tmpfs -o size=40m none \"$0\" && exec \"$@\"";
    let through = ["unshare", "-m", "sh", "-c", mount, disk.path().to_str().unwrap()];
    let child = child(
        "a_full_disk_is_an_error_and_loses_nothing_acknowledged",
        disk.path(),
        &through,
    );
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("went on after"),
        "{said}"
    );
}
