//! What proves that this member may stand or lead: its lease, how it is kept, and the promises that
//! stand in for it while the DCS is away.

use crate::event::Effect;
use crate::lease::{Lease, LeaseId, fence_margin};
use crate::mutant::bug;
use crate::settings::Failover;
use mrg_base::{Millis, Moment};

/// The pause after a grant, keepalive or round of promises that failed.
const RETRY: Millis = Millis(250);

/// A lease that has lapsed is renewed only when the DCS is known to answer: a keepalive that
/// arrives while its answer does not would keep a key alive whose owner may not write, and keep
/// everybody else from taking over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reach {
    Unknown,
    Asked,
    Proven,
}

/// A member's lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tenure {
    lease: Option<Lease>,
    next: Option<Lease>,
    former: Option<LeaseId>,
    asked: bool,
    asked_ttl: Millis,
    replacing: bool,
    due: Moment,
    failing: bool,
    reach: Reach,
    round: u64,
    round_open: bool,
    round_due: Moment,
    bound: bool,
}

impl Tenure {
    pub(crate) fn new(now: Moment) -> Self {
        Self {
            lease: None,
            next: None,
            former: None,
            asked: false,
            asked_ttl: Millis(0),
            replacing: false,
            due: now,
            failing: false,
            reach: Reach::Unknown,
            round: 0,
            round_open: false,
            round_due: now,
            bound: false,
        }
    }

    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// A lease of another ttl that the keys are to move to.
    pub(crate) fn next(&self) -> Option<&Lease> {
        self.next.as_ref()
    }

    /// The lease before this one, if the keys moved from it.
    pub(crate) fn former(&self) -> Option<LeaseId> {
        self.former
    }

    /// How often a lease is renewed. A lease that was granted under an earlier, shorter ttl must
    /// not be outlasted by a longer loop.
    fn interval(lease: &Lease, failover: &Failover) -> Millis {
        failover.loop_wait.min(Millis(lease.ttl.0 / 3))
    }

    /// When something is due.
    pub(crate) fn wake_at(&self) -> impl Iterator<Item = Moment> {
        let due = (!self.asked).then_some(self.due);
        let round = (self.failing && !self.round_open).then_some(self.round_due);
        [due, round, self.lease.map(|lease| lease.valid_until)]
            .into_iter()
            .flatten()
    }

    /// What is to be asked of the DCS now.
    pub(crate) fn keep(
        &mut self,
        now: Moment,
        failover: &Failover,
        promised: bool,
        moving: bool,
    ) -> Option<Effect> {
        if self.asked || now < self.due {
            return None;
        }
        // The key may hang off it: that it lapsed must not be forgotten.
        self.next = self.next.filter(|next| moving || next.is_valid(now));
        match self.lease {
            Some(lease) if !lease.is_valid(now) && !promised && self.reach != Reach::Proven => {
                let ask = self.reach == Reach::Unknown;
                self.reach = Reach::Asked;
                ask.then_some(Effect::ReadDcs)
            }
            Some(lease) => {
                self.asked = true;
                Some(Effect::KeepAlive(lease.id))
            }
            None => {
                self.asked = true;
                self.asked_ttl = failover.ttl;
                Some(Effect::GrantLease(failover.ttl))
            }
        }
    }

    /// Asks for a lease of the ttl that the settings say now, while the present one is kept.
    pub(crate) fn replace(&mut self, failover: &Failover) -> Option<Effect> {
        let another = self
            .lease
            .is_some_and(|lease| lease.requested != failover.ttl);
        if !another || self.next.is_some() || self.replacing || self.failing {
            return None;
        }
        self.replacing = true;
        self.asked_ttl = failover.ttl;
        Some(Effect::GrantLease(failover.ttl))
    }

    /// The DCS answered a read that began after it was asked for.
    pub(crate) fn reached(&mut self, now: Moment) {
        if self.reach == Reach::Asked {
            self.reach = Reach::Proven;
            self.due = self.due.min(now);
        }
    }

    /// The DCS did not answer.
    pub(crate) fn unreached(&mut self, now: Moment) {
        if self.reach == Reach::Asked {
            self.reach = Reach::Unknown;
            self.due = now + RETRY;
        }
    }

    pub(crate) fn granted(
        &mut self,
        id: LeaseId,
        granted: Millis,
        sent: Moment,
        failover: &Failover,
    ) {
        let lease = Lease::granted(id, self.asked_ttl, granted, sent);
        let replaces = std::mem::take(&mut self.replacing);
        if self.lease.is_none() {
            self.asked = false;
            self.failing = false;
            self.lease = Some(lease);
            self.due = sent + Self::interval(&lease, failover);
        } else if replaces {
            self.next = Some(lease);
        }
    }

    /// A keepalive was answered. Gives the lease that is of no use any more because its answers
    /// take longer than it lasts.
    pub(crate) fn kept(
        &mut self,
        now: Moment,
        id: LeaseId,
        sent: Moment,
        failover: &Failover,
        promised: bool,
    ) -> Option<LeaseId> {
        self.asked = false;
        self.failing = false;
        self.reach = Reach::Unknown;
        let lease = self.lease.filter(|lease| lease.id == id)?.kept(sent);
        if !lease.is_valid(now) && !promised {
            self.drop_lease(now);
            return Some(id);
        }
        self.lease = Some(lease);
        self.due = sent + Self::interval(&lease, failover);
        None
    }

    pub(crate) fn unanswered(&mut self, now: Moment) {
        self.asked = false;
        self.replacing = false;
        self.failing = true;
        self.reach = Reach::Unknown;
        self.due = now + RETRY;
    }

    /// The DCS does not know the lease; whether it was ours.
    pub(crate) fn gone(&mut self, now: Moment, id: LeaseId) -> bool {
        self.asked = false;
        self.next = self.next.filter(|next| next.id != id);
        let ours = self.lease.is_some_and(|lease| lease.id == id);
        if ours {
            self.drop_lease(now);
        }
        ours
    }

    fn drop_lease(&mut self, now: Moment) {
        self.lease = self.next.take();
        self.due = now;
    }

    /// The keys belong to the next lease now; gives the one before.
    pub(crate) fn moved(&mut self, to: LeaseId, failover: &Failover) -> Option<LeaseId> {
        let next = self.next.take_if(|next| next.id == to)?;
        self.former = self.lease.map(|lease| lease.id);
        self.lease = Some(next);
        self.due = next.confirmed_at() + Self::interval(&next, failover);
        self.former
    }

    /// The leader key is under the present lease; whether the next one is surely gone, so that it
    /// stays there.
    pub(crate) fn stays(&mut self, now: Moment) -> bool {
        let gone = |next: &mut Lease| {
            now > next.valid_until + fence_margin(next.ttl) + fence_margin(next.ttl)
        };
        self.next.take_if(gone).is_some() || self.next.is_none()
    }

    /// The timers changed.
    pub(crate) fn retimed(&mut self, failover: &Failover) {
        if let Some(lease) = self.lease {
            self.due = self
                .due
                .min(lease.confirmed_at() + Self::interval(&lease, failover));
        }
    }

    /// Whether all members should be asked for promises now: a keepalive went unanswered, and the
    /// last round is over.
    pub(crate) fn opens_round(&mut self, now: Moment) -> Option<u64> {
        if !self.failing || self.round_open || now < self.round_due {
            return None;
        }
        self.round += 1;
        self.round_open = true;
        self.bound = true;
        Some(self.round)
    }

    /// Whether answers of a round are waited for.
    pub(crate) fn is_asking(&self) -> bool {
        self.round_open
    }

    /// A round ended: until when its promises count, if all were given.
    pub(crate) fn closes_round(
        &mut self,
        now: Moment,
        round: u64,
        asked: Moment,
        all: bool,
        failover: &Failover,
    ) -> Option<Moment> {
        if !self.round_open || round != self.round {
            return None;
        }
        self.round_open = false;
        let all = all || bug!(SomePromisesSuffice);
        self.round_due = if all {
            asked + failover.loop_wait.min(Millis(failover.ttl.0 / 3))
        } else {
            now + RETRY
        };
        all.then(|| asked + failover.ttl - fence_margin(failover.ttl))
    }

    /// The lease holds again: whoever promised is free up to this round, if anybody was asked.
    pub(crate) fn unbinds(&mut self, now: Moment) -> Option<u64> {
        let bound = std::mem::take(&mut self.bound);
        // An answer that is still under way must not count.
        self.round_open = false;
        self.round_due = now;
        bound.then_some(self.round)
    }
}
