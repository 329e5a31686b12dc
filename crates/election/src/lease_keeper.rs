//! How this member's lease is granted, kept, and replaced by one of another ttl.

use crate::event::Effect;
use crate::lease::{Lease, LeaseId, fence_margin};
use crate::settings::Failover;
use mrg_base::{Millis, Moment};

/// The pause after a grant or keepalive that failed.
const RETRY: Millis = Millis(250);

/// Whether the leader key may be under the new lease already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum KeyMove {
    /// It is under the old one.
    NotAsked,
    /// The move was asked for, and nothing proves yet what became of it.
    InDoubt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// No lease.
    None,
    /// The lease is kept.
    Held(Lease),
    /// The lease is kept, and one of another ttl is asked for.
    Asking(Lease),
    /// The keys are to move from one lease to another; both are there.
    Replacing {
        old: Lease,
        new: Lease,
        key: KeyMove,
    },
}

impl Phase {
    fn lease(&self) -> Option<&Lease> {
        match self {
            Phase::None => None,
            Phase::Held(lease) | Phase::Asking(lease) | Phase::Replacing { old: lease, .. } => {
                Some(lease)
            }
        }
    }

    /// The lease lasts longer, or is another.
    fn with(self, lease: Lease) -> Self {
        match self {
            Phase::None | Phase::Held(_) => Phase::Held(lease),
            Phase::Asking(_) => Phase::Asking(lease),
            Phase::Replacing { new, key, .. } => Phase::Replacing {
                old: lease,
                new,
                key,
            },
        }
    }

    /// The lease is gone or of no use; a new one takes its place.
    fn without_lease(self) -> Self {
        match self {
            Phase::None | Phase::Held(_) | Phase::Asking(_) => Phase::None,
            Phase::Replacing { new, .. } => Phase::Held(new),
        }
    }

    /// The new lease is gone or of no use.
    fn without_new(self) -> Self {
        match self {
            Phase::Replacing { old, .. } => Phase::Held(old),
            phase => phase,
        }
    }

    /// The lease of another ttl was not granted.
    fn without_asking(self) -> Self {
        match self {
            Phase::Asking(lease) => Phase::Held(lease),
            phase => phase,
        }
    }
}

/// The grant or keepalive that is due or under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Renewal {
    /// The last was answered.
    Idle,
    /// One is under way; the last was answered.
    Asked,
    /// The last was not answered.
    Failing,
    /// One is under way; the last was not answered.
    AskedAgain,
}

impl Renewal {
    fn is_under_way(self) -> bool {
        matches!(self, Renewal::Asked | Renewal::AskedAgain)
    }

    fn is_failing(self) -> bool {
        matches!(self, Renewal::Failing | Renewal::AskedAgain)
    }

    fn asked(self) -> Self {
        if self.is_failing() {
            Renewal::AskedAgain
        } else {
            Renewal::Asked
        }
    }

    /// What was under way is of no use.
    fn given_up(self) -> Self {
        if self.is_failing() {
            Renewal::Failing
        } else {
            Renewal::Idle
        }
    }
}

/// A lease that has lapsed is renewed only when the DCS is known to answer: a keepalive that
/// arrives while its answer does not would keep a key alive whose owner may not write, and keep
/// all other members from taking over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reach {
    Unknown,
    Asked,
    Proven,
}

/// A member's lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LeaseKeeper {
    phase: Phase,
    /// The lease that the keys moved from last.
    former: Option<LeaseId>,
    renewal: Renewal,
    /// When the next grant or keepalive is due.
    due: Moment,
    /// The ttl of the last grant that was asked for.
    asked_ttl: Millis,
    reach: Reach,
}

impl LeaseKeeper {
    pub(crate) fn new(now: Moment) -> Self {
        Self {
            phase: Phase::None,
            former: None,
            renewal: Renewal::Idle,
            due: now,
            asked_ttl: Millis(0),
            reach: Reach::Unknown,
        }
    }

    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.phase.lease()
    }

    /// A lease of another ttl that the keys are to move to.
    pub(crate) fn next(&self) -> Option<&Lease> {
        match &self.phase {
            Phase::Replacing { new, .. } => Some(new),
            Phase::None | Phase::Held(_) | Phase::Asking(_) => None,
        }
    }

    /// The lease that the leader key may be under by now, although no answer said so.
    pub(crate) fn moving_to(&self) -> Option<&Lease> {
        match &self.phase {
            Phase::Replacing {
                new,
                key: KeyMove::InDoubt,
                ..
            } => Some(new),
            _ => None,
        }
    }

    /// The lease before this one, if the keys moved from it.
    pub(crate) fn former(&self) -> Option<LeaseId> {
        self.former
    }

    /// Whether the last grant or keepalive was not answered.
    pub(crate) fn is_failing(&self) -> bool {
        self.renewal.is_failing()
    }

    /// How often a lease is renewed. A lease that was granted under an earlier, shorter ttl must
    /// not be outlasted by a longer loop.
    fn interval(lease: &Lease, failover: &Failover) -> Millis {
        failover.loop_wait.min(Millis(lease.ttl.0 / 3))
    }

    /// When something is due.
    pub(crate) fn wake_at(&self) -> impl Iterator<Item = Moment> {
        let due = (!self.renewal.is_under_way()).then_some(self.due);
        let lapses = self.lease().map(|lease| lease.valid_until);
        due.into_iter().chain(lapses)
    }

    /// What is to be asked of the DCS now.
    pub(crate) fn keep(
        &mut self,
        now: Moment,
        failover: &Failover,
        promised: bool,
    ) -> Option<Effect> {
        if self.renewal.is_under_way() || now < self.due {
            return None;
        }
        // Where the key may be under it, that it lapsed must not be forgotten.
        let of_use = |next: &Lease| self.moving_to().is_some() || next.is_valid(now);
        if !self.next().is_none_or(of_use) {
            self.phase = self.phase.without_new();
        }
        let Some(lease) = self.lease().copied() else {
            self.renewal = self.renewal.asked();
            self.asked_ttl = failover.ttl;
            return Some(Effect::GrantLease(failover.ttl));
        };
        if !lease.is_valid(now) && !promised && self.reach != Reach::Proven {
            let ask = self.reach == Reach::Unknown;
            self.reach = Reach::Asked;
            return ask.then_some(Effect::ReadDcs);
        }
        self.renewal = self.renewal.asked();
        Some(Effect::KeepAlive(lease.id))
    }

    /// Asks for a lease of the ttl that the settings say now, while the present one is kept.
    pub(crate) fn replace(&mut self, failover: &Failover) -> Option<Effect> {
        let Phase::Held(lease) = self.phase else {
            return None;
        };
        if lease.requested == failover.ttl || self.is_failing() {
            return None;
        }
        self.phase = Phase::Asking(lease);
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

    /// A grant was answered. One that is not waited for any more ends by itself.
    pub(crate) fn granted(
        &mut self,
        id: LeaseId,
        granted: Millis,
        sent: Moment,
        failover: &Failover,
    ) {
        let lease = Lease::granted(id, self.asked_ttl, granted, sent);
        match self.phase {
            Phase::None => {
                self.phase = Phase::Held(lease);
                self.renewal = Renewal::Idle;
                self.due = sent + Self::interval(&lease, failover);
            }
            Phase::Asking(old) => {
                self.phase = Phase::Replacing {
                    old,
                    new: lease,
                    key: KeyMove::NotAsked,
                };
            }
            Phase::Held(_) | Phase::Replacing { .. } => {}
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
        self.renewal = Renewal::Idle;
        self.reach = Reach::Unknown;
        let lease = self.lease().filter(|lease| lease.id == id)?.kept(sent);
        if !lease.is_valid(now) && !promised {
            self.drop_lease(now);
            return Some(id);
        }
        self.phase = self.phase.with(lease);
        self.due = sent + Self::interval(&lease, failover);
        None
    }

    /// A grant or keepalive was not answered.
    pub(crate) fn unanswered(&mut self, now: Moment) {
        self.phase = self.phase.without_asking();
        self.renewal = Renewal::Failing;
        self.reach = Reach::Unknown;
        self.due = now + RETRY;
    }

    /// The DCS does not know the lease; whether it was ours.
    pub(crate) fn gone(&mut self, now: Moment, id: LeaseId) -> bool {
        self.renewal = self.renewal.given_up();
        if self.next().is_some_and(|next| next.id == id) {
            self.phase = self.phase.without_new();
        }
        let ours = self.lease().is_some_and(|lease| lease.id == id);
        if ours {
            self.drop_lease(now);
        }
        ours
    }

    /// The DCS went back in time: no lease is known to be there. Gives those that were kept.
    pub(crate) fn reset(&mut self, now: Moment) -> impl Iterator<Item = LeaseId> + use<> {
        let lease = self.lease().map(|lease| lease.id);
        let next = self.next().map(|lease| lease.id);
        self.former = lease.or(self.former);
        self.phase = Phase::None;
        self.renewal = Renewal::Idle;
        self.reach = Reach::Unknown;
        self.due = now;
        lease.into_iter().chain(next)
    }

    fn drop_lease(&mut self, now: Moment) {
        self.phase = self.phase.without_lease();
        self.due = now;
    }

    /// The leader key is about to be put under the next lease.
    pub(crate) fn begin_move(&mut self) {
        if let Phase::Replacing { key, .. } = &mut self.phase {
            *key = KeyMove::InDoubt;
        }
    }

    /// The keys belong to the next lease now; gives the one before.
    pub(crate) fn moved(&mut self, to: LeaseId, failover: &Failover) -> Option<LeaseId> {
        match self.phase {
            Phase::Replacing { old, new, .. } if new.id == to => {
                self.former = Some(old.id);
                self.phase = Phase::Held(new);
                self.due = new.confirmed_at() + Self::interval(&new, failover);
                self.former
            }
            _ => None,
        }
    }

    /// The leader key was read under the present lease. It stays there once the next one is surely
    /// gone, so that no move can still be under way.
    pub(crate) fn not_moved(&mut self, now: Moment) {
        let gone =
            |next: &Lease| now > next.valid_until + fence_margin(next.ttl) + fence_margin(next.ttl);
        if self.moving_to().is_some_and(gone) {
            self.phase = self.phase.without_new();
        }
    }

    /// A keepalive is wanted now.
    pub(crate) fn hasten(&mut self, now: Moment) {
        self.due = self.due.min(now);
    }

    /// The timers changed.
    pub(crate) fn retimed(&mut self, failover: &Failover) {
        if let Some(lease) = self.lease() {
            let due = lease.confirmed_at() + Self::interval(lease, failover);
            self.due = self.due.min(due);
        }
    }
}
