//! Connections that servers open to terminals.
//!
//! Nobody knows beforehand whether a terminal speaks MPTCP. So the server's SYN is held, and the terminal asked in the
//! server's name, by a socket whose SYN carries MP_CAPABLE. The terminal's SYN-ACK is held as well, before that socket
//! sees it:
//!
//! - It agrees: the server's SYN is released to a listener here. Only when the server has completed that handshake the
//!   terminal's SYN-ACK goes on to the socket, so that the terminal's application sees no connection that no server has.
//! - It does not: the socket is closed without a word, the SYN-ACK dropped, a reset ends what the terminal has half open,
//!   and the server's SYN goes on to the terminal. Its application sees one connection, the server's own.
//! - It refuses, is silent, or cannot be reached: the server's SYN goes on, and the terminal, or silence, answers it.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::admission::{Admitted, Way};
use crate::answers::Said;
use crate::queue::{Held, Queue, Verdict};
use crate::relay::{Happening, Relay};
use crate::reset::Purpose;
use crate::syn::{Ends, Syn, SynAck};
use crate::transfer;
use crate::{act, reset};

/// A terminal that is asked, until both sides have answered.
pub(crate) struct Probe {
    /// Ends may be used again while a clock of an earlier probe still runs.
    number: u64,
    /// The server's SYN, until it is let go.
    syn: Option<Held>,
    /// The terminal's answer, until it is let go.
    answer: Option<(Held, SynAck)>,
    /// Whether the terminal has answered at all.
    heard: bool,
    /// What it has answered.
    said: Option<SynAck>,
    /// Whichever side's connection is established before the other's.
    server: Option<TcpStream>,
    terminal: Option<TcpStream>,
    /// Subflows may join at the server's port as long as this lives.
    joins: Option<DropGuard>,
    /// Closes the socket that asks.
    stop: CancellationToken,
}

impl Relay {
    /// A server's SYN, or a terminal's answer, is held.
    pub(crate) fn decide_down(&mut self, held: Held, queue: &Queue) {
        if let Some(answer) = SynAck::read(&held.head) {
            return self.answered_down(held, answer, queue);
        }
        let Some(syn) = Syn::read(&held.head) else {
            self.counters.count("passed_unreadable");
            return self.let_go(&held, 0, queue);
        };
        // It is the server that has sent it.
        let ends = Ends {
            terminal: syn.ends.server,
            server: syn.ends.terminal,
        };
        match self.admission.syn_down(ends, self.began.elapsed()) {
            Admitted::Ask => self.probe(ends, held),
            Admitted::Release => {
                self.counters.count("released");
                self.let_go(&held, self.marks.answered(), queue);
            }
            Admitted::Pass(why) => self.pass(ends, &held, why, queue),
            Admitted::Drop => {
                self.counters.count("repeated");
                let _ = queue.decide(held.id, Verdict::Drop);
            }
        }
    }

    fn probe(&mut self, ends: Ends, held: Held) {
        self.counters.count("probed");
        self.probes_begun += 1;
        let (number, stop) = (self.probes_begun, CancellationToken::new());
        let probe = Probe {
            number,
            syn: Some(held),
            answer: None,
            heard: false,
            said: None,
            server: None,
            terminal: None,
            joins: None,
            stop: stop.clone(),
        };
        self.probes.insert(ends, probe);
        let (happening, kind) = (self.happening.clone(), self.kind.marked(self.marks.probe()));
        tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = act::probe(ends, kind) => outcome,
                () = stop.cancelled() => Err(io::ErrorKind::Interrupted.into()),
            };
            let _ = happening.send(Happening::Probed(ends, outcome)).await;
        });
        let (happening, patience) = (self.happening.clone(), self.probe_patience);
        tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            let _ = happening.send(Happening::ProbeLate(ends, number)).await;
        });
    }

    /// A terminal's SYN-ACK is held.
    fn answered_down(&mut self, held: Held, answer: SynAck, queue: &Queue) {
        let (ends, now) = (answer.ends, self.began.elapsed());
        let Some(probe) = self.probes.get_mut(&ends) else {
            return self.let_go(&held, 0, queue);
        };
        if probe.heard || probe.stop.is_cancelled() {
            let _ = queue.decide(held.id, Verdict::Drop);
            return;
        }
        probe.heard = true;
        probe.said = Some(answer);
        probe.answer = Some((held, answer));
        if !answer.capable {
            self.counters.count("probed_plain");
            self.admission.learn(ends.terminal, Said::Plain, now);
            probe.stop.cancel();
            return;
        }
        self.counters.count("probed_multipath");
        self.admission.learn(ends.terminal, Said::Multipath, now);
        self.offer(ends, queue);
    }

    /// The terminal agrees, or is connected already: now the server's handshake is answered.
    fn offer(&mut self, ends: Ends, queue: &Queue) {
        self.admission.answered(ends, self.began.elapsed());
        let joins = self.listen_for_joins(ends.server);
        let Some(probe) = self.probes.get_mut(&ends) else {
            return;
        };
        probe.joins = joins;
        if let Some(syn) = probe.syn.take() {
            self.let_go(&syn, self.marks.answered(), queue);
        }
    }

    /// A terminal has not answered in time.
    pub(crate) fn probe_late(&mut self, ends: Ends, number: u64) {
        let probe = self.probes.get(&ends);
        if let Some(probe) = probe.filter(|probe| probe.number == number && !probe.heard) {
            self.counters.count("probed_silent");
            probe.stop.cancel();
            let now = self.began.elapsed();
            self.admission.learn(ends.terminal, Said::Nothing, now);
        }
    }

    /// The socket that asks is connected, or closed.
    pub(crate) fn probed(&mut self, ends: Ends, outcome: io::Result<TcpStream>, queue: &Queue) {
        let Some(mut probe) = self.probes.remove(&ends) else {
            return;
        };
        match outcome {
            Ok(terminal) => match probe.server.take() {
                Some(server) => self.begin_down(ends, terminal, server, probe),
                None => {
                    // Its answer was not held, since the queue was full.
                    probe.heard = true;
                    probe.terminal = Some(terminal);
                    self.probes.insert(ends, probe);
                    self.offer(ends, queue);
                }
            },
            Err(error) => {
                tracing::debug!(%ends, %error, "the terminal is not asked any longer; its server connects directly");
                if let Some((held, answer)) = probe.answer.take() {
                    let _ = queue.decide(held.id, Verdict::Drop);
                    let half_open = Purpose::Reset {
                        sequence: answer.acknowledges,
                    };
                    if let Err(error) = reset::send(ends.server, ends.terminal, half_open, self.marks.own) {
                        tracing::warn!(%error, "cannot send a reset to a terminal");
                    }
                }
                if let Some(server) = probe.server.take() {
                    transfer::reset(server);
                }
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    self.counters.count("probed_refused");
                    self.admission.ended(ends);
                } else {
                    self.admission.give_up(ends, self.began.elapsed());
                }
                if let Some(syn) = probe.syn.take() {
                    self.let_go(&syn, 0, queue);
                }
            }
        }
    }

    fn begin_down(&mut self, ends: Ends, terminal: TcpStream, server: TcpStream, probe: Probe) {
        let token = act::token(&terminal);
        self.begin(Way::Down, ends, terminal, server, probe.joins, false);
        if let (Some(token), Some(answer)) = (token, probe.said) {
            self.opened_down(ends, token, &answer);
        }
    }

    /// A server has completed its handshake.
    pub(crate) fn accepted_down(&mut self, ends: Ends, server: TcpStream, queue: &Queue) {
        let expected = self.probes.contains_key(&ends) && self.admission.accepted(ends);
        let probe = if expected { self.probes.remove(&ends) } else { None };
        let Some(mut probe) = probe else {
            self.counters.count("accepted_unasked");
            return transfer::reset(server);
        };
        if let Some(terminal) = probe.terminal.take() {
            return self.begin_down(ends, terminal, server, probe);
        }
        if let Some((held, _)) = probe.answer.take() {
            self.let_go(&held, 0, queue);
        }
        probe.server = Some(server);
        self.probes.insert(ends, probe);
    }

    /// A server has not completed its handshake in time.
    pub(crate) fn overdue_down(&mut self, ends: Ends) {
        if let Some(probe) = self.probes.get_mut(&ends) {
            probe.stop.cancel();
            if let Some(terminal) = probe.terminal.take() {
                transfer::reset(terminal);
                self.probes.remove(&ends);
            }
        }
    }

    /// A listener on the port that the server has connected from, so that the terminal's subflows may join there.
    fn listen_for_joins(&mut self, server: SocketAddr) -> Option<DropGuard> {
        let address = act::listener_address(server.is_ipv6(), server.port());
        let listener = act::listen(address, self.kind)
            .inspect_err(|error| tracing::debug!(%address, %error, "no listener for subflows here"))
            .ok()?;
        let stop = self.stop.child_token();
        self.attend(Way::Up, listener, stop.clone());
        Some(stop.drop_guard())
    }
}
