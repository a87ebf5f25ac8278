//! Walks over all sockets, beside the driver: a walk takes milliseconds and must not stand in a handshake's way.

use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use libbpf_rs::{Iter, Link};

/// A thread that walks when it is asked to. Requests that come while one is waiting are one.
pub(crate) struct Walker {
    wanted: SyncSender<()>,
}

impl Walker {
    /// Starts the thread; it ends when the walker is dropped.
    pub(crate) fn start(link: Link) -> std::io::Result<Self> {
        let (wanted, requests) = sync_channel(1);
        std::thread::Builder::new()
            .name("socket-walk".into())
            .spawn(move || work(&link, &requests))?;
        Ok(Self { wanted })
    }

    /// Asks for a walk that sees everything written before this call.
    pub(crate) fn ask(&self) {
        if let Err(TrySendError::Disconnected(())) = self.wanted.try_send(()) {
            tracing::error!("the socket walk has stopped; restart the agent");
        }
    }
}

fn work(link: &Link, requests: &Receiver<()>) {
    while requests.recv().is_ok() {
        if let Err(error) = walk(link) {
            tracing::warn!(%error, "cannot walk the sockets; timeouts and marks may be late");
        }
    }
}

/// Runs an iterator program over every socket.
pub(crate) fn walk(link: &Link) -> Result<(), libbpf_rs::Error> {
    let mut iterator = Iter::new(link)?;
    let mut sink = [0u8; 64];
    while iterator.read(&mut sink)? > 0 {}
    Ok(())
}

/// Runs an iterator program over every socket; what it wrote.
pub(crate) fn list(link: &Link) -> Result<Vec<u8>, libbpf_rs::Error> {
    let mut written = Vec::new();
    let mut iterator = Iter::new(link)?;
    iterator
        .read_to_end(&mut written)
        .map_err(libbpf_rs::Error::from)?;
    Ok(written)
}
