//! One end of many connections, in one thread: sends, receives, asks, answers or is silent, as it is told.
//!
//! Lines on standard input tell it what to do; answers are JSON lines on standard output:
//!
//! | line | |
//! |---|---|
//! | `accepted N` | answers once N connections are open |
//! | `go`, `hold` | sources write and askers ask; or write nothing new |
//! | `speak` | every connection says something |
//! | `arm` | from now on the first byte of every connection is to be noted |
//! | `collect MS` | answers with the times of these bytes, when all are there or so much time has passed |
//! | `count` | answers with the bytes received so far |
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{clock, surroundings};
use crate::apps::sockets;

/// A question and its answer.
const WORD: usize = 64;
const PORTION: usize = 256 * 1024;
/// Numbers of descriptors that are no connections, in the poller.
const INPUT: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;

/// What an end does with each of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Writes whenever it can.
    Source,
    /// Reads only. Says something when told to `speak`.
    Sink,
    /// Asks, waits for the answer, thinks, asks again.
    Asker { think_micros: u64 },
    /// Answers.
    Answerer,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Description {
    /// Where to connect; or to listen, if `connections` is 0.
    pub address: SocketAddr,
    pub connections: u32,
    pub role: Role,
    pub mptcp: bool,
    /// As set by SO_SNDBUF; the kernel's own choice otherwise.
    pub send_buffer: Option<u32>,
}

/// What `collect` yields.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Collected {
    /// Nanoseconds of the monotonic clock, for each connection in the order of opening.
    pub first: Vec<Option<u64>>,
    pub errors: Vec<String>,
}

/// What `count` yields.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Counted {
    pub bytes: u64,
    pub at: u64,
}

/// What an end says first, and in answer to `accepted`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Opened {
    pub connections: usize,
    /// Those that are MPTCP and have not fallen back.
    pub multipath: usize,
}

struct Connection {
    stream: TcpStream,
    awaited: bool,
    first: Option<u64>,
    /// Bytes of the answer that are still to come, or of the question.
    missing: usize,
    open: bool,
}

struct End {
    description: Description,
    poller: Epoll,
    listener: Option<TcpListener>,
    connections: Vec<Connection>,
    /// Askers that think, and until when.
    thinking: VecDeque<(u64, usize)>,
    /// Askers that have heard what was awaited: they make room for others until the next `go`.
    resting: Vec<usize>,
    going: bool,
    bytes: u64,
    errors: Vec<String>,
    /// An answer that waits: to `collect`, with its deadline; to `accepted`, with its number.
    collecting: Option<u64>,
    expected: Option<usize>,
    input: String,
    portion: Vec<u8>,
}

/// Runs until standard input ends.
///
/// # Errors
/// The connections cannot be opened.
pub fn run(description: Description) -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    let mut end = End::open(description).map_err(failed)?;
    if end.listener.is_none() {
        end.say(&end.opened());
    } else {
        end.say(&Opened {
            connections: 0,
            multipath: 0,
        });
    }
    end.work().map_err(failed)
}

fn socket(description: &Description) -> io::Result<Socket> {
    let protocol = if description.mptcp {
        Protocol::MPTCP
    } else {
        Protocol::TCP
    };
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(protocol))?;
    if let Some(size) = description.send_buffer {
        socket.set_send_buffer_size(size as usize)?;
    }
    surroundings::pin(&socket)?;
    Ok(socket)
}

impl End {
    fn open(description: Description) -> io::Result<End> {
        let mut end = End {
            poller: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            listener: None,
            connections: Vec::new(),
            thinking: VecDeque::new(),
            resting: Vec::new(),
            going: false,
            bytes: 0,
            errors: Vec::new(),
            collecting: None,
            expected: None,
            input: String::new(),
            portion: vec![0x5a; PORTION],
            description,
        };
        end.poller
            .add(io::stdin(), EpollEvent::new(EpollFlags::EPOLLIN, INPUT))?;
        if end.description.connections == 0 {
            let listener = socket(&end.description)?;
            listener.set_reuse_address(true)?;
            listener.bind(&end.description.address.into())?;
            listener.listen(4096)?;
            listener.set_nonblocking(true)?;
            end.poller
                .add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
            end.listener = Some(listener.into());
        }
        for _ in 0..end.description.connections {
            let socket = socket(&end.description)?;
            socket.connect(&end.description.address.into())?;
            end.take(socket.into())?;
        }
        Ok(end)
    }

    fn take(&mut self, stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        if let Some(size) = self.description.send_buffer {
            SockRef::from(&stream).set_send_buffer_size(size as usize)?;
        }
        let number = self.connections.len();
        self.poller
            .add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
        self.connections.push(Connection {
            stream,
            awaited: false,
            first: None,
            missing: 0,
            open: true,
        });
        if matches!(self.description.role, Role::Asker { .. }) {
            self.thinking.push_back((0, number));
        }
        Ok(())
    }

    fn work(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 256];
        loop {
            let count = match self.poller.wait(&mut events, self.patience()) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                match event.data() {
                    INPUT => {
                        if !self.hear()? {
                            return Ok(());
                        }
                    }
                    LISTENER => self.accept()?,
                    number => self.attend(number as usize, event.events()),
                }
            }
            self.ask_again();
            self.answer_if_due();
        }
    }

    fn patience(&self) -> EpollTimeout {
        let thought = self.thinking.front().filter(|_| self.going).map(|(at, _)| *at);
        match thought.into_iter().chain(self.collecting).min() {
            // Rounded up: a timer that is early would spin.
            Some(at) => {
                let millis = at.saturating_sub(clock::now()).div_ceil(1_000_000);
                EpollTimeout::try_from(millis.min(60_000) as i32).unwrap_or(EpollTimeout::NONE)
            }
            None => EpollTimeout::NONE,
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Some(listener) = &self.listener {
            match listener.accept() {
                Ok((stream, _)) => self.take(stream)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what there is, and writes what there is room for.
    fn attend(&mut self, number: usize, ready: EpollFlags) {
        let now = clock::now();
        let connection = &mut self.connections[number];
        if ready.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
            match (&connection.stream).read(&mut self.portion) {
                Ok(0) => self.lose(number, "CLOSED".into()),
                Ok(length) => {
                    self.bytes += length as u64;
                    if connection.awaited && connection.first.is_none() {
                        connection.first = Some(now);
                    }
                    self.react(number, length, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => self.lose(number, sockets::name(&error)),
            }
        }
        if ready.contains(EpollFlags::EPOLLOUT) {
            let connection = &mut self.connections[number];
            match (&connection.stream).write(&self.portion) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    self.lose(number, sockets::name(&error));
                }
                _ => {}
            }
        }
    }

    fn react(&mut self, number: usize, length: usize, now: u64) {
        match self.description.role {
            Role::Answerer => {
                let connection = &mut self.connections[number];
                let had = connection.missing + length;
                connection.missing = had % WORD;
                for _ in 0..had / WORD {
                    self.write_word(number);
                }
            }
            Role::Asker { think_micros } => {
                let connection = &mut self.connections[number];
                let missing = connection.missing;
                connection.missing = missing.saturating_sub(length);
                if missing > 0 && connection.missing == 0 {
                    match connection.first {
                        Some(_) => self.resting.push(number),
                        None => self.thinking.push_back((now + think_micros * 1000, number)),
                    }
                }
            }
            Role::Source | Role::Sink => {}
        }
    }

    fn ask_again(&mut self) {
        let now = clock::now();
        while self.going && self.thinking.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, number)) = self.thinking.pop_front() else {
                break;
            };
            if self.connections[number].open {
                self.connections[number].missing = WORD;
                self.write_word(number);
            }
        }
    }

    fn write_word(&mut self, number: usize) {
        if let Err(error) = (&self.connections[number].stream).write_all(&[0x61; WORD]) {
            self.lose(number, sockets::name(&error));
        }
    }

    fn lose(&mut self, number: usize, why: String) {
        let connection = &mut self.connections[number];
        if std::mem::replace(&mut connection.open, false) {
            let _ = self.poller.delete(&connection.stream);
            self.errors.push(why);
        }
    }

    /// False when standard input has ended.
    fn hear(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 512];
        // SAFETY: standard input is open for the life of the process.
        let input = unsafe { BorrowedFd::borrow_raw(io::stdin().as_raw_fd()) };
        let length = nix::unistd::read(input, &mut buffer)?;
        self.input += &String::from_utf8_lossy(&buffer[..length]);
        while let Some((line, rest)) = self.input.split_once('\n') {
            let (line, rest) = (line.to_owned(), rest.to_owned());
            self.input = rest;
            self.obey(&line)?;
        }
        Ok(length > 0)
    }

    fn obey(&mut self, line: &str) -> io::Result<()> {
        let (word, number) = line.split_once(' ').unwrap_or((line, "0"));
        let number: u64 = number.parse().unwrap_or_default();
        match word {
            "go" | "hold" => {
                self.going = word == "go";
                let now = clock::now();
                for number in self.resting.drain(..) {
                    self.connections[number].first = None;
                    self.thinking.push_back((now, number));
                }
                if self.description.role == Role::Source {
                    self.want_room(self.going)?;
                }
            }
            "speak" => (0..self.connections.len()).for_each(|number| self.write_word(number)),
            "arm" => {
                for connection in &mut self.connections {
                    (connection.awaited, connection.first) = (true, None);
                }
            }
            "collect" => self.collecting = Some(clock::now() + number * 1_000_000),
            "accepted" => self.expected = Some(number as usize),
            "count" => self.say(&Counted {
                bytes: self.bytes,
                at: clock::now(),
            }),
            _ => {}
        }
        Ok(())
    }

    fn want_room(&self, wanted: bool) -> io::Result<()> {
        let mut interest = EpollFlags::EPOLLIN;
        interest.set(EpollFlags::EPOLLOUT, wanted);
        for (number, connection) in self.connections.iter().enumerate().filter(|(_, c)| c.open) {
            let mut event = EpollEvent::new(interest, number as u64);
            self.poller.modify(connection.stream.as_fd(), &mut event)?;
        }
        Ok(())
    }

    fn answer_if_due(&mut self) {
        if self
            .expected
            .is_some_and(|expected| self.connections.len() >= expected)
        {
            self.expected = None;
            self.say(&self.opened());
        }
        let Some(deadline) = self.collecting else { return };
        let all = self.connections.iter().all(|c| c.first.is_some() || !c.open);
        if all || clock::now() >= deadline {
            self.collecting = None;
            let collected = Collected {
                first: self.connections.iter().map(|c| c.first).collect(),
                errors: std::mem::take(&mut self.errors),
            };
            self.connections.iter_mut().for_each(|c| c.awaited = false);
            self.say(&collected);
        }
    }

    fn opened(&self) -> Opened {
        let multipath = self
            .connections
            .iter()
            .filter(|c| is_multipath(&c.stream))
            .count();
        Opened {
            connections: self.connections.len(),
            multipath,
        }
    }

    fn say(&self, what: &impl Serialize) {
        let line = serde_json::to_string(what).unwrap_or_default();
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

/// MPTCP_INFO is answered by sockets that are MPTCP and have not fallen back.
fn is_multipath(stream: &TcpStream) -> bool {
    const SOL_MPTCP: libc::c_int = 284;
    const MPTCP_INFO: libc::c_int = 1;
    const FALLBACK: u32 = 1;
    // mptcp_info begins with eight bytes of counters and limits, then the flags.
    let mut info = [0_u32; 32];
    let mut size = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the buffer outlives the call and its size is given.
    let answer = unsafe {
        let fd = stream.as_raw_fd();
        libc::getsockopt(fd, SOL_MPTCP, MPTCP_INFO, info.as_mut_ptr().cast(), &raw mut size)
    };
    answer == 0 && info[2] & FALLBACK == 0
}
