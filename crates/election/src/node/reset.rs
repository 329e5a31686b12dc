//! The DCS went back in time: it was emptied, restored from a backup, or replaced.
//!
//! What it says about leadership was true before, if ever. A primary that ran throughout knows
//! better: in the DCS as it was no other member could acquire its key before the deadline of its
//! lease, so it goes on until then and writes the cluster's keys again. All others wait for that.

use super::Node;
use super::failsafe::Listing;
use crate::action::Outcome;
use crate::event::Effect;
use crate::mutant::bug;
use crate::view::{DcsReset, DcsView, Postgres, Revision, Standby, WalReceiver};
use mrg_base::Moment;

impl Node {
    pub(super) fn note_reset(&mut self, now: Moment) {
        let view = self.view(now);
        let held = view.leased_until().filter(|_| view.holds_key());
        let held_until = held.max(view.held_until());
        self.memory.past_leases.extend(self.keeper.reset(now));
        self.memory.reset = Some(DcsReset {
            noticed: now,
            revision: None,
            evidence: None,
            held_until: held_until.map(|until| {
                if bug!(FormerKeyHoldsForEver) {
                    Moment(u64::MAX / 4)
                } else {
                    until
                }
            }),
        });
        self.memory.reset_settled = false;
        self.memory.read = Revision::default();
        self.memory.unsettled = None;
        self.memory.abandoned = None;
        self.listing = Listing::after_reset(&self.listing);
        self.dcs = DcsView::Unread;
        self.race = None;
        // The first read of the DCS of now follows, and is newer than any that was waited for.
        self.reading = false;
        self.failures = 0;
        self.idle_until = now;
        if let Some(running) = &mut self.running {
            running.overtaken = !bug!(OvertakenStepCounts);
        }
    }

    /// Whether a `config` key of this revision may be older than what was read before a reset. A
    /// primary that ran throughout writes it again as long as its former key protects it, which is
    /// less than one ttl; what is there after that is what there is.
    pub fn doubts_config(&self, now: Moment, modified: Revision) -> bool {
        self.memory.reset.is_some_and(|reset| {
            reset.revision.is_none_or(|first| modified <= first)
                && now.since(reset.noticed) < self.settings.failover.ttl
        })
    }

    /// Looks for evidence that the keys were written since the reset: by a primary that ran
    /// throughout, or by a person.
    pub(super) fn settle_reset(&mut self, now: Moment) {
        let holds_key = self.view(now).holds_key();
        let (Some(reset), DcsView::Read(cluster)) = (&mut self.memory.reset, &self.dcs) else {
            return;
        };
        let Some(first) = reset.revision else {
            return;
        };
        let leader = cluster.leader.as_ref();
        let acquired = leader.is_some_and(|key| key.created > first);
        let decided = cluster
            .sync
            .as_ref()
            .is_some_and(|(revision, _)| *revision > first);
        let ttl = self.memory.longest_ttl;
        let waited = now.since(reset.noticed);
        let late = waited >= ttl;
        // A key of before ends with its lease, which its holder does not renew any more. One that
        // outlasts it (by another ttl, for what is delivered late) was there when this member
        // noticed the reset, and is new. Only a primary that runs sends WAL.
        let outlasts = waited >= ttl.times(2);
        let streams = matches!(&self.postgres, Postgres::Standby(Standby {
            receiver: WalReceiver::Streaming,
            upstream: Some(upstream),
            ..
        }) if leader.is_some_and(|key| key.member == *upstream));
        // Without `/sync` there is nothing that a person could decide by.
        let nothing_to_decide_by = !self.settings.is_synchronous() && leader.is_none();
        if !(acquired || decided || outlasts && streams || late && nothing_to_decide_by) {
            reset.evidence = None;
        } else if reset.evidence.is_none() {
            reset.evidence = Some(now);
            self.keeper.hasten(now);
        }
        // Our own write needed no answer of a keepalive: it was made under our lease.
        if acquired && holds_key {
            self.end_reset();
        }
    }

    /// A keepalive that was sent then was answered.
    pub(super) fn note_confirmed(&mut self, sent: Moment) {
        let evidence = self.memory.reset.and_then(|reset| reset.evidence);
        if evidence.is_some_and(|since| sent >= since) || bug!(EvidenceUnconfirmed) {
            self.end_reset();
        }
    }

    fn end_reset(&mut self) {
        if self.memory.reset.take().is_some() {
            self.memory.reset_settled = true;
        }
    }

    /// Our lease ended before its time. Unless somebody revoked it, this DCS is not the one that
    /// granted it, although it has come further.
    pub(super) fn note_lease_lost(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.memory.reset_settled = false;
        self.doubt(now, None);
        if let Some(reset) = &mut self.memory.reset {
            (reset.revision, reset.evidence) = (None, None);
        }
        self.reading = true;
        effects.push(Effect::ReadDcs);
    }

    /// The first read since.
    pub(super) fn note_first_read(&mut self, revision: Revision) {
        if let Some(reset) = &mut self.memory.reset {
            reset.revision.get_or_insert(revision);
        }
    }

    fn doubt(&mut self, now: Moment, revision: Option<Revision>) {
        self.memory.reset.get_or_insert(DcsReset {
            noticed: now,
            revision,
            evidence: None,
            held_until: None,
        });
        self.race = None;
    }

    /// What votes mean of which one says that the DCS went back in time. This member may have been
    /// away when the revisions were made that the DCS lost; then it did not notice.
    pub(super) fn note_doubt(&mut self, now: Moment, outcome: &Outcome) -> Outcome {
        match outcome {
            Outcome::DcsReset(votes) if self.memory.reset_settled || bug!(DoubtNotShared) => {
                Outcome::Votes(votes.clone())
            }
            Outcome::DcsReset(_) => {
                self.doubt(now, Some(self.memory.read));
                outcome.clone()
            }
            _ => outcome.clone(),
        }
    }
}
