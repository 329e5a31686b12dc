//! When clients are paused, when the pause ends, and when it has lasted too long.

use super::evidence::Confirmed;
use super::{Serving, WritePool, server};
use crate::pool::{Effect, Retargeted, Servers};
use crate::reason::Reason;
use mrg_base::Moment;
use mrg_election::Revision;
use mrg_election::mutant::bug;

/// A pause of the clients, and what has been shown since it began.
#[derive(Debug)]
pub(super) struct Pause {
    pub(super) since: Moment,
    pub(super) cause: Reason,
    /// The number of the read that began with the pause.
    pub(super) read: u64,
    /// Whether that read, or a later one, was answered.
    pub(super) fresh: bool,
    /// The leadership that its agent has confirmed.
    pub(super) leadership_of: Option<Revision>,
    /// When the agent was asked last.
    pub(super) asked_at: Option<Moment>,
    pub(super) confirmed: Option<Confirmed>,
    /// Whether PgBouncer has no transaction under way.
    pub(super) drained: bool,
    /// Whether the pause lasted too long.
    pub(super) rejecting: bool,
}

impl WritePool {
    /// The reason to pause clients; `None` while there is none.
    pub(super) fn obstacle(&self) -> Option<Reason> {
        let Some(snapshot) = &self.snapshot else {
            return Some(Reason::Starting);
        };
        let Some(leader) = &snapshot.leader else {
            return Some(Reason::LeaderGone);
        };
        let Some(serving) = &self.serving else {
            return Some(Reason::Starting);
        };
        if self.request_applies() {
            Some(Reason::PauseAsked)
        } else if serving.leader != *leader {
            Some(Reason::LeaderChanged)
        } else if self.lost {
            Some(Reason::ServerLost)
        } else {
            None
        }
    }

    /// A request is about one leadership, and ends with it.
    pub(super) fn request_applies(&self) -> bool {
        let key = self.leader().map(|leader| leader.key);
        let unexpired = self
            .request
            .filter(|request| Some(request.id) != self.expired);
        unexpired.is_some_and(|request| Some(request.leader) == key || bug!(PauseOutlivesLeader))
    }

    pub(super) fn begin_pause(&mut self, now: Moment, cause: Reason) {
        self.pause = Some(Pause {
            since: now,
            cause,
            read: self.reads,
            fresh: false,
            leadership_of: None,
            asked_at: None,
            confirmed: None,
            drained: false,
            rejecting: false,
        });
        // A probe from before the pause proves nothing about after it.
        self.probe = None;
        self.probe_due = now;
    }

    /// Ends the pause if all evidence is there.
    pub(super) fn end_pause(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let Some(pause) = &self.pause else { return };
        let Some(leader) = self.leader().cloned().filter(|_| !self.request_applies()) else {
            return;
        };
        let assured = bug!(PoolTrustsOldNews)
            || pause.fresh
            || self.dcs_lost && pause.leadership_of == Some(leader.key);
        let Some(confirmed) = pause
            .confirmed
            .filter(|confirmed| assured && confirmed.key == leader.key)
        else {
            return;
        };
        let timeline = confirmed.timeline;
        effects.push(Effect::Retargeted(Retargeted {
            cause: pause.cause,
            paused: now.since(pause.since),
            servers: Servers::from([server(&leader)]),
        }));
        self.serving = Some(Serving { leader, timeline });
        self.pause = None;
        self.suspect = false;
        self.lost = false;
    }

    pub(super) fn reject_if_late(&mut self, now: Moment) {
        let (started, max_pause) = (self.serving.is_some(), self.max_pause);
        let request = self
            .request
            .filter(|_| self.request_applies())
            .map(|request| request.id);
        // Before the first server there are no clients to turn away.
        if let Some(pause) = self
            .pause
            .as_mut()
            .filter(|pause| started && now.since(pause.since) >= max_pause)
        {
            pause.rejecting = true;
            self.expired = request.or(self.expired);
        }
    }
}
