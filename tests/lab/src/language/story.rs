//! Lines that happen: when, and what.
use std::time::Duration;

use super::ast::*;
use super::condition;
use super::diagnostic::Diagnostic;
use super::lexer::Sign;
use super::programs;
use super::topology::{agent_change, destination, duration, ports, shape, via};
use super::units;
use super::words::Words;

pub fn step(mut words: Words, line: &str) -> Result<Step, Diagnostic> {
    let number = words.line();
    let text = stripped(line);
    let when = when(&mut words)?;
    let what = if words.accept("within") {
        let limit = duration(&mut words, "how long it may take")?;
        What::Within(limit, condition::condition(&mut words)?)
    } else if words.accept("expect") {
        What::Expect(condition::conditions(&mut words)?)
    } else {
        What::Do(action(&mut words)?)
    };
    words.end()?;
    Ok(Step {
        line: number,
        text,
        when,
        what,
    })
}

/// The line without indentation and comment.
pub fn stripped(line: &str) -> String {
    let mut quote = None;
    let mut before = ' ';
    let mut end = line.len();
    for (at, c) in line.char_indices() {
        match quote {
            Some(mark) if c == mark => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == '#' && before.is_whitespace() => {
                end = at;
                break;
            }
            None => {}
        }
        before = c;
    }
    line[..end].trim().to_owned()
}

fn when(words: &mut Words) -> Result<When, Diagnostic> {
    if words.accept("after") {
        let condition = condition::condition(words)?;
        let mut limit = None;
        if let Some(pair) = words.peek_pair().filter(|pair| pair.key == "limit").cloned() {
            let wrong =
                || Diagnostic::new(pair.value_place, "not a duration").expecting("a duration such as 30s");
            limit = Some(units::duration(&pair.value).ok_or_else(wrong)?);
            words.skip();
        }
        return Ok(When::After { condition, limit });
    }
    let Some(time) = words
        .keyword()
        .and_then(|word| word.strip_prefix('+'))
        .map(str::to_owned)
    else {
        return Ok(When::Next);
    };
    match units::duration(&time) {
        Some(time) => {
            words.skip();
            Ok(When::At(time))
        }
        None => Err(words.refuse("a time after the beginning of the story, such as +8 or +.25 or +300ms")),
    }
}

fn action(words: &mut Words) -> Result<Action, Diagnostic> {
    const FIRST: &str = "a time (+8), `after`, `within`, `expect`, the name of a host, link, NAPT or program, or a statement of \
         the topology (host, napt, router, core, link, route, sysctl, agent)";
    if words.keyword() == Some("kill") && words.peek_second().is_some() {
        words.skip();
        return Ok(Action::Program {
            name: words.name("the program to kill")?,
            change: ProgramChange::Kill,
        });
    }
    if words.accept("agent") {
        return match words.has_at(1, "tell") {
            true => tell_agent(words),
            false => agent(words),
        };
    }
    if words.keyword() == Some("redis") && words.has_at(2, "kill") {
        words.skip();
        let redis = words.name("a Redis cluster")?;
        words.skip();
        return Ok(Action::RedisKill { redis });
    }
    if words.keyword() == Some("server")
        && ["start", "stop", "kill", "restart", "tell"]
            .iter()
            .any(|change| words.has_at(2, change))
    {
        words.skip();
        return server(words);
    }
    if matches!(words.keyword(), Some("relay" | "proxy")) && is_relay_step(words) {
        words.skip();
        return relay(words);
    }
    let subject = words.name(FIRST)?;
    if words.peek_pair().is_some() {
        let mut change = ShapeChange::default();
        while !words.is_empty() {
            shape(words, &mut change)?;
        }
        return Ok(Action::Link {
            link: subject,
            change: LinkChange::Shape(change),
        });
    }
    let Some(verb) = words.keyword().map(str::to_owned) else {
        return Err(words.refuse(verbs()));
    };
    let place = words.place();
    words.skip();
    match verb.as_str() {
        "up" | "down" | "blackhole" | "heal" | "drop" | "delay" | "duplicate" | "flip" | "record"
        | "replay" | "storm" => Ok(Action::Link {
            link: subject,
            change: link_change(&verb, words)?,
        }),
        "flush" => Ok(Action::Napt {
            napt: subject,
            change: NaptChange::Flush,
        }),
        "masquerade" => Ok(Action::Napt {
            napt: subject,
            change: NaptChange::Ports(ports(words).unwrap_or_default()),
        }),
        "reboot" => {
            let outage = if words.is_empty() {
                Duration::from_secs(2)
            } else {
                option(words, "for")?
            };
            Ok(Action::Napt {
                napt: subject,
                change: NaptChange::Reboot { outage },
            })
        }
        "move" => movement(subject, words),
        "address" => addresses(subject, words),
        "sleep" => {
            let word = words.text("how long, as in 1h")?;
            let long = units::duration(&word.text)
                .ok_or_else(|| Diagnostic::new(word.place, format!("`{}` is not a duration", word.text)))?;
            Ok(Action::Host {
                host: subject,
                change: HostChange::Sleep(long),
            })
        }
        "route" => {
            let gone = words.accept("del");
            let to = destination(words)?;
            let via = if gone { None } else { Some(via(words)?) };
            Ok(Action::Host {
                host: subject,
                change: HostChange::Route { to, via },
            })
        }
        "kill" => Ok(Action::Program {
            name: subject,
            change: ProgramChange::Kill,
        }),
        "speak" => Ok(Action::Program {
            name: subject,
            change: ProgramChange::Speak,
        }),
        "type" => {
            let text = words.text("the text to type, in quotes")?.text;
            Ok(Action::Program {
                name: subject,
                change: ProgramChange::Type(text),
            })
        }
        verb if programs::VERBS.contains(&verb) => programs::start(verb, subject, words).map(Action::Start),
        _ => Err(Diagnostic::new(place, format!("`{verb}` is nothing that can happen")).expecting(verbs())),
    }
}

fn verbs() -> String {
    format!(
        "for a link: up, down, blackhole, heal, rate=, delay=, loss=, mtu=, drop, delay, duplicate, flip, record, \
         replay; for a host: move, address, route, sleep, {}; for a NAPT: flush, reboot, masquerade; for a program: kill, type, speak",
        programs::VERBS.join(", ")
    )
}

fn agent(words: &mut Words) -> Result<Action, Diagnostic> {
    let mut hosts = Vec::new();
    loop {
        if let Some(change) = words.keyword().and_then(agent_change)
            && !hosts.is_empty()
        {
            words.skip();
            return Ok(Action::Agent { change, hosts });
        }
        hosts.push(words.name("a host, then start, stop, kill or restart")?);
    }
}

/// `HOST tell WORD …`, behind `agent`.
pub fn tell_agent(words: &mut Words) -> Result<Action, Diagnostic> {
    let host = words.name("the host of an agent")?;
    words.skip();
    tell(words, Addressee::Agent(host))
}

fn tell(words: &mut Words, whom: Addressee) -> Result<Action, Diagnostic> {
    if words.is_empty() {
        return Err(words.refuse("a command of that program, such as `sleep` or `revoke NAME`"));
    }
    let mut told = Vec::new();
    while !words.is_empty() {
        told.push(words.text("a word")?.text);
    }
    Ok(Action::Tell { whom, words: told })
}

fn server(words: &mut Words) -> Result<Action, Diagnostic> {
    let server = words.name("a mobility server")?;
    if words.accept("tell") {
        return tell(words, Addressee::Server(server));
    }
    let change = words.keyword().and_then(agent_change);
    let change = change.ok_or_else(|| words.refuse("start, stop, kill, restart or tell"))?;
    words.skip();
    Ok(Action::Server { change, server })
}

/// `relay NAME start|stop|kill|restart`, `relay NAME prefer LINK|ADDRESS|all`.
pub fn is_relay_step(words: &Words) -> bool {
    ["start", "stop", "kill", "restart", "prefer"]
        .iter()
        .any(|change| words.has_at(2, change))
}

fn relay(words: &mut Words) -> Result<Action, Diagnostic> {
    let relay = words.name("a relay")?;
    if words.accept("prefer") {
        let path = match words.peek().map(|word| word.text.clone()) {
            Some(text) if text == "all" => {
                words.skip();
                PreferredPath::All
            }
            Some(text) => match text.parse() {
                Ok(address) => {
                    words.skip();
                    PreferredPath::Address(address)
                }
                Err(_) => PreferredPath::Link(words.name("a link, an address or `all`")?),
            },
            None => return Err(words.refuse("a link, an address or `all`")),
        };
        let change = RelayChange::Prefer(path);
        return Ok(Action::Relay { relay, change });
    }
    let change = words.keyword().and_then(agent_change);
    let change = change.ok_or_else(|| words.refuse("start, stop, kill, restart or prefer"))?;
    words.skip();
    Ok(Action::Relay {
        relay,
        change: RelayChange::Process(change),
    })
}

fn link_change(verb: &str, words: &mut Words) -> Result<LinkChange, Diagnostic> {
    match verb {
        "up" => Ok(LinkChange::Up),
        "down" => Ok(LinkChange::Down {
            keep: words.accept("keep"),
        }),
        "blackhole" => Ok(LinkChange::Blackhole { from: from(words)? }),
        "heal" => Ok(LinkChange::Heal),
        "replay" => {
            let recording = words.name("the name of a recording")?;
            let options = LinkOptions::read(verb, words)?;
            Ok(LinkChange::Replay {
                recording,
                flip: options.flip(),
                from: options.from,
            })
        }
        "storm" => {
            let recording = words.name("the name of a recording")?;
            let (mut resets, mut over) = (None, None);
            while let Some(pair) = words.pair() {
                match pair.key.as_str() {
                    "resets" => {
                        resets = units::whole(&pair.value).and_then(|count| u32::try_from(count).ok())
                    }
                    "over" => over = units::duration(&pair.value),
                    _ => {}
                }
            }
            let (Some(resets), Some(over)) = (resets, over) else {
                return Err(words.refuse("`resets=NUMBER` and `over=DURATION`"));
            };
            Ok(LinkChange::Storm {
                recording,
                resets,
                over,
            })
        }
        _ => interference(verb, words).map(LinkChange::Interfere),
    }
}

/// `drop msyn 1`, `delay syn 1..3 by=3s from=phone`, `flip msyn 1 bit=200 in=option`, `record msyn as=m1`.
fn interference(verb: &str, words: &mut Words) -> Result<Interference, Diagnostic> {
    let segments = segments(words)?;
    let (first, last) = ordinals(words)?;
    let options = LinkOptions::read(verb, words)?;
    let missing = |what: &str| words.refuse(format!("`{what}`"));
    let deed = match verb {
        "drop" => Deed::Drop,
        "duplicate" => Deed::Duplicate,
        "delay" => Deed::Delay(options.by.ok_or_else(|| missing("by=DURATION"))?),
        "flip" => Deed::Flip(options.flip().ok_or_else(|| missing("bit=N"))?),
        _ => Deed::Record(options.name.clone().ok_or_else(|| missing("as=NAME"))?),
    };
    Ok(Interference {
        segments,
        first,
        last,
        from: options.from,
        deed,
    })
}

/// What may follow an event on a link.
#[derive(Default)]
struct LinkOptions {
    from: Option<Name>,
    by: Option<Duration>,
    bit: Option<u32>,
    in_option: bool,
    stale: bool,
    name: Option<Name>,
}

impl LinkOptions {
    fn read(verb: &str, words: &mut Words) -> Result<LinkOptions, Diagnostic> {
        let mut options = LinkOptions::default();
        while let Some(pair) = words.peek_pair().cloned() {
            let wrong = |expected: &str| {
                Diagnostic::new(
                    pair.value_place,
                    format!("`{}` is not a value for {}", pair.value, pair.key),
                )
                .expecting(expected)
            };
            let name = || Name {
                text: pair.value.clone(),
                place: pair.value_place,
            };
            match (pair.key.as_str(), verb) {
                ("from", _) => options.from = Some(name()),
                ("by", "delay") => {
                    options.by = Some(units::duration(&pair.value).ok_or_else(|| wrong("a duration"))?);
                }
                ("bit", "flip" | "replay") => {
                    let found = units::whole(&pair.value).filter(|bit| *bit < 480);
                    options.bit = Some(found.ok_or_else(|| wrong("a bit, 0 to 479"))? as u32);
                }
                ("in", "flip" | "replay") => {
                    options.in_option = match pair.value.as_str() {
                        "option" => true,
                        "tcp" => false,
                        _ => return Err(wrong("`tcp` or `option`")),
                    }
                }
                ("checksum", "flip" | "replay") => {
                    options.stale = match pair.value.as_str() {
                        "stale" => true,
                        "good" => false,
                        _ => return Err(wrong("`good` or `stale`")),
                    }
                }
                ("as", "record") => options.name = Some(name()),
                _ => {
                    return Err(words.refuse(format!(
                        "what `{verb}` knows: from=, by= (delay), bit= in= checksum= (flip, replay), as= (record)"
                    )));
                }
            }
            words.skip();
        }
        Ok(options)
    }

    fn flip(&self) -> Option<Flip> {
        self.bit.map(|bit| Flip {
            bit,
            in_option: self.in_option,
            stale: self.stale,
        })
    }
}

fn segments(words: &mut Words) -> Result<Segments, Diagnostic> {
    let found = words
        .keyword()
        .and_then(|word| Segments::ALL.iter().find(|(name, _)| *name == word));
    match found {
        Some((_, segments)) => {
            words.skip();
            Ok(*segments)
        }
        None => {
            let all: Vec<&str> = Segments::ALL.iter().map(|(name, _)| *name).collect();
            Err(words.refuse(format!("which segments: {}", all.join(", "))))
        }
    }
}

/// `1`, `2..4`, `all`; nothing is the first one.
fn ordinals(words: &mut Words) -> Result<(u64, Option<u64>), Diagnostic> {
    if words.is_empty() || words.peek_pair().is_some() {
        return Ok((1, Some(1)));
    }
    if words.accept("all") {
        return Ok((1, None));
    }
    let text = words.keyword().unwrap_or_default().to_owned();
    let (first, last) = text.split_once("..").unwrap_or((&text, &text));
    match (units::whole(first), units::whole(last)) {
        (Some(first), Some(last)) if 1 <= first && first <= last => {
            words.skip();
            Ok((first, Some(last)))
        }
        _ => Err(words.refuse("which of them: 1, 2..4 or all")),
    }
}

fn from(words: &mut Words) -> Result<Option<Name>, Diagnostic> {
    match words.peek_pair() {
        Some(pair) if pair.key == "from" => {
            let name = Name {
                text: pair.value.clone(),
                place: pair.value_place,
            };
            words.skip();
            Ok(Some(name))
        }
        _ => Ok(None),
    }
}

/// `phone move wifi -> lte [gap=8s]`.
fn movement(host: Name, words: &mut Words) -> Result<Action, Diagnostic> {
    let from = words.name("the link that is left")?;
    if !words.accept("->") {
        return Err(words.refuse("`->` and the link that is joined"));
    }
    let to = words.name("the link that is joined")?;
    let gap = if words.is_empty() {
        Duration::ZERO
    } else {
        option(words, "gap")?
    };
    Ok(Action::Host {
        host,
        change: HostChange::Move { from, to, gap },
    })
}

/// `phone address wifi -192.168.1.2/24 +192.168.7.3/24`.
fn addresses(host: Name, words: &mut Words) -> Result<Action, Diagnostic> {
    let link = words.name("the link whose addresses change")?;
    let (mut remove, mut add) = (Vec::new(), Vec::new());
    while let Some(word) = words.keyword() {
        let found = match word.split_at_checked(1) {
            Some(("-", text)) => units::prefix(text).map(|prefix| (prefix, &mut remove)),
            Some(("+", text)) => units::prefix(text).map(|prefix| (prefix, &mut add)),
            _ => None,
        };
        let Some((prefix, list)) = found else {
            return Err(words.refuse("+ADDRESS/LENGTH or -ADDRESS/LENGTH"));
        };
        list.push(prefix);
        words.skip();
    }
    if remove.is_empty() && add.is_empty() {
        return Err(words.refuse("+ADDRESS/LENGTH or -ADDRESS/LENGTH"));
    }
    Ok(Action::Host {
        host,
        change: HostChange::Address { link, remove, add },
    })
}

/// A duration `key=…` and nothing else.
fn option(words: &mut Words, key: &str) -> Result<Duration, Diagnostic> {
    let found = words
        .peek_pair()
        .filter(|pair| pair.key == key && pair.sign == Sign::Equal);
    match found.and_then(|pair| units::duration(&pair.value)) {
        Some(duration) => {
            words.skip();
            Ok(duration)
        }
        None => Err(words.refuse(format!("`{key}=DURATION`"))),
    }
}
