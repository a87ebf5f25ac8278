//! Which exchange counts, and what older connections still find.

use crate::common::{Deployment, facts, pairs};
use identity::{AgentId, Epochs, Fingerprint, MAX_EPOCHS, Pair, Role, SleepHint, Winner, winning};
use proptest::prelude::*;
use std::time::UNIX_EPOCH;
use uuid::Uuid;
use wire::keys::PairKey;
use wire::tuple::UNSPECIFIED;

/// An exchange of which only what decides is given.
pub fn pair(epoch: u32, dialled_by_smaller: bool, exchange: u8) -> Pair {
    let fingerprint = Fingerprint([1; 32]);
    Pair {
        pair_id: Uuid::from_bytes([2; 16]),
        exchange_id: Uuid::from_bytes([exchange; 16]),
        peer: AgentId::from_key("mobility", &fingerprint).unwrap(),
        peer_name: "peer".into(),
        peer_fingerprint: fingerprint,
        key: PairKey::new([exchange; 32]),
        epoch,
        peer_agent_port: 5440,
        peer_direct_addresses: Vec::new(),
        peer_observed: UNSPECIFIED,
        self_observed: UNSPECIFIED,
        peer_behind_napt: false,
        self_behind_napt: false,
        common_servers: Vec::new(),
        no_common_server: true,
        abilities: identity::Abilities::NONE,
        peer_sleep: SleepHint::default(),
        established_by: Role::Dialer,
        dialled_by_smaller,
        established_at: UNIX_EPOCH,
    }
}

#[tokio::test]
async fn of_two_crossed_exchanges_both_ends_keep_the_one_dialled_by_the_smaller_identity() {
    let deployment = Deployment::new();
    let (a, b) = (deployment.agent("a"), deployment.agent("b"));
    let (small, great) = match a.identity().agent_id() < b.identity().agent_id() {
        true => (a, b),
        false => (b, a),
    };
    let ((small_by_small, great_by_small), (great_by_great, small_by_great)) = tokio::join!(
        pairs((&small, facts()), (&great, facts())),
        pairs((&great, facts()), (&small, facts()))
    );
    assert!(small_by_small.dialled_by_smaller && great_by_small.dialled_by_smaller);
    assert!(!small_by_great.dialled_by_smaller && !great_by_great.dialled_by_smaller);

    // Whatever the order in which each end hears of them.
    assert_eq!(winning(&small_by_small, &small_by_great), Winner::Existing);
    assert_eq!(winning(&great_by_great, &great_by_small), Winner::New);
    let (mut at_small, mut at_great) = (Epochs::new(small_by_small.clone()), Epochs::new(great_by_great));
    assert!(!at_small.insert(small_by_great.clone()).current);
    assert!(at_great.insert(great_by_small).current);
    assert!(at_small.key(1) == at_great.key(1) && at_small.key(1) == Some(&small_by_small.key));
    // A connection that began under the other one in between still finds its key, second.
    let keys: Vec<_> = at_great.keys(1).collect();
    assert!(keys == [&small_by_small.key, &small_by_great.key]);
}

#[test]
fn a_higher_epoch_counts_whoever_dialled() {
    assert_eq!(winning(&pair(1, true, 1), &pair(2, false, 2)), Winner::New);
    assert_eq!(winning(&pair(2, false, 2), &pair(1, true, 1)), Winner::Existing);
    assert_eq!(
        winning(&pair(u32::MAX, false, 2), &pair(1, true, 1)),
        Winner::Existing
    );
}

#[test]
fn an_exchange_does_not_win_against_itself() {
    assert_eq!(winning(&pair(1, true, 1), &pair(1, true, 1)), Winner::Existing);
    let mut epochs = Epochs::new(pair(1, true, 1));
    assert!(epochs.insert(pair(1, true, 1)).current);
    assert_eq!(epochs.pairs().count(), 1);
}

#[test]
fn epochs_are_bounded_and_the_lowest_go_first() {
    let mut epochs = Epochs::new(pair(1, true, 1));
    for epoch in 2..=MAX_EPOCHS as u32 {
        assert_eq!(epochs.insert(pair(epoch, true, epoch as u8)).dropped, None);
    }
    let next = MAX_EPOCHS as u32 + 1;
    let inserted = epochs.insert(pair(next, true, next as u8));
    assert_eq!((inserted.current, inserted.dropped), (true, Some(1)));
    assert_eq!(epochs.pairs().count(), MAX_EPOCHS);
    assert!(epochs.key(1).is_none() && epochs.key(2).is_some());
}

#[test]
fn epochs_that_no_connection_remembers_are_forgotten_and_the_current_one_never() {
    let mut epochs = Epochs::new(pair(1, true, 1));
    epochs.insert(pair(2, true, 2));
    epochs.insert(pair(3, true, 3));
    epochs.retain(|epoch| epoch == 2);
    assert_eq!(epochs.pairs().map(|pair| pair.epoch).collect::<Vec<_>>(), [3, 2]);
    epochs.retain(|_| false);
    assert_eq!(epochs.current().epoch, 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_ends_agree_whatever_the_order_of_arrival(
        exchanges in prop::collection::vec((1u32..6, any::<bool>()), 1..10),
        shuffled in any::<prop::sample::Index>(),
    ) {
        let exchanges: Vec<_> =
            (0..).zip(exchanges).map(|(id, (epoch, smaller))| pair(epoch, smaller, id)).collect();
        let fill = |mut order: Vec<Pair>| {
            let mut epochs = Epochs::new(order.remove(0));
            for pair in order {
                epochs.insert(pair);
            }
            epochs
        };
        let mut other = exchanges.clone();
        other.rotate_left(shuffled.index(exchanges.len()));
        other.reverse();
        prop_assert_eq!(fill(exchanges), fill(other));
    }

    #[test]
    fn exactly_one_of_two_different_exchanges_wins(
        a in (1u32..4, any::<bool>(), 0u8..4), b in (1u32..4, any::<bool>(), 0u8..4),
    ) {
        prop_assume!(a != b);
        let (a, b) = (pair(a.0, a.1, a.2), pair(b.0, b.1, b.2));
        prop_assert_ne!(winning(&a, &b), winning(&b, &a));
    }
}
