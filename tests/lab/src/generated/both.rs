//! Both hosts move at once behind NAPTs: every kind of them at either end, and both behind one.
//!
//! Each story asserts the path: where both ports can be foreseen the connections go on directly, from NAPT to NAPT;
//! where one cannot, through the symmetric proxy, unless the other NAPT lets in everybody; behind one NAPT from host to host.
use std::fmt::Write;

use super::matrix::Arguments;
use super::told::{self, Cell as _, Teller, Told};

/// What a NAPT makes of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    PortPreserving,
    Random,
    FullyRandom,
    EndpointIndependent,
}

impl Kind {
    pub const ALL: [Kind; 4] = [
        Kind::PortPreserving,
        Kind::Random,
        Kind::FullyRandom,
        Kind::EndpointIndependent,
    ];

    fn name(self) -> &'static str {
        match self {
            Kind::PortPreserving => "port-preserving",
            Kind::Random => "random",
            Kind::FullyRandom => "fully-random",
            Kind::EndpointIndependent => "endpoint-independent",
        }
    }

    /// As the language of scenarios calls it.
    fn rule(self) -> &'static str {
        match self {
            Kind::PortPreserving => "masquerade",
            Kind::Random => "masquerade random",
            Kind::FullyRandom => "masquerade fully-random",
            Kind::EndpointIndependent => "masquerade endpoint-independent",
        }
    }

    fn can_be_foreseen(self) -> bool {
        matches!(self, Kind::PortPreserving | Kind::EndpointIndependent)
    }
}

/// Where both ends are after the move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// A behind the first, B behind the second.
    Two(Kind, Kind),
    /// Both behind one.
    One(Kind),
}

/// All combinations.
pub fn cells() -> Vec<Cell> {
    let two = Kind::ALL
        .into_iter()
        .flat_map(|a| Kind::ALL.into_iter().map(move |b| Cell::Two(a, b)));
    two.chain(Kind::ALL.into_iter().map(Cell::One)).collect()
}

/// One in three, in which every kind is met at either end, and either path.
pub fn quick(cells: Vec<Cell>) -> Vec<Cell> {
    cells.into_iter().step_by(3).collect()
}

impl Cell {
    /// How their segments go in the end. Where one NAPT lets in everybody, a proxy relays only until that is known.
    pub fn route(&self) -> &'static str {
        let open = |kind: &Kind| *kind == Kind::EndpointIndependent;
        match self {
            Cell::Two(a, b) if open(a) || open(b) => "direct",
            Cell::Two(a, b) if !(a.can_be_foreseen() && b.can_be_foreseen()) => "relayed",
            Cell::Two(..) | Cell::One(_) => "direct",
        }
    }
}

impl told::Cell for Cell {
    fn name(&self) -> String {
        match self {
            Cell::Two(a, b) => format!("both-{}-and-{}", a.name(), b.name()),
            Cell::One(kind) => format!("both-behind-one-{}", kind.name()),
        }
    }

    fn story(&self) -> String {
        let mut story = String::new();
        let mut say = |line: &str| {
            let _ = writeln!(story, "{line}");
        };
        say(&format!("title  {}: {}\n", self.name(), self.route()));
        say("host   A B hub\nproxy  P");
        match self {
            Cell::Two(a, b) => {
                say(&format!("napt   napt1 {}\nnapt   napt2 {}", a.rule(), b.rule()));
            }
            Cell::One(kind) => say(&format!("napt   napt1 {}", kind.rule())),
        }
        say("router core\n");
        say("link   a1  A=198.51.100.2/24  core=198.51.100.1/24  rate=40mbit delay=1ms");
        say("link   b1  B=203.0.113.2/24   core=203.0.113.1/24   rate=40mbit delay=1ms");
        match self {
            Cell::Two(..) => {
                say("link   a2  A=192.168.1.2/24   napt1=192.168.1.1/24  rate=40mbit delay=2ms down");
                say("link   b2  B=192.168.2.2/24   napt2=192.168.2.1/24  rate=40mbit delay=2ms down");
                say("link   up1 napt1=10.0.1.1/24  core=10.0.1.254/24");
                say("link   up2 napt2=10.0.2.1/24  core=10.0.2.254/24");
            }
            Cell::One(_) => {
                say("link   a2  A=192.168.1.2/25    napt1=192.168.1.1/25    rate=40mbit delay=2ms down");
                say("link   b2  B=192.168.1.130/25  napt1=192.168.1.129/25  rate=40mbit delay=2ms down");
                say("link   up1 napt1=10.0.1.1/24   core=10.0.1.254/24");
            }
        }
        say("link   lan hub=100.64.9.2/24  core=100.64.9.1/24");
        say("link   far P=100.64.8.2/24    core=100.64.8.1/24\n");
        say("server M on hub store.backend=memory\nagent  A B\n");
        // The agents meet first: on a busy machine that may take longer than the work.
        say("+0 A echo B every=50ms as=talk");
        for end in ["A", "B"] {
            say(&format!(
                "within 40 {end} agent connections count=1 state=Established"
            ));
        }
        say("+0 A exchange B 24MiB as=work");
        say("within 40 A agent connections count=2 state=Established");
        say("within 40 B agent connections count=2 state=Established");
        say("within 40 P proxy status capacity=10000 count=1");
        say("after work >= 3MiB a1 down\n+0 b1 down\n+0 a2 up\n+0 b2 up");
        for (end, path) in [("A", "a2"), ("B", "b2")] {
            say(&format!(
                "within 60 {end} agent connections count>=1 state=Established path={path} route={}",
                self.route()
            ));
        }
        say("within 90 work done sha256=same");
        say("within 60 talk answers>=40");
        say("expect errors=0 leaks=0 resets=0");
        story
    }
}

/// Tells the chosen stories one after the other; true if all ended well.
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
    let teller = Teller {
        agent_binary: arguments.agent_binary.clone(),
        seed: arguments.seed,
    };
    let mut told = told::tell_all(&chosen, arguments.jobs, &teller, &arguments.directory)?;
    told.sort_by_key(|(cell, _)| chosen.iter().position(|one| one == cell));
    let table = table(&told);
    println!("\n{table}");
    let file = arguments.directory.join("both.md");
    std::fs::write(&file, table).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    Ok(told.iter().all(|(_, one)| one.passed))
}

fn table(told: &[(Cell, Told)]) -> String {
    let mut text = String::from("| A behind | B behind | expected | |\n|---|---|---|---|\n");
    for (cell, one) in told {
        let (a, b) = match cell {
            Cell::Two(a, b) => (a.name(), b.name()),
            Cell::One(kind) => (kind.name(), "the same"),
        };
        let verdict = match one.passed {
            true => format!("ok, {:.1} s", one.took.as_secs_f64()),
            false => format!("FAILED: {}; again: {}", one.reason, one.again),
        };
        let _ = writeln!(text, "| {a} | {b} | {} | {verdict} |", cell.route());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_story_of_both_ends_can_be_read() {
        for cell in cells() {
            let read = crate::language::parse(&cell.name(), &cell.story());
            let mistakes = read
                .err()
                .map(|mistakes| mistakes.iter().map(ToString::to_string).collect::<String>());
            assert_eq!(mistakes, None, "{}", cell.story());
        }
    }

    #[test]
    fn the_quick_selection_meets_every_kind_at_either_end_and_either_path() {
        let chosen = quick(cells());
        for kind in Kind::ALL {
            let at_a = |cell: &Cell| matches!(cell, Cell::Two(a, _) if *a == kind);
            let at_b = |cell: &Cell| matches!(cell, Cell::Two(_, b) if *b == kind);
            assert!(chosen.iter().any(at_a) && chosen.iter().any(at_b), "{kind:?}");
        }
        for route in ["direct", "relayed"] {
            assert!(chosen.iter().any(|cell| cell.route() == route));
        }
    }
}
