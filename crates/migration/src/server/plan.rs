//! Who sends the MSYN (3.1.5 of the source; the table of the design), and what comes after that has failed.
//!
//! | one end now | the other now | tries, in order |
//! |---|---|---|
//! | outside | outside | the later reporter sends; the earlier; both; proxy |
//! | NAPT | outside | the one behind the NAPT sends; both, if the mapping can be foreseen; proxy |
//! | NAPT | the same NAPT | both try the private addresses; both, if the mappings can be foreseen; proxy |
//! | NAPT | another NAPT | both, if the mappings can be foreseen; proxy |
//! | firewall | outside | the one behind the firewall sends; both; proxy |
//! | firewall | firewall | both; proxy |
//! | firewall | NAPT | both, if the mapping can be foreseen; proxy |
//! | moved while relayed, with no one to send | | the relay goes on; then as above |
//! | relayed, and nothing is wrong | | who can be reached is sent to; a NAPT that can be foreseen is opened, and the end behind it sent to; no proxy |
//! | unprobed | as outside, after those that are known to be | |
//! | unknown | as unprobed, after those | |

use super::findings::{Position, Standing};
use super::record::Side;

/// One thing that can be tried.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Try {
    /// This end sends, the other awaits.
    Send(Side),
    /// Both send at once.
    Simultaneous,
    /// This end opens its NAPT for what the other one sends, and awaits that.
    Open(Side),
    /// Both try each other's private addresses.
    SameNapt,
    /// Both send to a proxy.
    Proxy,
    /// Whoever has moved sends to the proxy that has relayed so far; both wait for that.
    Relay,
}

/// How the connections do meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Meanwhile {
    /// Nothing passes.
    Nothing,
    /// An end has moved and sends to the proxy that has relayed so far.
    Returning,
    /// They go through a proxy.
    Relayed,
    /// They go through a proxy that has to be left.
    Leaving,
}

/// Everything that makes sense for two ends that stand like this, best first.
pub fn plan(first: &Standing, second: &Standing, meanwhile: Meanwhile) -> Vec<Try> {
    if meanwhile == Meanwhile::Leaving {
        return vec![Try::Proxy];
    }
    let standing = |side: Side| match side {
        Side::First => first,
        Side::Second => second,
    };
    let later = if first.arrival > second.arrival {
        Side::First
    } else {
        Side::Second
    };
    let mut tries = Vec::new();
    let same_napt = first.position == Position::Napt
        && second.position == Position::Napt
        && first.observed.address == second.observed.address;
    if same_napt {
        tries.push(Try::SameNapt);
    }
    let mut senders: Vec<Side> = [later, later.other()]
        .into_iter()
        .filter(|sender| may_be_reached(standing(sender.other()).position))
        .collect();
    senders.sort_by_key(|sender| standing(sender.other()).position);
    tries.extend(senders.into_iter().map(Try::Send));
    if meanwhile == Meanwhile::Returning && tries.is_empty() {
        tries.push(Try::Relay);
    }
    if meanwhile == Meanwhile::Relayed {
        // What works is not put at stake. If both sent, both would leave the relay, and neither would know whether the
        // other has: one sends, and the other goes on through the relay until the third segment has come.
        // From which ports they would go on is known when both have reported.
        let known = first.arrival != 0 && second.arrival != 0;
        let openers = [later.other(), later].into_iter().filter(|opener| {
            let opener = standing(*opener);
            known && !may_be_reached(opener.position) && can_be_foreseen(opener)
        });
        tries.extend(openers.map(Try::Open));
        return tries;
    }
    if can_be_foreseen(first) && can_be_foreseen(second) {
        tries.push(Try::Simultaneous);
    }
    tries.push(Try::Proxy);
    tries
}

fn may_be_reached(position: Position) -> bool {
    match position {
        Position::Outside | Position::Unprobed | Position::Unknown => true,
        Position::Unreachable | Position::Napt => false,
    }
}

/// Whether the peer knows to which port it has to send so that it meets what this end sends.
fn can_be_foreseen(standing: &Standing) -> bool {
    standing.port_known && (standing.position != Position::Napt || standing.mapping.is_predictable())
}
