//! Commands to the kernel.

use std::net::SocketAddr;

use crate::command::Command;
use crate::connection::{Family, Link, Raw};
use crate::endpoint::{Endpoint, Limits};
use crate::family::attr;
use crate::{Error, Token, attribute};

/// A connection to the path manager of one network namespace.
///
/// Every method is one request and waits for the kernel's answer, well under a millisecond. Errors are
/// [`Error::Refused`] with what was asked for; [`Error::is_gone`] tells the usual race with a connection that ends.
#[derive(Debug)]
pub struct Client {
    link: Link,
    family: Family,
}

impl Client {
    /// Connects, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`Error::Socket`], and [`Error::NoFamily`] on a kernel without MPTCP.
    pub async fn connect() -> Result<Self, Error> {
        let (link, _) = Link::open(|_| Ok(()))?;
        let family = link.family().await?;
        Ok(Self { link, family })
    }

    async fn ask(&self, command: Command) -> Result<Vec<Raw>, Error> {
        tracing::trace!(doing = command.doing, "request");
        self.link.command(self.family, &command).await
    }

    async fn order(&self, command: Command) -> Result<(), Error> {
        self.ask(command).await.map(|_| ())
    }

    // ---- the kernel's own path manager -------------------------------------------------------------------

    /// The addresses of this host that the kernel uses or announces.
    pub async fn endpoints(&self) -> Result<Vec<Endpoint>, Error> {
        let answers = self.ask(Command::endpoints()).await?;
        let endpoints = answers.iter().filter_map(|answer| {
            let (_, value) = attribute::read(&answer.attributes).find(|(kind, _)| *kind == attr::ADDR)?;
            Endpoint::read(value)
        });
        Ok(endpoints.collect())
    }

    /// Adds an address of this host. Existing connections use it as well.
    pub async fn add_endpoint(&self, endpoint: &Endpoint) -> Result<(), Error> {
        self.order(Command::add_endpoint(endpoint)).await
    }

    /// Removes an endpoint, by its number. Its subflows end.
    pub async fn remove_endpoint(&self, endpoint: &Endpoint) -> Result<(), Error> {
        self.order(Command::remove_endpoint(endpoint)).await
    }

    /// Removes all endpoints.
    pub async fn flush_endpoints(&self) -> Result<(), Error> {
        self.order(Command::flush_endpoints()).await
    }

    /// Changes the flags of an endpoint, by its address or number: backup or not, full mesh or not.
    pub async fn set_endpoint_flags(&self, endpoint: &Endpoint) -> Result<(), Error> {
        self.order(Command::set_endpoint_flags(endpoint)).await
    }

    /// How much the kernel's path manager does for each connection.
    pub async fn limits(&self) -> Result<Limits, Error> {
        let command = Command::limits();
        let doing = command.doing.clone();
        let answers = self.ask(command).await?;
        let answer = answers.first().ok_or(Error::Answer {
            doing,
            what: "it is empty",
        })?;
        let mut limits = Limits::default();
        for (kind, value) in attribute::read(&answer.attributes) {
            match kind {
                attr::RCV_ADD_ADDRS => limits.accepted_addresses = attribute::to_u32(value).unwrap_or(0),
                attr::SUBFLOWS => limits.subflows = attribute::to_u32(value).unwrap_or(0),
                _ => {}
            }
        }
        Ok(limits)
    }

    /// Sets the limits.
    pub async fn set_limits(&self, limits: Limits) -> Result<(), Error> {
        self.order(Command::set_limits(limits)).await
    }

    // ---- one connection (net.mptcp.path_manager=userspace) -----------------------------------------------

    /// Announces an address to the peer (ADD_ADDR). `endpoint.id` must be a number that the connection does not use yet.
    pub async fn announce(&self, token: Token, endpoint: &Endpoint) -> Result<(), Error> {
        self.order(Command::announce(token, endpoint)?).await
    }

    /// Takes an announced address back (REMOVE_ADDR). The peer ends its subflows to it.
    pub async fn remove(&self, token: Token, id: u8) -> Result<(), Error> {
        self.order(Command::remove(token, id)).await
    }

    /// Opens a subflow from a local address (its `port` and `interface` as far as they are given, its `id` a number that the connection
    /// does not use yet or 0, a backup if so flagged) to an endpoint of the peer. Returns when the SYN is on its way;
    /// [`Event::SubflowEstablished`](crate::Event::SubflowEstablished) tells that it has joined.
    pub async fn create_subflow(
        &self,
        token: Token,
        local: &Endpoint,
        remote: SocketAddr,
    ) -> Result<(), Error> {
        self.order(Command::create_subflow(token, local, remote)?).await
    }

    /// Ends a subflow at once. What it has not delivered goes over the others.
    pub async fn destroy_subflow(
        &self,
        token: Token,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<(), Error> {
        self.order(Command::destroy_subflow(token, local, remote)).await
    }

    /// Makes one subflow of one connection a backup, or active, and tells the peer (MP_PRIO). A subflow is a backup as long as
    /// either end says so: what the peer has asked for, only the peer can take back.
    pub async fn set_backup(
        &self,
        token: Token,
        local: SocketAddr,
        remote: SocketAddr,
        backup: bool,
    ) -> Result<(), Error> {
        self.order(Command::set_backup(token, local, remote, backup))
            .await
    }
}
