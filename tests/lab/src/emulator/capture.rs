//! Packets to pcapng files, bounded: a link keeps its first and its latest packets.
use std::borrow::Cow;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};

use crate::machine::MachineError;

/// Bytes kept of every frame: enough for Ethernet, IPv6, a full TCP header and a little payload.
pub const SNAP: usize = 128;
/// A file is closed at this size. The first stays, of the later ones the last two.
const FILE_LIMIT: u64 = 16 * 1024 * 1024;

/// Which way a frame went, seen from the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The host received it.
    In,
    /// The host sent it.
    Out,
}

/// The capture of one link.
pub struct Capture {
    writer: Option<PcapNgWriter<BufWriter<File>>>,
    path: PathBuf,
    devices: Vec<String>,
    written: u64,
    files: u32,
}

impl Capture {
    /// `path` without extension; `devices` name the ends, as `phone:wifi`.
    pub fn create(path: &Path, devices: Vec<String>) -> Result<Capture, MachineError> {
        let mut capture = Capture {
            writer: None,
            path: path.to_owned(),
            devices,
            written: 0,
            files: 0,
        };
        capture
            .open()
            .map_err(MachineError::io(format!("write {}", path.display())))?;
        Ok(capture)
    }

    fn name(&self, number: u32) -> PathBuf {
        let suffix = if number == 0 {
            String::from("pcapng")
        } else {
            format!("{number}.pcapng")
        };
        self.path.with_extension(suffix)
    }

    fn open(&mut self) -> std::io::Result<()> {
        let file = BufWriter::with_capacity(256 * 1024, File::create(self.name(self.files))?);
        let mut writer = PcapNgWriter::new(file).map_err(std::io::Error::other)?;
        for device in &self.devices {
            let block = InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen: SNAP as u32,
                options: vec![
                    InterfaceDescriptionOption::IfName(Cow::Borrowed(device)),
                    // Timestamps count nanoseconds.
                    InterfaceDescriptionOption::IfTsResol(9),
                ],
            };
            writer.write_pcapng_block(block).map_err(std::io::Error::other)?;
        }
        self.writer = Some(writer);
        self.written = 0;
        Ok(())
    }

    /// Notes a frame at one device. A full disk ends the capture, never the run.
    pub fn note(&mut self, device: usize, way: Way, frame: &[u8], length: usize, time: SystemTime) {
        let Some(writer) = &mut self.writer else { return };
        let direction = match way {
            Way::In => 1,
            Way::Out => 2,
        };
        let data = &frame[..frame.len().min(SNAP)];
        let block = EnhancedPacketBlock {
            interface_id: device as u32,
            timestamp: time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO),
            original_len: length as u32,
            data: Cow::Borrowed(data),
            options: vec![EnhancedPacketOption::Flags(direction)],
        };
        match writer.write_pcapng_block(block) {
            Ok(bytes) => self.written += bytes as u64,
            Err(_) => self.writer = None,
        }
        if self.written > FILE_LIMIT {
            self.rotate();
        }
    }

    fn rotate(&mut self) {
        if self.files >= 3 {
            let _ = std::fs::remove_file(self.name(self.files - 1));
        }
        self.files += 1;
        self.writer = None;
        if self.open().is_err() {
            self.writer = None;
        }
    }
}
