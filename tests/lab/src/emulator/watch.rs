//! What is seen at the devices of one link: a capture, foreign sources, resets.
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use super::capture::{Capture, Way};
use super::segment::Packet;

/// A frame that its host handed to the device just before an address was taken away may pass this much later: an
/// upload keeps megabytes in the device's queue, and on a busy machine the thread of the link gets to them late.
/// Only this device is lenient: on the next network the old source is foreign from the first moment.
const GRACE: Duration = Duration::from_secs(1);

/// What one device may send and what it has seen. Shared between the story and the link's thread.
#[derive(Default)]
pub struct DeviceWatch {
    /// Whether sources are checked: a router may send anybody's packets, a host only its own.
    pub checked: bool,
    sources: Mutex<Sources>,
    pub leaks: AtomicU64,
    pub resets: AtomicU64,
    /// The first packets with a foreign source, for the report.
    pub examples: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Sources {
    own: BTreeSet<IpAddr>,
    former: Vec<(IpAddr, Instant)>,
}

impl DeviceWatch {
    pub fn new(checked: bool) -> DeviceWatch {
        DeviceWatch {
            checked,
            ..DeviceWatch::default()
        }
    }

    pub fn allow(&self, address: IpAddr) {
        self.sources
            .lock()
            .unwrap_or_else(|held| held.into_inner())
            .own
            .insert(address);
    }

    pub fn refuse(&self, address: IpAddr, now: Instant) {
        let mut sources = self.sources.lock().unwrap_or_else(|held| held.into_inner());
        sources.own.remove(&address);
        sources.former.push((address, now + GRACE));
    }

    fn is_own(&self, address: IpAddr, now: Instant) -> bool {
        let sources = self.sources.lock().unwrap_or_else(|held| held.into_inner());
        sources.own.contains(&address)
            || sources
                .former
                .iter()
                .any(|(former, until)| *former == address && now < *until)
    }

    fn sent(&self, packet: &Packet, now: Instant) {
        if !self.checked || is_local(packet.source) || self.is_own(packet.source, now) {
            return;
        }
        self.leaks.fetch_add(1, Ordering::Relaxed);
        let mut examples = self.examples.lock().unwrap_or_else(|held| held.into_inner());
        if examples.len() < 10 {
            examples.push(format!("{} -> {}", packet.source, packet.destination));
        }
    }
}

/// Addresses that belong to every link: unspecified, link-local, multicast.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_unspecified() || a.is_link_local(),
        IpAddr::V6(a) => a.is_unspecified() || a.is_unicast_link_local(),
    }
}

/// Both devices of a link and the capture.
pub struct Watch {
    pub devices: [Arc<DeviceWatch>; 2],
    capture: Capture,
    /// One moment on both clocks. Times in the capture are counted from it: read one after the other for each frame,
    /// the clocks would differ by whatever came between, and a frame seem to travel faster than its delay.
    begun: (Instant, SystemTime),
}

impl Watch {
    pub fn new(devices: [Arc<DeviceWatch>; 2], capture: Capture) -> Watch {
        Watch {
            devices,
            capture,
            begun: (Instant::now(), SystemTime::now()),
        }
    }

    /// A frame (without offload header) passes a device. `length` is its full length.
    pub fn passes(
        &mut self,
        device: usize,
        way: Way,
        frame: &[u8],
        length: usize,
        packet: Option<&Packet>,
        now: Instant,
    ) {
        let (instant, time) = self.begun;
        let time = time + now.saturating_duration_since(instant);
        self.passed(device, way, frame, length, packet, (now, time));
    }

    /// The same for a frame that passed a little earlier, by the clock on the wall.
    pub fn passed(
        &mut self,
        device: usize,
        way: Way,
        frame: &[u8],
        length: usize,
        packet: Option<&Packet>,
        (now, time): (Instant, SystemTime),
    ) {
        self.capture.note(device, way, frame, length, time);
        let Some(packet) = packet else { return };
        match way {
            Way::Out => self.devices[device].sent(packet, now),
            Way::In if packet.is_rst() => {
                self.devices[device].resets.fetch_add(1, Ordering::Relaxed);
            }
            Way::In => {}
        }
    }
}
