//! Durations, sizes, rates, shares and addresses as people write them.
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use winnow::ascii::{dec_uint, digit0, digit1};
use winnow::combinator::{alt, opt};
use winnow::prelude::*;

/// An address with the length of its prefix, as in `192.168.1.2/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    pub address: IpAddr,
    pub length: u8,
}

impl Prefix {
    pub fn is_ipv6(&self) -> bool {
        self.address.is_ipv6()
    }

    /// The same prefix with its host bits cleared.
    pub fn network(&self) -> Prefix {
        let address = match self.address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V4((u32::from(a) & mask).into())
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V6((u128::from(a) & mask).into())
            }
        };
        Prefix {
            address,
            length: self.length,
        }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv6() == self.is_ipv6()
            && Prefix {
                address,
                length: self.length,
            }
            .network()
                == self.network()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// `8`, `.5`, `250ms`, `1.5s`, `2m`, `80us`; a bare number is seconds.
pub fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_with_unit(text)?;
    let seconds = match unit {
        "" | "s" => number,
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

/// `512`, `64KiB`, `30MiB`, `1GiB`, `10MB`; bytes.
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = number_with_unit(text)?;
    let factor = match unit {
        "" | "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        "KB" | "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    let bytes = number * factor;
    (bytes < 9e15).then_some(bytes as u64)
}

/// `500kbit`, `20mbit`, `1gbit`; bits per second, at least 1 kbit/s.
pub fn rate(text: &str) -> Option<u64> {
    let (number, unit) = number_with_unit(text)?;
    let factor = match unit {
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        _ => return None,
    };
    let bits = number * factor;
    (1e3..1e12).contains(&bits).then_some(bits as u64)
}

/// `2%`, `0.1%`; a share between 0 and 1.
pub fn share(text: &str) -> Option<f64> {
    let (number, unit) = number_with_unit(text)?;
    (unit == "%" && number <= 100.0).then_some(number / 100.0)
}

pub fn whole(text: &str) -> Option<u64> {
    let mut input = text;
    let parsed: ModalResult<u64> = dec_uint.parse_next(&mut input);
    parsed.ok().filter(|_| input.is_empty())
}

/// `192.168.1.2/24`, `fd00::2/64`; a bare address is itself alone (/32, /128).
pub fn prefix(text: &str) -> Option<Prefix> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv6() { 128 } else { 32 };
    let length = match length {
        Some(length) => whole(length)?,
        None => most,
    };
    (length <= most).then_some(Prefix {
        address,
        length: length as u8,
    })
}

fn number_with_unit(text: &str) -> Option<(f64, &str)> {
    let mut input = text;
    let number = number(&mut input).ok()?;
    Some((number, input))
}

fn number(input: &mut &str) -> ModalResult<f64> {
    let whole = (digit1, opt(('.', digit0))).take();
    let fraction = ('.', digit1).take();
    alt((whole, fraction))
        .try_map(|text: &str| text.parse::<f64>())
        .parse_next(input)
}

/// A duration the way timelines and messages show it.
pub fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds != 0.0 && seconds < 1.0 {
        let text = format!("{:.3}", seconds * 1e3);
        format!("{}ms", text.trim_end_matches('0').trim_end_matches('.'))
    } else {
        let text = format!("{seconds:.3}");
        format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// A number of bytes the way timelines and messages show it.
pub fn show_size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes}B"),
        1024..1_048_576 => format!("{:.1}KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1}MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2}GiB", bytes as f64 / 1_073_741_824.0),
    }
}
