//! Lines that start programs on a host.
use std::net::IpAddr;
use std::time::Duration;

use super::ast::*;
use super::diagnostic::Diagnostic;
use super::lexer::{Pair, Sign};
use super::units;
use super::words::Words;

pub const VERBS: [&str; 13] = [
    "exec", "serve", "fetch", "push", "exchange", "echo", "visits", "idle", "sshd", "httpd", "iperf3d",
    "ssh", "dialog",
];

/// Where the lab's own server listens unless a line says otherwise.
pub const SERVE_PORT: u16 = 7000;

/// Reads what follows `HOST VERB`.
pub fn start(verb: &str, host: Name, words: &mut Words) -> Result<ProgramStart, Diagnostic> {
    let default = Name {
        text: format!("{host}-{verb}"),
        place: host.place,
    };
    let mut start = ProgramStart {
        host,
        name: default,
        program: Program::Exec(Vec::new()),
        outcome: None,
    };
    match verb {
        "exec" => return exec(start, words),
        "ssh" => return ssh(start, words),
        "dialog" => return dialog(start, words),
        "httpd" => {
            let directory = match words.peek() {
                Some(word) if word.pair.is_none() => Some(words.text("a directory")?.text),
                _ => None,
            };
            let mut options = Options::read(words)?;
            start.program = Program::Httpd {
                directory,
                port: options.port(8080)?,
            };
            return options.finish(start);
        }
        _ => {}
    }
    if !matches!(verb, "serve" | "sshd" | "iperf3d") {
        start.program = talk(verb, words)?;
    }
    let mut options = Options::read(words)?;
    match &mut start.program {
        Program::Talk(talk) => options.talk(talk)?,
        program => {
            *program = match verb {
                "serve" => Program::Serve {
                    port: options.port(SERVE_PORT)?,
                    options: options.socket()?,
                },
                "sshd" => Program::Sshd {
                    port: options.port(2222)?,
                },
                _ => Program::Iperf3d {
                    port: options.port(5201)?,
                },
            }
        }
    }
    options.finish(start)
}

/// `exec [as=NAME] COMMAND … [-> exit=0 output~"…" within=5]`.
fn exec(mut start: ProgramStart, words: &mut Words) -> Result<ProgramStart, Diagnostic> {
    let named = name_option(words, &mut start)?;
    let command = words.until("->");
    if command.is_empty() {
        return Err(words.refuse("a command"));
    }
    start.program = Program::Exec(command);
    start.outcome = outcome(words, named)?;
    Ok(start)
}

/// `dialog [as=NAME] "SCRIPT" [-> …]`.
fn dialog(mut start: ProgramStart, words: &mut Words) -> Result<ProgramStart, Diagnostic> {
    name_option(words, &mut start)?;
    let script = words.text("the steps of a dialog (see docs/scenarios.md)")?;
    // Hosts are named in braces; any address does for reading.
    let plain = placeholders().replace_all(&script.text, "192.0.2.1");
    crate::apps::dialog::read(&plain).map_err(|mistake| Diagnostic::new(script.place, mistake))?;
    start.program = Program::Dialog(script.text);
    start.outcome = outcome(words, true)?;
    Ok(start)
}

/// `{server}`, `{server.6}` and their like.
fn placeholders() -> regex::Regex {
    regex::Regex::new(r"\{[^}]*\}").expect("a pattern")
}

/// `ssh HOST [as=NAME] [port=N] [family=6] [COMMAND …] [-> …]`.
fn ssh(mut start: ProgramStart, words: &mut Words) -> Result<ProgramStart, Diagnostic> {
    let to = words.name("the host to log in to")?;
    let (mut port, mut ipv6, mut named) = (2222, false, false);
    loop {
        match words
            .peek_pair()
            .map(|pair| (pair.key.as_str(), pair.value.clone(), pair.value_place))
        {
            Some(("as", ..)) => named = name_option(words, &mut start)?,
            Some(("port", value, place)) => {
                port = port_number(&value, place)?;
                words.skip();
            }
            Some(("family", value, _)) => {
                ipv6 = value == "6";
                words.skip();
            }
            _ => break,
        }
    }
    start.program = Program::Ssh {
        to,
        port,
        ipv6,
        command: words.until("->"),
    };
    start.outcome = outcome(words, named)?;
    Ok(start)
}

fn name_option(words: &mut Words, start: &mut ProgramStart) -> Result<bool, Diagnostic> {
    let Some(pair) = words
        .peek_pair()
        .filter(|pair| pair.key == "as" && pair.sign == Sign::Equal)
        .cloned()
    else {
        return Ok(false);
    };
    start.name = program_name(&pair)?;
    words.skip();
    Ok(true)
}

fn program_name(pair: &Pair) -> Result<Name, Diagnostic> {
    if super::words::is_name(&pair.value) {
        return Ok(Name {
            text: pair.value.clone(),
            place: pair.value_place,
        });
    }
    Err(
        Diagnostic::new(pair.value_place, format!("`{}` is no name", pair.value))
            .expecting("letters, digits, `-`, `_`"),
    )
}

/// A command without a name is waited for and must end well.
fn outcome(words: &mut Words, named: bool) -> Result<Option<Outcome>, Diagnostic> {
    if !words.accept("->") {
        return Ok((!named).then(|| Outcome {
            exit: Some(0),
            ..Outcome::default()
        }));
    }
    let mut outcome = Outcome::default();
    while !words.is_empty() {
        let Some(pair) = words.peek_pair().cloned() else {
            return Err(words.refuse("exit=N, output~\"REGEX\" or within=DURATION"));
        };
        let wrong = |expected: &str| {
            Diagnostic::new(
                pair.value_place,
                format!("`{}` is not a value for {}", pair.value, pair.key),
            )
            .expecting(expected)
        };
        match (pair.key.as_str(), pair.sign) {
            ("exit", Sign::Equal) => {
                outcome.exit = Some(pair.value.parse().map_err(|_| wrong("an exit code"))?)
            }
            ("output", Sign::Matches) => {
                if !super::condition::is_pattern(&pair.value) {
                    return Err(wrong("a regular expression"));
                }
                outcome.output.push(pair.value.clone());
            }
            ("within", Sign::Equal) => {
                outcome.within = Some(units::duration(&pair.value).ok_or_else(|| wrong("a duration"))?);
            }
            _ => return Err(words.refuse("exit=N, output~\"REGEX\" or within=DURATION")),
        }
        words.skip();
    }
    Ok(Some(outcome))
}

fn talk(verb: &str, words: &mut Words) -> Result<Program, Diagnostic> {
    let to = words.name("the host to talk to")?;
    let mut size = || match words.peek().and_then(|word| units::size(&word.text)) {
        Some(size) => {
            words.skip();
            Ok(size)
        }
        None => Err(words.refuse("how much, such as 30MiB")),
    };
    let what = match verb {
        "fetch" => Talking::Fetch(size()?),
        "push" => Talking::Push(size()?),
        "exchange" => Talking::Exchange(size()?),
        "echo" => Talking::Echo {
            size: 64,
            every: Duration::from_millis(100),
            count: None,
        },
        "visits" => Talking::Visits(1000),
        _ => Talking::Idle,
    };
    Ok(Program::Talk(Talk {
        what,
        to,
        address: None,
        ipv6: false,
        port: SERVE_PORT,
        connections: 1,
        options: SocketOptions::default(),
    }))
}

/// The options at the end of a line; whatever nobody asked for is refused.
struct Options {
    pairs: Vec<(Pair, Diagnostic)>,
    nodelay: bool,
    mptcp: bool,
    outcome: Option<Outcome>,
}

impl Options {
    fn read(words: &mut Words) -> Result<Options, Diagnostic> {
        let mut options = Options {
            pairs: Vec::new(),
            nodelay: false,
            mptcp: false,
            outcome: None,
        };
        while !words.is_empty() {
            if words.keyword() == Some("->") {
                options.outcome = outcome(words, true)?;
            } else if words.accept("nodelay") {
                options.nodelay = true;
            } else if words.accept("mptcp") {
                options.mptcp = true;
            } else {
                let unknown = words.refuse("an option of this program (see docs/scenarios.md)");
                match words.pair() {
                    Some(pair) if pair.sign == Sign::Equal => options.pairs.push((pair, unknown)),
                    _ => return Err(unknown),
                }
            }
        }
        Ok(options)
    }

    fn take<T>(
        &mut self,
        key: &str,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Diagnostic> {
        let Some(at) = self.pairs.iter().position(|(pair, _)| pair.key == key) else {
            return Ok(None);
        };
        let (pair, _) = self.pairs.remove(at);
        let mistake = || {
            Diagnostic::new(
                pair.value_place,
                format!("`{}` is not a value for {key}", pair.value),
            )
            .expecting(expected)
        };
        read(&pair.value).map(Some).ok_or_else(mistake)
    }

    fn port(&mut self, default: u16) -> Result<u16, Diagnostic> {
        Ok(self
            .take("port", "a port, 1 to 65535", read_port)?
            .unwrap_or(default))
    }

    fn socket(&mut self) -> Result<SocketOptions, Diagnostic> {
        Ok(SocketOptions {
            user_timeout: self.take("user_timeout", "a duration such as 5s", units::duration)?,
            keepalive: self.take("keepalive", "IDLE/INTERVAL/COUNT such as 1s/1s/3", keepalive)?,
            nodelay: self.nodelay,
            mptcp: self.mptcp,
        })
    }

    fn talk(&mut self, talk: &mut Talk) -> Result<(), Diagnostic> {
        talk.port = self.port(talk.port)?;
        talk.options = self.socket()?;
        talk.ipv6 = self
            .take("family", "4 or 6", |text| match text {
                "4" => Some(false),
                "6" => Some(true),
                _ => None,
            })?
            .unwrap_or(false);
        talk.address = self.take("to", "an address", |text| text.parse::<IpAddr>().ok())?;
        let connections = self.take("connections", "1 to 20000", |text| {
            units::whole(text).filter(|number| (1..=20_000).contains(number))
        })?;
        talk.connections = connections.unwrap_or(1) as u32;
        if let Talking::Visits(visits) = &mut talk.what {
            let count = self.take("count", "how many visits", units::whole)?;
            *visits = count.unwrap_or(*visits);
        }
        if let Talking::Echo { size, every, count } = &mut talk.what {
            let bytes = self.take("size", "1 to 64KiB", |text| {
                units::size(text).filter(|size| (1..=65_536).contains(size))
            })?;
            *size = bytes.map_or(*size, |bytes| bytes as u32);
            *every = self
                .take("every", "a duration such as 100ms", units::duration)?
                .unwrap_or(*every);
            *count = self.take("count", "how many questions", units::whole)?;
        }
        Ok(())
    }

    /// The options every program has, then the refusal of what is left.
    fn finish(mut self, mut start: ProgramStart) -> Result<ProgramStart, Diagnostic> {
        if let Some(at) = self.pairs.iter().position(|(pair, _)| pair.key == "as") {
            start.name = program_name(&self.pairs.remove(at).0)?;
        }
        start.outcome = self.outcome;
        match self.pairs.into_iter().next() {
            Some((_, unknown)) => Err(unknown),
            None => Ok(start),
        }
    }
}

fn read_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

fn port_number(text: &str, place: super::Place) -> Result<u16, Diagnostic> {
    read_port(text)
        .ok_or_else(|| Diagnostic::new(place, format!("`{text}` is no port")).expecting("1 to 65535"))
}

fn keepalive(text: &str) -> Option<Keepalive> {
    let mut parts = text.split('/');
    let idle = units::duration(parts.next()?)?;
    let interval = units::duration(parts.next()?)?;
    let count = units::whole(parts.next()?).filter(|count| (1..=127).contains(count))?;
    parts.next().is_none().then_some(Keepalive {
        idle,
        interval,
        count: count as u32,
    })
}
