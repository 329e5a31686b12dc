//! Requests of the REST API that the node answers.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::peers::{VoteAnswer, Withdrawal};
use crate::rest::Ask;
use crate::run::Agent;
use mrg_dcs_etcd::WatchCommand;
use mrg_election::Event;

type Reply<T> = oneshot::Sender<Result<T, String>>;

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

    fn vote(&mut self, answer: Reply<VoteAnswer>) -> u64 {
        let number = self.next();
        self.votes.insert(number, answer);
        number
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
            Ask::Vote(answer) => self.vote_requested(answer).await,
            Ask::Withdraw(Withdrawal { lease, round }) => {
                self.event(Event::PromiseWithdrawn { lease, round }).await;
            }
            Ask::Promise(request, answer) => self.promise_requested(request, answer).await,
        }
    }

    /// The last snapshot may be older than what the candidate knows: a vote waits for a read. Without
    /// a leader in that snapshot it need not.
    async fn vote_requested(&mut self, answer: Reply<VoteAnswer>) {
        let reply = self.replies.vote(answer);
        let read = self.reads.next_for_vote(reply);
        let _ = self.commands.send(WatchCommand::Read(read)).await;
        if self.snapshot.leader_key().is_none() {
            let votes = self.reads.take_all_votes();
            self.ask_for_votes(votes).await;
        }
    }

    pub(super) async fn ask_for_votes(&mut self, replies: Vec<u64>) {
        for reply in replies {
            self.event(Event::VoteAsked { reply }).await;
        }
    }
}
