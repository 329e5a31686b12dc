//! Requests to the other members' REST API.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::credentials::OwnCredentials;
use mrg_base::{Lsn, MemberName, Millis, Position};
use mrg_election::{LeaseId, Vote};
use mrg_postgres::Credentials;

/// The response to `POST /mrg/vote`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VoteAnswer {
    /// The end of durable WAL, with the WAL receiver stopped.
    pub position: Position,
    /// The failover priority; `None` if the member must not lead.
    pub priority: Option<i32>,
}

/// The body of `POST /failsafe`: Patroni's, with the ttl, the lease and the round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FailsafeRequest {
    /// The leader's name.
    pub name: String,
    /// The URL of its postgres.
    #[serde(default)]
    pub conn_url: String,
    /// The URL of its REST API.
    #[serde(default)]
    pub api_url: String,
    /// How long not to race, in milliseconds; the cluster's ttl if `None`.
    #[serde(default)]
    pub ttl_ms: Option<Millis>,
    /// The leader's lease.
    #[serde(default)]
    pub lease: Option<LeaseId>,
    /// The promise round: the leader's count of such requests.
    #[serde(default)]
    pub round: u64,
}

/// The body of `POST /mrg/withdraw`: the leader does not rely on promises up to a round any more.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Withdrawal {
    /// The leader's lease.
    pub lease: LeaseId,
    /// The last promise round that the leader gives up.
    pub round: u64,
}

/// A request that was not answered with success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the address of {0} is not known")]
    NoAddress(MemberName),
    #[error("{member} does not answer")]
    Request {
        member: MemberName,
        source: reqwest::Error,
    },
    /// Another HTTP status than success, or a body that is not what it should be.
    #[error("{member} answered {status}: {body}")]
    Refused {
        member: MemberName,
        status: u16,
        body: String,
    },
}

/// The other members, by the last known address.
pub(crate) struct Peers {
    client: reqwest::Client,
    addresses: RwLock<BTreeMap<MemberName, String>>,
    credentials: Arc<OwnCredentials>,
}

impl Peers {
    /// No member is known yet. Every member's REST API has the same credentials.
    pub(crate) fn new(credentials: Arc<OwnCredentials>) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_millis(800))
            .tcp_nodelay(true)
            .build()?;
        Ok(Self {
            client,
            addresses: RwLock::new(BTreeMap::new()),
            credentials,
        })
    }

    /// Adds or changes the base URLs of REST APIs. Members that are gone keep their last one: they
    /// may be asked for a vote or a promise all the same.
    pub(crate) fn learn(&self, addresses: BTreeMap<MemberName, String>) {
        self.addresses
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(addresses);
    }

    fn address(&self, member: &MemberName) -> Result<String, Error> {
        let addresses = self
            .addresses
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        addresses
            .get(member)
            .cloned()
            .ok_or_else(|| Error::NoAddress(member.clone()))
    }

    /// Sends a request. While the password changes, a member that does not have the new one yet is
    /// shown the one before.
    async fn send(
        &self,
        member: &MemberName,
        request: reqwest::RequestBuilder,
        timeout: Duration,
    ) -> Result<String, Error> {
        let request = request.timeout(timeout);
        let Some((current, former)) = self.credentials.rest(mrg_clock::now()) else {
            return answer(member, request).await;
        };
        let again = former.zip(request.try_clone());
        match (answer(member, authorized(request, &current)).await, again) {
            (Err(Error::Refused { status: 401, .. }), Some((former, request))) => {
                answer(member, authorized(request, &former)).await
            }
            (answered, _) => answered,
        }
    }

    /// Requests a member's vote, which stops its WAL receiver.
    pub(crate) async fn vote(&self, member: &MemberName, timeout: Duration) -> Result<Vote, Error> {
        let url = format!("{}/mrg/vote", self.address(member)?);
        let body = self.send(member, self.client.post(url), timeout).await?;
        let refused = |error: serde_json::Error| Error::Refused {
            member: member.clone(),
            status: 200,
            body: error.to_string(),
        };
        let answer: VoteAnswer = serde_json::from_str(&body).map_err(refused)?;
        Ok(Vote {
            member: member.clone(),
            position: answer.position,
            candidate: answer.priority,
        })
    }

    /// Returns once a member has received the WAL past this position.
    pub(crate) async fn received(
        &self,
        member: &MemberName,
        lsn: Lsn,
        timeout: Duration,
    ) -> Result<(), Error> {
        let url = format!(
            "{}/mrg/received?lsn={}&within_ms={}",
            self.address(member)?,
            lsn.0,
            timeout.as_millis()
        );
        self.send(
            member,
            self.client.get(url),
            timeout + Duration::from_millis(200),
        )
        .await
        .map(|_| ())
    }

    /// Requests a member's promise not to race.
    pub(crate) async fn failsafe(
        &self,
        member: &MemberName,
        request: &FailsafeRequest,
        timeout: Duration,
    ) -> Result<(), Error> {
        let url = format!("{}/failsafe", self.address(member)?);
        self.send(member, self.client.post(url).json(request), timeout)
            .await
            .map(|_| ())
    }

    /// Frees a member of its promise. A promise also ends by itself.
    pub(crate) async fn withdraw(
        &self,
        member: &MemberName,
        withdrawal: &Withdrawal,
        timeout: Duration,
    ) -> Result<(), Error> {
        let url = format!("{}/mrg/withdraw", self.address(member)?);
        self.send(member, self.client.post(url).json(withdrawal), timeout)
            .await
            .map(|_| ())
    }
}

fn authorized(request: reqwest::RequestBuilder, user: &Credentials) -> reqwest::RequestBuilder {
    request.basic_auth(&user.username, Some(&user.password))
}

async fn answer(member: &MemberName, request: reqwest::RequestBuilder) -> Result<String, Error> {
    let failed = |source| Error::Request {
        member: member.clone(),
        source,
    };
    let answer = request.send().await.map_err(failed)?;
    let status = answer.status();
    let body = answer.text().await.map_err(failed)?;
    if status.is_success() {
        Ok(body)
    } else {
        Err(Error::Refused {
            member: member.clone(),
            status: status.as_u16(),
            body,
        })
    }
}
