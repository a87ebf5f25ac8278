//! One contract, every backend: each claim of `claims.rs` is a test of each of them.

mod claims;
mod model;

/// One test for each claim, against the store that `$open` yields. `$open` returns the store and what keeps it alive.
macro_rules! keeps_the_contract {
    ($backend:ident, $open:expr, [$($claim:ident),* $(,)?]) => {
        mod $backend {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $claim() {
                    let (store, _alive) = $open.await;
                    super::claims::$claim(store).await;
                }
            )*
        }
    };
}

/// All claims, for one backend.
macro_rules! contract {
    ($backend:ident, $open:expr) => {
        keeps_the_contract!(
            $backend,
            $open,
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
                a_listing_has_every_record_once,
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

async fn memory() -> (session_store::SharedStore, ()) {
    (std::sync::Arc::new(session_store::Memory::new()), ())
}

contract!(memory, super::memory());

async fn sled() -> (session_store::SharedStore, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let store = session_store::Sled::open(directory.path().join("store")).expect("an empty store opens");
    (std::sync::Arc::new(store), directory)
}

contract!(sled, super::sled());
