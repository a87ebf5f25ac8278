//! What can be asked: of a program, of an agent, of the run.
use super::ast::*;
use super::diagnostic::Diagnostic;
use super::lexer::{Pair, Sign};
use super::units;
use super::words::Words;

/// One condition; stops before the first word that is no part of it.
pub fn condition(words: &mut Words) -> Result<Condition, Diagnostic> {
    if let Some(pair) = words.peek_pair().cloned() {
        let term = run_term(&pair)?;
        words.skip();
        return Ok(Condition {
            text: text(&pair),
            subject: Subject::Run,
            terms: vec![term],
        });
    }
    let subject = words.name(
        "a program, `HOST agent …`, `RELAY relay …`, `PROXY proxy …`, or resets=, errors=, leaks=, invalid(NAPT)=, rst(HOST)=",
    )?;
    if words.accept("agent") {
        return agent(subject, words);
    }
    if words.accept("server") {
        return server(subject, words);
    }
    if words.accept("relay") {
        return relay(subject, "relay", words);
    }
    if words.accept("proxy") {
        return relay(subject, "proxy", words);
    }
    let mut said = vec![subject.text.clone()];
    let mut terms = Vec::new();
    while let Some(term) = program_term(words, &mut said)? {
        terms.push(term);
    }
    if terms.is_empty() {
        return Err(words.refuse(
            "done, running, connected, error=NAME, exit=N, output~\"REGEX\", sha256=same, or a comparison such as \
             >= 20MiB, answers>=10, gap<=500ms",
        ));
    }
    Ok(Condition {
        text: said.join(" "),
        subject: Subject::Program(subject),
        terms,
    })
}

/// Whether a text is a regular expression once `{server}` and its like are filled in.
pub fn is_pattern(text: &str) -> bool {
    let mut filled = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        filled += &rest[..open];
        let word = rest[open + 1..]
            .find('}')
            .map(|length| &rest[open + 1..open + 1 + length]);
        match word.filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic())) {
            Some(word) => rest = &rest[open + word.len() + 2..],
            None => {
                filled.push('{');
                rest = &rest[open + 1..];
            }
        }
    }
    regex::Regex::new(&(filled + rest)).is_ok()
}

/// All conditions of an `expect` line.
pub fn conditions(words: &mut Words) -> Result<Vec<Condition>, Diagnostic> {
    let mut all = vec![condition(words)?];
    while !words.is_empty() {
        all.push(condition(words)?);
    }
    Ok(all)
}

fn text(pair: &Pair) -> String {
    let quote = if pair.value.contains(' ') { "\"" } else { "" };
    format!("{}{}{quote}{}{quote}", pair.key, pair.sign.text(), pair.value)
}

fn program_term(words: &mut Words, said: &mut Vec<String>) -> Result<Option<Term>, Diagnostic> {
    for (keyword, term) in [
        ("done", Term::Done),
        ("running", Term::Running),
        ("connected", Term::Connected),
    ] {
        if words.accept(keyword) {
            said.push(keyword.to_owned());
            return Ok(Some(term));
        }
    }
    // `dl >= 20MiB` and `rr answers >= 10` with spaces around the sign.
    let measure = match words.keyword().and_then(program_measure) {
        Some(measure)
            if words
                .peek_second()
                .is_some_and(|word| super::lexer::sign(&word.text).is_some()) =>
        {
            said.push(words.text("a measure")?.text);
            Some(measure)
        }
        _ => None,
    };
    if let Some(sign) = words.lone_sign() {
        let measure = measure.unwrap_or(Measure::Bytes);
        let place = words.place();
        let word = words.text("a value")?;
        said.push(sign.text().to_owned());
        said.push(word.text.clone());
        return compare(measure, sign, &word.text, place).map(Some);
    }
    let Some(pair) = words.peek_pair().cloned() else {
        return Ok(None);
    };
    let Some(term) = program_pair(&pair)? else {
        return Ok(None);
    };
    said.push(text(&pair));
    words.skip();
    Ok(Some(term))
}

fn program_measure(word: &str) -> Option<Measure> {
    match word {
        "bytes" => Some(Measure::Bytes),
        "answers" => Some(Measure::Answers),
        "gap" => Some(Measure::Gap),
        "rtt" => Some(Measure::Rtt),
        "rtt99" => Some(Measure::Rtt99),
        "connections" => Some(Measure::Connections),
        "reconnects" => Some(Measure::Reconnects),
        "elapsed" => Some(Measure::Elapsed),
        _ => None,
    }
}

fn program_pair(pair: &Pair) -> Result<Option<Term>, Diagnostic> {
    let wrong = |expected: &str| {
        Diagnostic::new(
            pair.value_place,
            format!("`{}` is not a value for {}", pair.value, pair.key),
        )
        .expecting(expected)
    };
    let term = match (pair.key.as_str(), pair.sign) {
        ("error", Sign::Equal) => Term::Error(pair.value.split('|').map(str::to_uppercase).collect()),
        ("exit", Sign::Equal) => Term::Exit(pair.value.parse().map_err(|_| wrong("an exit code"))?),
        ("output", Sign::Matches) => {
            if !is_pattern(&pair.value) {
                return Err(wrong("a regular expression"));
            }
            Term::Output(pair.value.clone())
        }
        ("sha256", Sign::Equal) if pair.value == "same" => Term::Same,
        ("sha256", Sign::Equal)
            if pair.value.len() == 64 && pair.value.bytes().all(|b| b.is_ascii_hexdigit()) =>
        {
            Term::Digest(pair.value.to_lowercase())
        }
        ("sha256", _) => return Err(wrong("`same` or 64 hexadecimal digits")),
        (key, sign) => match program_measure(key) {
            Some(measure) => return compare(measure, sign, &pair.value, pair.value_place).map(Some),
            None => return Ok(None),
        },
    };
    Ok(Some(term))
}

fn compare(measure: Measure, sign: Sign, text: &str, place: super::Place) -> Result<Term, Diagnostic> {
    let (value, expected) = match measure {
        Measure::Bytes => (units::size(text).map(|size| size as f64), "a size such as 20MiB"),
        Measure::Gap | Measure::Rtt | Measure::Rtt99 | Measure::Elapsed => (
            units::duration(text).map(|duration| duration.as_secs_f64()),
            "a duration such as 500ms",
        ),
        _ => (units::whole(text).map(|number| number as f64), "a whole number"),
    };
    let value = value.filter(|_| sign != Sign::Matches);
    let mistake = || Diagnostic::new(place, format!("`{text}` cannot be compared here")).expecting(expected);
    Ok(Term::Compare {
        measure,
        sign,
        value: value.ok_or_else(mistake)?,
    })
}

/// `HOST agent is Established [path=lte]`, `HOST agent connections state=Established count=3`,
/// `HOST agent pairs count=1`, `HOST agent status KEY=VALUE`.
fn agent(host: Name, words: &mut Words) -> Result<Condition, Diagnostic> {
    let mut said = vec![host.text.clone(), "agent".to_owned()];
    let mut terms = Vec::new();
    let list = if words.accept("is") {
        let state = words.name("the state of its connections, such as Established")?;
        said.extend(["is".to_owned(), state.text.clone()]);
        terms.push(Term::Field {
            key: "state".to_owned(),
            sign: Sign::Equal,
            value: state.text,
        });
        AgentList::Connections
    } else {
        let list = match words.keyword() {
            Some("connections") => AgentList::Connections,
            Some("pairs") => AgentList::Pairs,
            Some("status") => AgentList::Status,
            _ => return Err(words.refuse("`is STATE`, `connections`, `pairs` or `status`")),
        };
        said.push(words.text("a list")?.text);
        list
    };
    fields(words, &mut said, &mut terms)?;
    Ok(Condition {
        text: said.join(" "),
        subject: Subject::Agent { host, list },
        terms,
    })
}

/// `FIELD=VALUE … [count=N]`.
fn fields(words: &mut Words, said: &mut Vec<String>, terms: &mut Vec<Term>) -> Result<(), Diagnostic> {
    while let Some(pair) = words.peek_pair().filter(|pair| pair.key != "limit").cloned() {
        said.push(text(&pair));
        terms.push(match pair.key.as_str() {
            "count" => compare(Measure::Count, pair.sign, &pair.value, pair.value_place)?,
            _ => Term::Field {
                key: pair.key,
                sign: pair.sign,
                value: pair.value,
            },
        });
        words.skip();
    }
    Ok(())
}

/// `RELAY relay sessions|subflows|status FIELD=… [count=N]`, `PROXY proxy relays|status FIELD=… [count=N]`.
fn relay(relay: Name, word: &str, words: &mut Words) -> Result<Condition, Diagnostic> {
    let lists: &[RelayList] = match word {
        "proxy" => &[RelayList::Relays, RelayList::Status],
        _ => &[RelayList::Sessions, RelayList::Subflows, RelayList::Status],
    };
    let list = lists
        .iter()
        .copied()
        .find(|list| words.keyword() == Some(list.word()));
    let Some(list) = list else {
        return Err(words.refuse(match word {
            "proxy" => "`relays` or `status`",
            _ => "`sessions`, `subflows` or `status`",
        }));
    };
    words.skip();
    let mut said = vec![relay.text.clone(), word.to_owned(), list.word().to_owned()];
    let mut terms = Vec::new();
    fields(words, &mut said, &mut terms)?;
    Ok(Condition {
        text: said.join(" "),
        subject: Subject::Relay { relay, list },
        terms,
    })
}

/// `SERVER server sessions|agents|pairs|relays|status FIELD=… [count=N]`.
fn server(server: Name, words: &mut Words) -> Result<Condition, Diagnostic> {
    let list = ServerList::ALL
        .into_iter()
        .find(|list| words.keyword() == Some(list.word()))
        .ok_or_else(|| words.refuse("`sessions`, `agents`, `pairs`, `relays` or `status`"))?;
    words.skip();
    let mut said = vec![server.text.clone(), "server".to_owned(), list.word().to_owned()];
    let mut terms = Vec::new();
    fields(words, &mut said, &mut terms)?;
    Ok(Condition {
        text: said.join(" "),
        subject: Subject::Server { server, list },
        terms,
    })
}

fn run_term(pair: &Pair) -> Result<Term, Diagnostic> {
    let measure = match pair.key.as_str() {
        "resets" => Measure::Resets,
        "errors" => Measure::Errors,
        "leaks" => Measure::Leaks,
        key => match key.strip_suffix(')').and_then(|key| key.split_once('(')) {
            Some(("invalid", name)) => Measure::Invalid(argument(pair, name)),
            Some(("rst", name)) => Measure::Rst(argument(pair, name)),
            _ => {
                return Err(
                    Diagnostic::new(pair.key_place, format!("`{key}` is nothing the run counts"))
                        .expecting("resets=, errors=, leaks=, invalid(NAPT)= or rst(HOST)="),
                );
            }
        },
    };
    compare(measure, pair.sign, &pair.value, pair.value_place)
}

/// The name in parentheses, with its own place.
fn argument(pair: &Pair, name: &str) -> Name {
    let before = pair.key.split('(').next().unwrap_or_default().chars().count() + 1;
    let column = pair.key_place.column + before;
    let width = name.chars().count().max(1);
    Name {
        text: name.to_owned(),
        place: super::Place {
            column,
            width,
            ..pair.key_place
        },
    }
}
