//! Every combination of a place before the move, a place after it, who moves, family and program.
//!
//! One rule leaves combinations out, because no story can be told of them: nobody connects to a host behind a NAPT,
//! so an acceptor begins in the open. When it moves alone, the place before is the initiator's, which stays.
//!
//! Two ends that can find each other have nobody to help them. Where neither can (both move, or the one that stays is
//! behind a NAPT), there is a mobility server, and where both end behind NAPTs, a symmetric proxy.
use std::fmt::Write;
use std::path::PathBuf;

use super::table::{self, Row};
use super::told::{self, Cell as _, Teller};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Open,
    Masquerade,
    Random,
    FullyRandom,
    Silent,
}

impl Place {
    pub const ALL: [Place; 5] = [
        Place::Open,
        Place::Masquerade,
        Place::Random,
        Place::FullyRandom,
        Place::Silent,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Place::Open => "open",
            Place::Masquerade => "napt",
            Place::Random => "random",
            Place::FullyRandom => "fully-random",
            Place::Silent => "silent",
        }
    }

    /// As the language of scenarios calls the kind of NAPT.
    fn rule(self) -> Option<&'static str> {
        match self {
            Place::Open => None,
            Place::Masquerade => Some("masquerade"),
            Place::Random => Some("masquerade random"),
            Place::FullyRandom => Some("masquerade fully-random"),
            Place::Silent => Some("masquerade silent"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mover {
    Initiator,
    Acceptor,
    /// The initiator from place to place, the acceptor in the open, at the same moment.
    Both,
}

impl Mover {
    pub const ALL: [Mover; 3] = [Mover::Initiator, Mover::Acceptor, Mover::Both];

    pub fn name(self) -> &'static str {
        match self {
            Mover::Initiator => "initiator",
            Mover::Acceptor => "acceptor",
            Mover::Both => "both",
        }
    }
}

pub const WORK: [&str; 5] = ["fetch", "push", "exchange", "echo", "idle"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Where the initiator is at first.
    pub before: Place,
    /// Where whoever moves is afterwards; of both, the initiator.
    pub after: Place,
    pub mover: Mover,
    pub ipv6: bool,
    pub work: &'static str,
}

/// All combinations that can be told, in a fixed order.
pub fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for mover in Mover::ALL {
        for ipv6 in [false, true] {
            for before in Place::ALL {
                for after in Place::ALL {
                    for work in WORK {
                        cells.push(Cell {
                            before,
                            after,
                            mover,
                            ipv6,
                            work,
                        });
                    }
                }
            }
        }
    }
    cells
}

/// One in seventeen: it shares no factor with the sizes of the dimensions, so every value of each is met.
pub fn quick(cells: Vec<Cell>) -> Vec<Cell> {
    cells.into_iter().step_by(17).collect()
}

impl told::Cell for Cell {
    fn name(&self) -> String {
        let mover = self.mover.name();
        let family = if self.ipv6 { "ipv6" } else { "ipv4" };
        let (before, after) = (self.before.name(), self.after.name());
        let between = match self.mover {
            Mover::Acceptor => "away-from",
            _ => "to",
        };
        match self.mover {
            Mover::Acceptor => format!("{mover}-{family}-to-{after}-{between}-{before}-{}", self.work),
            _ => format!("{mover}-{family}-{before}-{between}-{after}-{}", self.work),
        }
    }

    /// The story of this combination.
    fn story(&self) -> String {
        self.written()
    }
}

impl Cell {
    /// Whether the ends need somebody to bring them together.
    fn is_matched(&self) -> bool {
        self.mover == Mover::Both || self.mover == Mover::Acceptor && self.before != Place::Open
    }

    /// Whether they need somebody between them.
    fn is_relayed(&self) -> bool {
        self.mover == Mover::Acceptor && self.before != Place::Open && self.after != Place::Open
    }

    /// What a NAPT may drop as invalid. Where the responder's TCP sends before its agent has shown the NAPT where it stands
    /// (decision 21), what acknowledges that is dropped and sent again: up to a window of acknowledgements.
    fn tolerates(&self) -> &'static str {
        match self.work {
            "exchange" => "<=100",
            _ => "=0",
        }
    }

    fn written(&self) -> String {
        let mut story = String::new();
        let mut say = |line: String| {
            let _ = writeln!(story, "{line}");
        };
        // The places with their numbers: of the initiator, and of the acceptor.
        let open = Place::Open;
        let (a, b) = match self.mover {
            Mover::Initiator => (vec![(1, self.before), (2, self.after)], vec![(3, open)]),
            Mover::Acceptor => (vec![(1, self.before)], vec![(3, open), (4, self.after)]),
            Mover::Both => (
                vec![(1, self.before), (2, self.after)],
                vec![(3, open), (4, open)],
            ),
        };
        let hub = if self.is_matched() { " hub" } else { "" };
        say(format!("title  {}\n\nhost   A B{hub}", self.name()));
        if self.is_relayed() {
            say("proxy  P".to_owned());
        }
        for (number, place) in a.iter().chain(&b) {
            if let Some(rule) = place.rule() {
                say(format!("napt   napt{number} {rule}"));
            }
        }
        say("router core\n".to_owned());
        for (host, places) in [("A", &a), ("B", &b)] {
            for (turn, (number, place)) in places.iter().enumerate() {
                let down = if turn == 0 { "" } else { " down" };
                self.link(host, *number, *place, down, &mut say);
            }
        }
        for (number, host, there) in [(5, "hub", self.is_matched()), (6, "P", self.is_relayed())] {
            if there {
                let (_, outside) = self.networks(number);
                say(format!(
                    "link   l{number} {host}={outside} core={}",
                    gateway(&outside)
                ));
            }
        }
        if self.is_matched() {
            say("\nserver M on hub store.backend=memory".to_owned());
        }
        say("agent  A B\n".to_owned());
        self.tell(&a, &b, &mut say);
        story
    }

    /// The link of a host with its place, and of its NAPT with the rest.
    fn link(&self, host: &str, number: u32, place: Place, down: &str, say: &mut impl FnMut(String)) {
        let (inside, outside) = self.networks(number);
        let rest = format!("rate=60mbit delay=2ms{down}");
        match place {
            Place::Open => say(format!(
                "link   l{number} {host}={outside} core={} {rest}",
                gateway(&outside)
            )),
            _ => {
                say(format!(
                    "link   l{number} {host}={inside} napt{number}={} {rest}",
                    gateway(&inside)
                ));
                say(format!(
                    "link   up{number} napt{number}={outside} core={}",
                    gateway(&outside)
                ));
            }
        }
    }

    /// A private and a public network; the host's address in each.
    fn networks(&self, number: u32) -> (String, String) {
        if self.ipv6 {
            (format!("fd00:{number}::2/64"), format!("2001:db8:{number}::2/64"))
        } else {
            (format!("192.168.{number}.2/24"), format!("198.51.{number}.2/24"))
        }
    }

    fn tell(&self, a: &[(u32, Place)], b: &[(u32, Place)], say: &mut impl FnMut(String)) {
        let family = if self.ipv6 { " family=6" } else { "" };
        let (program, underway, end) = match self.work {
            "echo" => (
                "echo B every=20ms count=150".to_owned(),
                "work answers>=10",
                "work done answers=150",
            ),
            "idle" => ("idle B".to_owned(), "work connected", "work answers>=1"),
            transfer => (
                format!("{transfer} B 24MiB"),
                "work >= 2MiB",
                "work done sha256=same",
            ),
        };
        // A sender knows what was received when all is.
        let underway = if self.work == "push" {
            "work connected"
        } else {
            underway
        };
        if self.is_relayed() {
            say("within 40 P proxy status capacity>=1 count=1".to_owned());
        }
        // The agents meet first: on a busy machine that may take longer than the work.
        say(format!("+0 A echo B count=1{family} as=first"));
        say("within 40 first done".to_owned());
        for host in ["A", "B"] {
            say(format!("within 40 {host} agent pairs count=1"));
        }
        say(format!("+0 A {program}{family} as=work"));
        for host in ["A", "B"] {
            say(format!(
                "within 40 {host} agent connections count>=1 state=Established"
            ));
        }
        let movers: Vec<(&str, u32, u32)> = [("A", a), ("B", b)]
            .into_iter()
            .filter_map(|(host, places)| Some((host, places[0].0, places.get(1)?.0)))
            .collect();
        match &movers[..] {
            [(host, from, to)] => say(format!("after {underway} {host} move l{from} -> l{to} gap=300ms")),
            all => {
                // Nobody is where the other knows it.
                let mut when = format!("after {underway}");
                for (change, at) in [("down", 0), ("up", 1)] {
                    for (_, from, to) in all {
                        say(format!("{when} l{} {change}", [from, to][at]));
                        when = "+0".to_owned();
                    }
                }
            }
        }
        // An end that is relayed says Established before the other does.
        let patience = if self.is_matched() { 60 } else { 20 };
        for (host, _, to) in &movers {
            say(format!(
                "within {patience} {host} agent connections count>=1 state=Established path=l{to}"
            ));
        }
        if self.work == "idle" {
            say("work speak".to_owned());
        }
        say(format!("within 60 {end}"));
        say("expect resets=0 errors=0 leaks=0".to_owned());
        // Ends that try each other through their NAPTs first leave traces there.
        let behind = a.iter().chain(b).filter(|(_, place)| *place != Place::Open);
        for (number, _) in behind.filter(|_| !self.is_relayed()) {
            say(format!("expect invalid(napt{number}){}", self.tolerates()));
        }
    }
}

/// The neighbour of a host: the first address of its network.
fn gateway(address: &str) -> String {
    address.replace("::2/", "::1/").replace(".2/", ".1/")
}

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Both ends move at once: every combination of NAPTs, each with the path that has to come of it
    #[arg(long)]
    pub both: bool,
    /// A selection in which every kind of place, mover, family and program is met
    #[arg(long)]
    pub quick: bool,
    /// Only combinations whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub filter: String,
    /// How many stories are told at the same time
    #[arg(long, default_value_t = 3)]
    pub jobs: usize,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where stories, logs, artifacts of failures and the table go
    #[arg(long, value_name = "DIR", default_value = "target/matrix")]
    pub directory: PathBuf,
    /// The host-agent to start [default: as of `run`]
    #[arg(long, value_name = "PATH")]
    pub agent_binary: Option<PathBuf>,
}

/// Tells all chosen stories; true if all ended well.
///
/// # Errors
/// Nothing could be written or started.
pub fn run(arguments: &Arguments) -> Result<bool, String> {
    if arguments.both {
        return super::both::run(arguments);
    }
    let mut chosen = cells();
    if arguments.quick {
        chosen = quick(chosen);
    }
    chosen.retain(|cell| cell.name().contains(&arguments.filter));
    if chosen.is_empty() {
        return Err(format!("no combination is called `{}`", arguments.filter));
    }
    let teller = Teller {
        agent_binary: arguments.agent_binary.clone(),
        seed: arguments.seed,
    };
    let told = told::tell_all(&chosen, arguments.jobs, &teller, &arguments.directory)?;
    let rows: Vec<Row> = told.into_iter().map(|(cell, told)| Row { cell, told }).collect();
    table::show(&rows, &arguments.directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_story_of_the_matrix_can_be_read() {
        for cell in cells() {
            let read = crate::language::parse(&cell.name(), &cell.story());
            let mistakes = read
                .err()
                .map(|mistakes| mistakes.iter().map(ToString::to_string).collect::<String>());
            assert_eq!(mistakes, None, "{}", cell.story());
        }
    }

    #[test]
    fn the_quick_selection_meets_every_value_of_every_dimension() {
        let all = cells();
        let chosen = quick(all.clone());
        assert!(chosen.len() * 16 < all.len());
        for cell in all {
            assert!(
                chosen.iter().any(|chosen| chosen.before == cell.before),
                "{cell:?}"
            );
            assert!(chosen.iter().any(|chosen| chosen.after == cell.after), "{cell:?}");
            assert!(chosen.iter().any(|chosen| chosen.work == cell.work), "{cell:?}");
            assert!(
                chosen
                    .iter()
                    .any(|chosen| chosen.mover == cell.mover && chosen.ipv6 == cell.ipv6)
            );
        }
    }
}
