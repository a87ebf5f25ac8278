//! The routing rules: which segments are led to the parking device, and which around it.
//!
//! Three priorities: the agent's own segments stay on the main table, marked sockets go to the device, and so does what
//! comes from an address that is kept. The first two are there while they may be needed, the third while the address is.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, IpProtocol};
use rtnetlink::{Handle, IpVersion};

use super::{Parking, ParkingError, ignore_existing, netlink};
use crate::kernel::MARK_TRANSLATED;

const MAIN_TABLE: u32 = 254;

impl Parking {
    /// Whether marked sockets are led here: the rules cost every connection of the host a few per cent of its set-up,
    /// so that they are only there while they may be needed.
    pub fn leads(&self) -> bool {
        self.leads
    }

    /// Leads the segments of marked sockets to the device, and the agent's own around it.
    ///
    /// # Errors
    /// The kernel takes no rule.
    pub async fn lead(&mut self) -> Result<(), ParkingError> {
        if !self.leads {
            self.leads = true;
            self.add_mark_rules().await?;
        }
        Ok(())
    }

    /// Removes what [`Parking::lead`] added. The rules of kept addresses stay.
    pub async fn stop_leading(&mut self) {
        self.leads = false;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for rule in self.mark_rules(family) {
                let _ = self.handle.rule().del(rule).execute().await;
            }
        }
    }

    pub(super) fn mark_rules(&self, family: AddressFamily) -> [RuleMessage; 2] {
        let first = self.options.rule_priority;
        let rule = |priority, mark, table| {
            let mut rule = rule_message(family, priority, table);
            rule.attributes.push(RuleAttribute::FwMark(mark));
            rule.attributes.push(RuleAttribute::FwMask(mark));
            rule
        };
        [
            rule(first, self.options.agent_mark, MAIN_TABLE),
            rule(first + 1, self.options.mark, self.options.table),
        ]
    }

    pub(super) async fn add_mark_rules(&self) -> Result<(), ParkingError> {
        let present = self.rules().await;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for rule in self.mark_rules(family) {
                if present.iter().any(|other| same_rule(&rule, other)) {
                    continue;
                }
                match self.add_rule(rule).await {
                    Err(error) if family == AddressFamily::Inet6 => {
                        tracing::debug!(%error, "no IPv6 rules: this host has no IPv6");
                    }
                    other => other?,
                }
            }
        }
        Ok(())
    }

    pub(super) async fn add_rule(&self, message: RuleMessage) -> Result<(), ParkingError> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = message;
        ignore_existing(request.execute().await).map_err(netlink("cannot add a routing rule"))
    }

    pub(super) fn rule_for(&self, address: IpAddr) -> RuleMessage {
        let family = if address.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        };
        let mut rule = rule_message(family, self.options.rule_priority + 2, self.options.table);
        rule.header.src_len = if address.is_ipv4() { 32 } else { 128 };
        rule.attributes.push(RuleAttribute::Source(address));
        rule.attributes.push(RuleAttribute::IpProtocol(IpProtocol::Tcp));
        // A translated segment leaves from this address too, once it has returned and while the rule still stands. When
        // the kernel is asked for its next hop it must not be led back here: unlike IPv4, IPv6 then takes a route of
        // another device than the one that was asked for, and holds the peer for a neighbour on the link.
        rule.attributes.push(RuleAttribute::FwMark(0));
        rule.attributes.push(RuleAttribute::FwMask(MARK_TRANSLATED));
        rule
    }

    pub(super) async fn rules(&self) -> Vec<RuleMessage> {
        rules(&self.handle).await
    }
}

fn rule_message(family: AddressFamily, priority: u32, table: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family;
    message.header.action = RuleAction::ToTable;
    message.attributes.push(RuleAttribute::Table(table));
    message.attributes.push(RuleAttribute::Priority(priority));
    message
}

/// Whether the kernel's `rule` has all that `ours` asks for. It does not always tell a mask.
pub(super) fn same_rule(ours: &RuleMessage, rule: &RuleMessage) -> bool {
    let mut asked = ours
        .attributes
        .iter()
        .filter(|a| !matches!(a, RuleAttribute::FwMask(_)));
    rule.header.family == ours.header.family && asked.all(|attribute| rule.attributes.contains(attribute))
}

pub(super) fn attribute_is(rule: &RuleMessage, test: impl Fn(&RuleAttribute) -> bool) -> bool {
    rule.attributes.iter().any(test)
}

pub(super) async fn rules(handle: &Handle) -> Vec<RuleMessage> {
    let mut found = Vec::new();
    for version in [IpVersion::V4, IpVersion::V6] {
        let mut stream = handle.rule().get(version).execute();
        while let Ok(Some(rule)) = stream.try_next().await {
            found.push(rule);
        }
    }
    found
}
