//! Each rule of the machine as a claim.

mod answering;
mod closing;
mod crossed;
#[path = "../table/fixtures.rs"]
#[allow(dead_code, reason = "made for the table; the rules use a part")]
mod fixtures;
mod moving;
mod relayed;
mod reset;
mod waiting;
#[path = "../world/mod.rs"]
mod world;

use std::time::Duration;

use migration::{Action, Actions, Event, Machine, State, Timestamp, step};

/// One machine under test, with what it asked for last.
pub struct Bench {
    pub machine: Machine,
    pub now: Timestamp,
    pub actions: Actions,
}

impl Bench {
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            now: Timestamp::from_millis(10_000),
            actions: Actions::new(),
        }
    }

    pub fn start() -> Self {
        Self::new(fixtures::Walk::start().machine)
    }

    /// A machine that has moved and sent attempt 2 from [`fixtures::NEW`].
    pub fn moved() -> Self {
        Self::start()
            .after(fixtures::lost("10.0.0.1:0"))
            .after(fixtures::usable(fixtures::NEW))
    }

    /// ... and whose attempt was answered.
    pub fn unconfirmed() -> Self {
        Self::moved().after(fixtures::msyn_ack(2, fixtures::NEW, 1_000))
    }

    pub fn after(mut self, event: Event) -> Self {
        self.tell(event);
        self
    }

    pub fn tell(&mut self, event: Event) -> &Actions {
        let (machine, actions) = step(self.machine.clone(), event, self.now);
        self.machine = machine;
        self.actions = actions;
        &self.actions
    }

    /// Goes to the next alarm and lets it ring.
    pub fn ring(&mut self) -> &Actions {
        self.now = self.machine.next_alarm().expect("an alarm is set").0;
        self.tell(Event::TimerFired)
    }

    /// Lets every alarm ring until then; everything that was asked for.
    pub fn wait(&mut self, how_long: Duration) -> Actions {
        let end = self.now + how_long;
        let mut all = Actions::new();
        while let Some((at, _)) = self.machine.next_alarm().filter(|&(at, _)| at <= end) {
            self.now = at;
            all.extend(self.tell(Event::TimerFired).iter().cloned());
        }
        self.now = end;
        all
    }

    pub fn state(&self) -> State {
        self.machine.state()
    }
}

/// The names of what was asked for, without alarms and reports.
pub fn names(actions: &[Action]) -> Vec<&'static str> {
    let told = |name: &&str| !matches!(*name, "WakeAt" | "Report");
    actions.iter().map(Action::name).filter(told).collect()
}

pub fn count(actions: &[Action], name: &str) -> usize {
    actions.iter().filter(|action| action.name() == name).count()
}

pub fn find<'a>(actions: &'a [Action], name: &str) -> &'a Action {
    actions
        .iter()
        .find(|action| action.name() == name)
        .unwrap_or_else(|| panic!("no {name} in {actions:?}"))
}
