//! Requests to the other members' REST API.

use std::collections::BTreeMap;
use std::sync::RwLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use mrg_base::{Lsn, MemberName, Millis, Position};
use mrg_election::{LeaseId, Vote};
use mrg_postgres::Credentials;

/// A vote as it travels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VoteAnswer {
    /// The position, with the WAL receiver stopped.
    pub position: Position,
    /// The priority, if the member would lead.
    pub priority: Option<i32>,
}

/// The body of `POST /failsafe`: Patroni's, with the ttl and the lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FailsafeRequest {
    /// The leader.
    pub name: String,
    /// Where its postgres is.
    #[serde(default)]
    pub conn_url: String,
    /// Where its REST API is.
    #[serde(default)]
    pub api_url: String,
    /// For how long not to race; milliseconds.
    #[serde(default)]
    pub ttl_ms: Option<Millis>,
    /// The leader's lease.
    #[serde(default)]
    pub lease: Option<LeaseId>,
    /// The leader's count of the times it asked.
    #[serde(default)]
    pub round: u64,
}

/// The body of `POST /mrg/withdraw`: a leader does not count on promises up to this round any more.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Withdrawal {
    /// The leader's lease.
    pub lease: LeaseId,
    /// The round.
    pub round: u64,
}

/// A request that was not answered with success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The member's address is not known.
    #[error("the address of {0} is not known")]
    NoAddress(MemberName),
    /// No answer.
    #[error("{member} does not answer")]
    Request {
        /// Which member.
        member: MemberName,
        /// Why.
        source: reqwest::Error,
    },
    /// Another answer than success.
    #[error("{member} answered {status}: {body}")]
    Refused {
        /// Which member.
        member: MemberName,
        /// The HTTP status.
        status: u16,
        /// What it said.
        body: String,
    },
}

/// The other members, by the last known address.
pub(crate) struct Peers {
    client: reqwest::Client,
    addresses: RwLock<BTreeMap<MemberName, String>>,
    credentials: Option<Credentials>,
}

impl Peers {
    /// Nobody is known yet.
    pub(crate) fn new(credentials: Option<Credentials>) -> Result<Self, reqwest::Error> {
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

    /// Learns addresses. Members that are gone keep their last one: they may be asked for a vote or
    /// a promise all the same.
    pub(crate) fn learn(&self, addresses: BTreeMap<MemberName, String>) {
        self.addresses
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .extend(addresses);
    }

    fn address(&self, member: &MemberName) -> Result<String, Error> {
        let addresses = self
            .addresses
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        addresses
            .get(member)
            .cloned()
            .ok_or_else(|| Error::NoAddress(member.clone()))
    }

    async fn send(
        &self,
        member: &MemberName,
        request: reqwest::RequestBuilder,
        within: Duration,
    ) -> Result<String, Error> {
        let request = match &self.credentials {
            Some(user) => request.basic_auth(&user.username, Some(&user.password)),
            None => request,
        };
        let failed = |source| Error::Request {
            member: member.clone(),
            source,
        };
        let answer = request.timeout(within).send().await.map_err(failed)?;
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

    /// Asks a member for its position, which stops its WAL receiver.
    pub(crate) async fn vote(&self, member: &MemberName, within: Duration) -> Result<Vote, Error> {
        let url = format!("{}/mrg/vote", self.address(member)?);
        let body = self.send(member, self.client.post(url), within).await?;
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
        within: Duration,
    ) -> Result<(), Error> {
        let url = format!(
            "{}/mrg/received?lsn={}&within_ms={}",
            self.address(member)?,
            lsn.0,
            within.as_millis()
        );
        self.send(
            member,
            self.client.get(url),
            within + Duration::from_millis(200),
        )
        .await
        .map(|_| ())
    }

    /// Asks a member not to race.
    pub(crate) async fn failsafe(
        &self,
        member: &MemberName,
        request: &FailsafeRequest,
        within: Duration,
    ) -> Result<(), Error> {
        let url = format!("{}/failsafe", self.address(member)?);
        self.send(member, self.client.post(url).json(request), within)
            .await
            .map(|_| ())
    }

    /// Frees a member of its promise. Best effort: a promise ends by itself, too.
    pub(crate) async fn withdraw(
        &self,
        member: &MemberName,
        withdrawal: &Withdrawal,
        within: Duration,
    ) -> Result<(), Error> {
        let url = format!("{}/mrg/withdraw", self.address(member)?);
        self.send(member, self.client.post(url).json(withdrawal), within)
            .await
            .map(|_| ())
    }
}
