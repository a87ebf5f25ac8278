//! A web server for the directory it is given, and for `/bytes/30MiB?seed=1`, the stream of [`super::stream`].
//!
//! Enough of HTTP/1.1 for curl: GET and HEAD, Content-Length, Range with one range, connections kept alive. A client that
//! goes before it has acknowledged a byte of any answer has given up, which is its own error and not the server's.
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::path::{Component, Path};

use super::report::Reporter;
use super::serve::STACK;
use super::sockets;
use super::stream::Stream;
use crate::language::units;

/// Lines of a request head that are read before it is refused.
const HEAD_LINES: usize = 100;
const LINE: u64 = 8192;

pub fn run(port: u16, directory: Option<&Path>) -> Result<i32, String> {
    let listener = sockets::listen(port, false)?;
    let reporter = Reporter::start();
    reporter.change(|_| ());
    let directory = directory.map(Path::to_owned);
    for stream in listener.incoming().flatten() {
        let (reporter, directory) = (reporter.clone(), directory.clone());
        let thread = std::thread::Builder::new().stack_size(2 * STACK);
        let started = thread.spawn(move || {
            reporter.change(|report| {
                report.connected += 1;
                report.open += 1;
            });
            let outcome = attend(&stream, directory.as_deref(), &reporter);
            reporter.change(|report| {
                report.open -= 1;
                report.ended += 1;
                match outcome {
                    Err(_) if sockets::acknowledged(&stream) == Some(0) => report.given_up += 1,
                    Err(error) => report.fail(&sockets::name(&error)),
                    Ok(()) => {}
                }
            });
        });
        started.map_err(|error| format!("cannot start a thread: {error}"))?;
    }
    Ok(0)
}

struct Request {
    method: String,
    target: String,
    range: Option<(u64, Option<u64>)>,
    close: bool,
}

fn attend(stream: &TcpStream, directory: Option<&Path>, reporter: &Reporter) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        reporter.change(|report| report.answers += 1);
        respond(stream, &request, directory)?;
        if request.close {
            break;
        }
    }
    Ok(())
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut lines = Vec::new();
    for _ in 0..HEAD_LINES {
        let mut line = String::new();
        if reader.by_ref().take(LINE).read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        lines.push(line.to_owned());
    }
    let mut words = lines.first().map(String::as_str).unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let header = |wanted: &str| {
        lines
            .iter()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .find_map(|(key, value)| key.eq_ignore_ascii_case(wanted).then(|| value.trim().to_owned()))
    };
    let range = header("range").and_then(|value| {
        let (from, until) = value.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse().ok()?, until.parse().ok()))
    });
    Ok(Some(Request {
        method: method.to_owned(),
        target: target.to_owned(),
        range,
        close: header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
    }))
}

enum Body {
    Bytes { seed: u64, length: u64 },
    File(File, u64),
}

fn respond(mut out: &TcpStream, request: &Request, directory: Option<&Path>) -> io::Result<()> {
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return write!(
            out,
            "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n"
        );
    }
    let Some(body) = find(&request.target, directory) else {
        return write!(out, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    };
    let total = match &body {
        Body::Bytes { length, .. } | Body::File(_, length) => *length,
    };
    let (from, until) = match request.range {
        Some((from, until)) if from < total => (
            from,
            until.map_or(total, |last| total.min(last.saturating_add(1))),
        ),
        Some(_) => {
            return write!(
                out,
                "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n"
            );
        }
        None => (0, total),
    };
    let length = until.saturating_sub(from);
    let status = match request.range {
        Some(_) => format!(
            "206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}",
            until.saturating_sub(1)
        ),
        None => "200 OK".to_owned(),
    };
    write!(
        out,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nAccept-Ranges: bytes\r\n\r\n"
    )?;
    if request.method == "HEAD" {
        return Ok(());
    }
    match body {
        Body::Bytes { seed, .. } => {
            let mut stream = Stream::new(seed);
            stream.write_to(from, &mut io::sink())?;
            stream.write_to(length, &mut out)
        }
        Body::File(mut file, _) => {
            file.seek(SeekFrom::Start(from))?;
            io::copy(&mut file.take(length), &mut out).map(drop)
        }
    }
}

fn find(target: &str, directory: Option<&Path>) -> Option<Body> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Some(size) = path.strip_prefix("/bytes/") {
        let seed = query
            .strip_prefix("seed=")
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_default();
        return Some(Body::Bytes {
            seed,
            length: units::size(size)?,
        });
    }
    let relative = Path::new(path.trim_start_matches('/'));
    // Nothing above the directory.
    if !relative
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
    {
        return None;
    }
    let file = File::open(directory?.join(relative)).ok()?;
    let metadata = file.metadata().ok()?;
    metadata.is_file().then_some(Body::File(file, metadata.len()))
}
