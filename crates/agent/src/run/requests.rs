//! Requests of the REST API that the node answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::config::AgentConfig;
use crate::peers::{VoteAnswer, Withdrawal};
use crate::rest::Ask;
use crate::run::Agent;
use mrg_election::watch_order::WatchInput;
use mrg_election::{Event, Reason, ReinitializeObjection, VoteRefusal};

type VoteReply = oneshot::Sender<Result<VoteAnswer, VoteRefusal>>;

type Reply<T> = oneshot::Sender<Result<T, String>>;

/// How many requests for a vote may wait. While etcd does not answer they do, and so do what the
/// node and the order of reads remember of them.
const VOTES_MOST: usize = 1_000;

/// Requests that wait for the node's answer, by the number that the node knows them by.
#[derive(Default)]
pub(super) struct Replies {
    last: u64,
    votes: BTreeMap<u64, VoteReply>,
    promises: BTreeMap<u64, Reply<()>>,
}

impl Replies {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The number of a request for a vote, which is answered at once if too many wait.
    fn vote(&mut self, answer: VoteReply) -> Option<u64> {
        if self.votes.len() >= VOTES_MOST {
            let _ = answer.send(Err(VoteRefusal::Other(
                "too many requests for a vote wait for etcd".to_owned(),
            )));
            return None;
        }
        let number = self.next();
        self.votes.insert(number, answer);
        Some(number)
    }

    pub(super) fn promise(&mut self, answer: Reply<()>) -> u64 {
        let number = self.next();
        self.promises.insert(number, answer);
        number
    }

    pub(super) fn take_vote(&mut self, number: u64) -> Option<VoteReply> {
        self.votes.remove(&number)
    }

    pub(super) fn take_promise(&mut self, number: u64) -> Option<Reply<()>> {
        self.promises.remove(&number)
    }
}

impl Agent {
    pub(super) async fn requested(&mut self, ask: Ask) {
        match ask {
            Ask::Restart => self.event(Event::RestartRequested).await,
            Ask::Reinitialize { forced, answer } => {
                // One that does not wait any more has timed out.
                let _ = answer.send(self.reinitialize_requested(forced).await);
            }
            Ask::Reload(new) => self.reloaded(*new).await,
            Ask::Vote(answer) => self.vote_requested(answer).await,
            Ask::Withdraw(Withdrawal { lease, round }) => {
                self.event(Event::PromiseWithdrawn { lease, round }).await;
            }
            Ask::Promise(request, answer) => self.promise_requested(request, answer).await,
        }
    }

    /// Begins a fresh copy, or says why not, in Patroni's words where it has any.
    async fn reinitialize_requested(&mut self, forced: bool) -> Result<(), String> {
        let status = self.context.status();
        if !status.dcs_reachable {
            return Err("etcd does not answer, can not reinitialize".to_owned());
        }
        let objection = self.node.reinitialize_objection(mrg_clock::now(), forced);
        if let Some(objection) = objection {
            let text = match objection {
                ReinitializeObjection::NoLeader => "Cluster has no leader, can not reinitialize",
                ReinitializeObjection::Leads => "I am the leader, can not reinitialize",
                ReinitializeObjection::InProgress => "reinitialize already in progress",
            };
            return Err(text.to_owned());
        }
        // What is not known to be this cluster's is a person's to move away.
        if status.why == Some(Reason::WrongSystem) {
            return Err(Reason::WrongSystem.sentence().to_owned());
        }
        if let Some(why) = self.context.server.unusable_data()
            && !self.context.server.is_recorded()
        {
            return Err(why);
        }
        self.context
            .update(|status| status.reinitialize_failure = None);
        self.event(Event::ReinitializeRequested).await;
        Ok(())
    }

    /// Takes over what has its effect at once; PostgreSQL's verdict on the parameters follows.
    async fn reloaded(&mut self, new: AgentConfig) {
        let rest = new.rest_credentials.as_ref();
        let credentials = &self.context.credentials;
        let changed = credentials.replace(&new.authentication, rest, mrg_clock::now());
        if !changed.is_empty() {
            tracing::info!(of = changed.join(", "), "passwords in the file changed");
        }
        let priority = new.priority();
        self.ignored = new.ignored;
        self.audited = None;
        self.context
            .update(|status| status.tags = Arc::new(new.tags));
        self.context.server.set_local(new.parameters, new.hba);
        self.event(Event::Priority(priority)).await;
        let snapshot = self.snapshot.clone();
        self.configure(&snapshot).await;
    }

    /// The last snapshot may be older than what the candidate knows: a vote waits for a read, unless
    /// there is no leader in that snapshot.
    async fn vote_requested(&mut self, answer: VoteReply) {
        let Some(reply) = self.replies.vote(answer) else {
            return;
        };
        let outputs = self.order.on(WatchInput::VoteAsked { reply });
        self.follow(outputs).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_for_a_vote_that_etcd_leaves_unanswered_do_not_pile_up() {
        let mut replies = Replies::default();
        let numbers: Vec<u64> = (0..VOTES_MOST)
            .filter_map(|_| replies.vote(oneshot::channel().0))
            .collect();
        assert_eq!(numbers.len(), VOTES_MOST);
        let (answer, mut refused) = oneshot::channel();
        assert_eq!(replies.vote(answer), None);
        assert!(refused.try_recv().unwrap().is_err());
        replies.take_vote(numbers[0]);
        assert!(replies.vote(oneshot::channel().0).is_some());
    }
}
