//! What the numbers depend on beside the programs: kernel, processors, load.
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::{fmt, fs, io};

use nix::sys::socket::{setsockopt, sockopt};
use serde::Serialize;

/// Congestion control of every connection that lasts.
pub const CONGESTION_CONTROL: &str = "cubic";

/// Gives a socket the bench's congestion control; what a listener accepts inherits it. A namespace cannot be told
/// once for all: the kernel lets it choose only what it allows to everybody.
///
/// # Errors
/// The kernel does not have it.
pub fn pin(socket: &impl AsFd) -> io::Result<()> {
    setsockopt(
        socket,
        sockopt::TcpCongestion,
        &OsString::from(CONGESTION_CONTROL),
    )?;
    Ok(())
}

#[derive(Debug, Default, Serialize)]
pub struct Surroundings {
    pub kernel: String,
    pub processor: String,
    pub processors: usize,
    pub congestion_control: String,
    pub optimized: bool,
    /// Load average over one minute when the run began, and when it ended (its own load included).
    pub load: (f64, f64),
    /// Share of processor time that others took while the run lasted; unknown until it ends.
    pub stolen_percent: Option<f64>,
    #[serde(skip)]
    ticks: Ticks,
}

#[derive(Debug, Default)]
struct Ticks {
    steal: u64,
    all: u64,
}

impl Surroundings {
    pub fn look() -> Surroundings {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let processor = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or_else(String::new, |(_, name)| name.trim().to_owned());
        Surroundings {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor,
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            congestion_control: CONGESTION_CONTROL.to_owned(),
            optimized: !cfg!(debug_assertions),
            load: (load(), 0.0),
            stolen_percent: None,
            ticks: ticks(),
        }
    }

    pub fn finish(&mut self) {
        let now = ticks();
        let all = now.all.saturating_sub(self.ticks.all);
        let steal = now.steal.saturating_sub(self.ticks.steal);
        self.stolen_percent = (all > 0).then(|| 100.0 * steal as f64 / all as f64);
        self.load.1 = load();
    }

    pub fn load_line(&self) -> String {
        format!(
            "load average {:.1} before, {:.1} after (the run itself included); stolen by other guests: {:.1} %",
            self.load.0,
            self.load.1,
            self.stolen_percent.unwrap_or_default()
        )
    }
}

impl fmt::Display for Surroundings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "Linux {}, {} x {}, congestion control {}, {} build, load average {:.1}",
            self.kernel,
            self.processors,
            self.processor,
            self.congestion_control,
            if self.optimized { "release" } else { "debug" },
            self.load.0
        )?;
        if self.load.0 > 0.5 * self.processors as f64 {
            write!(
                out,
                "\nThe machine is busy with other things: expect a wide spread."
            )?;
        }
        if !self.optimized {
            write!(
                out,
                "\nThis is a debug build: `make bench` measures the release build."
            )?;
        }
        Ok(())
    }
}

fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or_default()
}

/// The first line of `/proc/stat`: user nice system idle iowait irq softirq steal …
fn ticks() -> Ticks {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let numbers: Vec<u64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|word| word.parse().ok())
        .collect();
    Ticks {
        steal: numbers.get(7).copied().unwrap_or_default(),
        all: numbers.iter().sum(),
    }
}
