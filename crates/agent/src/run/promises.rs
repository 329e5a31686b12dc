//! Promises of the failsafe mode: this member's own, and those it asks the others for.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use crate::context::Context;
use crate::peers::{Error as PeerError, FailsafeRequest, Withdrawal};
use crate::perform::write_failsafe;
use crate::run::Agent;
use mrg_base::{MemberName, Millis, Moment};
use mrg_election::{Event, Promise, PromiseRequest, Revision};
use mrg_telemetry::chain;

impl Agent {
    /// Without a record this member has not promised anything for one ttl after its start. From then
    /// on there is a record, and a restart costs no wait.
    pub(super) fn begin_promise_record(&mut self, now: Moment) {
        let ttl = self.context.status().settings.failover.ttl;
        if self.has_promise_record || now.since(self.started) < ttl {
            return;
        }
        self.has_promise_record = true;
        let record = self.recorder.record(None, self.context.dcs_within());
        tokio::spawn(async move {
            if let Err(error) = record.await {
                tracing::warn!(
                    error = chain(&error),
                    "the record of promises cannot be written; after a restart this member keeps quiet for one ttl"
                );
            }
        });
    }

    /// Takes a leader's request for a promise to the node.
    pub(super) async fn promise_requested(
        &mut self,
        request: FailsafeRequest,
        answer: oneshot::Sender<Result<(), String>>,
    ) {
        let Ok(leader) = MemberName::new(&request.name) else {
            let _ = answer.send(Err("the request names no member".to_owned()));
            return;
        };
        let reply = self.replies.promise(answer);
        let ttl = self.context.status().settings.failover.ttl;
        self.event(Event::PromiseAsked(PromiseRequest {
            reply,
            leader,
            lease: request.lease,
            ttl: request.ttl_ms.unwrap_or(ttl),
            round: request.round,
        }))
        .await;
    }

    /// Answers a request for a promise; a promise is recorded before.
    pub(super) fn answer_promise(&mut self, reply: u64, answer: Result<Promise, String>) {
        let Some(waiting) = self.replies.take_promise(reply) else {
            return;
        };
        let within = self.context.dcs_within();
        let record = answer.map(|promise| self.recorder.record(Some(promise), within));
        tokio::spawn(async move {
            let answer = match record {
                Ok(record) => record
                    .await
                    .map_err(|error| format!("the promise cannot be recorded: {}", chain(&error))),
                Err(refusal) => Err(refusal),
            };
            let _ = waiting.send(answer);
        });
    }

    /// Asks the members to promise not to race.
    pub(super) fn ask_promises(&self, round: u64, members: Vec<MemberName>, timeout: Millis) {
        let (context, events) = (self.context.clone(), self.events.clone());
        let config = &context.config;
        let request = FailsafeRequest {
            name: config.name.to_string(),
            conn_url: format!("postgres://{}/postgres", config.connect),
            api_url: config.api_url(),
            ttl_ms: Some(context.status().settings.failover.ttl),
            lease: self.node.lease().map(|lease| lease.id),
            round,
        };
        tokio::spawn(async move {
            let asked = mrg_clock::now();
            let all = all_promise(&context, &request, &members, timeout).await;
            let _ = events.send(Event::Promises { round, asked, all }).await;
        });
    }

    /// Frees the members of their promises. Best effort: a promise also ends by itself.
    pub(super) fn withdraw_promises(&self, members: Vec<MemberName>, round: u64) {
        let Some(lease) = self.node.lease().map(|lease| lease.id) else {
            return;
        };
        let context = self.context.clone();
        tokio::spawn(async move {
            let withdrawal = Withdrawal { lease, round };
            let timeout = context.dcs_within();
            let requests = members
                .iter()
                .map(|member| context.peers.withdraw(member, &withdrawal, timeout));
            futures::future::join_all(requests).await;
        });
    }

    /// Writes the failsafe membership; `over` is the revision that it replaces.
    pub(super) fn write_failsafe(
        &self,
        over: Option<Revision>,
        members: Option<BTreeSet<MemberName>>,
    ) {
        let (context, events) = (self.context.clone(), self.events.clone());
        let Some(lease) = self.node.lease().map(|lease| lease.id) else {
            return;
        };
        let snapshot = self.snapshot.clone();
        tokio::spawn(async move {
            let written = write_failsafe(&context, &snapshot, lease, over, members).await;
            let _ = events.send(Event::FailsafeWritten(written)).await;
        });
    }
}

/// Whether all of the members promise.
async fn all_promise(
    context: &Context,
    request: &FailsafeRequest,
    members: &[MemberName],
    timeout: Millis,
) -> bool {
    let requests = members
        .iter()
        .map(|member| context.peers.failsafe(member, request, timeout.duration()));
    let answers: Vec<Result<(), PeerError>> = futures::future::join_all(requests).await;
    let refusals: Vec<String> = answers
        .iter()
        .filter_map(|answer| answer.as_ref().err().map(|error| chain(error)))
        .collect();
    if refusals.is_empty() {
        tracing::warn!(
            members = members.len(),
            "etcd does not answer; all members promised to wait, so this leader goes on"
        );
    } else {
        tracing::warn!(
            ?refusals,
            "etcd does not answer and not all members promised to wait; the fence stands"
        );
    }
    refusals.is_empty()
}
