//! Where hosts can be, and what can happen to them.

use migration::server::{MappingBehaviour, Side};
use proptest::prelude::*;

/// Where a host can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Open(u8),
    Firewall(u8),
    Napt { which: u8, inside: u8, foreseen: bool },
}

impl Place {
    pub(super) fn own(self) -> String {
        match self {
            Place::Open(n) => format!("198.51.100.{n}"),
            Place::Firewall(n) => format!("203.0.113.{n}"),
            Place::Napt { inside, .. } => format!("192.168.1.{inside}"),
        }
    }

    pub(super) fn observed(self) -> String {
        match self {
            Place::Napt { which, .. } => format!("192.0.2.{which}"),
            Place::Open(_) | Place::Firewall(_) => self.own(),
        }
    }

    pub(super) fn is_napt(self) -> bool {
        matches!(self, Place::Napt { .. })
    }

    pub(super) fn is_foreseen(self) -> bool {
        !matches!(self, Place::Napt { foreseen: false, .. })
    }

    pub(super) fn behaviour(self) -> MappingBehaviour {
        match self {
            Place::Napt { foreseen: true, .. } => MappingBehaviour::PortPreserving,
            Place::Napt { foreseen: false, .. } => MappingBehaviour::Random,
            Place::Open(_) | Place::Firewall(_) => MappingBehaviour::None,
        }
    }
}

pub(super) fn place(side: Side) -> impl Strategy<Value = Place> {
    // No address is at both ends, but for private ones.
    let base = 10 + 100 * side as u8;
    let napt = (1..=2u8, 2..=3u8, any::<bool>());
    prop_oneof![
        (base..base + 50).prop_map(Place::Open),
        (base..base + 50).prop_map(Place::Firewall),
        napt.prop_map(|(which, inside, foreseen)| Place::Napt {
            which,
            inside,
            foreseen
        }),
    ]
}

#[derive(Clone, Debug)]
pub(super) enum Deed {
    Move(Side, Place),
    Up(Side),
    Down(Side),
    Repeat(Side),
    Stale(Side, u8),
    Cut(Side),
    Connect(Side),
    Probe,
    GiveUpTrying(Side),
    Wait(u8),
}

pub(super) fn deed() -> impl Strategy<Value = Deed> {
    let side = prop_oneof![Just(Side::First), Just(Side::Second)];
    prop_oneof![
        3 => place(Side::First).prop_map(|to| Deed::Move(Side::First, to)),
        3 => place(Side::Second).prop_map(|to| Deed::Move(Side::Second, to)),
        8 => side.clone().prop_map(Deed::Up),
        6 => side.clone().prop_map(Deed::Down),
        2 => side.clone().prop_map(Deed::Repeat),
        2 => (side.clone(), any::<u8>()).prop_map(|(side, which)| Deed::Stale(side, which)),
        2 => side.clone().prop_map(Deed::Cut),
        2 => side.clone().prop_map(Deed::Connect),
        3 => Just(Deed::Probe),
        2 => side.prop_map(Deed::GiveUpTrying),
        2 => any::<u8>().prop_map(Deed::Wait),
    ]
}
