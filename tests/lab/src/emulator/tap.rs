//! A TAP device: the host sees an Ethernet card, the emulator holds the cable's end.
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::machine::{MachineError, Station, netns};

/// Bytes of the offload header before every frame (`struct virtio_net_hdr`).
pub const OFFLOAD_HEADER: usize = 10;

/// The largest frame with its offload header.
pub const LARGEST: usize = OFFLOAD_HEADER + 14 + 65_536 + 64;

const TUNSETIFF: libc::Ioctl = 0x4004_54ca_u32 as libc::Ioctl;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0_u32 as libc::Ioctl;
const TUNSETCARRIER: libc::Ioctl = 0x4004_54e2_u32 as libc::Ioctl;
const OFFLOAD_CHECKSUM: libc::c_ulong = 0x01;
/// TCP over IPv4 and IPv6, with ECN.
const OFFLOAD_SEGMENTS: libc::c_ulong = 0x02 | 0x04 | 0x08;

/// One end of an emulated link. Closing it removes the device.
pub struct Tap {
    file: File,
}

impl Tap {
    /// Creates the device `name` in the station's namespace, down and without an address.
    pub fn create(station: &Station, name: &str) -> Result<Tap, MachineError> {
        netns::inside(&station.netns, || {
            let failed = |doing: &str| format!("{doing} device {name} of {}", station.name);
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open("/dev/net/tun")
                .map_err(MachineError::io(
                    "open /dev/net/tun (is the module `tun` loaded?)",
                ))?;
            // SAFETY: all zeros is a valid ifreq.
            let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
            for (to, from) in request
                .ifr_name
                .iter_mut()
                .zip(name.bytes().take(libc::IFNAMSIZ - 1))
            {
                *to = from as libc::c_char;
            }
            request.ifr_ifru.ifru_flags =
                (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
            // SAFETY: the descriptor is open and the request outlives the call.
            check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &request) })
                .map_err(MachineError::io(failed("create")))?;
            Ok(Tap { file })
        })
    }

    /// Whether the host may hand over segments larger than the MTU. A link that counts every frame (rate, loss)
    /// has the host's kernel cut them first.
    pub fn pass_large_segments(&self, pass: bool) -> Result<(), MachineError> {
        let offload = if pass {
            OFFLOAD_CHECKSUM | OFFLOAD_SEGMENTS
        } else {
            OFFLOAD_CHECKSUM
        };
        // SAFETY: the argument is a plain number.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETOFFLOAD, offload) })
            .map_err(MachineError::io("set the offloads of a TAP device"))
    }

    /// Plugs the cable in or pulls it.
    pub fn carrier(&self, plugged: bool) -> Result<(), MachineError> {
        let value = libc::c_int::from(plugged);
        // SAFETY: the argument points to an int that outlives the call.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETCARRIER, &value) }).map_err(MachineError::io(
            "change the carrier of a TAP device (Linux 5.0 or later is needed)",
        ))
    }

    /// The next frame the host sends, with its offload header; `None` when there is none now.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.file).read(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(None)
            }
            // The device is down.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Hands a frame to the host. A device that is down swallows it, as a card does.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        match (&self.file).write(frame) {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EIO | libc::EAGAIN | libc::ENETDOWN)
                ) =>
            {
                Ok(())
            }
            // A frame the host's kernel finds malformed (a flipped bit) is lost, as on a wire.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn check(returned: libc::c_int) -> io::Result<()> {
    if returned < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
