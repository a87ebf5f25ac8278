//! One contract, every backend: each claim of `claims.rs` is a test of each of them.

use std::future::Future;
use std::sync::Arc;

use session_store::{Memory, SharedStore, Sled};

mod claims;
mod cluster;
mod instances;
mod model;

/// One test for each claim, which `$run` is given as a function from a store to a future.
macro_rules! keeps_the_contract {
    ($backend:ident, $run:expr, [$($claim:ident),* $(,)?]) => {
        mod $backend {
            $(
                #[test]
                fn $claim() {
                    $run(super::claims::$claim);
                }
            )*
        }
    };
}

/// All claims, for one backend.
macro_rules! contract {
    ($backend:ident, $run:expr) => {
        keeps_the_contract!(
            $backend,
            $run,
            [
                an_empty_store_has_nothing,
                what_is_written_is_read,
                of_two_that_saw_the_same_one_writes,
                a_loser_sees_what_is_there_instead,
                a_revision_never_comes_again,
                removal_names_a_revision_or_none,
                a_lease_ends_by_itself,
                a_renewed_lease_goes_on,
                a_kept_lease_is_that_of_the_value_before,
                of_two_reports_at_once_exactly_one_sees_only_itself,
                a_stale_report_is_refused,
                a_repeated_report_keeps_its_place,
                a_later_report_comes_last,
                reports_end_one_by_one,
                a_withdrawn_report_stays_out,
                a_decision_about_older_reports_loses,
                many_deciders_decide_once,
                a_record_has_room_for_so_many_reporters,
                a_listing_has_every_record,
                a_count_is_that_of_a_whole_listing,
                a_listing_sees_what_stays_while_others_go,
                tables_are_apart,
                every_byte_is_allowed_in_names_and_values,
                limits_are_errors,
                the_epoch_stays,
                a_subscriber_hears_every_note,
                a_topic_is_heard_by_its_subscribers_only,
                who_left_a_topic_can_come_again,
                a_token_is_spent_as_often_as_it_says,
                any_history_is_that_of_the_model,
            ]
        );
    };
}

fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test());
}

fn in_memory<F: Future<Output = ()>>(claim: impl FnOnce(SharedStore) -> F) {
    run(|| claim(Arc::new(Memory::new())));
}

fn in_sled<F: Future<Output = ()>>(claim: impl FnOnce(SharedStore) -> F) {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let store = Sled::open(directory.path().join("store")).expect("an empty store opens");
    run(|| claim(Arc::new(store)));
}

fn in_redis<F: Future<Output = ()>>(claim: impl FnOnce(SharedStore) -> F + Send) {
    cluster::shared().run(|| async { claim(cluster::open().await).await });
}

contract!(memory, super::in_memory);
contract!(sled, super::in_sled);
contract!(redis, super::in_redis);
