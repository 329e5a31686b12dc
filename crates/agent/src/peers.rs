//! Requests to the other members' REST API.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::credentials::OwnCredentials;
use mrg_base::{Lsn, MemberName, Millis, Position};
use mrg_bounds::BodyError;
use mrg_election::{LeaseId, Vote};
use mrg_postgres::Credentials;

/// No answer of a member is longer; bytes.
const ANSWER_BYTES: usize = 64 << 10;
/// How much of an answer is said in an error; characters.
const EXCERPT: usize = 300;
/// Shorter than the other side keeps a connection without a request, so that it is not closed just
/// when the next request is sent.
const IDLE: Duration = Duration::from_secs(10);

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
    #[error("the answer of {member} cannot be read")]
    Body {
        member: MemberName,
        source: BodyError,
    },
    /// Another HTTP status than success, or a body that is not what it should be. `body` is an
    /// excerpt.
    #[error("{member} answered {status}: {body}")]
    Refused {
        member: MemberName,
        status: u16,
        body: String,
    },
}

impl Error {
    /// Whether the member knows that etcd went back in time.
    pub(crate) fn is_dcs_reset(&self) -> bool {
        matches!(self, Error::Refused { status, .. } if *status == DCS_RESET)
    }
}

/// How `POST /mrg/vote` says [`mrg_election::VoteRefusal::DcsReset`]: precondition failed.
const DCS_RESET: u16 = 412;

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
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            // A member's address is where it is: no answer sends us elsewhere, and no proxy of the
            // environment stands in between.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
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
    ) -> Result<Bytes, Error> {
        let request = request.timeout(timeout);
        let Some((current, former)) = self.credentials.rest(mrg_clock::now()) else {
            return answer(member, request, timeout).await;
        };
        let again = former.zip(request.try_clone());
        match (
            answer(member, authorized(request, &current), timeout).await,
            again,
        ) {
            (Err(Error::Refused { status: 401, .. }), Some((former, request))) => {
                answer(member, authorized(request, &former), timeout).await
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
        let answer: VoteAnswer = serde_json::from_slice(&body).map_err(refused)?;
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

async fn answer(
    member: &MemberName,
    request: reqwest::RequestBuilder,
    timeout: Duration,
) -> Result<Bytes, Error> {
    let failed = |source| Error::Request {
        member: member.clone(),
        source,
    };
    let answer = request.send().await.map_err(failed)?;
    let status = answer.status();
    let body = mrg_bounds::read(reqwest::Body::from(answer), ANSWER_BYTES, timeout).await;
    let body = body.map_err(|source| Error::Body {
        member: member.clone(),
        source,
    })?;
    if status.is_success() {
        Ok(body)
    } else {
        Err(Error::Refused {
            member: member.clone(),
            status: status.as_u16(),
            body: excerpt(&body),
        })
    }
}

/// The beginning of a text from outside, for an error's sentence.
fn excerpt(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let printable = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.chars().take(EXCERPT).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::{StatusCode, header};
    use axum::response::IntoResponse;
    use axum::routing::post;
    use tokio::net::TcpListener;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(30);

    fn name() -> MemberName {
        MemberName::new("b").unwrap()
    }

    /// Asks a member whose REST API is this router for its vote.
    async fn vote_of(router: Router) -> Result<Vote, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let peers = Peers::new(OwnCredentials::of_rest(None)).unwrap();
        peers.learn([(name(), format!("http://{address}"))].into());
        peers.vote(&name(), WITHIN).await
    }

    #[tokio::test]
    async fn an_answer_that_is_too_long_is_not_read() {
        let answer = "x".repeat(ANSWER_BYTES + 1);
        let router = Router::new().route("/mrg/vote", post(|| async { answer }));
        let refused = vote_of(router).await.unwrap_err();
        assert!(matches!(refused, Error::Body { .. }), "{refused}");
    }

    #[tokio::test]
    async fn an_answer_that_sends_elsewhere_is_a_refusal() {
        let vote = r#"{"position":{"timeline":1,"flushed":7},"priority":1}"#;
        let moved = (
            StatusCode::TEMPORARY_REDIRECT,
            [(header::LOCATION, "/there")],
        );
        let router = Router::new()
            .route("/mrg/vote", post(|| async move { moved.into_response() }))
            .route("/there", post(move || async move { vote }));
        let refused = vote_of(router).await.unwrap_err();
        assert!(
            matches!(refused, Error::Refused { status: 307, .. }),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn a_refusal_is_said_in_few_words_and_without_control_characters() {
        let words = format!("no\u{1b}[2J {}", "x".repeat(5000));
        let router = Router::new().route(
            "/mrg/vote",
            post(|| async { (StatusCode::CONFLICT, words) }),
        );
        let refused = vote_of(router).await.unwrap_err().to_string();
        assert!(refused.starts_with("b answered 409: no [2J x"), "{refused}");
        assert!(refused.len() < 400, "{refused}");
    }
}
