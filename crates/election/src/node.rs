//! The machine around the rules: it ages what was read, keeps the lease, runs one decision's steps
//! at a time, and arms the fence.
//!
//! [`Node::on`] takes an event and the moment it happened, and gives the effects to perform.
//! Effects are performed in order; a step's end comes back as [`Event::Finished`]. Nothing else
//! decides.

mod failsafe;
mod invariants;
mod promises;

use std::collections::VecDeque;

use crate::action::{Action, Outcome, StopMode};
use crate::event::{Effect, Event, Past, StepId};
use crate::hand_over::HandOverEvent;
use crate::lease::{Lease, LeaseId, Promise};
use crate::lease_keeper::LeaseKeeper;
use crate::mutant::bug;
use crate::promise_rounds::PromiseRounds;
use crate::rules::{
    CRASH_WINDOW, Decision, RACE_AGAIN_AFTER, START_FAILURES_MAX, decide, has_traces,
    is_short_of_votes,
};
use crate::settings::Settings;
use crate::view::{
    Cluster, DcsView, Initialize, LeaderKey, Memory, Poll, Postgres, Race, View, WalReceiver,
};
use crate::why::Why;
use mrg_base::{MemberName, Millis, Moment, Position};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Running {
    why: Why,
    lease: Option<LeaseId>,
    step: StepId,
    action: Action,
    rest: VecDeque<Action>,
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
    fence: Option<Moment>,
    pending_votes: Vec<u64>,
    halted_at: Position,
    listing: failsafe::Listing,
    explained: Option<Why>,
    exited: bool,
}

const RETRY_LEAST: Millis = Millis(250);
const RETRY_MOST: Millis = Millis(8_000);

impl Node {
    /// A member that starts now and knows nothing yet. `priority` is `None` if its tags forbid it
    /// to lead.
    pub fn new(
        me: MemberName,
        settings: Settings,
        priority: Option<i32>,
        past: Past,
        now: Moment,
    ) -> Self {
        let (promised, forgot_promises) = match past {
            Past::Remembered(promised) => (promised, false),
            Past::Forgotten => (None, true),
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
                ..Memory::default()
            },
            running: None,
            steps: 0,
            probes: 0,
            reading: false,
            idle_until: now,
            failures: 0,
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
    pub fn why(&self) -> Option<Why> {
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
        wake.max(now + Millis(1))
    }

    /// Takes an event that happened at `now`, and gives what to do.
    pub fn on(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.note(now, event, &mut effects);
        self.keep_lease(now, &mut effects);
        self.ask_promises(now, &mut effects);
        self.keep_listing(now, &mut effects);
        self.advance(now, &mut effects);
        self.answer_votes(now, &mut effects);
        self.arm_fence(now, &mut effects);
        self.check_invariants(now, &effects);
        effects
    }

    fn note(&mut self, now: Moment, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Tick => {}
            Event::Dcs {
                cluster,
                linearizable,
            } => self.note_dcs(now, cluster, linearizable, effects),
            Event::DcsLost => {
                self.keeper.unreached(now);
                if let DcsView::Read(last) = &self.dcs {
                    self.dcs = DcsView::Away {
                        since: now,
                        last: last.clone(),
                    };
                }
            }
            Event::LeaseGranted { id, granted, sent } => {
                self.keeper
                    .granted(id, granted, sent, &self.settings.failover);
                // Whatever the DCS is believed to say may be older than this lease.
                effects.push(Effect::ReadDcs);
            }
            Event::LeaseKept { id, sent } => {
                let counted = if bug!(LeaseCountsFromAnswer) {
                    now
                } else {
                    sent
                };
                self.note_kept(now, id, counted, effects);
            }
            Event::LeaseUnanswered => self.keeper.unanswered(now),
            Event::LeaseGone(id) => {
                if self.keeper.gone(now, id) {
                    self.memory.past_leases.insert(id);
                }
            }
            Event::Postgres { probe, postgres } => {
                if probe >= self.probes {
                    self.note_postgres(postgres);
                }
            }
            Event::PostmasterGone => {
                self.race.take_if(|_| !bug!(RaceOutlivesServer));
                let probe = self.probe();
                effects.push(probe);
            }
            Event::Finished { step, outcome } => self.finish(now, step, outcome, effects),
            Event::PromiseAsked(request) => {
                let answer = self.promise(now, &request);
                effects.push(Effect::AnswerPromise(request.reply, answer));
            }
            Event::PromiseWithdrawn { lease, round } => {
                let withdrawn =
                    |promise: &mut Promise| promise.lease == lease && promise.round <= round;
                self.memory.promised.take_if(withdrawn);
            }
            Event::Promises { round, asked, all } => {
                let until = self
                    .rounds
                    .close(now, round, asked, all, &self.settings.failover);
                self.memory.held_promises = self.memory.held_promises.max(until);
            }
            Event::FailsafeWritten(revision) => self.note_listed(now, revision),
            Event::VoteAsked { reply } => self.pending_votes.push(reply),
            Event::Settings(settings) => {
                self.settings = settings;
                self.keeper.retimed(&self.settings.failover);
            }
            Event::RestartRequested => self.memory.restart_requested = true,
            Event::Stop => self.memory.stop_requested = true,
        }
    }

    fn note_dcs(
        &mut self,
        now: Moment,
        cluster: Cluster,
        linearizable: bool,
        effects: &mut Vec<Effect>,
    ) {
        if self
            .dcs
            .last()
            .is_some_and(|last| last.revision > cluster.revision)
            && !bug!(OldNewsBelieved)
        {
            if linearizable && !bug!(OvertakenReadForgotten) {
                self.keeper.reached(now);
            }
            // The read that is waited for was overtaken by a write of our own: what it would have
            // told is still not known.
            if linearizable && self.reading && !bug!(OvertakenReadAwaited) {
                effects.push(Effect::ReadDcs);
            }
            return;
        }
        if linearizable {
            self.reading = false;
            self.keeper.reached(now);
        }
        if let (Some(key), Some(next)) = (&cluster.leader, self.keeper.next())
            && key.lease == next.id
        {
            // The move was done, though its answer did not come yet, or never will.
            self.move_to(key.lease);
        }
        let unmoved = cluster.leader.as_ref().is_none_or(|key| {
            self.keeper
                .lease()
                .is_some_and(|lease| lease.id == key.lease)
        });
        if linearizable && unmoved {
            self.keeper.not_moved(now);
        }
        let leadership = |cluster: Option<&Cluster>| {
            cluster
                .and_then(|cluster| cluster.leader.as_ref())
                .map(|key| key.created)
        };
        if leadership(self.dcs.last()) != leadership(Some(&cluster)) {
            // What failed under another leader says nothing of what to do under this one, or
            // without any.
            self.idle_until = now;
            self.failures = 0;
        }
        if let Some(Initialize::Done(system_id)) = cluster.initialize {
            self.memory.system_id = Some(system_id);
        }
        self.memory.knows_cluster |= self.memory.system_id.is_some() || has_traces(&cluster);
        self.settle_listing(&cluster);
        self.dcs = DcsView::Read(cluster);
        let has_leader = self
            .dcs
            .last()
            .is_some_and(|cluster| cluster.leader.is_some());
        self.memory.leaderless = if has_leader {
            None
        } else {
            self.memory.leaderless.or(Some(now))
        };
        if has_leader {
            self.memory.poll = Poll::NotAsked;
        }
        if has_leader && self.view(now).other_leader().is_some() {
            self.race = None;
            self.memory.held_promises = None;
        }
    }

    fn note_postgres(&mut self, postgres: Postgres) {
        match &postgres {
            Postgres::Primary(primary) => {
                self.memory.standby_was_streaming =
                    primary.senders.values().any(|sender| sender.streaming);
                self.memory
                    .names_set_at
                    .get_or_insert(primary.position.flushed);
                self.hand_over(HandOverEvent::Primary);
            }
            Postgres::Standby(standby) if standby.receiver == WalReceiver::Streaming => {
                self.memory.rewind_failures = 0;
            }
            _ => {}
        }
        self.postgres = postgres;
    }

    fn note_kept(&mut self, now: Moment, id: LeaseId, sent: Moment, effects: &mut Vec<Effect>) {
        let promised = self.view(now).holds_promises();
        if let Some(useless) = self
            .keeper
            .kept(now, id, sent, &self.settings.failover, promised)
        {
            self.memory.past_leases.insert(useless);
        }
        if self.view(now).valid_lease().is_none() {
            return;
        }
        self.memory.held_promises = None;
        let Some(round) = self.rounds.release(now) else {
            return;
        };
        // The key protects a writer from here on, or there is none. Else the promises run out by
        // themselves.
        if self.view(now).holds_key() || self.is_harmless() {
            let members = self.view(now).electors().into_iter().flatten().collect();
            effects.push(Effect::WithdrawPromises { members, round });
        }
    }

    /// Our keys stand under the lease of the new ttl.
    fn move_to(&mut self, lease: LeaseId) {
        let former = self.keeper.moved(lease, &self.settings.failover);
        self.memory.past_leases.extend(former);
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
            Postgres::Stopped(_) | Postgres::NoData | Postgres::Standby(_)
        ) && !opens
    }

    fn postgres_is_primary(&self) -> bool {
        matches!(self.postgres, Postgres::Primary(_))
    }

    fn advance(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.exited {
            return;
        }
        let decision = decide(&self.view(now));
        if let Some(running) = &self.running {
            if !self.must_abandon(&decision, running, now) {
                return;
            }
            effects.push(Effect::Abort(running.step));
            // Half a rewind is no data directory.
            self.memory.rewind_failures += u32::from(matches!(running.action, Action::Rewind(_)));
            self.running = None;
        } else if decision.why != Why::WriterWithoutLease && (self.reading || now < self.idle_until)
        {
            return;
        }
        self.explain(decision.why, effects);
        if decision.actions.is_empty() {
            if decision.why == Why::ShuttingDown {
                self.exited = true;
                effects.push(Effect::Exit);
            }
            return;
        }
        self.start(now, decision, effects);
    }

    /// Whether what runs has lost its point.
    fn must_abandon(&self, decision: &Decision, running: &Running, now: Moment) -> bool {
        match decision.why {
            Why::WriterWithoutLease => {
                running.why != Why::WriterWithoutLease
                    && running.action != Action::Stop(StopMode::Kill)
            }
            Why::ShuttingDown => running.action.is_long(),
            _ => match &running.action {
                Action::BaseBackup(from) | Action::Rewind(from) => self
                    .view(now)
                    .other_leader()
                    .is_some_and(|leader| leader.member != *from),
                _ => false,
            },
        }
    }

    fn explain(&mut self, why: Why, effects: &mut Vec<Effect>) {
        // A look is under way after each step; that is not worth a word.
        if why != Why::PostgresUnknown && self.explained != Some(why) {
            self.explained = Some(why);
            effects.push(Effect::Explain(why));
        }
    }

    fn start(&mut self, now: Moment, decision: Decision, effects: &mut Vec<Effect>) {
        let mut rest = VecDeque::from(decision.actions);
        if let Some(action) = rest.pop_front() {
            self.perform(now, decision.why, action, rest, effects);
        }
    }

    /// Emits the next step, if what it needs still holds.
    fn perform(
        &mut self,
        now: Moment,
        why: Why,
        action: Action,
        rest: VecDeque<Action>,
        effects: &mut Vec<Effect>,
    ) {
        let view = self.view(now);
        let permitted = match action {
            Action::AcquireLeader | Action::ClaimInitialize => view.valid_lease().is_some(),
            _ if action.needs_key() => view.may_write(),
            _ => true,
        };
        if !permitted {
            self.idle_until = now + RETRY_LEAST;
            return;
        }
        let action = match action {
            Action::AwaitReceipt { candidates, .. } => Action::AwaitReceipt {
                candidates,
                position: self.halted_at,
            },
            action => action,
        };
        if matches!(action, Action::PausePoolers { .. }) {
            self.hand_over(HandOverEvent::Pause);
        }
        if action.needs_key() || action == Action::AcquireLeader {
            // The fence is armed before the leader transaction and before everything that lets
            // postgres write.
            if matches!(action, Action::MoveLeader(_)) && !bug!(MoveUnfenced) {
                self.keeper.begin_move();
            }
            let by = self.view(now).leased_until().max(self.memory.held_promises);
            assert!(
                by.is_some_and(|by| now < by),
                "{action:?} without a deadline; please report this as a bug of mrg-operator"
            );
            self.fence = by;
            effects.push(fence(by));
        }
        self.steps += 1;
        let step = StepId(self.steps);
        effects.push(Effect::Perform(step, action.clone()));
        let lease = self.keeper.lease().map(|lease| lease.id);
        self.running = Some(Running {
            why,
            lease,
            step,
            action,
            rest,
        });
    }

    fn finish(&mut self, now: Moment, step: StepId, outcome: Outcome, effects: &mut Vec<Effect>) {
        let Some(running) = self.running.take_if(|running| running.step == step) else {
            return;
        };
        let Running {
            why,
            lease,
            action,
            rest,
            ..
        } = running;
        if action.touches_postgres() {
            let probe = self.probe();
            effects.push(probe);
            // The position that was reported in a race is the server's only while nothing moves it.
            if !matches!(
                action,
                Action::StopReceiver | Action::SetSyncNames(_) | Action::Promote
            ) && !bug!(RaceOutlivesServer)
            {
                self.race = None;
            }
        }
        // A hand-over goes on without a receipt: in the synchronous modes the candidate has every
        // acknowledged commit anyway. Nor does it wait for poolers that cannot be asked; one that
        // was asked and objects is another matter.
        let go_on = match action {
            Action::AwaitReceipt { .. } | Action::Checkpoint => true,
            Action::PausePoolers { .. } => !matches!(outcome, Outcome::Refused(_)),
            _ => outcome.is_success(),
        };
        if !go_on {
            self.note_failure(now, why, &action, &outcome, effects);
            return;
        }
        self.failures = 0;
        self.note_success(now, why, lease, &action, &outcome);
        let mut rest = rest;
        // The race was run by a server that is gone: what follows would take `/sync` for data that
        // may be gone, too.
        if why == Why::Win && self.race.is_none() && !rest.is_empty() && !bug!(WinsWithoutServer) {
            return;
        }
        // A later step rests on what was known before the first: where a key was changed by hand
        // since, it is decided again.
        if let Some(next) = rest.pop_front()
            && self.keeps_sync(now, &next)
        {
            self.perform(now, why, next, rest, effects);
        }
    }

    fn probe(&mut self) -> Effect {
        self.probes += 1;
        self.postgres = Postgres::Unknown;
        Effect::Probe(self.probes)
    }

    fn note_failure(
        &mut self,
        now: Moment,
        why: Why,
        action: &Action,
        outcome: &Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let wait = Millis((RETRY_LEAST.0 << self.failures.min(8)).min(RETRY_MOST.0));
        self.failures += 1;
        self.idle_until = now + wait;
        match action {
            Action::Rewind(_) => self.memory.rewind_failures += 1,
            Action::BaseBackup(_) => self.memory.no_space = matches!(outcome, Outcome::NoSpace(_)),
            Action::PausePoolers { .. } => {
                let request = self
                    .dcs
                    .last()
                    .and_then(|cluster| cluster.switchover.as_ref());
                self.memory.abandoned = request.map(|request| request.revision);
            }
            Action::Start(_) => {
                self.memory.start_failures += 1;
                // A standby that does not start is copied afresh.
                if self.memory.start_failures >= START_FAILURES_MAX {
                    self.memory.rewind_failures += 1;
                }
            }
            _ => {}
        }
        if action.compares() || matches!(outcome, Outcome::Unknown(_)) {
            // What was believed of the DCS is wrong, or nobody knows: read before deciding again.
            self.reading = true;
            effects.push(Effect::ReadDcs);
        }
        if why == Why::Bootstrap
            && *action != Action::ClaimInitialize
            && *action != Action::AbandonInitialize
        {
            let rest = VecDeque::from([Action::AbandonInitialize, Action::ReleaseLeader]);
            self.perform(now, why, Action::Stop(StopMode::Kill), rest, effects);
        }
    }

    fn hand_over(&mut self, event: HandOverEvent) {
        self.memory.hand_over = self.memory.hand_over.on(event);
    }

    fn note_success(
        &mut self,
        now: Moment,
        why: Why,
        lease: Option<LeaseId>,
        action: &Action,
        outcome: &Outcome,
    ) {
        self.note_written(lease, action, outcome);
        match (action, outcome) {
            (Action::StopReceiver, Outcome::At(position)) => {
                self.race = Some(Race {
                    position: *position,
                    votes: None,
                    asked: now,
                });
            }
            (Action::AskPeers(_), Outcome::Votes(votes)) => {
                if let Some(race) = &mut self.race {
                    race.votes = Some(votes.clone());
                    race.asked = now;
                }
                self.memory.poll = if is_short_of_votes(&self.view(now)) {
                    Poll::TooFew
                } else {
                    Poll::Enough
                };
            }
            (Action::MoveLeader(to), Outcome::Written(_)) => self.move_to(*to),
            (Action::ResumePoolers, _) => self.hand_over(HandOverEvent::Resumed),
            (Action::ReleaseLeader, _) => self.note_released(now, why),
            (Action::SetSyncNames(_), Outcome::At(position)) => {
                self.memory.names_set_at = Some(position.flushed);
            }
            (Action::Promote, _) => {
                self.memory.promoted = Some(now);
                self.race = None;
            }
            (Action::Stop(StopMode::Fast), Outcome::At(position)) => {
                self.halted_at = *position;
                self.hand_over(HandOverEvent::Stopped {
                    to_hand_over: matches!(why, Why::Switchover | Why::ShuttingDown),
                });
            }
            (Action::Start(_), _) => {
                self.memory.restart_requested = false;
                self.memory.start_failures = 0;
            }
            (Action::BaseBackup(_), _) => {
                self.memory.rewind_failures = 0;
                self.memory.no_space = false;
            }
            _ => {}
        }
    }

    /// What a write makes of the keys, before the watch delivers it.
    fn note_written(&mut self, lease: Option<LeaseId>, action: &Action, outcome: &Outcome) {
        let Some(cluster) = self.dcs.last_mut() else {
            return;
        };
        if let Outcome::Written(revision) = outcome {
            // What the watch still delivers of the time before this write is older than what is
            // known now.
            cluster.revision = cluster.revision.max(*revision);
        }
        match (action, outcome) {
            (Action::AcquireLeader, Outcome::Written(revision)) => {
                if let Some(lease) = lease {
                    cluster.leader = Some(LeaderKey {
                        member: self.me.clone(),
                        lease,
                        created: *revision,
                    });
                }
            }
            (Action::MoveLeader(to), Outcome::Written(_)) => {
                if let Some(key) = &mut cluster.leader {
                    key.lease = *to;
                }
            }
            (Action::WriteSync { stored, .. }, Outcome::Written(revision)) => {
                cluster.sync = Some((*revision, stored.clone()));
            }
            (Action::StoreSystemId(id), _) => cluster.initialize = Some(Initialize::Done(*id)),
            (Action::ClearSwitchover { .. }, _) => cluster.switchover = None,
            (Action::ReleaseLeader, _) if !bug!(ReleaseForgotten) => cluster.leader = None,
            _ => {}
        }
    }

    /// The leader key was released.
    fn note_released(&mut self, now: Moment, why: Why) {
        // A member that released the key does not lead by promises either.
        if !bug!(PromisesOutliveRelease) {
            self.memory.held_promises = None;
        }
        self.hand_over(HandOverEvent::Released);
        if why == Why::Switchover {
            // Should we lead again by this request, no other member could take over.
            let request = self
                .dcs
                .last()
                .and_then(|cluster| cluster.switchover.as_ref());
            self.memory.abandoned = request.map(|request| request.revision);
        }
        if why == Why::CrashedFailover {
            self.memory
                .crash_releases
                .retain(|at| now.since(*at) < CRASH_WINDOW);
            self.memory.crash_releases.push(now);
        }
    }

    /// Keeps the fence's deadline in step with what proves that we may write.
    fn arm_fence(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let view = self.view(now);
        let by_lease = view.leased_until().filter(|_| view.holds_key());
        let by_promise = self.memory.held_promises.filter(|_| view.holds_promises());
        let acquiring = self
            .running
            .as_ref()
            .is_some_and(|running| running.action == Action::AcquireLeader);
        let wanted = by_lease
            .max(by_promise)
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
