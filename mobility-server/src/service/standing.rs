//! Members' standing: certificates are renewed, and those that were revoked are put out.

use identity::{Member, Validity};
use migration::server::AgentName;
use proto::mobility::v1 as pb;
use tonic::Status;

use super::Shared;
use crate::config::Config;
use crate::convert;

/// Members in one question about their standing, at most.
const MAX_MEMBERS: usize = 4096;

impl Shared {
    /// A new certificate for the caller's own key.
    pub(super) async fn renew(
        &self,
        member: &Member,
        request: &pb::RenewRequest,
    ) -> Result<pb::RenewResponse, Status> {
        let validity = Validity::from_now(Config::seconds(self.config.timeouts.certificate));
        let signed = self
            .authority
            .sign(&request.certificate_request, member.role, &member.name, validity)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        // Another key would be another member: one that nobody has let in, and that outlives a revocation of this one.
        if signed.member.uri != member.uri {
            self.counters.refuse("renewal_of_another_key");
            return Err(Status::permission_denied(
                "a renewal is for the key of the caller; another key enrols with a token",
            ));
        }
        self.members
            .note(&signed.member)
            .await
            .map_err(|error| self.store_failed(&error))?;
        self.counters.count("renewals");
        Ok(pb::RenewResponse {
            certificate: signed.certificate_pem,
            authority: self.authority.certificate_pem().to_owned(),
        })
    }

    /// Which of these members were revoked.
    pub(super) fn standing(&self, request: pb::StandingRequest) -> Result<pb::StandingResponse, Status> {
        let mut members = request.members;
        if members.len() > MAX_MEMBERS {
            return Err(Status::invalid_argument("more than 4096 members in one question"));
        }
        members.retain(|uri| self.members.is_revoked(uri));
        Ok(pb::StandingResponse { revoked: members })
    }

    /// Ends the streams of a member that was revoked, and tells whoever attends and has named it. Returns how many
    /// streams ended.
    pub(super) fn put_out(&self, uri: &str) -> usize {
        let revoked = AgentName(uri.to_owned());
        for stream in self.registry.all() {
            if stream.agent != revoked && stream.said().pairs.iter().any(|key| key.names.contains(&revoked)) {
                stream.push(convert::revoked_message(uri));
            }
        }
        self.registry.expel(uri)
    }

    /// Reads what other instances have revoked. Those that are known stay when the store does not answer.
    pub async fn look_for_revocations(&self) {
        match self.members.refresh().await {
            Ok(new) => new.iter().for_each(|uri| {
                self.put_out(uri);
            }),
            Err(error) => tracing::warn!(%error, "revocations could not be read; those that are known stay"),
        }
    }
}
