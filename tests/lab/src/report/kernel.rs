//! What the mover's kernel says about its addresses, as `ip -ts -o monitor address route` prints it (in UTC).
//!
//! The agent is not asked: when an address is lost or usable is for somebody else to say.

/// When a host left one link and could use another.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Move {
    /// The address on the link that is left is gone.
    pub lost: Option<f64>,
    /// Address and default route on the other link stand: the first packet could leave now.
    pub usable: Option<f64>,
}

/// Reads the log for a move from the link `from` to the link `to`. Lines that say something else are skipped.
///
/// `began` is the beginning of the story in seconds since 1970; the move is told in seconds since then.
pub fn a_move(log: &str, from: &str, to: &str, began: f64) -> Move {
    let mut found = Move::default();
    let (mut address, mut route) = (None, None);
    for line in log.lines() {
        let Some((time, said)) = stamped(line) else {
            continue;
        };
        let words: Vec<&str> = said.split_whitespace().collect();
        match words[..] {
            ["Deleted", _, device, "inet", ..] if device == from && found.lost.is_none() => {
                found.lost = Some(time - began);
            }
            [_, device, "inet", ..] if device == to && found.lost.is_some() => {
                address.get_or_insert(time - began);
            }
            ["default", "via", _, "dev", device, ..] if device == to && found.lost.is_some() => {
                route.get_or_insert(time - began);
            }
            _ => {}
        }
    }
    if let (Some(address), Some(route)) = (address, route) {
        found.usable = Some(f64::max(address, route));
    }
    found
}

/// `[2026-11-23T18:52:25.683806] …`: seconds since 1970, and what follows.
fn stamped(line: &str) -> Option<(f64, &str)> {
    let (stamp, said) = line.strip_prefix('[')?.split_once(']')?;
    let (date, time) = stamp.split_once('T')?;
    let date: Vec<i64> = date.split('-').map_while(|part| part.parse().ok()).collect();
    let time: Vec<f64> = time.split(':').map_while(|part| part.parse().ok()).collect();
    let (&[year, month @ 1..=12, day @ 1..=31], &[hour, minute, second]) = (&date[..], &time[..]) else {
        return None;
    };
    let days = days_since_1970(year.clamp(1970, 9999), month, day) as f64;
    Some((days * 86_400.0 + hour * 3_600.0 + minute * 60.0 + second, said))
}

/// Of the Gregorian calendar, whose year begins in March here so that the leap day comes last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}
