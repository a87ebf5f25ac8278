//! One connection, step by step, as a line of a scenario tells it: `connect 10.0.0.1 7100; send 1MiB; shut; end`.
//!
//! The other programs do what most programs do. This one does what few do and what a kernel allows all the same:
//! half-closed connections, urgent data, options and numbers of a socket's own choice, silence on command. Steps
//! follow one another; the first that fails ends the program, with exit code 1 and the step. Whoever connected
//! sends the stream of seed 1, whoever accepted that of seed 2, and every byte received is compared.
use std::io::{BufRead, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::dialog_kernel as kernel;
use super::sockets;
use super::stream::Stream;
use crate::language::units;

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    // Before the connection.
    Mark(u32),
    Device(String),
    Source(IpAddr, u16),
    Isn(u32),
    /// The window is never larger: up to 65535 its scale is 0.
    Clamp(u32),
    Md5(IpAddr, String),
    Fastopen,
    /// The socket speaks MPTCP.
    Mptcp,
    // The connection.
    Listen(u16),
    Accept,
    Connect(IpAddr, u16),
    // On it.
    Nodelay,
    Cork,
    Uncork,
    /// The kernel encrypts what follows, and decrypts what it receives.
    Tls,
    Send(u64),
    Receive(u64),
    Urgent,
    HearUrgent,
    Shut,
    End,
    Close,
    Abort,
    /// One of these states of the socket comes.
    State(Vec<String>),
    /// The kernel agreed these with the peer: `ecn`, `sack`, `timestamps`, `!sack`, `scale=7/7` …
    Has(Vec<String>),
    MarkIs(u32),
    // With the story.
    Say(String),
    Wait,
}

/// Reads a script.
///
/// # Errors
/// The step that means nothing.
pub fn read(script: &str) -> Result<Vec<Step>, String> {
    let steps = script.split(';').map(str::trim).filter(|step| !step.is_empty());
    let steps: Result<Vec<Step>, String> = steps
        .map(|step| read_step(step).ok_or_else(|| format!("`{step}` is no step of a dialog")))
        .collect();
    steps.and_then(|steps| {
        if steps.is_empty() {
            Err("a dialog has steps".to_owned())
        } else {
            Ok(steps)
        }
    })
}

fn read_step(step: &str) -> Option<Step> {
    let words: Vec<&str> = step.split_whitespace().collect();
    let (verb, rest) = words.split_first()?;
    let texts = || rest.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    Some(match (*verb, rest) {
        ("mark", [mark]) => Step::Mark(mark.parse().ok()?),
        ("device", [name]) => Step::Device((*name).to_owned()),
        ("source", [address]) => Step::Source(address.parse().ok()?, 0),
        ("source", [address, port]) => Step::Source(address.parse().ok()?, port.parse().ok()?),
        ("clamp", [bytes]) => Step::Clamp(bytes.parse().ok()?),
        ("isn", [isn]) => Step::Isn(isn.parse().ok()?),
        ("md5", [address, key]) => Step::Md5(address.parse().ok()?, (*key).to_owned()),
        ("tls", []) => Step::Tls,
        ("fastopen", []) => Step::Fastopen,
        ("mptcp", []) => Step::Mptcp,
        ("listen", [port]) => Step::Listen(port.parse().ok()?),
        ("accept", []) => Step::Accept,
        ("connect", [address, port]) => Step::Connect(address.parse().ok()?, port.parse().ok()?),
        ("nodelay", []) => Step::Nodelay,
        ("cork", []) => Step::Cork,
        ("uncork", []) => Step::Uncork,
        ("send", [size]) => Step::Send(units::size(size)?),
        ("receive", [size]) => Step::Receive(units::size(size)?),
        ("urgent", []) => Step::Urgent,
        ("hear-urgent", []) => Step::HearUrgent,
        ("shut", []) => Step::Shut,
        ("end", []) => Step::End,
        ("close", []) => Step::Close,
        ("abort", []) => Step::Abort,
        ("state", [_, ..]) if rest.iter().all(|name| kernel::state_number(name).is_some()) => {
            Step::State(texts())
        }
        ("has", [_, ..]) => Step::Has(texts()),
        ("mark-is", [mark]) => Step::MarkIs(mark.parse().ok()?),
        ("say", [word]) => Step::Say((*word).to_owned()),
        ("wait", []) => Step::Wait,
        _ => return None,
    })
}

/// The port the script listens on, if it does.
pub fn listens(steps: &[Step]) -> Option<u16> {
    steps.iter().find_map(|step| match step {
        Step::Listen(port) => Some(*port),
        _ => None,
    })
}

pub fn run(script: &str) -> Result<i32, String> {
    let steps = read(script)?;
    let mut ends = Ends::default();
    for step in &steps {
        if let Err(reason) = ends.perform(step) {
            println!("failed: {step:?}: {reason}");
            return Ok(1);
        }
    }
    println!("finished");
    Ok(0)
}

/// What the script has in hand.
#[derive(Default)]
struct Ends {
    fresh: Option<Socket>,
    before: Vec<Step>,
    listener: Option<std::net::TcpListener>,
    stream: Option<TcpStream>,
    sending: Option<Stream>,
    receiving: Option<Stream>,
    /// Which stream is sent, and which is received.
    seeds: (u8, u8),
}

type Outcome = Result<(), String>;

fn said(error: std::io::Error) -> String {
    format!("{} ({error})", sockets::name(&error))
}

impl Ends {
    fn perform(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Mark(_)
            | Step::Device(_)
            | Step::Source(..)
            | Step::Isn(_)
            | Step::Clamp(_)
            | Step::Md5(..)
            | Step::Fastopen
            | Step::Mptcp => {
                self.before.push(step.clone());
                Ok(())
            }
            Step::Listen(port) => self.listen(*port).map_err(said),
            Step::Accept => {
                // One connection a dialog: the port is free for the next.
                let listener = self.listener.take().ok_or("nothing listens")?;
                let (stream, _) = listener.accept().map_err(said)?;
                self.begin(stream, 2, 1);
                Ok(())
            }
            Step::Connect(address, port) => self.connect(*address, *port).map_err(said),
            Step::Say(word) => {
                println!("{word}");
                Ok(())
            }
            Step::Wait => match std::io::stdin().lock().read_line(&mut String::new()) {
                Ok(length) if length > 0 => Ok(()),
                _ => Err("nobody says more".to_owned()),
            },
            Step::Close => {
                self.stream = None;
                Ok(())
            }
            other => self.on_stream(other),
        }
    }

    fn on_stream(&mut self, step: &Step) -> Outcome {
        let mut stream = self.stream.as_ref().ok_or("there is no connection")?;
        match step {
            Step::Nodelay => stream.set_nodelay(true).map_err(said),
            Step::Cork => kernel::cork(stream, true).map_err(said),
            Step::Uncork => kernel::cork(stream, false).map_err(said),
            Step::Tls => kernel::encrypt(stream, self.seeds.0, self.seeds.1).map_err(said),
            Step::Send(bytes) => match &mut self.sending {
                Some(words) => words.write_to(*bytes, &mut stream).map_err(said),
                None => Err("nothing to send".to_owned()),
            },
            Step::Receive(bytes) => match &mut self.receiving {
                Some(words) => receive(stream, words, *bytes),
                None => Err("nothing to receive".to_owned()),
            },
            Step::Urgent => kernel::send_urgent(stream, b'!').map_err(said),
            Step::HearUrgent => match kernel::receive_urgent(stream).map_err(said)? {
                b'!' => Ok(()),
                other => Err(format!("the urgent byte is {other}")),
            },
            Step::Shut => stream.shutdown(std::net::Shutdown::Write).map_err(said),
            Step::End => match stream.read(&mut [0; 16]).map_err(said)? {
                0 => Ok(()),
                more => Err(format!("{more} more bytes")),
            },
            Step::Abort => {
                let socket = socket2::SockRef::from(stream);
                socket.set_linger(Some(Duration::ZERO)).map_err(said)?;
                self.stream = None;
                Ok(())
            }
            Step::State(names) => loop {
                let state = kernel::info(stream).map_err(said)?.tcpi_state;
                if let Some(error) = kernel::hard_error(stream).map_err(said)? {
                    return Err(said(error));
                }
                if names.iter().any(|name| kernel::state_number(name) == Some(state)) {
                    return Ok(());
                }
                // The kernel tells nobody of a change of state.
                std::thread::sleep(Duration::from_millis(2));
            },
            Step::Has(traits) => {
                let agreed = kernel::agreed(&kernel::info(stream).map_err(said)?);
                let wrong = traits.iter().find(|wanted| match wanted.strip_prefix('!') {
                    Some(absent) => agreed.iter().any(|found| found == absent),
                    None => !agreed.contains(wanted),
                });
                wrong.map_or(Ok(()), |_| Err(format!("agreed: {}", agreed.join(" "))))
            }
            Step::MarkIs(mark) => match socket2::SockRef::from(stream).mark().map_err(said)? {
                found if found & 0xffff == *mark => Ok(()),
                found => Err(format!("the mark is {found:#x}")),
            },
            _ => Err("not now".to_owned()),
        }
    }

    fn listen(&mut self, port: u16) -> std::io::Result<()> {
        let any = Socket::new(Domain::IPV6, Type::STREAM, Some(self.protocol()))?;
        any.set_only_v6(false)?;
        any.set_reuse_address(true)?;
        self.prepare(&any)?;
        any.bind(&SockAddr::from(SocketAddr::from(([0_u16; 8], port))))?;
        any.listen(16)?;
        self.listener = Some(any.into());
        Ok(())
    }

    fn connect(&mut self, address: IpAddr, port: u16) -> std::io::Result<()> {
        let to = SocketAddr::new(address, port);
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(self.protocol()))?;
        self.prepare(&socket)?;
        socket.connect(&to.into())?;
        self.begin(socket.into(), 1, 2);
        Ok(())
    }

    fn protocol(&self) -> Protocol {
        match self.before.contains(&Step::Mptcp) {
            true => Protocol::from(libc::IPPROTO_MPTCP),
            false => Protocol::TCP,
        }
    }

    fn prepare(&mut self, socket: &Socket) -> std::io::Result<()> {
        for step in std::mem::take(&mut self.before) {
            match step {
                Step::Mark(mark) => socket.set_mark(mark)?,
                Step::Device(name) => socket.bind_device(Some(name.as_bytes()))?,
                Step::Source(address, port) => {
                    socket.set_reuse_address(true)?;
                    socket.bind(&SocketAddr::new(address, port).into())?;
                }
                Step::Clamp(bytes) => kernel::clamp(socket, bytes)?,
                Step::Isn(isn) => kernel::set_isn(socket, isn)?,
                Step::Md5(address, key) => kernel::sign(socket, address, &key)?,
                Step::Fastopen => kernel::fast_open(socket)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn begin(&mut self, stream: TcpStream, sends: u8, receives: u8) {
        self.stream = Some(stream);
        self.fresh = None;
        self.sending = Some(Stream::new(sends.into()));
        self.receiving = Some(Stream::new(receives.into()));
        self.seeds = (sends, receives);
        println!("connected");
        let _ = std::io::stdout().flush();
    }
}

fn receive(mut stream: &TcpStream, words: &mut Stream, bytes: u64) -> Outcome {
    let mut buffer = vec![0; 64 * 1024];
    let mut missing = bytes;
    while missing > 0 {
        let most = buffer.len().min(usize::try_from(missing).unwrap_or(usize::MAX));
        let length = stream.read(&mut buffer[..most]).map_err(said)?;
        if length == 0 {
            return Err(format!("the stream ends {missing} bytes too early"));
        }
        if !words.matches(&buffer[..length]) {
            return Err("other bytes than were sent".to_owned());
        }
        missing -= length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_step_by_step() {
        let steps = read(
            "source 10.0.0.2 4000; connect 10.0.0.1 7100; send 1MiB; shut; state FinWait1 FinWait2; end",
        );
        let steps = steps.expect("a dialog");
        assert_eq!(steps.len(), 6);
        assert_eq!(steps[2], Step::Send(1 << 20));
        assert_eq!(
            listens(&read("listen 7100; accept").expect("a dialog")),
            Some(7100)
        );
    }

    #[test]
    fn what_means_nothing_is_named() {
        let mistake = read("listen 7100; state Asleep").expect_err("no such state");
        assert!(mistake.contains("state Asleep"), "{mistake}");
        assert!(read(" ; ").is_err());
    }
}
