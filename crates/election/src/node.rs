//! The machine around the rules: it ages what was read, keeps the lease, runs one decision's steps
//! at a time, and arms the fence.
//!
//! [`Node::on`] takes an event and the moment it happened, and gives the effects to perform.
//! Effects are performed in order; a step's end comes back as [`Event::Finished`]. Nothing else
//! decides.

mod failsafe;
mod invariants;
mod observe;
mod promises;
mod reinitialize;
mod reset;
mod steps;

pub use self::reinitialize::ReinitializeObjection;

use std::collections::VecDeque;

use crate::action::Action;
use crate::event::{Effect, Event, PreviousIncarnation, StepId};
use crate::lease::{Lease, LeaseId};
use crate::lease_keeper::LeaseKeeper;
use crate::mutant::bug;
use crate::promise_rounds::PromiseRounds;
use crate::reason::Reason;
use crate::rules::RACE_AGAIN_AFTER;
use crate::settings::Settings;
use crate::view::{DcsView, Memory, Postgres, Race, View};
use mrg_base::{MemberName, Millis, Moment, Position};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Running {
    reason: Reason,
    lease: Option<LeaseId>,
    step: StepId,
    action: Action,
    rest: VecDeque<Action>,
    /// The DCS went back in time since it was begun: its outcome says nothing about the DCS of now.
    overtaken: bool,
}

/// A member of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    me: MemberName,
    settings: Settings,
    dcs: DcsView,
    postgres: Postgres,
    keeper: LeaseKeeper,
    rounds: PromiseRounds,
    race: Option<Race>,
    memory: Memory,
    running: Option<Running>,
    steps: u64,
    probes: u64,
    reading: bool,
    idle_until: Moment,
    failures: u32,
    /// The reason of the decision that failed last; `failures` counts its tries.
    failed: Option<Reason>,
    fence: Option<Moment>,
    pending_votes: Vec<u64>,
    halted_at: Position,
    listing: failsafe::Listing,
    explained: Option<Reason>,
    exited: bool,
}

impl Node {
    /// A member that starts now and knows nothing yet. `priority` is `None` if its tags forbid it
    /// to lead.
    pub fn new(
        me: MemberName,
        settings: Settings,
        priority: Option<i32>,
        past: PreviousIncarnation,
        now: Moment,
    ) -> Self {
        let (promised, forgot_promises) = match past {
            PreviousIncarnation::Known(promised) => (promised, false),
            PreviousIncarnation::Unknown => (None, true),
        };
        Self {
            me,
            settings,
            dcs: DcsView::Unread,
            postgres: Postgres::Unknown,
            keeper: LeaseKeeper::new(now),
            rounds: PromiseRounds::new(now),
            race: None,
            memory: Memory {
                started: now,
                priority,
                promised,
                forgot_promises,
                longest_ttl: settings.failover.ttl,
                ..Memory::default()
            },
            running: None,
            steps: 0,
            probes: 0,
            reading: false,
            idle_until: now,
            failures: 0,
            failed: None,
            fence: None,
            pending_votes: Vec::new(),
            halted_at: Position::default(),
            listing: failsafe::Listing::default(),
            explained: None,
            exited: false,
        }
    }

    /// There has been a cluster: this member's files say so, although they are of no use.
    pub fn remember_cluster(&mut self) {
        self.memory.knows_cluster = true;
    }

    /// The data here is of a cluster of this name with this system identifier: a record beside it
    /// says so.
    pub fn remember_system(&mut self, system_id: u64) {
        self.memory.knows_cluster = true;
        self.memory.system_id = Some(system_id);
    }

    /// What the rules see.
    pub fn view(&self, now: Moment) -> View<'_> {
        View {
            now,
            me: &self.me,
            settings: &self.settings,
            lease: self.keeper.lease(),
            next_lease: self.keeper.next(),
            moving_to: self.keeper.moving_to(),
            dcs: &self.dcs,
            postgres: &self.postgres,
            race: self.race.as_ref(),
            memory: &self.memory,
        }
    }

    /// The lease, if one was granted and not lost.
    pub fn lease(&self) -> Option<&Lease> {
        self.keeper.lease()
    }

    /// The lease that our keys were moved from, if they were.
    pub fn former_lease(&self) -> Option<LeaseId> {
        self.keeper.former()
    }

    /// Whether a step is being performed.
    pub fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// The last reason given.
    pub fn reason(&self) -> Option<Reason> {
        self.explained
    }

    /// When [`Event::Tick`] is due at the latest.
    pub fn wake_at(&self, now: Moment) -> Moment {
        let mut wake = now + self.settings.failover.loop_wait;
        let mut consider = |at: Moment| {
            if at > now {
                wake = wake.min(at);
            }
        };
        self.keeper.wake_at().for_each(&mut consider);
        if let Some(due) = self.rounds.due().filter(|_| self.keeper.is_failing()) {
            consider(due);
        }
        self.listing.wake_at().for_each(&mut consider);
        consider(self.idle_until);
        if let Some(race) = &self.race {
            consider(race.asked + RACE_AGAIN_AFTER);
        }
        if self.memory.forgot_promises {
            consider(self.memory.started + self.settings.failover.ttl);
        }
        if let Some(since) = self.memory.leaderless {
            consider(since + self.settings.failover.retry_timeout);
        }
        if let Some(promise) = self.memory.promised {
            consider(promise.until);
        }
        if let Some(reset) = &self.memory.reset {
            reset.held_until.into_iter().for_each(&mut consider);
            let ttl = self.memory.longest_ttl;
            consider(reset.noticed + ttl);
            consider(reset.noticed + ttl.times(2));
        }
        if let Some(silence) = self.memory.silence {
            consider(silence.since + self.settings.failover.unresponsive_after);
        }
        if let Some(since) = self.memory.unserved {
            consider(since + self.settings.failover.primary_start_timeout);
        }
        wake.max(now + Millis(1))
    }

    /// Takes an event that happened at `now`, and gives what to do.
    pub fn on(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.note(now, event, &mut effects);
        self.settle_reset(now);
        self.keep_lease(now, &mut effects);
        self.ask_promises(now, &mut effects);
        self.keep_listing(now, &mut effects);
        self.advance(now, &mut effects);
        self.answer_votes(now, &mut effects);
        self.arm_fence(now, &mut effects);
        self.check_invariants(now, &effects);
        effects
    }

    fn keep_lease(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        // The ttl to ask for is in the DCS.
        if self.exited || self.dcs == DcsView::Unread {
            return;
        }
        // A member that does not lead has nothing that must move at once.
        let settled = self.running.is_none() && !self.view(now).holds_key();
        if let Some(next) = self.keeper.next().filter(|_| settled) {
            self.move_to(next.id);
        }
        let promised = self.view(now).holds_promises();
        effects.extend(self.keeper.keep(now, &self.settings.failover, promised));
        effects.extend(self.keeper.replace(&self.settings.failover));
    }

    /// Whether the local server surely accepts no writes, and nothing is under way that would let
    /// it.
    fn is_harmless(&self) -> bool {
        let running = self.running.as_ref();
        let opens = running.is_some_and(|running| running.action.opens_postgres())
            && !bug!(PromotionUnfenced);
        matches!(
            self.postgres,
            Postgres::Stopped(_) | Postgres::NoData | Postgres::Unusable | Postgres::Standby(_)
        ) && !opens
    }

    fn postgres_is_primary(&self) -> bool {
        matches!(self.postgres, Postgres::Primary(_))
    }

    /// Keeps the fence's deadline in step with what proves that we may write.
    fn arm_fence(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let view = self.view(now);
        let by_lease = view.leased_until().filter(|_| view.holds_key());
        let by_promise = self.memory.held_promises.filter(|_| view.holds_promises());
        let acquiring = self.running.as_ref().is_some_and(|running| {
            matches!(
                running.action,
                Action::AcquireLeader | Action::RestoreKeys { .. }
            )
        });
        let wanted = by_lease
            .max(by_promise)
            .max(view.held_until())
            .or(if acquiring { self.fence } else { None });
        // Without a right to write there must be no writer; only then the fence may rest.
        if wanted.is_none() && !self.is_harmless() {
            return;
        }
        if wanted != self.fence {
            self.fence = wanted;
            effects.push(fence(wanted));
        }
    }
}

/// Arms the fence, or lets it rest.
fn fence(by: Option<Moment>) -> Effect {
    Effect::Fence(if bug!(FenceNeverArmed) {
        Some(Moment(u64::MAX / 4))
    } else {
        by
    })
}
