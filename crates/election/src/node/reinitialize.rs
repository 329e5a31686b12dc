//! A person's request to replace this member's data by a copy of the leader's.

use super::Node;
use crate::action::{Action, Outcome};
use crate::event::Effect;
use crate::mutant::bug;
use crate::reason::Reason;
use mrg_base::Moment;

/// After so many failures the request is dropped, and the data that was there is used again.
const TRIES_MAX: u32 = 3;

/// Why a member's data is not replaced now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReinitializeObjection {
    /// There is no leader to copy.
    NoLeader,
    /// This member leads.
    Leads,
    /// It is being replaced already, or rewound.
    InProgress,
}

impl Node {
    /// Why a request to replace the data would be refused. One that is forced begins again what is
    /// under way.
    pub fn reinitialize_objection(
        &self,
        now: Moment,
        forced: bool,
    ) -> Option<ReinitializeObjection> {
        let view = self.view(now);
        let leader = view.dcs.last().and_then(|cluster| cluster.leader.as_ref());
        if leader.is_none() {
            return Some(ReinitializeObjection::NoLeader);
        }
        if view.other_leader().is_none() {
            return Some(ReinitializeObjection::Leads);
        }
        let under_way = self.memory.reinitialize.is_some() || self.replaces_data();
        (under_way && !forced).then_some(ReinitializeObjection::InProgress)
    }

    fn replaces_data(&self) -> bool {
        let action = self.running.as_ref().map(|running| &running.action);
        matches!(action, Some(Action::BaseBackup(_) | Action::Rewind(_)))
    }

    /// Whether the data of this member is being replaced, or is about to be. A copy that was asked for
    /// is done when the server has been started on it.
    pub fn is_creating_replica(&self) -> bool {
        let copies = self.running.as_ref().is_some_and(|running| {
            running.reason == Reason::Reinitialize
                || matches!(running.action, Action::BaseBackup(_))
        });
        self.memory.reinitialize.is_some() || copies
    }

    pub(super) fn note_reinitialize(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.reinitialize_objection(now, true).is_some() {
            return;
        }
        self.memory.reinitialize = Some(0);
        self.idle_until = now;
        let replaces = self.replaces_data();
        if let Some(running) = self.running.take_if(|_| replaces) {
            effects.push(Effect::Abort(running.step));
            // Half a rewind is no data directory.
            self.memory.rewind_failures += u32::from(matches!(running.action, Action::Rewind(_)));
            let probe = self.probe();
            effects.push(probe);
        }
    }

    /// The request is about a copy of the leader that there was.
    pub(super) fn drop_reinitialize_without_leader(&mut self, now: Moment) {
        if self.view(now).other_leader().is_none() && !bug!(ReinitializeKept) {
            self.memory.reinitialize = None;
        }
    }

    pub(super) fn note_reinitialize_failure(&mut self, reason: Reason, outcome: &Outcome) {
        // What was not even tried is no failure.
        if reason != Reason::Reinitialize || matches!(outcome, Outcome::Unknown(_)) {
            return;
        }
        let failures = self.memory.reinitialize.map_or(0, |failures| failures + 1);
        let again = failures < TRIES_MAX || bug!(ReinitializesForEver);
        self.memory.reinitialize = again.then_some(failures);
    }
}
