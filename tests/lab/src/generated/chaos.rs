//! One long story that a seed draws.
//!
//! A host wanders between two NAPTs and an address in the open while ssh, curl, iperf3, psql, redis and the
//! laboratory's own programs talk to another one; that one wanders too if asked for, between two addresses in the open,
//! sometimes at the very same moment. On the way links lose segments, go down and come back, NAPTs forget everything,
//! agents are killed on both sides, the first host's old address is taken by somebody else, who uses the same
//! services. Every byte is checked. The same seed draws the same story.
//!
//! Each chapter ends with an answer from every interactive program: a connection that has stalled for good is
//! noticed there, not at the end.
use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::told::Teller;

const PROGRAMS: &str = include_str!("chaos.sh");

/// Numbers from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.roll(most - least + 1)
    }
}

/// Where the wandering host can be: the link, and the NAPT there.
const PLACES: [(&str, Option<&str>); 3] =
    [("home", Some("napt1")), ("cafe", Some("napt2")), ("office", None)];

const NETWORK: &str = r#"
host   A B T S
napt   napt1  masquerade
napt   napt2  masquerade random
router hub

link   home   A=192.168.1.2/24    napt1=192.168.1.1/24  rate=50mbit delay=5ms
link   up1    napt1=10.0.1.1/24   hub=10.0.1.254/24
link   cafe   A=192.168.2.2/24    napt2=192.168.2.1/24  rate=30mbit delay=15ms down
link   up2    napt2=10.0.2.1/24   hub=10.0.2.254/24
link   office A=198.51.100.2/24   hub=198.51.100.1/24   rate=80mbit delay=1ms down
link   lair   T=10.9.9.2/24       hub=10.9.9.1/24
link   lan    B=192.0.2.2/24      hub=192.0.2.1/24
link   dock   B=203.0.113.2/24    hub=203.0.113.1/24    down
link   hall   S=10.8.8.2/24       hub=10.8.8.1/24

agent  A B
"#;
/// Brings the hosts together when both have moved.
const SERVER: &str = "server M on S store.backend=memory\n";

/// The walk: what has been written, the time, and where everybody is.
struct Walk {
    dice: Dice,
    story: String,
    /// Milliseconds since the beginning.
    now: u64,
    here: usize,
    /// The server's host is not where its clients look for it.
    away: bool,
    both: bool,
    stolen: bool,
    questions: u64,
    lines: u64,
}

impl Walk {
    fn say(&mut self, line: &str) {
        let _ = writeln!(self.story, "{line}");
    }

    /// A line at the walk's own time.
    fn at(&mut self, line: &str) {
        let (seconds, rest) = (self.now / 1000, self.now % 1000);
        let _ = writeln!(self.story, "+{seconds}.{rest:03} {line}");
    }

    fn pass(&mut self, least: u64, most: u64) {
        self.now += self.dice.between(least, most);
    }

    fn name(&mut self, what: &str) -> String {
        self.lines += 1;
        format!("{what}{}", self.lines)
    }

    /// The old address changes hands while its owner is away.
    fn theft(&mut self) {
        let (give, route) = if self.stolen {
            ("del", "route replace 198.51.100.2/32 dev office")
        } else {
            ("add", "route replace 198.51.100.2/32 via 10.9.9.2")
        };
        let (address, way) = (self.name("address"), self.name("way"));
        self.at(&format!(
            "T exec as={address} ip address {give} 198.51.100.2/32 dev lair -> exit=0"
        ));
        self.at(&format!("hub exec as={way} ip {route} -> exit=0"));
        self.stolen = !self.stolen;
        if self.stolen && !self.away {
            let thief = self.name("thief");
            self.at(&format!(
                "T exec as={thief} curl -sS --max-time 20 --interface 198.51.100.2 -o /dev/null http://192.0.2.2:8080/bytes/100KiB -> exit=0 within=30"
            ));
        }
    }

    fn gap(&mut self) -> u64 {
        match self.dice.roll(4) {
            0 => 0,
            1 => self.dice.between(50, 300),
            2 => self.dice.between(300, 2000),
            _ => self.dice.between(2000, 6000),
        }
    }

    fn travel(&mut self) {
        let gap = self.gap();
        self.travel_after(gap);
    }

    /// The other host goes to its other address, or comes back.
    fn other_travels(&mut self) {
        let gap = self.gap();
        let (from, to) = if self.away {
            ("dock", "lan")
        } else {
            ("lan", "dock")
        };
        self.at(&format!("B move {from} -> {to} gap={gap}ms"));
        self.away = !self.away;
        self.now += gap;
    }

    fn travel_after(&mut self, gap: u64) {
        let there = (self.here + 1 + self.dice.roll(2) as usize) % PLACES.len();
        if PLACES[there].0 == "office" && self.stolen {
            self.theft();
        }
        let (from, to) = (PLACES[self.here].0, PLACES[there].0);
        self.at(&format!("A move {from} -> {to} gap={gap}ms"));
        self.here = there;
        self.now += gap;
        if PLACES[there].0 != "office" && self.dice.roll(3) == 0 && !self.stolen {
            self.pass(500, 1500);
            self.theft();
        }
    }

    fn kill_agent(&mut self) {
        let who = ["A", "B", "A B"][self.dice.roll(3) as usize];
        self.at(&format!("agent {who} kill"));
        self.pass(100, 1500);
        self.at(&format!("agent {who} start"));
    }

    fn chapter(&mut self) {
        let (link, napt) = PLACES[self.here];
        match self.dice.roll(if self.both { 10 } else { 7 }) {
            0 | 1 => self.travel(),
            7 => self.other_travels(),
            8 => {
                self.travel();
                self.other_travels();
            }
            9 if self.dice.roll(2) == 0 => {
                self.at(&format!("{link} down"));
                self.pass(0, 1000);
                self.other_travels();
                self.pass(0, 1000);
                self.at(&format!("{link} up"));
            }
            9 => {
                self.other_travels();
                self.travel();
            }
            2 => {
                let loss = self.dice.between(1, 4);
                self.at(&format!("{link} loss={loss}%"));
                self.pass(500, 3000);
                if self.dice.roll(2) == 0 {
                    self.travel();
                    self.pass(500, 2000);
                }
                self.at(&format!("{link} loss=0%"));
            }
            3 => {
                self.at(&format!("{link} down"));
                self.pass(100, 4000);
                self.at(&format!("{link} up"));
            }
            4 => {
                self.kill_agent();
                self.travel();
            }
            5 => {
                self.travel();
                self.pass(0, 400);
                self.kill_agent();
            }
            _ => match napt {
                Some(napt) => {
                    let deed = if self.dice.roll(2) == 0 {
                        "flush"
                    } else {
                        "reboot for=1s"
                    };
                    self.at(&format!("{napt} {deed}"));
                    // A NAPT that has forgotten a connection resets it, genuinely for all that anybody can tell: what
                    // nobody contradicts for seconds is believed.
                    let (pause, gap) = (self.dice.between(100, 1200), self.dice.between(0, 300));
                    self.now += pause;
                    self.travel_after(gap);
                }
                None => self.travel(),
            },
        }
        self.questions += 1;
        let number = self.questions;
        self.pass(300, 1500);
        self.at(&format!("shell type \"echo chapter-$(({number}+0))-over\\n\""));
        self.say(&format!("within 40 shell output~\"^chapter-{number}-over\""));
        self.say("expect resets=0 errors=0");
        self.pass(1500, 4000);
    }
}

/// The story that a seed draws.
pub fn story(seed: u64, minutes: f64, both: bool, programs: &Path) -> String {
    let server = if both { SERVER } else { "" };
    let end = (minutes * 60_000.0) as u64;
    let mut walk = Walk {
        dice: Dice(seed),
        story: format!(
            "title  Chaos, drawn by seed {seed}\nlimit  {}s\n{NETWORK}{server}\n",
            end * 3 / 1000 + 600
        ),
        now: 3000,
        here: 0,
        away: false,
        both,
        stolen: false,
        questions: 0,
        lines: 0,
    };
    let run = format!("bash {}", programs.display());
    let perf = end / 1000 + 5;
    for line in [
        "B sshd".to_owned(),
        "B httpd".to_owned(),
        "B iperf3d as=perf1 port=5201".to_owned(),
        "B iperf3d as=perf2 port=5202".to_owned(),
        format!("B exec as=postgres {run} postgres {{dir}}/stop"),
        "B exec as=redisd redis-server --save \"\" --appendonly no --protected-mode no --dir {dir}"
            .to_owned(),
        "within 60 postgres output~\"ready to accept connections\"".to_owned(),
        "within 60 redisd output~\"eady to accept connections\"".to_owned(),
        "+0 A ssh B as=shell".to_owned(),
        format!("+0 A exec as=psql {run} psql {{dir}}/stop {{B}}"),
        format!("+0 A exec as=redis {run} redis {{dir}}/stop {{B}}"),
        format!("+0 A exec as=curl {run} curl {{dir}}/stop http://{{B}}:8080/bytes/12MiB {{sha256:12MiB}}"),
        format!("+0 A exec as=up iperf3 -c {{B}} -p 5201 -b 4M -t {perf}"),
        format!("+0 A exec as=down iperf3 -c {{B}} -p 5202 -b 4M -R -t {perf}"),
        "+0 A echo B as=rr every=50ms".to_owned(),
        "+0 A idle B as=quiet connections=3".to_owned(),
        "+0 shell type \"echo chapter-$((0+0))-over\\n\"".to_owned(),
        "within 30 shell output~\"^chapter-0-over\"".to_owned(),
        "within 30 A agent connections count>=10 state=Established".to_owned(),
        "within 30 B agent connections count>=10 state=Established".to_owned(),
    ] {
        walk.say(&line);
    }
    while walk.now < end {
        walk.chapter();
    }
    if walk.away {
        walk.other_travels();
    }
    for line in [
        "A exec as=stop touch {dir}/stop -> exit=0",
        "quiet speak",
        "within 60 quiet answers>=3",
        "within 120 psql exit=0 output~\"all right\"",
        "within 60 redis exit=0 output~\"all right\"",
        "within 120 curl exit=0 output~\"all right\"",
        "within 120 up exit=0",
        "within 120 down exit=0",
        "rr kill",
        "shell type \"exit\\n\"",
        "within 60 shell exit=0",
        "expect resets=0 errors=0",
    ] {
        walk.say(line);
    }
    walk.story
}

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// What draws the story [default: drawn from the clock, and printed]
    #[arg(long)]
    pub seed: Option<u64>,
    /// How long the walk is
    #[arg(long, default_value_t = 2.0)]
    pub minutes: f64,
    /// The other host moves too
    #[arg(long)]
    pub both: bool,
    /// Where the story and what it leaves go
    #[arg(long, value_name = "DIR", default_value = "target/chaos")]
    pub directory: PathBuf,
    /// The host-agent to start [default: as of `run`]
    #[arg(long, value_name = "PATH")]
    pub agent_binary: Option<PathBuf>,
}

/// Draws the story and tells it; true if it ended well.
///
/// # Errors
/// Nothing could be written or started.
pub fn run(arguments: &Arguments) -> Result<bool, String> {
    let seed = arguments.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::from(now.unwrap_or_default().subsec_micros())
    });
    let failed =
        |error: std::io::Error| format!("cannot write to {}: {error}", arguments.directory.display());
    std::fs::create_dir_all(&arguments.directory).map_err(failed)?;
    // Programs run in directories of their own.
    let directory = arguments.directory.canonicalize().map_err(failed)?;
    let programs = directory.join("chaos.sh");
    std::fs::write(&programs, PROGRAMS).map_err(failed)?;
    let file = directory.join(format!("chaos-{seed}.scn"));
    std::fs::write(&file, story(seed, arguments.minutes, arguments.both, &programs)).map_err(failed)?;
    println!(
        "chaos: SEED={seed} MINUTES={}  {}",
        arguments.minutes,
        file.display()
    );
    let teller = Teller {
        agent_binary: arguments.agent_binary.clone(),
        seed,
    };
    let status = teller
        .command(&file)?
        .status()
        .map_err(|error| format!("cannot run the laboratory: {error}"))?;
    println!(
        "chaos: SEED={seed} {}; again: make chaos SEED={seed} MINUTES={}",
        if status.success() { "ended well" } else { "FAILED" },
        arguments.minutes
    );
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_draws_a_story_that_can_be_read_and_the_same_one_again() {
        for seed in 0..50 {
            let drawn = story(seed, 10.0, seed % 2 == 1, Path::new("chaos.sh"));
            let mistakes = crate::language::parse("chaos", &drawn).err();
            assert!(
                mistakes.is_none(),
                "seed {seed}: {}\n{drawn}",
                mistakes.unwrap_or_default()[0]
            );
            assert_eq!(drawn, story(seed, 10.0, seed % 2 == 1, Path::new("chaos.sh")));
        }
        assert_ne!(
            story(1, 1.0, false, Path::new("x")),
            story(2, 1.0, false, Path::new("x"))
        );
    }
}
