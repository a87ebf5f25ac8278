//! Every combination of a place before the move, a place after it, who moves, family and program.
//!
//! Two rules leave combinations out, because no story can be told of them: nobody connects to a host behind a
//! NAPT, so an acceptor that moves begins in the open; and nobody from outside reaches into a NAPT, so its
//! initiator sits in the open.
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::table::{self, Row};
use super::told::Teller;

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
}

pub const WORK: [&str; 5] = ["fetch", "push", "exchange", "echo", "idle"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub before: Place,
    pub after: Place,
    pub mover: Mover,
    pub ipv6: bool,
    pub work: &'static str,
}

/// All combinations that can be told, in a fixed order.
pub fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for mover in [Mover::Initiator, Mover::Acceptor] {
        for ipv6 in [false, true] {
            for before in Place::ALL {
                for after in Place::ALL {
                    for work in WORK {
                        let cell = Cell {
                            before,
                            after,
                            mover,
                            ipv6,
                            work,
                        };
                        if mover == Mover::Initiator || before == Place::Open {
                            cells.push(cell);
                        }
                    }
                }
            }
        }
    }
    cells
}

/// One in eleven: 11 shares no factor with the sizes of the dimensions, so every value of each is met.
pub fn quick(cells: Vec<Cell>) -> Vec<Cell> {
    cells.into_iter().step_by(11).collect()
}

impl Cell {
    pub fn name(&self) -> String {
        let mover = match self.mover {
            Mover::Initiator => "initiator",
            Mover::Acceptor => "acceptor",
        };
        let family = if self.ipv6 { "ipv6" } else { "ipv4" };
        let (before, after) = (self.before.name(), self.after.name());
        format!("{mover}-{family}-{before}-to-{after}-{}", self.work)
    }

    /// The story of this combination.
    pub fn story(&self) -> String {
        let mut story = String::new();
        let (mover, other) = match self.mover {
            Mover::Initiator => ("A", "B"),
            Mover::Acceptor => ("B", "A"),
        };
        let mut say = |line: String| {
            let _ = writeln!(story, "{line}");
        };
        say(format!("title  {}\n\nhost   A B", self.name()));
        for (napt, place) in [("napt1", self.before), ("napt2", self.after)] {
            if let Some(rule) = place.rule() {
                say(format!("napt   {napt} {rule}"));
            }
        }
        say("router core\n".to_owned());
        for (number, link, place, down) in [(1, "home", self.before, ""), (2, "cafe", self.after, " down")] {
            let rest = format!("rate=60mbit delay=2ms{down}");
            let (inside, outside) = self.networks(number);
            match place {
                Place::Open => say(format!(
                    "link {link} {mover}={outside} core={} {rest}",
                    gateway(&outside)
                )),
                _ => {
                    say(format!(
                        "link {link} {mover}={inside} napt{number}={} {rest}",
                        gateway(&inside)
                    ));
                    say(format!(
                        "link up{number} napt{number}={outside} core={}",
                        gateway(&outside)
                    ));
                }
            }
        }
        let (_, lan) = self.networks(3);
        say(format!(
            "link lan {other}={lan} core={}\n\nagent A B\n",
            gateway(&lan)
        ));
        self.tell(mover, other, &mut say);
        story
    }

    /// A private and a public network; the host's address in each.
    fn networks(&self, number: u32) -> (String, String) {
        if self.ipv6 {
            (format!("fd00:{number}::2/64"), format!("2001:db8:{number}::2/64"))
        } else {
            (format!("192.168.{number}.2/24"), format!("198.51.{number}.2/24"))
        }
    }

    fn tell(&self, mover: &str, other: &str, say: &mut impl FnMut(String)) {
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
        say(format!("+0 A {program}{family} as=work"));
        say(format!(
            "within 30 {mover} agent connections count=1 state=Established"
        ));
        say(format!(
            "within 30 {other} agent connections count=1 state=Established"
        ));
        say(format!("after {underway} {mover} move home -> cafe gap=300ms"));
        say(format!(
            "within 20 {mover} agent connections count=1 state=Established path=cafe"
        ));
        if self.work == "idle" {
            say("work speak".to_owned());
        }
        say(format!("within 60 {end}"));
        say("expect resets=0 errors=0 leaks=0".to_owned());
        for (napt, place) in [("napt1", self.before), ("napt2", self.after)] {
            if place != Place::Open {
                say(format!("expect invalid({napt})=0"));
            }
        }
    }
}

/// The neighbour of a host: the first address of its network.
fn gateway(address: &str) -> String {
    address.replace("::2/", "::1/").replace(".2/", ".1/")
}

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
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
    let mut chosen = cells();
    if arguments.quick {
        chosen = quick(chosen);
    }
    chosen.retain(|cell| cell.name().contains(&arguments.filter));
    if chosen.is_empty() {
        return Err(format!("no combination is called `{}`", arguments.filter));
    }
    std::fs::create_dir_all(&arguments.directory)
        .map_err(|error| format!("cannot create {}: {error}", arguments.directory.display()))?;
    let teller = Teller {
        agent_binary: arguments.agent_binary.clone(),
        seed: arguments.seed,
    };
    let (waiting, rows, mistake) = (
        Mutex::new(chosen.iter()),
        Mutex::new(Vec::new()),
        Mutex::new(None),
    );
    let next = || waiting.lock().unwrap_or_else(|held| held.into_inner()).next();
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| {
                while let Some(cell) = next() {
                    match tell(cell, &teller, &arguments.directory) {
                        Ok(row) => rows.lock().unwrap_or_else(|held| held.into_inner()).push(row),
                        Err(error) => {
                            *mistake.lock().unwrap_or_else(|held| held.into_inner()) = Some(error);
                            return;
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = mistake.into_inner().unwrap_or_else(|held| held.into_inner()) {
        return Err(error);
    }
    let rows = rows.into_inner().unwrap_or_else(|held| held.into_inner());
    table::show(&rows, &arguments.directory)
}

fn tell(cell: &Cell, teller: &Teller, directory: &Path) -> Result<Row, String> {
    let file = directory.join(format!("{}.scn", cell.name()));
    std::fs::write(&file, cell.story())
        .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    let told = teller.tell(&file)?;
    let verdict = if told.passed { "ok" } else { "FAILED" };
    println!("{verdict:6} {:5.1} s  {}", told.took.as_secs_f64(), cell.name());
    Ok(Row { cell: *cell, told })
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
        assert!(chosen.len() * 10 < all.len());
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
