//! Enrolment: a certificate for who holds a token. The only thing a stranger can ask.

use std::sync::Arc;

use identity::{EnrolmentToken, Validity};
use proto::mobility::v1 as pb;
use tonic::{Request, Response, Status};

use super::{Shared, caller};
use crate::config::Config;
use crate::members;

pub(super) struct EnrolmentService(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl pb::enrolment_server::Enrolment for EnrolmentService {
    async fn enrol(&self, request: Request<pb::EnrolRequest>) -> Result<Response<pb::EnrolResponse>, Status> {
        let shared = &self.0;
        let from = caller(&request)?.observed;
        if !shared.limiter.allows_enrolment(from.address) {
            shared.counters.refuse("enrolment_limit");
            return Err(Status::resource_exhausted(
                "too many enrolments from here; wait a minute",
            ));
        }
        let request = request.into_inner();
        // Whatever is wrong with a token, a stranger hears the same.
        let refused = || {
            shared.counters.refuse("token");
            Status::permission_denied(
                "the token is not valid, used up or expired; ask the operator for another",
            )
        };
        let token: EnrolmentToken = request.token.parse().map_err(|_| refused())?;
        let spent = members::spend_token(&shared.store, &token).await;
        let allowed = spent
            .map_err(|error| shared.store_failed(&error))?
            .ok_or_else(refused)?;
        let name = match allowed.name.as_str() {
            "" => &request.name,
            fixed => fixed,
        };
        let validity = Validity::from_now(Config::seconds(shared.config.timeouts.certificate));
        let signed = shared
            .authority
            .sign(
                &request.certificate_request,
                members::role_of(&allowed),
                name,
                validity,
            )
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if shared.members.is_revoked(&signed.member.uri) {
            return Err(Status::permission_denied("this key was revoked; make a new one"));
        }
        shared
            .members
            .note(&signed.member)
            .await
            .map_err(|error| shared.store_failed(&error))?;
        shared.counters.count("enrolments");
        tracing::info!(member = %signed.member.uri, name, %from, "enrolled");
        Ok(Response::new(pb::EnrolResponse {
            certificate: signed.certificate_pem,
            authority: shared.authority.certificate_pem().to_owned(),
            servers: shared.config.servers.clone(),
        }))
    }
}
