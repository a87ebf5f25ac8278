//! Lines that describe the network.
use std::net::IpAddr;
use std::time::Duration;

use super::ast::*;
use super::diagnostic::Diagnostic;
use super::lexer::{Pair, Sign};
use super::units;
use super::words::Words;

pub fn statement(scenario: &mut Scenario, mut words: Words, line: &str) -> Result<(), Diagnostic> {
    let keyword = words.text("a statement")?.text;
    match keyword.as_str() {
        "host" => named_nodes(scenario, &mut words, &Kind::Host)?,
        "router" | "core" => {
            if keyword == "core" && words.is_empty() {
                let name = Name {
                    text: "core".to_owned(),
                    place: words.place(),
                };
                scenario.nodes.push(Node {
                    name,
                    kind: Kind::Router,
                });
            } else {
                named_nodes(scenario, &mut words, &Kind::Router)?;
            }
        }
        "napt" => scenario.nodes.push(napt(&mut words)?),
        "link" => scenario.links.push(link(&mut words)?),
        "route" => scenario.routes.push(route(&mut words)?),
        "sysctl" => scenario.sysctls.push(sysctl(&mut words)?),
        "server" => scenario.servers.push(server(&mut words)?),
        "redis" => scenario.redis.push(redis(&mut words)?),
        "relay" => relays(scenario, RelayKind::Mptcp, &mut words)?,
        "proxy" => relays(scenario, RelayKind::Symmetric, &mut words)?,
        "multipath" => loop {
            scenario
                .multipath
                .push(words.name("the hosts that use all their links at once")?);
            if words.is_empty() {
                break;
            }
        },
        "capture" => scenario.capture = true,
        "needs" => loop {
            let name = words.name("what the kernel must have")?;
            let feature = Feature::named(&name.text);
            let unknown = || {
                Diagnostic::new(name.place, format!("`{name}` is nothing a kernel is asked for"))
                    .expecting("`kernel-tls`")
            };
            scenario.needs.push(feature.ok_or_else(unknown)?);
            if words.is_empty() {
                break;
            }
        },
        "limit" => scenario.limit = Some(duration(&mut words, "how long the run may take")?),
        _ => return agent(scenario, words, line),
    }
    words.end()
}

fn named_nodes(scenario: &mut Scenario, words: &mut Words, kind: &Kind) -> Result<(), Diagnostic> {
    loop {
        let name = words.name("a name (letters, digits, `-`, `_`)")?;
        scenario.nodes.push(Node {
            name,
            kind: kind.clone(),
        });
        if words.is_empty() {
            return Ok(());
        }
    }
}

/// What a NAPT makes of ports, if that comes next.
pub fn ports(words: &mut Words) -> Option<Ports> {
    let kinds = [
        ("random", Ports::Random),
        ("fully-random", Ports::FullyRandom),
        ("endpoint-independent", Ports::EndpointIndependent),
    ];
    let found = kinds.into_iter().find(|(word, _)| words.accept(word));
    found.map(|(_, ports)| ports)
}

fn napt(words: &mut Words) -> Result<Node, Diagnostic> {
    const OPTIONS: &str =
        "`random`, `fully-random`, `endpoint-independent`, `silent`, `outside=LINK` or `nat64=PREFIX`";
    let name = words.name("a name for the NAPT")?;
    if !words.accept("masquerade") {
        return Err(words.refuse("`masquerade`"));
    }
    let mut rule = NaptRule::default();
    while !words.is_empty() {
        if let Some(ports) = ports(words) {
            rule.ports = ports;
        } else if words.accept("silent") {
            rule.silent = true;
        } else if words.peek_pair().is_some_and(|pair| pair.key == "outside") {
            rule.outside = words.pair().map(|pair| Name {
                text: pair.value,
                place: pair.value_place,
            });
        } else if let Some(pair) = words.peek_pair().filter(|pair| pair.key == "nat64").cloned() {
            let prefix = units::prefix(&pair.value).filter(|prefix| prefix.is_ipv6() && prefix.length == 96);
            let wrong = || {
                Diagnostic::new(
                    pair.value_place,
                    format!("`{}` is no prefix for a NAT64", pair.value),
                )
                .expecting("an IPv6 prefix of 96 bits such as 2001:db8:64::/96")
            };
            rule.nat64 = Some(prefix.ok_or_else(wrong)?.network());
            words.skip();
        } else {
            return Err(words.refuse(OPTIONS));
        }
    }
    Ok(Node {
        name,
        kind: Kind::Napt(rule),
    })
}

fn link(words: &mut Words) -> Result<Link, Diagnostic> {
    let name = words.name("a name for the link")?;
    let ends = [end(words)?, end(words)?];
    let (mut down, mut plain) = (false, false);
    let mut change = ShapeChange::default();
    while !words.is_empty() {
        if words.accept("down") {
            down = true;
        } else if words.accept("plain") {
            plain = true;
        } else {
            shape(words, &mut change)?;
        }
    }
    Ok(Link {
        name,
        ends,
        shape: Shape::default().changed(&change),
        down,
        plain,
    })
}

/// `phone`, or `phone=192.168.1.2/24,fd00::2/64`.
fn end(words: &mut Words) -> Result<End, Diagnostic> {
    const EXPECTED: &str = "an end of the link: HOST or HOST=ADDRESS/LENGTH[,ADDRESS/LENGTH…]";
    let Some(Pair {
        key,
        key_place,
        sign: Sign::Equal,
        value,
        value_place,
    }) = words.peek_pair().cloned()
    else {
        return Ok(End {
            node: words.name(EXPECTED)?,
            addresses: Vec::new(),
        });
    };
    words.skip();
    let mut addresses = Vec::new();
    for text in value.split(',') {
        let found = text.contains('/').then(|| units::prefix(text)).flatten();
        let mistake = || {
            Diagnostic::new(
                value_place,
                format!("`{text}` is not an address with a prefix length"),
            )
            .expecting("an address such as 192.168.1.2/24 or fd00::2/64")
        };
        addresses.push(found.ok_or_else(mistake)?);
    }
    Ok(End {
        node: Name {
            text: key,
            place: key_place,
        },
        addresses,
    })
}

/// One `rate=`, `delay=`, `loss=`, `mtu=` or `queue=`.
pub fn shape(words: &mut Words, change: &mut ShapeChange) -> Result<(), Diagnostic> {
    const EXPECTED: &str = "`rate=`, `delay=`, `loss=`, `mtu=`, `queue=`, `down` or `plain`";
    let Some(pair) = words.peek_pair().filter(|pair| pair.sign == Sign::Equal).cloned() else {
        return Err(words.refuse(EXPECTED));
    };
    let wrong = |expected: &str| {
        Diagnostic::new(
            pair.value_place,
            format!("`{}` is not a value for {}", pair.value, pair.key),
        )
        .expecting(expected)
    };
    match pair.key.as_str() {
        "rate" => {
            change.rate =
                Some(units::rate(&pair.value).ok_or_else(|| wrong("a rate such as 20mbit or 1gbit"))?)
        }
        "delay" => {
            change.delay = Some(units::duration(&pair.value).ok_or_else(|| wrong("a duration such as 5ms"))?);
        }
        "loss" => change.loss = Some(units::share(&pair.value).ok_or_else(|| wrong("a share such as 2%"))?),
        "mtu" => {
            let mtu = units::whole(&pair.value).filter(|mtu| (68..=65_535).contains(mtu));
            change.mtu = Some(mtu.ok_or_else(|| wrong("a number of bytes from 68 to 65535"))? as u32);
        }
        "queue" => {
            change.queue = Some(units::size(&pair.value).ok_or_else(|| wrong("a size such as 256KiB"))?)
        }
        _ => return Err(words.refuse(EXPECTED)),
    }
    words.skip();
    Ok(())
}

/// `route HOST default via ADDRESS`, `route HOST 10.0.0.0/8 via ADDRESS`.
fn route(words: &mut Words) -> Result<Route, Diagnostic> {
    let node = words.name("the host whose route this is")?;
    let to = destination(words)?;
    Ok(Route {
        node,
        to,
        via: via(words)?,
    })
}

pub fn destination(words: &mut Words) -> Result<Option<super::units::Prefix>, Diagnostic> {
    if words.accept("default") {
        return Ok(None);
    }
    match words.peek().and_then(|word| units::prefix(&word.text)) {
        Some(prefix) => {
            words.skip();
            Ok(Some(prefix))
        }
        None => Err(words.refuse("`default` or a prefix such as 10.0.0.0/8")),
    }
}

pub fn via(words: &mut Words) -> Result<IpAddr, Diagnostic> {
    if !words.accept("via") {
        return Err(words.refuse("`via`"));
    }
    match words.peek().and_then(|word| word.text.parse().ok()) {
        Some(address) => {
            words.skip();
            Ok(address)
        }
        None => Err(words.refuse("the address of the gateway")),
    }
}

/// `sysctl HOST net.ipv4.tcp_x=1`, `sysctl all net…`.
fn sysctl(words: &mut Words) -> Result<Sysctl, Diagnostic> {
    let node = words.name("a host, or `all`")?;
    let Some(pair) = words
        .pair()
        .filter(|pair| pair.key.starts_with("net.") && pair.sign == Sign::Equal)
    else {
        return Err(words.refuse("a setting such as net.ipv4.tcp_ecn=1 (only net.* belongs to a host)"));
    };
    let node = (node.text != "all").then_some(node);
    Ok(Sysctl {
        node,
        key: pair.key,
        value: pair.value,
    })
}

/// `redis R on hub`.
fn redis(words: &mut Words) -> Result<RedisStart, Diagnostic> {
    let name = words.name("a name for the Redis cluster")?;
    if !words.accept("on") {
        return Err(words.refuse("`on` and the host"));
    }
    let host = words.name("the host on which it runs")?;
    Ok(RedisStart { name, host })
}

/// `server M1 on hub [dead] [lies ADDRESS] [key=value …]`.
fn server(words: &mut Words) -> Result<ServerStart, Diagnostic> {
    let name = words.name("a name for the mobility server")?;
    if !words.accept("on") {
        return Err(words.refuse("`on` and the host"));
    }
    let host = words.name("the host on which it runs")?;
    let dead = words.accept("dead");
    let mut lies = None;
    if words.accept("lies") {
        let address = words.keyword().and_then(|word| word.parse().ok());
        lies = Some(address.ok_or_else(|| words.refuse("the address to which it sends the agents"))?);
        words.skip();
    }
    let mut settings = std::collections::BTreeMap::new();
    while !words.is_empty() {
        match words.peek_pair() {
            Some(pair) if pair.sign == Sign::Equal => settings.insert(pair.key.clone(), pair.value.clone()),
            _ => {
                return Err(words.refuse(
                    "`dead`, `lies ADDRESS`, or a setting KEY=VALUE for the server's configuration file",
                ));
            }
        };
        words.skip();
    }
    Ok(ServerStart {
        name,
        host,
        settings,
        dead,
        lies,
    })
}

/// `relay R … [key=value …]`: routers, on each of which a relay runs. `proxy P … [key=value …]`: hosts, on each of which
/// a symmetric proxy runs.
fn relays(scenario: &mut Scenario, kind: RelayKind, words: &mut Words) -> Result<(), Diagnostic> {
    let mut names = Vec::new();
    while words.peek().is_some_and(|word| word.pair.is_none()) {
        names.push(words.name("a name for the relay")?);
    }
    if names.is_empty() {
        return Err(words.refuse("a name for the relay"));
    }
    let mut settings = std::collections::BTreeMap::new();
    while !words.is_empty() {
        match words.peek_pair() {
            Some(pair) if pair.sign == Sign::Equal => settings.insert(pair.key.clone(), pair.value.clone()),
            _ => return Err(words.refuse("a setting KEY=VALUE for the relay's configuration file")),
        };
        words.skip();
    }
    for node in names {
        scenario.nodes.push(Node {
            name: node.clone(),
            kind: match kind {
                RelayKind::Mptcp => Kind::Router,
                RelayKind::Symmetric => Kind::Host,
            },
        });
        scenario.relays.push(RelayStart {
            node,
            kind,
            settings: settings.clone(),
        });
    }
    Ok(())
}

/// `agent phone server [key=value …]` starts agents before the story; `agent phone kill` is a step of it.
fn agent(scenario: &mut Scenario, mut words: Words, line: &str) -> Result<(), Diagnostic> {
    if words.has_at(1, "tell") {
        let action = super::story::tell_agent(&mut words)?;
        scenario.steps.push(Step {
            line: words.line(),
            text: super::story::stripped(line),
            when: When::Next,
            what: What::Do(action),
        });
        return Ok(());
    }
    let mut hosts = Vec::new();
    while let Some(word) = words.peek() {
        if let Some(change) = agent_change(&word.text) {
            words.skip();
            words.end()?;
            if hosts.is_empty() {
                return Err(words.refuse("at least one host between `agent` and what happens to it"));
            }
            scenario.steps.push(Step {
                line: words.line(),
                text: super::story::stripped(line),
                when: When::Next,
                what: What::Do(Action::Agent { change, hosts }),
            });
            return Ok(());
        }
        if word.pair.is_some() {
            break;
        }
        hosts.push(words.name("the name of a host")?);
    }
    if hosts.is_empty() {
        return Err(words.refuse("the hosts on which an agent runs"));
    }
    let mut settings = std::collections::BTreeMap::new();
    while !words.is_empty() {
        match words.peek_pair() {
            Some(pair) if pair.sign == Sign::Equal => settings.insert(pair.key.clone(), pair.value.clone()),
            _ => return Err(words.refuse("a setting KEY=VALUE for the agent's configuration file")),
        };
        words.skip();
    }
    scenario.agents.extend(hosts.into_iter().map(|host| AgentStart {
        host,
        settings: settings.clone(),
    }));
    Ok(())
}

pub fn agent_change(word: &str) -> Option<AgentChange> {
    match word {
        "start" => Some(AgentChange::Start),
        "stop" => Some(AgentChange::Stop),
        "kill" => Some(AgentChange::Kill),
        "restart" => Some(AgentChange::Restart),
        _ => None,
    }
}

pub fn duration(words: &mut Words, what: &str) -> Result<Duration, Diagnostic> {
    match words.peek().and_then(|word| units::duration(&word.text)) {
        Some(duration) => {
            words.skip();
            Ok(duration)
        }
        None => Err(words.refuse(format!("{what}, such as .5, 8, 250ms or 2m"))),
    }
}
