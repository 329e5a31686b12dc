//! Requests of the REST API that the node answers.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::config::AgentConfig;
use crate::peers::{VoteAnswer, Withdrawal};
use crate::rest::Ask;
use crate::run::Agent;
use mrg_election::Event;
use mrg_election::watch_order::WatchInput;

type Reply<T> = oneshot::Sender<Result<T, String>>;

/// How many requests for a vote may wait. While etcd does not answer they do, and so do what the
/// node and the order of reads remember of them.
const VOTES_MOST: usize = 1_000;

/// Requests that wait for the node's answer, by the number that the node knows them by.
#[derive(Default)]
pub(super) struct Replies {
    last: u64,
    votes: BTreeMap<u64, Reply<VoteAnswer>>,
    promises: BTreeMap<u64, Reply<()>>,
}

impl Replies {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The number of a request for a vote, which is answered at once if too many wait.
    fn vote(&mut self, answer: Reply<VoteAnswer>) -> Option<u64> {
        if self.votes.len() >= VOTES_MOST {
            let _ = answer.send(Err("too many requests for a vote wait for etcd".to_owned()));
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

    pub(super) fn take_vote(&mut self, number: u64) -> Option<Reply<VoteAnswer>> {
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
            Ask::Reload(new) => self.reloaded(*new).await,
            Ask::Vote(answer) => self.vote_requested(answer).await,
            Ask::Withdraw(Withdrawal { lease, round }) => {
                self.event(Event::PromiseWithdrawn { lease, round }).await;
            }
            Ask::Promise(request, answer) => self.promise_requested(request, answer).await,
        }
    }

    /// Takes over what has its effect at once; PostgreSQL's verdict on the parameters follows.
    async fn reloaded(&mut self, new: AgentConfig) {
        self.ignored = new.ignored;
        self.audited = None;
        self.context.server.set_local(new.parameters, new.hba);
        let snapshot = self.snapshot.clone();
        self.configure(&snapshot).await;
    }

    /// The last snapshot may be older than what the candidate knows: a vote waits for a read, unless
    /// there is no leader in that snapshot.
    async fn vote_requested(&mut self, answer: Reply<VoteAnswer>) {
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
