//! Devices are held while the proxy runs: a second proxy on one would put its program in the place of the first one's, whose
//! connections would end without a word.

use std::collections::HashMap;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// What this process holds.
#[derive(Debug, Default)]
pub struct Held(HashMap<u32, UnixDatagram>);

impl Held {
    /// Holds a device of this network namespace; false: another process does. The kernel lets go of it when the process
    /// ends, however it ends.
    ///
    /// # Errors
    /// No socket is left.
    pub fn take(&mut self, ifindex: u32) -> std::io::Result<bool> {
        if self.0.contains_key(&ifindex) {
            return Ok(true);
        }
        // Abstract names belong to the network namespace.
        let name = SocketAddr::from_abstract_name(format!("symmetric-proxy/device/{ifindex}"))?;
        match UnixDatagram::bind_addr(&name) {
            Ok(socket) => {
                self.0.insert(ifindex, socket);
                Ok(true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets go of devices that are gone.
    pub fn keep_only(&mut self, exists: impl Fn(u32) -> bool) {
        self.0.retain(|ifindex, _| exists(*ifindex));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_held_once_and_free_again() {
        // A number that no device of this machine has.
        const DEVICE: u32 = 0x7ff0_1234;
        let (mut one, mut other) = (Held::default(), Held::default());
        assert!(one.take(DEVICE).unwrap() && one.take(DEVICE).unwrap());
        assert!(!other.take(DEVICE).unwrap());
        one.keep_only(|_| false);
        assert!(other.take(DEVICE).unwrap());
    }
}
