//! Starting programs in hosts and reading what they say.
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::board::{Board, ProgramState};
use super::timeline::Timeline;
use crate::apps::{App, Conversation, Report, Topic, sockets};
use crate::language::ast::*;
use crate::language::units::show_size;
use crate::machine::{Station, spawn};

/// All programs of a run.
pub struct Programs {
    pub board: Board,
    pub timeline: Timeline,
    /// Standard inputs that the story may type into.
    inputs: HashMap<String, ChildStdin>,
    /// The lab's own executable, for its applications.
    executable: PathBuf,
    pub logs: PathBuf,
}

/// How a program is started, whatever it is.
pub struct Launch {
    pub name: String,
    pub what: String,
    pub command: Command,
    pub reports: bool,
    pub stands: bool,
    pub connections: u64,
}

impl Programs {
    pub fn new(board: Board, timeline: Timeline, logs: PathBuf) -> Result<Programs, String> {
        let executable =
            std::env::current_exe().map_err(|error| format!("cannot find my own executable: {error}"))?;
        std::fs::create_dir_all(&logs)
            .map_err(|error| format!("cannot create {}: {error}", logs.display()))?;
        Ok(Programs {
            board,
            timeline,
            inputs: HashMap::new(),
            executable,
            logs,
        })
    }

    /// One of the lab's own applications.
    pub fn application(&self, name: &str, what: String, app: &App) -> Result<Launch, String> {
        let description = serde_json::to_string(app).map_err(|error| error.to_string())?;
        let mut command = Command::new(&self.executable);
        command.arg("app").arg(description);
        let (stands, connections) = match app {
            App::Talk(conversation) => (false, u64::from(conversation.connections)),
            App::Dialog { .. } => (false, 1),
            App::Serve { .. } | App::Httpd { .. } => (true, 0),
        };
        Ok(Launch {
            name: name.to_owned(),
            what,
            command,
            reports: !matches!(app, App::Dialog { .. }),
            stands,
            connections,
        })
    }

    /// Starts a program and threads that follow it. Must be called from the run's own thread.
    pub fn launch(&mut self, station: &Station, launch: Launch) -> Result<(), String> {
        let Launch {
            name,
            what,
            mut command,
            reports,
            stands,
            connections,
        } = launch;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.current_dir(&station.directory);
        let state = ProgramState {
            host: station.name.clone(),
            what: what.clone(),
            reports,
            stands,
            connections,
            started: self.timeline.now().as_secs_f64(),
            ..ProgramState::default()
        };
        self.board
            .change(|board| board.programs.insert(name.clone(), state));
        let mut child = spawn::spawn(station, &mut command).map_err(|error| error.to_string())?;
        let pid = child.id() as i32;
        self.board.program(&name, |program| program.pid = Some(pid));
        if let Some(stdin) = child.stdin.take() {
            self.inputs.insert(name.clone(), stdin);
        }
        self.timeline.note(&station.name, format!("{what} [{name}]"));
        self.follow(name, child, reports)
    }

    fn follow(&self, name: String, mut child: Child, reports: bool) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("cannot follow {name}: {error}");
        let mut readers = Vec::new();
        if let Some(out) = child.stdout.take() {
            let log = File::create(self.logs.join(format!("{name}.out"))).map_err(failed)?;
            let (board, timeline, name) = (self.board.clone(), self.timeline.clone(), name.clone());
            readers.push(std::thread::spawn(move || {
                if reports {
                    read_reports(out, log, &board, &timeline, &name)
                } else {
                    read_output(out, log, &board, &name)
                }
            }));
        }
        if let Some(err) = child.stderr.take() {
            let log = File::create(self.logs.join(format!("{name}.err"))).map_err(failed)?;
            let (board, name) = (self.board.clone(), name.clone());
            readers.push(std::thread::spawn(move || read_output(err, log, &board, &name)));
        }
        let (board, timeline) = (self.board.clone(), self.timeline.clone());
        std::thread::spawn(move || {
            let status = child.wait();
            // Descendants may hold the pipes open: what the program itself wrote arrives within moments.
            board.program(&name, |program| program.pid = None);
            if reports {
                readers.into_iter().for_each(|reader| drop(reader.join()));
            } else {
                settle(&readers);
            }
            let exit = status.ok().and_then(|status| {
                use std::os::unix::process::ExitStatusExt;
                status
                    .code()
                    .or_else(|| status.signal().map(|signal| 128 + signal))
            });
            let time = timeline.now().as_secs_f64();
            board.program(&name, |program| {
                program.exit = exit;
                program.ended = Some(time);
                timeline.note(&name, farewell(program));
            });
        });
        Ok(())
    }

    /// Types into a program's standard input.
    pub fn type_into(&mut self, name: &str, text: &str) -> Result<(), String> {
        let input = self
            .inputs
            .get_mut(name)
            .ok_or_else(|| format!("{name} takes no input"))?;
        let written = input.write_all(text.as_bytes()).and_then(|()| input.flush());
        written.map_err(|error| format!("cannot type into {name}: {error}"))
    }

    /// SIGKILL. A program that has ended is dead already.
    pub fn kill(&self, name: &str) {
        self.signal(name, Signal::SIGKILL);
    }

    /// SIGTERM: the program may tidy up.
    pub fn terminate(&self, name: &str) {
        self.signal(name, Signal::SIGTERM);
    }

    fn signal(&self, name: &str, signal: Signal) {
        let pid = self.board.change(|state| {
            let program = state.programs.get_mut(name)?;
            program.killed = true;
            program.pid
        });
        if let Some(pid) = pid {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
        }
    }
}

/// Gives readers a moment to take what is in the pipes.
fn settle(readers: &[std::thread::JoinHandle<()>]) {
    for _ in 0..50 {
        if readers.iter().all(std::thread::JoinHandle::is_finished) {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn farewell(program: &ProgramState) -> String {
    let report = &program.report;
    let mut said = match program.exit {
        Some(0) if program.killed => "stopped".to_owned(),
        _ if program.killed => "killed".to_owned(),
        Some(0) if program.is_done() => "done".to_owned(),
        Some(code) => format!("ended with exit={code}"),
        None => "ended".to_owned(),
    };
    if program.reports && !program.stands {
        if report.bytes > 0 {
            said += &format!("  {}", show_size(report.bytes));
        }
        if report.answers > 0 {
            said += &format!("  answers={}", report.answers);
        }
        said += &format!("  longest gap {:.0} ms", report.gap);
        if let Some(same) = report.same {
            said += if same {
                "  sha256=same"
            } else {
                "  sha256=DIFFERENT"
            };
        }
        for (error, count) in &report.errors {
            said += &format!("  error={error}");
            if *count > 1 {
                said += &format!(" ({count} times)");
            }
        }
    }
    said
}

/// Lines of a lab application: each is its whole report.
fn read_reports(out: impl Read, mut log: File, board: &Board, timeline: &Timeline, name: &str) {
    use std::io::{BufRead, BufReader};
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        match serde_json::from_str::<Report>(&line) {
            Ok(report) => {
                let time = timeline.now().as_secs_f64();
                board.program(name, |program| {
                    let failed = report.errors != program.report.errors && program.connections != 1;
                    if failed {
                        timeline.note(name, format!("errors: {:?}", report.errors));
                    }
                    program.take_report(report, time);
                });
            }
            Err(_) => {
                let _ = writeln!(log, "{line}");
                board.program(name, |program| program.append_output(&line));
            }
        }
    }
}

fn read_output(mut out: impl Read, mut log: File, board: &Board, name: &str) {
    let mut buffer = [0; 8192];
    while let Ok(length) = out.read(&mut buffer) {
        if length == 0 {
            return;
        }
        let _ = log.write_all(&buffer[..length]);
        let text = String::from_utf8_lossy(&buffer[..length]);
        board.program(name, |program| program.append_output(&text));
    }
}

pub fn socket_options(options: &SocketOptions) -> sockets::Options {
    let milliseconds = |duration: Duration| duration.as_millis() as u64;
    sockets::Options {
        user_timeout: options.user_timeout.map(milliseconds),
        keepalive: options
            .keepalive
            .map(|k| (milliseconds(k.idle), milliseconds(k.interval), k.count)),
        nodelay: options.nodelay,
        mptcp: options.mptcp,
    }
}

pub fn conversation(talk: &Talk, address: IpAddr, seed: u64) -> App {
    let what = match talk.what {
        Talking::Fetch(bytes) => Topic::Fetch { bytes },
        Talking::Push(bytes) => Topic::Push { bytes },
        Talking::Exchange(bytes) => Topic::Exchange { bytes },
        Talking::Echo { size, every, count } => Topic::Echo {
            size,
            every: every.as_micros() as u64,
            count,
        },
        Talking::Idle => Topic::Idle,
        Talking::Visits(count) => Topic::Visits { count },
    };
    App::Talk(Conversation {
        to: SocketAddr::new(address, talk.port),
        connections: talk.connections,
        seed,
        options: socket_options(&talk.options),
        what,
    })
}
