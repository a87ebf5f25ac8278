//! A node of the scenario on this machine: a network namespace and a cgroup of its own.
use std::path::PathBuf;

use super::{Claim, MachineError, cgroup, netns};

#[derive(Clone, Debug)]
pub struct Station {
    /// As the scenario calls it.
    pub name: String,
    /// `lab-1a2b3c-phone`
    pub netns: String,
    pub cgroup: PathBuf,
    /// Files of its programs.
    pub directory: PathBuf,
}

impl Station {
    /// Names the resolvers of its network.
    pub fn resolv_conf(&self) -> PathBuf {
        self.directory.join("resolv.conf")
    }

    pub fn create(claim: &Claim, name: &str) -> Result<Station, MachineError> {
        let station = Station {
            name: name.to_owned(),
            netns: format!("{}-{name}", claim.name()),
            cgroup: claim.cgroup.join(name),
            directory: claim.directory.join("hosts").join(name),
        };
        std::fs::create_dir_all(&station.directory).map_err(MachineError::io(format!(
            "create {}",
            station.directory.display()
        )))?;
        cgroup::create(&station.cgroup)?;
        netns::create(&station.netns)?;
        Ok(station)
    }
}
