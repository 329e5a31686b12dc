//! What a member says to the others: promises to keep quiet, and votes.

use std::collections::VecDeque;

use super::Node;
use crate::action::Action;
use crate::event::{Effect, PromiseRequest, VoteRefusal};
use crate::lease::{LeaseId, Promise};
use crate::mutant::bug;
use crate::reason::Reason;
use crate::rules::{decide, would_lead};
use crate::view::{LeaderKey, Poll, Postgres, Standby};
use mrg_base::{Millis, Moment};

/// The longest promise to a leader of other settings: one that asks for more would silence this
/// member for good.
const PROMISE_MOST: Millis = Millis::seconds(600);

impl Node {
    /// Gives a promise to keep quiet, or says why not.
    pub(super) fn promise(
        &mut self,
        now: Moment,
        request: &PromiseRequest,
    ) -> Result<Promise, String> {
        if !self.settings.failover.failsafe {
            return Err("failsafe_mode is off".to_owned());
        }
        let most = self.settings.failover.ttl.max(PROMISE_MOST);
        if request.ttl > most {
            return Err(format!(
                "{} is longer than this member would keep quiet for: {most}",
                request.ttl
            ));
        }
        if self.postgres_is_primary() || self.view(now).holds_key() {
            return Err("Running as a leader".to_owned());
        }
        let racing = self.race.is_some()
            || self
                .running
                .as_ref()
                .is_some_and(|running| matches!(running.reason, Reason::Race | Reason::Win));
        if racing && !bug!(PromisesWhileRacing) {
            return Err("taking part in an election".to_owned());
        }
        let key = self.dcs.last().and_then(|cluster| cluster.leader.as_ref());
        let theirs = |key: &LeaderKey| {
            request
                .lease
                .map_or(key.member == request.leader, |lease| lease == key.lease)
        };
        if !key.is_some_and(theirs) && !bug!(PromisesWithoutKey) {
            return Err("the leader key is not yours, as far as this member knows".to_owned());
        }
        let lease = request
            .lease
            .or(key.map(|key| key.lease))
            .unwrap_or(LeaseId(0));
        if self.view(now).is_promised()
            && self
                .memory
                .promised
                .is_some_and(|promise| promise.lease != lease)
        {
            return Err("promised to another leader".to_owned());
        }
        let promise = Promise {
            lease,
            until: now + request.ttl,
            round: request.round,
        };
        self.memory.promised = (!bug!(PromiseForgotten)).then_some(promise);
        Ok(promise)
    }

    /// Asks for promises when a keepalive went unanswered and the leader still has time.
    pub(super) fn ask_promises(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let may_write = self.view(now).may_write();
        if !self.settings.failover.failsafe || !self.postgres_is_primary() || !may_write {
            return;
        }
        let Some(members) = self.view(now).electors() else {
            return;
        };
        let failing = self.keeper.is_failing();
        let Some(round) = failing.then(|| self.rounds.open(now)).flatten() else {
            return;
        };
        let until = self.fence.unwrap_or(now);
        let within = Millis(until.since(now).0 / 2);
        let members = members.into_iter().collect();
        effects.push(Effect::AskPromises {
            round,
            members,
            within,
        });
    }

    /// Answers those who asked for our vote, once our WAL receiver is stopped; stops it if nothing
    /// else is in the way.
    pub(super) fn answer_votes(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.pending_votes.is_empty() {
            return;
        }
        let view = self.view(now);
        let key = self.dcs.last().and_then(|cluster| cluster.leader.as_ref());
        let foreign =
            |standby: &Standby| view.system_id() != Some(standby.system_id) && !bug!(ForeignVotes);
        let refuse = |why: String| Some(Err(VoteRefusal::Other(why)));
        let answer = if matches!(&self.postgres, Postgres::Standby(standby) if foreign(standby)) {
            refuse("its data is not known to be this cluster's".to_owned())
        } else if view.is_promised() {
            refuse("a promise to the leader still holds".to_owned())
        } else if view.may_have_promised() {
            refuse("started less than one ttl ago, without a record of promises".to_owned())
        } else if let Some(key) = key {
            refuse(format!("{} holds the leader key", key.member))
        } else if view.memory.reset.is_some() && !bug!(ResetIgnored) {
            Some(Err(VoteRefusal::DcsReset))
        } else if let Some(race) = &self.race {
            let racing =
                would_lead(decide(&view).reason) || race.votes.is_none() && self.running.is_some();
            let willing =
                racing && (self.memory.poll != Poll::TooFew || bug!(HopelessCandidateInsists));
            Some(Ok((
                race.position,
                self.memory.priority.filter(|_| willing),
            )))
        } else {
            match &self.postgres {
                Postgres::Standby(standby) if bug!(VoterKeepsReceiver) => {
                    standby.position.map(|position| Ok((position, None)))
                }
                Postgres::Standby(standby) if standby.position.is_some() => None,
                Postgres::Unknown => None,
                _ => refuse("not a standby that knows its position".to_owned()),
            }
        };
        if let Some(answer) = answer {
            effects.extend(
                self.pending_votes
                    .drain(..)
                    .map(|reply| Effect::AnswerVote(reply, answer.clone())),
            );
        } else if self.running.is_none() && matches!(self.postgres, Postgres::Standby(_)) {
            self.perform(
                now,
                Reason::Race,
                Action::StopReceiver,
                VecDeque::new(),
                effects,
            );
        }
    }
}
