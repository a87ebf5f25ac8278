//! The client: one or many connections to the server.
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::report::{Pulse, Reporter};
use super::serve::{OTHER_WAY, STACK, receive, send};
use super::stream::Stream;
use super::{Conversation, Topic, sockets};

/// How often idle connections were told to speak.
#[derive(Default)]
struct Prompter {
    spoken: Mutex<u64>,
    changed: Condvar,
}

pub fn run(conversation: &Conversation) -> i32 {
    let reporter = Reporter::start();
    let prompter = Arc::new(Prompter::default());
    if matches!(conversation.what, Topic::Idle) {
        let prompter = Arc::clone(&prompter);
        std::thread::spawn(move || listen_to_runner(&prompter));
    }
    std::thread::scope(|scope| {
        for number in 1..=u64::from(conversation.connections) {
            let (reporter, prompter) = (&reporter, &prompter);
            let thread = std::thread::Builder::new().stack_size(STACK);
            let started = thread.spawn_scoped(scope, move || {
                connection(conversation, number, reporter, prompter)
            });
            if let Err(error) = started {
                reporter.change(|report| report.fail(&sockets::name(&error)));
            }
        }
    });
    i32::from(!reporter.finish().errors.is_empty())
}

fn connection(conversation: &Conversation, number: u64, reporter: &Reporter, prompter: &Prompter) {
    if let Topic::Visits { count } = conversation.what {
        return visits(conversation, number, count, reporter);
    }
    let outcome = connect(conversation.to, &conversation.options).and_then(|stream| {
        reporter.change(|report| {
            report.connected += 1;
            report.open += 1;
        });
        let outcome = converse(conversation, &stream, number, reporter, prompter);
        reporter.change(|report| report.open -= 1);
        outcome
    });
    reporter.change(|report| {
        report.ended += 1;
        if let Err(error) = outcome {
            report.fail(&sockets::name(&error));
        }
    });
}

/// Connects, asks, hears, closes, `count` times. Whatever fails is counted, and the next one is tried.
fn visits(conversation: &Conversation, number: u64, count: u64, reporter: &Reporter) {
    let mut words = Stream::new(conversation.seed.wrapping_add(number));
    reporter.change(|report| {
        report.connected += 1;
        report.open += 1;
    });
    for _ in 0..count {
        let outcome = connect(conversation.to, &conversation.options).and_then(|stream| {
            let mut reader = BufReader::new(&stream);
            writeln!(&stream, "echo")?;
            ask(&stream, &mut reader, &mut words, 64)?;
            stream.shutdown(std::net::Shutdown::Write)?;
            match reader.read(&mut [0; 16])? {
                0 => Ok(()),
                _ => Err(io::Error::other("more than the answer")),
            }
        });
        reporter.change(|report| match outcome {
            Ok(()) => report.answers += 1,
            Err(error) => report.fail(&sockets::name(&error)),
        });
    }
    reporter.change(|report| {
        report.open -= 1;
        report.ended += 1;
    });
}

fn connect(to: SocketAddr, options: &sockets::Options) -> io::Result<TcpStream> {
    let stream = sockets::connect(to, options.mptcp)?;
    options.set(&stream)?;
    Ok(stream)
}

fn converse(
    conversation: &Conversation,
    mut stream: &TcpStream,
    number: u64,
    reporter: &Reporter,
    prompter: &Prompter,
) -> io::Result<()> {
    let seed = conversation
        .seed
        .wrapping_add(number.wrapping_mul(0x0100_0000_01b3));
    let mut reader = BufReader::new(stream);
    match conversation.what {
        Topic::Fetch { bytes } => {
            writeln!(stream, "fetch {seed} {bytes}")?;
            receive(&mut reader, number, seed, bytes, reporter).map(drop)
        }
        Topic::Push { bytes } => {
            writeln!(stream, "push {seed} {bytes}")?;
            send(stream, seed, bytes)?;
            confirmed(&mut reader, bytes, reporter)
        }
        Topic::Exchange { bytes } => {
            writeln!(stream, "exchange {seed} {bytes}")?;
            std::thread::scope(|scope| {
                let sender = std::thread::Builder::new().stack_size(STACK);
                let sender = sender.spawn_scoped(scope, move || send(stream, seed ^ OTHER_WAY, bytes))?;
                let received = receive(&mut reader, number, seed, bytes, reporter);
                let sent = sender
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("the sender panicked")));
                received?;
                sent?;
                confirmed(&mut reader, bytes, reporter)
            })
        }
        Topic::Echo { size, every, count } => {
            writeln!(stream, "echo")?;
            let mut pulse = Pulse::start(number);
            let mut words = Stream::new(seed);
            let every = Duration::from_micros(every);
            let mut next = Instant::now();
            let mut asked = 0;
            while count.is_none_or(|count| asked < count) {
                let asked_at = Instant::now();
                ask(stream, &mut reader, &mut words, size as usize)?;
                reporter.time(asked_at.elapsed());
                reporter.change(|report| {
                    report.answers += 1;
                    pulse.beat(report);
                });
                asked += 1;
                next = (next + every).max(Instant::now());
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            Ok(())
        }
        // Opens connections of its own.
        Topic::Visits { .. } => Ok(()),
        Topic::Idle => {
            writeln!(stream, "echo")?;
            let mut words = Stream::new(seed);
            for turn in 0.. {
                if !prompter.wait(turn) {
                    break;
                }
                ask(stream, &mut reader, &mut words, 16)?;
                reporter.change(|report| report.answers += 1);
            }
            Ok(())
        }
    }
}

/// The server's word about what it received.
fn confirmed(reader: &mut impl BufRead, bytes: u64, reporter: &Reporter) -> io::Result<()> {
    let mut answer = String::new();
    if reader.read_line(&mut answer)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (verdict, sha256) = answer.trim().split_once(' ').unwrap_or((answer.trim(), ""));
    reporter.change(|report| {
        report.bytes += bytes;
        report.same = Some(report.same.unwrap_or(true) && verdict == "same");
        report.sha256 = Some(sha256.to_owned());
    });
    Ok(())
}

/// One question, and its answer byte for byte.
fn ask(mut stream: &TcpStream, reader: &mut impl Read, words: &mut Stream, size: usize) -> io::Result<()> {
    let mut question = vec![0; size];
    words.fill(&mut question);
    stream.write_all(&question)?;
    let mut answer = vec![0; size];
    reader.read_exact(&mut answer)?;
    if answer == question {
        Ok(())
    } else {
        Err(io::Error::other("another answer than the question"))
    }
}

impl Prompter {
    /// Waits until it is time to speak for the `turn`-th time; false when there is nothing more to say.
    fn wait(&self, turn: u64) -> bool {
        let mut spoken = self.spoken.lock().unwrap_or_else(|held| held.into_inner());
        while *spoken <= turn {
            spoken = self.changed.wait(spoken).unwrap_or_else(|held| held.into_inner());
        }
        *spoken != u64::MAX
    }
}

/// Every line from the runner makes the connections speak once; the end of its input ends them.
fn listen_to_runner(prompter: &Prompter) {
    let mut line = String::new();
    loop {
        line.clear();
        let ended = io::stdin().read_line(&mut line).unwrap_or_default() == 0;
        let mut spoken = prompter.spoken.lock().unwrap_or_else(|held| held.into_inner());
        *spoken = if ended { u64::MAX } else { *spoken + 1 };
        prompter.changed.notify_all();
        if ended {
            return;
        }
    }
}
