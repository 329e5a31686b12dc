//! What holds of every effect, asserted in release: a bug that breaks one of these ends the process,
//! and the fence ends postgres.

use super::Node;
use crate::action::Action;
use crate::event::Effect;
use crate::mutant::bug;
use crate::reason::Reason;
use crate::sync::{Names, is_safe};
use crate::view::{Postgres, View};
use mrg_base::Moment;

impl Node {
    /// The invariants of lib.rs.
    pub(super) fn check_invariants(&self, now: Moment, effects: &[Effect]) {
        let view = self.view(now);
        for effect in effects {
            let Effect::Perform(step, action) = effect else {
                continue;
            };
            if action.opens_postgres() {
                assert!(
                    view.may_write() && self.fence.is_some_and(|by| now < by),
                    "{action:?} without a lease, promises or a fence; please report this as a bug \
                     of mrg-operator"
                );
            }
            let wins = self
                .running
                .as_ref()
                .is_some_and(|running| running.step == *step && running.reason == Reason::Win);
            if *action == Action::AcquireLeader && wins {
                assert!(
                    is_elected(&view),
                    "a leader that /sync does not permit; please report this as a bug of \
                     mrg-operator"
                );
            }
            assert!(
                self.keeps_sync(now, action),
                "{action:?} could lose an acknowledged commit; please report this as a bug of \
                 mrg-operator"
            );
        }
    }

    /// Whether `/sync` and `synchronous_standby_names` still protect every acknowledged commit
    /// after this step, as far as they are known; in the asynchronous mode nothing protects them.
    pub(super) fn keeps_sync(&self, now: Moment, action: &Action) -> bool {
        let view = self.view(now);
        if !view.settings.is_synchronous() {
            return true;
        }
        let cluster = view.dcs.last();
        let stored = cluster.and_then(|cluster| cluster.sync.as_ref());
        match action {
            Action::WriteSync { stored, .. } => match view.postgres {
                Postgres::Primary(primary) => {
                    let names = primary.names.as_ref().unwrap_or(&Names::Nobody);
                    is_safe(stored, names)
                }
                _ => stored.voters.is_empty(),
            },
            Action::SetSyncNames(names) => stored.is_none_or(|(_, stored)| is_safe(stored, names)),
            Action::RestoreKeys { stored, .. } => {
                stored
                    .as_ref()
                    .is_some_and(|stored| stored.voters.is_empty())
                    || bug!(FormerSyncKept)
            }
            Action::Promote => stored.is_none_or(|(_, stored)| stored.leader == *view.me),
            _ => true,
        }
    }
}

/// Whether `/sync` lets this member take over, with the votes that it has.
fn is_elected(view: &View<'_>) -> bool {
    if !view.settings.is_synchronous() {
        return true;
    }
    let Some((_, stored)) = view.dcs.last().and_then(|cluster| cluster.sync.as_ref()) else {
        return false;
    };
    let votes = view.race.and_then(|race| race.votes.as_ref());
    let voters = votes
        .into_iter()
        .flatten()
        .filter(|vote| stored.voters.contains(&vote.member))
        .count();
    stored.leader == *view.me || stored.voters.contains(view.me) && voters >= stored.quorum
}
