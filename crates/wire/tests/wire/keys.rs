//! Keys, tokens and request numbers of one connection.
use crate::common::*;
use wire::{ConnectionKeys, PairKey, ReqNo, ReqNoError, Role};

#[test]
fn request_numbers_alternate_by_role() {
    let next = |role, highest| ReqNo::next_for(role, ReqNo(highest)).unwrap();
    for (highest, initiator, acceptor) in [(0, 2, 1), (1, 2, 3), (2, 4, 3), (3, 4, 5), (1000, 1002, 1001)] {
        assert_eq!(next(Role::Initiator, highest), ReqNo(initiator));
        assert_eq!(next(Role::Acceptor, highest), ReqNo(acceptor));
    }
    assert_eq!(ReqNo::UNMOVED.role(), None);
    assert_eq!(ReqNo(7).role(), Some(Role::Acceptor));
    assert_eq!(ReqNo(8).role(), Some(Role::Initiator));
}

#[test]
fn each_direction_has_its_own_key_and_each_resumption_its_own_token() {
    let keys = keys();
    for role in [Role::Initiator, Role::Acceptor] {
        assert_eq!(keys.outgoing(role), keys.incoming(role.peer()));
        assert_ne!(keys.outgoing(role), keys.incoming(role));
    }
    let tokens: std::collections::BTreeSet<_> =
        (0..1000).map(|committed| keys.token(ReqNo(committed))).collect();
    assert_eq!(tokens.len(), 1000);
}

#[test]
fn keys_depend_on_pair_key_epoch_and_both_sequence_numbers() {
    let derive = |byte, epoch, initiator, acceptor| {
        ConnectionKeys::derive(&PairKey::new([byte; 32]), epoch, initiator, acceptor)
    };
    let keys = derive(1, 2, 3, 4);
    assert_eq!(keys, derive(1, 2, 3, 4));
    for other in [
        derive(0, 2, 3, 4),
        derive(1, 0, 3, 4),
        derive(1, 2, 0, 4),
        derive(1, 2, 3, 0),
        derive(1, 2, 4, 3),
    ] {
        assert_ne!(keys.initiator_to_acceptor, other.initiator_to_acceptor);
        assert_ne!(keys.acceptor_to_initiator, other.acceptor_to_initiator);
        assert_ne!(keys.token_key, other.token_key);
    }
}

#[test]
fn no_secret_is_printed() {
    let pair_key = PairKey::new([0x5a; 32]);
    let keys = ConnectionKeys::derive(&pair_key, 1, 2, 3);
    assert_eq!(format!("{pair_key:?}"), "PairKey(..)");
    assert_eq!(
        format!("{keys:?}"),
        "ConnectionKeys { initiator_to_acceptor: MacKey(..), acceptor_to_initiator: MacKey(..), \
         token_key: TokenKey(..) }"
    );
}

#[test]
fn request_numbers_run_out_with_an_error_for_both_roles() {
    let exhausted = |role, highest: u32| {
        let highest_seen = ReqNo(highest);
        assert_eq!(
            ReqNo::next_for(role, highest_seen),
            Err(ReqNoError::Exhausted { role, highest_seen })
        );
    };
    exhausted(Role::Initiator, u32::MAX - 1);
    exhausted(Role::Initiator, u32::MAX);
    exhausted(Role::Acceptor, u32::MAX);
    assert_eq!(
        ReqNo::next_for(Role::Acceptor, ReqNo(u32::MAX - 1)),
        Ok(ReqNo(u32::MAX))
    );
    assert_eq!(
        ReqNo::next_for(Role::Initiator, ReqNo(u32::MAX - 2)),
        Ok(ReqNo(u32::MAX - 1))
    );
}
