//! What is on an access point beside this relay's own connections: what other relays say.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::points::Others;

/// Names of the gauges, here and in other relays' metrics.
pub const BULK: &str = "mptcp_relay_point_bulk";
/// Bytes a second of what is no bulk.
pub const STEADY: &str = "mptcp_relay_point_steady";
/// A relay says no more than this.
const LONGEST: u64 = 1 << 20;

/// Asks another relay, at its `metrics`, what it has on each access point, by name. None: it does not say.
pub async fn ask(relay: SocketAddr, patience: Duration) -> Option<HashMap<String, Others>> {
    let asked = async {
        let mut stream = TcpStream::connect(relay).await?;
        stream
            .write_all(
                format!("GET /metrics HTTP/1.1\r\nHost: {relay}\r\nConnection: close\r\n\r\n").as_bytes(),
            )
            .await?;
        let mut text = Vec::new();
        stream.take(LONGEST).read_to_end(&mut text).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&text).into_owned())
    };
    let text = tokio::time::timeout(patience, asked).await.ok()?.ok()?;
    Some(read(&text))
}

/// Reads the gauges of an exposition.
pub fn read(text: &str) -> HashMap<String, Others> {
    let mut found: HashMap<String, Others> = HashMap::new();
    for line in text.lines() {
        let gauge = |name: &str| {
            let rest = line.strip_prefix(name)?.strip_prefix("{point=\"")?;
            let (point, value) = rest.split_once("\"}")?;
            let value: f64 = value.trim().parse().ok()?;
            (value.is_finite() && value >= 0.0).then(|| (point.to_owned(), value))
        };
        if let Some((point, bulk)) = gauge(BULK) {
            found.entry(point).or_default().bulk = bulk;
        } else if let Some((point, steady)) = gauge(STEADY) {
            found.entry(point).or_default().steady = steady;
        }
    }
    found
}
