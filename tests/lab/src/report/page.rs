//! The report as one file of HTML: pictures, tables and style are all inside.
use std::fmt::Write;

use super::ReportError;
use super::act::{Act, MOVER, SERVER};
use super::both::Both;
use super::claims::{self, Claim};
use super::figure::{Event, Frame, figure};
use super::handshake::Purpose;
use super::ladder::ladder;
use super::paths::paths;
use super::relayed::{CUT, Relayed};
use super::strict::Strict;
use super::topology::topology;
use super::trace::{Place, Trace};
use crate::story::timeline::Entry;

const STYLE: &str = include_str!("page.css");

/// Writes the report of the acts: the one with agents, the one without, and the others if they were told.
///
/// # Errors
/// A picture cannot be drawn. What an act lacks is left out or said to be missing.
pub fn page(
    moved: &Act,
    alone: &Act,
    relayed: Option<&Relayed>,
    both: Option<&Both>,
    strict: Option<&Strict>,
) -> Result<String, ReportError> {
    let mut html = String::new();
    let _ = write!(
        html,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>A TCP connection moves from one NAPT to another</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<main>\n<h1>A TCP connection moves from one NAPT to another</h1>\n\
         <p>A downloads a file from B with curl and types in an ssh session. In the middle of both, A loses its \
         network behind NAPT 1 and finds another one behind NAPT 2, with another address. curl, ssh, both \
         kernels and both NAPTs are the ordinary ones; only <code>host-agent</code> runs on A and B as well, and \
         in the second act not even that.</p>\n"
    );
    tiles(&mut html, moved, alone);
    html += "<div class=\"pair\">\n";
    list(&mut html, "Act 1: with agents", &claims::moved(moved));
    list(&mut html, "Act 2: the same without agents", &claims::alone(alone));
    html += "</div>\n";
    for problem in moved.problems.iter().chain(&alone.problems) {
        let _ = writeln!(html, "<p class=\"problem\">{}</p>", escape(problem));
    }
    if let Some(trace) = &moved.download {
        pictures(&mut html, trace, alone)?;
    }
    places(&mut html, moved);
    if let Some(relayed) = relayed {
        carriers(&mut html, relayed)?;
    }
    if let Some(both) = both {
        at_once(&mut html, both)?;
    }
    if let Some(strict) = strict {
        relayed_for_a_while(&mut html, strict)?;
    }
    timeline(&mut html, "What happened in act 1", &moved.timeline, true);
    timeline(&mut html, "What happened in act 2", &alone.timeline, false);
    if let Some(relayed) = relayed {
        timeline(&mut html, "What happened in act 3", &relayed.timeline, false);
    }
    if let Some(both) = both {
        timeline(&mut html, "What happened in act 4", &both.timeline, false);
    }
    if let Some(strict) = strict {
        timeline(&mut html, "What happened in act 5", &strict.timeline, false);
    }
    html += "<footer>Times are seconds since the story of an act began. Pictures and tables are made from the \
             captures beside this file (act1/links and so on); address lost and usable are when A's kernel said \
             so to <code>ip monitor</code>.</footer>\n</main>\n</body>\n</html>\n";
    Ok(html)
}

/// The act of the relay.
fn carriers(html: &mut String, relayed: &Relayed) -> Result<(), ReportError> {
    *html += "<h2>Two carriers, and a server that knows nothing of it</h2>\n";
    if let Some(stream) = &relayed.download {
        picture(
            html,
            &paths(stream, &[(relayed.cut, format!("{CUT} is cut"))])?,
            "Bytes of each path over time",
            "Captured at A's devices: curl under mptcpize downloads from B over Wi-Fi and LTE at once. A relay on the \
             way speaks MPTCP with A and plain TCP with B, whose kernel has MPTCP switched off. When Wi-Fi is cut, \
             what it had not delivered comes by LTE, and so does the rest.",
        );
    }
    list(html, "Act 3: a relay between", &relayed.claims());
    for problem in &relayed.problems {
        let _ = writeln!(html, "<p class=\"problem\">{}</p>", escape(problem));
    }
    Ok(())
}

/// The act in which both move.
fn at_once(html: &mut String, both: &Both) -> Result<(), ReportError> {
    *html += "<h2>Both hosts move at the same moment</h2>\n";
    if let Some(stream) = &both.download {
        let marks = [
            (both.lost, "both are gone".to_owned()),
            (both.back, "both are back".to_owned()),
        ];
        picture(
            html,
            &paths(stream, &marks)?,
            "Bytes that arrive at A before and after",
            "Captured at A's devices. A goes from a public address behind a NAPT, B from one public address to another, \
             and nobody is where the other knows it. Both tell the mobility server where they are, A behind its NAPT is \
             told to send the MSYN, and the same connection goes on between two other addresses.",
        );
    }
    list(html, "Act 4: both hosts at once", &both.claims());
    for problem in &both.problems {
        let _ = writeln!(html, "<p class=\"problem\">{}</p>", escape(problem));
    }
    Ok(())
}

/// The act in which both are behind strict NAPTs.
fn relayed_for_a_while(html: &mut String, strict: &Strict) -> Result<(), ReportError> {
    *html += "<h2>Both hosts behind strict NAPTs</h2>\n";
    if let Some(stream) = &strict.download {
        let marks = [
            (strict.lost, "both are gone".to_owned()),
            (strict.back, "both are back".to_owned()),
            (strict.friendly, "one NAPT turns friendly".to_owned()),
        ];
        picture(
            html,
            &paths(stream, &marks)?,
            "Bytes that arrive at A before the move, through the proxy, and directly again",
            "Captured at A's devices. Both hosts go behind NAPTs that draw every port at random: nobody can say where \
             either will be seen. The mobility server names a symmetric proxy, to which both send. When the NAPT of B \
             lets in whoever sends to a port in use, B opens one, A sends there, and the relay works until that has \
             been agreed.",
        );
    }
    list(
        html,
        "Act 5: a proxy for as long as it is needed",
        &strict.claims(),
    );
    for problem in &strict.problems {
        let _ = writeln!(html, "<p class=\"problem\">{}</p>", escape(problem));
    }
    Ok(())
}

fn tiles(html: &mut String, moved: &Act, alone: &Act) {
    *html += "<div class=\"tiles\">\n";
    let moments = moved
        .download
        .as_ref()
        .map(|trace| trace.moments)
        .unwrap_or_default();
    let all_hold = |claims: &[Claim]| claims.iter().all(|claim| claim.holds);
    let mut tile = |good: bool, value: &str, what: &str| {
        let class = if good { "good" } else { "bad" };
        let (value, what) = (escape(value), escape(what));
        let _ = writeln!(
            html,
            "<div class=\"tile {class}\"><b>{value}</b><span>{what}</span></div>"
        );
    };
    match moments.resumption_ms() {
        Some(took) => tile(
            true,
            &format!("{took:.1} ms"),
            "from a usable address to the first new byte at A",
        ),
        None => tile(false, "never", "no new byte arrived after the move"),
    }
    match moments.absence() {
        Some(absence) => tile(true, &format!("{absence:.1} s"), "A had no network at all"),
        None => tile(false, "?", "how long A had no network is not known"),
    }
    let claims = claims::moved(moved);
    let survived = all_hold(&claims);
    let word = if survived { "alive" } else { "not all well" };
    tile(
        survived,
        word,
        "with agents: same connections, same bytes, no reset, nothing dropped as INVALID",
    );
    let died = all_hold(&claims::alone(alone));
    let fate = if died { "dead" } else { "not dead" };
    let said = match alone.curl.said.as_str() {
        "" => "curl".to_owned(),
        said => said.to_owned(),
    };
    tile(died, fate, &format!("without agents: {said}"));
    *html += "</div>\n";
}

fn list(html: &mut String, title: &str, claims: &[Claim]) {
    let _ = writeln!(html, "<section class=\"claims\"><h3>{title}</h3>\n<dl>");
    for claim in claims {
        let (class, sign) = if claim.holds {
            ("yes", '✓')
        } else {
            ("no", '✗')
        };
        let (says, facts) = (escape(claim.says), escape(&claim.facts));
        let _ = writeln!(
            html,
            "<dt><span class=\"{class}\">{sign}</span>{says}</dt><dd>{facts}</dd>"
        );
    }
    *html += "</dl></section>\n";
}

fn pictures(html: &mut String, trace: &Trace, alone: &Act) -> Result<(), ReportError> {
    let napt = |number: u8, place: Option<Place>| {
        let address = place.map_or_else(|| "?".to_owned(), |place| place.observed.ip().to_string());
        format!("NAPT {number} ({address})")
    };
    let names = [napt(1, Some(trace.before)), napt(2, trace.after)];
    let names = [names[0].as_str(), names[1].as_str()];
    let frame = Frame::around(std::iter::once(trace).chain(&alone.download));

    *html += "<h2>The network</h2>\n";
    picture(
        html,
        &topology(trace)?,
        "The network of the demonstration",
        "Figure 22 of the 2002 paper that this \
        work follows. B sees A under the outside address of the NAPT it is behind.",
    );

    *html += "<h2>The download, seen from B</h2>\n";
    picture(
        html,
        &figure(trace, frame, names, &[])?,
        "Acknowledgement numbers over time, with agents",
        "Figure 23 of the paper, captured at B's device: how much of the file A has acknowledged. While A is away, \
         B's kernel repeats the first segment it lacks an answer to, towards NAPT 1. With the new address the same \
         connection goes on from NAPT 2.",
    );

    if let (Some(after), Some(drawn)) = (trace.after, ladder_of(trace)?) {
        *html += "<h2>The milliseconds around the resumption</h2>\n";
        picture(
            html,
            &drawn,
            "The handshake that resumes the connection",
            "Every segment of the connection between A and B from the first on the new path to the first \
             acknowledgement of new data, as it passed the devices of both ends. Numbers are those of the table.",
        );
        packets(html, trace, after);
    }

    *html += "<h2>The same without agents</h2>\n";
    match &alone.download {
        Some(lone) => {
            let events = deaths(alone);
            picture(
                html,
                &figure(lone, frame, names, &events)?,
                "Acknowledgement numbers over time, without agents",
                "The same axes as above, and the same kernel settings in both acts. Nothing tells either end \
                 where the other is: curl and B's kernel give up, and the new address comes too late for them.",
            );
        }
        None => *html += "<p>There is no capture of it.</p>\n",
    }
    Ok(())
}

fn ladder_of(trace: &Trace) -> Result<Option<String>, ReportError> {
    match trace.after {
        Some(after) => ladder(&trace.handshake, trace.moments, after, &trace.server.to_string()),
        None => Ok(None),
    }
}

/// Who gave up, and when.
fn deaths(alone: &Act) -> Vec<Event> {
    let failed = alone.curl.exit.is_some_and(|exit| exit != 0);
    let curl = alone.curl.at.filter(|_| failed).map(|time| Event {
        time,
        label: "curl gives up".to_owned(),
    });
    let told = |entry: &&Entry| entry.subject == "web" && entry.event.contains("TIMEDOUT");
    let web = alone.timeline.iter().find(told).map(|entry| Event {
        time: entry.time,
        label: "B gives up".to_owned(),
    });
    curl.into_iter().chain(web).collect()
}

fn picture(html: &mut String, svg: &str, name: &str, caption: &str) {
    let _ = writeln!(
        html,
        "<figure role=\"img\" aria-label=\"{}\">\n{svg}\n<figcaption>{}</figcaption>\n</figure>",
        escape(name),
        escape(caption)
    );
}

fn packets(html: &mut String, trace: &Trace, after: Place) {
    let Some(usable) = trace.moments.usable else {
        return;
    };
    let time = |time: Option<f64>| {
        time.map_or_else(
            || "lost".to_owned(),
            |time| format!("{:.2}", (time - usable) * 1e3),
        )
    };
    let _ = writeln!(
        html,
        "<div class=\"wide\"><table>\n<thead><tr><th class=\"number\">No.</th><th class=\"number\">sent, ms</th>\
         <th class=\"number\">arrived, ms</th><th>from</th><th>segment</th><th class=\"number\">seq</th>\
         <th class=\"number\">ack</th><th class=\"number\">bytes</th><th>what it is for</th></tr></thead>\n<tbody>"
    );
    for (number, step) in trace.handshake.iter().enumerate() {
        let class = match step.purpose {
            Purpose::Msyn | Purpose::MsynAck | Purpose::MigrateAck => " class=\"key\"",
            Purpose::HeadOfLine | Purpose::Progress => " class=\"flow\"",
            _ => "",
        };
        let from = if step.from_mover { MOVER } else { SERVER };
        let ack = step.ack.map_or_else(String::new, |ack| ack.to_string());
        let again = if step.again { " (again)" } else { "" };
        let _ = writeln!(
            html,
            "<tr{class}><td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td>\
             <td>{from}</td><td class=\"name\">{}{again}</td><td class=\"number\">{}</td><td class=\"number\">{ack}</td>\
             <td class=\"number\">{}</td><td>{}</td></tr>",
            number + 1,
            time(step.sent()),
            time(step.arrived()),
            step.purpose.name(),
            step.seq,
            step.payload,
            step.purpose.meaning()
        );
    }
    let _ = writeln!(
        html,
        "</tbody></table></div>\n<p>Milliseconds since A's address was usable. A sends from {}, NAPT 2 makes it {}; \
         seq and ack are relative to the ISNs of the connection's one and only opening.</p>",
        after.direct, after.observed
    );
}

fn places(html: &mut String, act: &Act) {
    let traces: Vec<(&str, &Trace)> = [("download", &act.download), ("ssh session", &act.session)]
        .into_iter()
        .filter_map(|(name, trace)| trace.as_ref().map(|trace| (name, trace)))
        .collect();
    if traces.is_empty() {
        return;
    }
    *html += "<h2>Addresses and ports before and after</h2>\n<div class=\"wide\"><table>\n<thead><tr>\
              <th>connection</th><th>seen where</th><th>before</th><th>after</th></tr></thead>\n<tbody>\n";
    for (name, trace) in traces {
        let show =
            |place: Option<Place>, what: fn(Place) -> String| place.map_or_else(|| "–".to_owned(), what);
        let mut row = |what: &str, before: String, after: String| {
            let class = if before == after { "old" } else { "new" };
            let _ = writeln!(
                html,
                "<tr><td>{name}</td><td>{what}</td><td><code class=\"old\">{before}</code></td>\
                 <td><code class=\"{class}\">{after}</code></td></tr>"
            );
        };
        if let (Some(transfer), "download") = (&act.transfer, name) {
            let socket = trace.before.direct.to_string();
            row(
                "A's socket, as curl knows it at the end",
                socket,
                transfer.local.clone(),
            );
        }
        let (before, after) = (Some(trace.before), trace.after);
        let direct = |place: Place| place.direct.to_string();
        let observed = |place: Place| place.observed.to_string();
        row(
            "direct: A's packets before the NAPT",
            show(before, direct),
            show(after, direct),
        );
        row(
            "observed: A's packets as B receives them",
            show(before, observed),
            show(after, observed),
        );
        row("B", trace.server.to_string(), trace.server.to_string());
    }
    *html += "</tbody></table></div>\n";
}

fn timeline(html: &mut String, title: &str, entries: &[Entry], open: bool) {
    let open = if open { " open" } else { "" };
    let _ = writeln!(
        html,
        "<h2>{title}</h2>\n<details{open}><summary>{} entries</summary>\n<div class=\"wide\"><table>\n<thead><tr>\
         <th class=\"number\">s</th><th>who</th><th>what</th></tr></thead>\n<tbody>",
        entries.len()
    );
    for entry in entries {
        let time = if entry.time < 0.0 {
            "before".to_owned()
        } else {
            format!("{:.3}", entry.time)
        };
        let _ = writeln!(
            html,
            "<tr><td class=\"number\">{time}</td><td>{}</td><td class=\"mono\">{}</td></tr>",
            escape(&entry.subject),
            escape(entry.event.trim())
        );
    }
    *html += "</tbody></table></div></details>\n";
}

/// Text as HTML, also inside quotes; control characters of terminals are left out.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            '\n' | '\t' => escaped.push(' '),
            c if c.is_control() => {}
            c => escaped.push(c),
        }
    }
    escaped
}
