//! How the NAPT in front of this host maps, as far as a report can say: what the last probe from the reported address
//! has shown. A report does not wait for it. What comes later is said by the same report, under the same number.

use super::*;

impl Reporting {
    /// What reports from this address say about the NAPT in front of it; none: nobody has probed, or another NAPT has
    /// been seen since.
    pub fn mapping_of(&self, inside: IpAddr) -> Option<&said::Mapping> {
        self.mappings.get(&inside)
    }

    /// For people: how the NAPT between this address and what a server sees of it maps.
    pub fn napt_of(&self, inside: IpAddr, outside: IpAddr) -> &'static str {
        use said::mapping::Behaviour;
        if inside == outside {
            return "none";
        }
        match self
            .mapping_of(inside)
            .map_or(Behaviour::Unspecified, said::Mapping::behaviour)
        {
            Behaviour::Unspecified | Behaviour::None => "unknown",
            Behaviour::PortPreserving => "port_preserving",
            Behaviour::EndpointIndependent => "endpoint_independent",
            Behaviour::Random => "random",
        }
    }

    /// A server sees a stream of ours: what was known of another NAPT in front of this address counts no more.
    pub(in crate::agent) fn seen_at(&mut self, local: Endpoint, observed: Endpoint) {
        let outside = bytes_of(observed.address);
        self.mappings
            .retain(|inside, mapping| *inside != local.address || mapping.outside_address == outside);
    }
}

impl<D: Datapath> Agent<D> {
    /// A probe has ended: reports from this address say so from now on.
    pub(in crate::agent) fn mapped(&mut self, inside: IpAddr, mapping: said::Mapping) {
        let reporting = &mut self.reporting;
        if reporting.mappings.get(&inside) == Some(&mapping) {
            return;
        }
        self.timeline.note(
            "",
            "napt_maps",
            format!("in front of {inside}: {:?}", mapping.behaviour()),
        );
        for (id, trouble) in &mut reporting.troubles {
            let Some((report, from, _)) = &mut trouble.report else {
                continue;
            };
            if *from == inside {
                report.mapping = Some(mapping.clone());
                if let Some(reported) = reporting.wanted.reports.get_mut(id) {
                    reported.report.mapping = Some(mapping.clone());
                }
            }
        }
        // Addresses that are gone need no memory.
        let network = &self.network;
        reporting
            .mappings
            .retain(|address, _| network.device_of(*address).is_some());
        reporting.mappings.insert(inside, mapping);
    }
}
