//! Long answers: read from the store a page at a time, and no faster than the caller reads them.

use std::pin::Pin;

use futures_util::Stream;
use session_store::Cursor;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Records that are read from the store at once.
pub(super) const PAGE: usize = 256;

/// The rows of one answer.
pub(super) type Rows<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// `first`, and then what `page` reads, from its beginning to its end; at most `limit` rows, 0: all.
///
/// `page` is asked again only when what it returned last has been taken. It says where its next page begins, or
/// that there is none.
pub(super) fn pages<T, P, F>(limit: u32, first: Vec<T>, mut page: P) -> Rows<T>
where
    T: Send + 'static,
    P: FnMut(Option<Cursor>) -> F + Send + 'static,
    F: Future<Output = Result<(Vec<T>, Option<Cursor>), Status>> + Send,
{
    let (out, rows) = mpsc::channel(64);
    let mut left = match limit {
        0 => usize::MAX,
        limit => limit as usize,
    };
    tokio::spawn(async move {
        let mut read = first;
        let mut after = None;
        let mut is_last = false;
        loop {
            for row in read {
                if left == 0 || out.send(Ok(row)).await.is_err() {
                    return;
                }
                left -= 1;
            }
            if is_last || left == 0 {
                return;
            }
            match page(after).await {
                Ok((rows, next)) => {
                    read = rows;
                    is_last = next.is_none();
                    after = next;
                }
                Err(failed) => {
                    let _ = out.send(Err(failed)).await;
                    return;
                }
            }
        }
    });
    Box::pin(ReceiverStream::new(rows))
}

/// Rows that are there already; at most `limit`, 0: all.
pub(super) fn rows<T: Send + 'static>(rows: Vec<T>, limit: u32) -> Rows<T> {
    let most = if limit == 0 { usize::MAX } else { limit as usize };
    Box::pin(futures_util::stream::iter(rows.into_iter().take(most).map(Ok)))
}
