//! One decision's steps at a time: begin, give up, and what became of them.

use std::collections::VecDeque;

use super::{Node, Running, fence};
use crate::action::{Action, Outcome, StopMode};
use crate::event::{Effect, StepId};
use crate::hand_over::HandOverEvent;
use crate::lease::LeaseId;
use crate::mutant::bug;
use crate::reason::Reason;
use crate::rules::{CRASH_WINDOW, Decision, START_FAILURES_MAX, decide, is_short_of_votes};
use crate::view::{Initialize, LeaderKey, Poll, Postgres, Race};
use mrg_base::{Millis, Moment};

const RETRY_LEAST: Millis = Millis(250);

const RETRY_MOST: Millis = Millis(8_000);

impl Node {
    pub(super) fn advance(&mut self, now: Moment, effects: &mut Vec<Effect>) {
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
        } else if decision.reason != Reason::WriterWithoutLease
            && (self.reading || now < self.idle_until)
        {
            return;
        }
        self.explain(decision.reason, effects);
        if decision.actions.is_empty() {
            if decision.reason == Reason::ShuttingDown {
                self.exited = true;
                effects.push(Effect::Exit);
            }
            return;
        }
        self.start(now, decision, effects);
    }

    /// Whether what runs has lost its point.
    fn must_abandon(&self, decision: &Decision, running: &Running, now: Moment) -> bool {
        match decision.reason {
            Reason::WriterWithoutLease => {
                running.reason != Reason::WriterWithoutLease
                    && running.action != Action::Stop(StopMode::Kill)
            }
            Reason::ShuttingDown => running.action.is_long(),
            _ => match &running.action {
                Action::BaseBackup(from) | Action::Rewind(from) => {
                    match self.view(now).other_leader() {
                        Some(leader) => leader.member != *from,
                        // The data that was there can take part in the election.
                        None => running.reason == Reason::Reinitialize,
                    }
                }
                _ => false,
            },
        }
    }

    fn explain(&mut self, reason: Reason, effects: &mut Vec<Effect>) {
        // A look is under way after each step; that is not worth a word.
        if reason != Reason::PostgresUnknown && self.explained != Some(reason) {
            self.explained = Some(reason);
            effects.push(Effect::Explain(reason));
        }
    }

    fn start(&mut self, now: Moment, decision: Decision, effects: &mut Vec<Effect>) {
        let mut rest = VecDeque::from(decision.actions);
        if let Some(action) = rest.pop_front() {
            self.perform(now, decision.reason, action, rest, effects);
        }
    }

    /// Emits the next step, if what it needs still holds.
    pub(super) fn perform(
        &mut self,
        now: Moment,
        reason: Reason,
        action: Action,
        rest: VecDeque<Action>,
        effects: &mut Vec<Effect>,
    ) {
        let view = self.view(now);
        let permitted = match action {
            Action::AcquireLeader | Action::ClaimInitialize => view.valid_lease().is_some(),
            Action::RestoreKeys { .. } => view.valid_lease().is_some() && view.may_write(),
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
            let view = self.view(now);
            let by = view
                .leased_until()
                .max(self.memory.held_promises)
                .max(view.held_until());
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
            reason,
            lease,
            step,
            action,
            rest,
            overtaken: false,
        });
    }

    pub(super) fn finish(
        &mut self,
        now: Moment,
        step: StepId,
        outcome: &Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let Some(running) = self.running.take_if(|running| running.step == step) else {
            return;
        };
        let Running {
            reason,
            lease,
            action,
            rest,
            overtaken,
            ..
        } = running;
        let outcome = &self.note_doubt(now, outcome);
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
        // What it did to the local server stands; of the DCS it says nothing.
        if overtaken && !action.touches_postgres() {
            return;
        }
        if !go_on {
            self.note_failure(now, reason, &action, outcome, effects);
            return;
        }
        self.note_success(now, reason, lease, &action, outcome);
        // A step is no progress yet: a decision whose first steps succeed each time would be tried
        // over and over. Nor is undoing a bootstrap that failed.
        let undone = reason == Reason::Bootstrap && action == Action::ReleaseLeader;
        if rest.is_empty() && self.failed == Some(reason) && !undone {
            self.failures = 0;
        }
        // What follows was decided by a DCS that is gone.
        let mut rest = if overtaken { VecDeque::new() } else { rest };
        // The race was run by a server that is gone: what follows would take `/sync` for data that
        // may be gone, too.
        if reason == Reason::Win
            && self.race.is_none()
            && !rest.is_empty()
            && !bug!(WinsWithoutServer)
        {
            return;
        }
        // A later step rests on what was known before the first: where a key was changed by hand
        // since, it is decided again.
        if let Some(next) = rest.pop_front()
            && self.keeps_sync(now, &next)
        {
            self.perform(now, reason, next, rest, effects);
        }
    }

    pub(super) fn probe(&mut self) -> Effect {
        self.probes += 1;
        self.postgres = Postgres::Unknown;
        Effect::Probe(self.probes)
    }

    fn note_failure(
        &mut self,
        now: Moment,
        reason: Reason,
        action: &Action,
        outcome: &Outcome,
        effects: &mut Vec<Effect>,
    ) {
        if self.failed != Some(reason) {
            self.failures = 0;
            self.failed = Some(reason);
        }
        self.note_reinitialize_failure(reason, outcome);
        let wait = Millis((RETRY_LEAST.0 << self.failures.min(8)).min(RETRY_MOST.0));
        self.failures += 1;
        self.idle_until = now + wait;
        match action {
            // What was not even tried says nothing of the data.
            Action::Start(_) if matches!(outcome, Outcome::Unknown(_)) => {}
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
                // A standby that does not start is copied afresh, once: if that does not help, the
                // reason is not in the data.
                let again = self.memory.copied && !bug!(CopiesForEver);
                if self.memory.start_failures >= START_FAILURES_MAX && !again {
                    self.memory.rewind_failures += 1;
                }
            }
            _ => {}
        }
        if action.compares() || matches!(outcome, Outcome::Unknown(_)) {
            // What was believed of the DCS is wrong or in doubt: read before deciding again.
            self.reading = true;
            effects.push(Effect::ReadDcs);
        }
        if reason == Reason::Bootstrap
            && *action != Action::ClaimInitialize
            && *action != Action::AbandonInitialize
        {
            let rest = VecDeque::from([Action::AbandonInitialize, Action::ReleaseLeader]);
            self.perform(now, reason, Action::Stop(StopMode::Kill), rest, effects);
        }
    }

    pub(super) fn hand_over(&mut self, event: HandOverEvent) {
        self.memory.hand_over = self.memory.hand_over.on(event);
    }

    fn note_success(
        &mut self,
        now: Moment,
        reason: Reason,
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
            (Action::ReleaseLeader, _) => self.note_released(now, reason),
            (Action::SetSyncNames(_), Outcome::At(position)) => {
                self.memory.names_set_at = Some(position.flushed);
            }
            (Action::RestoreKeys { .. }, _) => self.memory.promoted = Some(now),
            (Action::Promote, _) => {
                self.memory.promoted = Some(now);
                self.race = None;
            }
            (Action::Stop(StopMode::Fast), Outcome::At(position)) => {
                self.halted_at = *position;
                self.hand_over(HandOverEvent::Stopped {
                    to_hand_over: matches!(reason, Reason::Switchover | Reason::ShuttingDown),
                });
            }
            (Action::Stop(StopMode::Kill), _) => self.note_killed(now, reason),
            (Action::Start(_), _) => {
                self.memory.restart_requested = false;
                self.memory.start_failures = 0;
            }
            (Action::Rewind(_), _) => self.memory.rewound = true,
            (Action::BaseBackup(_), _) => {
                self.memory.rewind_failures = 0;
                self.memory.rewound = false;
                self.memory.copied = true;
                self.memory.no_space = false;
                self.memory.reinitialize = None;
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
            (Action::AcquireLeader | Action::RestoreKeys { .. }, Outcome::Written(revision)) => {
                if let Some(lease) = lease {
                    cluster.leader = Some(LeaderKey {
                        member: self.me.clone(),
                        lease,
                        created: *revision,
                    });
                }
                if let Action::RestoreKeys { system_id, stored } = action {
                    cluster.initialize = Some(Initialize::Done(*system_id));
                    let stored = stored.clone().map(|stored| (*revision, stored));
                    cluster.sync = stored.or(cluster.sync.take());
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
            (Action::EvictLeader(_), _) => cluster.leader = None,
            (Action::ClearSwitchover { .. }, _) => cluster.switchover = None,
            (Action::ReleaseLeader, _) if !bug!(ReleaseForgotten) => cluster.leader = None,
            _ => {}
        }
    }

    /// A server that did not serve is dead, for another to lead.
    fn note_killed(&mut self, now: Moment, reason: Reason) {
        match reason {
            Reason::StartTimedOut => self.note_crash_release(now),
            Reason::Unresponsive => self.memory.gave_up = Some(now),
            _ => return,
        }
        self.hand_over(HandOverEvent::Stopped { to_hand_over: true });
    }

    fn note_crash_release(&mut self, now: Moment) {
        self.memory
            .crash_releases
            .retain(|at| now.since(*at) < CRASH_WINDOW);
        self.memory.crash_releases.push(now);
    }

    /// The leader key was released.
    fn note_released(&mut self, now: Moment, reason: Reason) {
        // A member that released the key does not lead by promises either.
        if !bug!(PromisesOutliveRelease) {
            self.memory.held_promises = None;
        }
        self.hand_over(HandOverEvent::Released);
        if reason == Reason::Switchover {
            // Should we lead again by this request, no other member could take over.
            let request = self
                .dcs
                .last()
                .and_then(|cluster| cluster.switchover.as_ref());
            self.memory.abandoned = request.map(|request| request.revision);
        }
        self.memory.unserved = None;
        self.memory.silence = None;
        if reason == Reason::CrashedFailover {
            self.note_crash_release(now);
        }
    }
}
