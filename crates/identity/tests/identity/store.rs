//! Pairs survive a restart; damage costs pairs and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::{Deployment, exchange, facts, mode, pairs};
use identity::message::EnrolSecret;
use identity::{Pair, PairStore, StoreError};
use proptest::prelude::*;
use zeroize::ZeroizeOnDrop;

async fn some_pairs(names: &[&str]) -> Vec<Pair> {
    let deployment = Deployment::new();
    let agent = deployment.agent("agent");
    let mut all = Vec::new();
    for name in names {
        all.push(
            pairs((&agent, facts()), (&deployment.agent(name), facts()))
                .await
                .0,
        );
    }
    all
}

fn open(dir: &Path) -> PairStore {
    let (store, quarantined) = PairStore::open(dir).unwrap();
    assert_eq!(quarantined, None);
    store
}

fn stored(dir: &Path, pairs: &[Pair]) {
    let mut store = open(dir);
    for pair in pairs {
        assert!(store.insert(pair.clone()).current);
    }
    store.save().unwrap();
}

#[tokio::test]
async fn pairs_are_the_same_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let pairs = some_pairs(&["one", "two"]).await;
    stored(dir.path(), &pairs);
    let store = open(dir.path());
    assert_eq!(store.len(), 2);
    for pair in &pairs {
        assert_eq!(store.get(&pair.peer).unwrap().current(), pair);
        assert_eq!(store.by_pair_id(&pair.pair_id).unwrap().current(), pair);
        let known = store.known()[&pair.peer];
        assert_eq!((known.highest_epoch, known.pair_id), (1, pair.pair_id));
    }
}

#[tokio::test]
async fn an_exchange_after_a_restart_continues_the_pair_and_old_epochs_stay() {
    let dir = tempfile::tempdir().unwrap();
    let deployment = Deployment::new();
    let (a, b) = (deployment.agent("a"), deployment.agent("b"));
    let first = pairs((&a, facts()), (&b, facts())).await.0;
    stored(dir.path(), std::slice::from_ref(&first));

    let mut store = open(dir.path());
    let mut remembering = facts();
    remembering.known = store.known();
    let (dialled, _accepted) = exchange((&a, remembering), (&b, facts())).await;
    let second = dialled.unwrap().pair;
    assert_eq!(second.epoch, 2);
    assert!(store.insert(second.clone()).current);
    store.save().unwrap();

    let store = open(dir.path());
    let epochs = store.get(&first.peer).unwrap();
    assert!(epochs.key(1) == Some(&first.key) && epochs.key(2) == Some(&second.key));
    assert_eq!(epochs.current(), &second);
}

#[tokio::test]
async fn the_file_is_for_its_owner_alone_and_one_that_is_not_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    stored(dir.path(), &some_pairs(&["one"]).await);
    let file = dir.path().join("pairs");
    assert_eq!(mode(&file), 0o600);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let error = PairStore::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Exposed { .. }));
    assert!(error.to_string().contains("chmod 600"), "{error}");
}

#[tokio::test]
async fn the_state_directory_is_made_private() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state/agent");
    open(&state).save().unwrap();
    assert_eq!(mode(&state), 0o700);
}

#[tokio::test]
async fn a_save_that_fails_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let pairs = some_pairs(&["one", "two"]).await;
    stored(dir.path(), &pairs[..1]);
    // Something that cannot be replaced is where the new file would be written.
    fs::create_dir(dir.path().join("pairs.new")).unwrap();
    let mut store = open(dir.path());
    store.insert(pairs[1].clone());
    assert!(matches!(store.save().unwrap_err(), StoreError::Write { .. }));
    assert_eq!(open(dir.path()).len(), 1);

    // What a crash left behind does not stand in the way.
    fs::remove_dir(dir.path().join("pairs.new")).unwrap();
    fs::write(dir.path().join("pairs.new"), b"half").unwrap();
    store.save().unwrap();
    assert_eq!(open(dir.path()).len(), 2);
    assert!(!dir.path().join("pairs.new").exists());
}

#[tokio::test]
async fn a_forgotten_pair_is_gone_from_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let pairs = some_pairs(&["one", "two"]).await;
    stored(dir.path(), &pairs);
    let mut store = open(dir.path());
    assert!(store.forget(&pairs[0].peer));
    assert!(!store.forget(&pairs[0].peer));
    store.save().unwrap();
    let content = fs::read(dir.path().join("pairs")).unwrap();
    let holds = |pair: &Pair| content.windows(32).any(|window| window == pair.key.as_bytes());
    assert!(!holds(&pairs[0]) && holds(&pairs[1]));
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let pairs = some_pairs(&["one"]).await;
    stored(dir.path(), &pairs);
    let file = dir.path().join("pairs");
    let good = fs::read(&file).unwrap();
    let mut version = good.clone();
    version[11] = 9;
    let mut longer = good.clone();
    longer.push(0);
    let cases: [(&str, &[u8], &str); 5] = [
        ("empty", &[], "no file of pairs"),
        ("foreign", b"{\"pairs\": []}", "no file of pairs"),
        ("another version", &version, "format 9"),
        ("cut", &good[..good.len() - 1], "bytes long"),
        ("longer", &longer, "bytes long"),
    ];
    for (what, content, detail) in cases {
        fs::write(&file, content).unwrap();
        let (store, quarantined) = PairStore::open(dir.path()).unwrap();
        let quarantined = quarantined.unwrap_or_else(|| panic!("{what} was accepted"));
        assert!(store.is_empty() && !file.exists(), "{what}");
        assert_eq!(fs::read(&quarantined.path).unwrap(), content, "{what}");
        assert_eq!(mode(&quarantined.path), 0o600, "{what}");
        assert!(quarantined.to_string().contains(detail), "{what}: {quarantined}");
        // The agent goes on with an empty store.
        store.save().unwrap();
        assert!(open(dir.path()).is_empty());
    }
    // Every damaged file has its own name.
    let aside = fs::read_dir(dir.path()).unwrap().filter_map(Result::ok);
    assert_eq!(
        aside
            .filter(|entry| entry.file_name().to_string_lossy().contains("damaged"))
            .count(),
        5
    );
}

#[tokio::test]
async fn every_flipped_bit_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    stored(dir.path(), &some_pairs(&["one"]).await);
    let file = dir.path().join("pairs");
    let good = fs::read(&file).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&file, &bad).unwrap();
        let (store, quarantined) = PairStore::open(dir.path()).unwrap();
        let quarantined = quarantined.unwrap_or_else(|| panic!("byte {at} may be wrong"));
        assert!(store.is_empty());
        fs::remove_file(quarantined.path).unwrap();
        // Replaced by a file of the same mode for the next round.
        store.save().unwrap();
    }
}

/// A well-formed file with any body.
fn file_with(body: &[u8]) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let mut file = b"MOBPAIRS".to_vec();
    file.extend(1u32.to_be_bytes());
    file.extend((body.len() as u64).to_be_bytes());
    file.extend(&Sha256::digest(body)[..8]);
    file.extend(body);
    file
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_body_with_a_good_checksum_is_read_or_set_aside(body in prop::collection::vec(any::<u8>(), 1..200)) {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path()).save().unwrap();
        fs::write(dir.path().join("pairs"), file_with(&body)).unwrap();
        let (store, quarantined) = PairStore::open(dir.path()).unwrap();
        prop_assert!(store.is_empty());
        // Fields that nobody knows are all that random bytes can be, and they are no damage.
        prop_assert_eq!(quarantined.is_none(), dir.path().join("pairs").exists());
    }
}

#[test]
fn secrets_are_wiped_when_they_are_dropped() {
    fn wiped<T: ZeroizeOnDrop>() {}
    wiped::<wire::keys::PairKey>();
    wiped::<EnrolSecret>();
}
