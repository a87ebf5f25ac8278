//! The server: answers each connection by what its first line asks.
//!
//! `fetch SEED BYTES` streams, `push SEED BYTES` receives and says what it got, `exchange SEED BYTES` does both,
//! `echo` returns everything.
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use sha2::{Digest, Sha256};

use super::report::{Pulse, Reporter};
use super::sockets::{self, Options};
use super::stream::Stream;

/// Threads of this program need little room, and there may be thousands.
pub const STACK: usize = 128 * 1024;
pub const PORTION: usize = 32 * 1024;

/// The stream a server sends is another one than the stream it receives.
pub const OTHER_WAY: u64 = 0x0123_4567_89ab_cdef;

pub fn run(port: u16, options: &Options) -> Result<i32, String> {
    let listener = sockets::listen(port, options.mptcp)?;
    let reporter = Reporter::start();
    reporter.change(|_| ());
    let mut number = 0;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                number += 1;
                let (reporter, options) = (reporter.clone(), *options);
                let thread = std::thread::Builder::new().stack_size(STACK);
                let started = thread.spawn(move || attend(stream, number, &options, &reporter));
                started.map_err(|error| format!("cannot start a thread: {error}"))?;
            }
            // The client was gone before it was accepted.
            Err(error) => reporter.change(|report| report.fail(&sockets::name(&error))),
        }
    }
}

fn attend(stream: TcpStream, number: u64, options: &Options, reporter: &Reporter) {
    reporter.change(|report| {
        report.connected += 1;
        report.open += 1;
    });
    let outcome = options
        .set(&stream)
        .and_then(|()| answer(&stream, number, reporter));
    reporter.change(|report| {
        report.open -= 1;
        report.ended += 1;
        if let Err(error) = outcome {
            report.fail(&sockets::name(&error));
        }
    });
}

fn answer(stream: &TcpStream, number: u64, reporter: &Reporter) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(PORTION, stream);
    let mut request = String::new();
    (&mut reader).take(200).read_line(&mut request)?;
    let words: Vec<&str> = request.split_whitespace().collect();
    let number_at = |index: usize| {
        words
            .get(index)
            .and_then(|word| word.parse::<u64>().ok())
            .unwrap_or_default()
    };
    let (seed, bytes) = (number_at(1), number_at(2));
    match words.first() {
        Some(&"fetch") => {
            send(stream, seed, bytes)?;
            expect_end(&mut reader)
        }
        Some(&"push") => take(&mut reader, stream, number, seed, bytes, reporter),
        Some(&"exchange") => std::thread::scope(|scope| {
            let sender = std::thread::Builder::new().stack_size(STACK);
            let sender = sender.spawn_scoped(scope, move || send(stream, seed, bytes))?;
            let received = receive(&mut reader, number, seed ^ OTHER_WAY, bytes, reporter);
            let sent = sender
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the sender panicked")));
            let answer = received?;
            sent?;
            writeln!(&mut &*stream, "{answer}")?;
            expect_end(&mut reader)
        }),
        Some(&"echo") => echo(&mut reader, stream, reporter),
        // The connection ended before it asked for anything: a probe.
        None => Ok(()),
        Some(_) => Err(io::Error::other("not a request")),
    }
}

pub fn send(mut stream: &TcpStream, seed: u64, bytes: u64) -> io::Result<()> {
    Stream::new(seed).write_to(bytes, &mut stream)
}

fn take(
    reader: &mut impl Read,
    mut stream: &TcpStream,
    number: u64,
    seed: u64,
    bytes: u64,
    reporter: &Reporter,
) -> io::Result<()> {
    let answer = receive(reader, number, seed, bytes, reporter)?;
    writeln!(stream, "{answer}")?;
    expect_end(reader)
}

/// Receives a whole stream; says `same HEX` or `different HEX`.
pub fn receive(
    reader: &mut impl Read,
    number: u64,
    seed: u64,
    bytes: u64,
    reporter: &Reporter,
) -> io::Result<String> {
    let (mut expected, mut digest, mut same) = (Stream::new(seed), Sha256::new(), true);
    let mut pulse = Pulse::start(number);
    let mut buffer = vec![0; PORTION];
    let mut missing = bytes;
    while missing > 0 {
        let most = buffer.len().min(usize::try_from(missing).unwrap_or(usize::MAX));
        let length = match reader.read(&mut buffer[..most]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            outcome => outcome?,
        };
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reporter.change(|report| {
            report.bytes += length as u64;
            pulse.beat(report);
        });
        same &= expected.matches(&buffer[..length]);
        digest.update(&buffer[..length]);
        missing -= length as u64;
    }
    let sha256 = hex::encode(digest.finalize());
    reporter.change(|report| {
        report.same = Some(report.same.unwrap_or(true) && same);
        report.sha256 = Some(sha256.clone());
    });
    Ok(format!("{} {sha256}", if same { "same" } else { "different" }))
}

fn echo(reader: &mut impl Read, mut stream: &TcpStream, reporter: &Reporter) -> io::Result<()> {
    let mut buffer = vec![0; 4096];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(()),
            length => {
                stream.write_all(&buffer[..length])?;
                reporter.change(|report| report.bytes += length as u64);
            }
        }
    }
}

/// Waits until the client closes.
fn expect_end(reader: &mut impl Read) -> io::Result<()> {
    match reader.read(&mut [0; 16])? {
        0 => Ok(()),
        _ => Err(io::Error::other("the client says more than it announced")),
    }
}
