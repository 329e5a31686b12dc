//! The write pool: its clients reach only a server that is proven to be the primary of the newest
//! leadership, and wait otherwise.
//!
//! The rules, from docs/ha.md, "Poolers":
//! 1. A pause begins when the leader asks for it, when the leader key is seen gone or changed, and
//!    when the server closed a connection *and* a probe does not find the primary. A silent DCS or
//!    one closed connection alone begins nothing.
//! 2. A pause ends only for the leader of a linearizable read that began after the pause did
//!    (without DCS: for one whose agent confirms its leadership), and only when that server reports
//!    that it is out of recovery, of the same system, on a timeline not older than the last.
//! 3. A request to pause means nothing under another leadership than its own, and expires after the
//!    longest pause: the leader that made it may be unable to take it back.
//! 4. After the longest pause clients are rejected, and the search goes on.

use crate::pool::{Effect, Event, PoolCore, Retargeted, Servers};
use crate::reason::Reason;
use crate::view::{Address, Admission, Finding, Leader, PauseRequest, PoolTarget, Snapshot};
use mrg_base::{MemberName, Millis, Moment, Timeline};
use mrg_election::Revision;
use mrg_election::mutant::bug;

/// The delay after a probe that failed.
const PROBE_RETRY: Millis = Millis(20);
/// How long the last transactions may take before the request is acknowledged as under way: most
/// often it is acknowledged once, as drained.
const ACKNOWLEDGE_AFTER: Millis = Millis(100);
/// How long a probe's finding counts: the heartbeat connection does not show that the server's
/// machine is cut off.
const CONFIRMED_FOR: Millis = Millis(1_000);
/// The interval between two questions to an agent.
const CONFIRM_RETRY: Millis = Millis(200);

/// What a probe found.
#[derive(Clone, Copy, Debug)]
struct Confirmed {
    key: Revision,
    timeline: Timeline,
    at: Moment,
}

/// A pause of the clients, and what has been shown since it began.
#[derive(Debug)]
struct Pause {
    since: Moment,
    cause: Reason,
    /// The number of the read that began with the pause.
    read: u64,
    /// Whether that read, or a later one, was answered.
    fresh: bool,
    /// The leadership that its agent has confirmed.
    leadership_of: Option<Revision>,
    /// When the agent was asked last.
    asked_at: Option<Moment>,
    confirmed: Option<Confirmed>,
    /// Whether PgBouncer has no transaction under way.
    drained: bool,
    /// Whether the pause lasted too long.
    rejecting: bool,
}

/// The server that clients reach, or reached last.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Serving {
    leader: Leader,
    timeline: Timeline,
}

/// A write pool.
#[derive(Debug)]
pub struct WritePool {
    max_pause: Millis,
    snapshot: Option<Snapshot>,
    dcs_lost: bool,
    request: Option<PauseRequest>,
    /// The request that paused clients for as long as any may.
    expired: Option<Revision>,
    /// The request that was acknowledged last, and whether as drained.
    acknowledged: Option<(Revision, bool)>,
    serving: Option<Serving>,
    pause: Option<Pause>,
    /// The probe under way, and the leadership that it is about.
    probe: Option<(u64, Revision)>,
    probe_due: Moment,
    /// Whether the server closed a connection and no probe has answered since.
    suspect: bool,
    /// Whether a probe did not find the primary where clients are.
    lost: bool,
    /// How many probes began.
    probes: u64,
    /// How many reads were asked for.
    reads: u64,
    target: PoolTarget,
}

impl PoolCore for WritePool {
    fn on(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        match event {
            // A write pool monitors nothing.
            Event::Tick | Event::Monitored { .. } => {}
            Event::Dcs { snapshot, read } => self.note_dcs(snapshot, read),
            Event::DcsLost => self.dcs_lost = true,
            Event::Pause(request) => self.request = request,
            Event::Disconnected { key } => self.note_disconnected(key),
            Event::Probed { probe, finding } => self.note_finding(now, probe, finding),
            Event::LeadershipAnswered { key, leads } => {
                if let Some(pause) = &mut self.pause {
                    pause.leadership_of = leads.then_some(key);
                }
            }
            Event::Drained { number } => self.note_drained(number),
        }
        let effects = self.proceed(now);
        self.assert_safe();
        effects
    }

    fn wake_at(&self) -> Option<Moment> {
        let probe = (self.probe.is_none() && self.wants_probe()).then_some(self.probe_due);
        let pause = self.pause.as_ref();
        let rejection = pause
            .filter(|pause| !pause.rejecting && self.serving.is_some())
            .map(|pause| pause.since + self.max_pause);
        let agent = pause
            .filter(|pause| self.dcs_lost && pause.leadership_of.is_none())
            .and_then(|pause| pause.asked_at)
            .map(|at| at + CONFIRM_RETRY);
        let acknowledgement = self
            .unacknowledged()
            .map(|(_, since)| since + ACKNOWLEDGE_AFTER);
        let stale = pause
            .and_then(|pause| pause.confirmed)
            .map(|confirmed| confirmed.at + CONFIRMED_FOR);
        [probe, rejection, agent, acknowledgement, stale]
            .into_iter()
            .flatten()
            .min()
    }

    fn reason(&self) -> Reason {
        match &self.pause {
            None => Reason::Confirmed,
            Some(pause) if pause.rejecting => Reason::HeldTooLong,
            Some(pause) => pause.cause,
        }
    }

    fn paused_since(&self) -> Option<Moment> {
        self.pause.as_ref().map(|pause| pause.since)
    }

    fn serving(&self) -> Servers {
        self.serving
            .iter()
            .map(|serving| server(&serving.leader))
            .collect()
    }
}

fn server(leader: &Leader) -> (MemberName, Address) {
    (leader.member.clone(), leader.address.clone())
}

impl WritePool {
    /// A pool whose clients wait for the first server.
    pub fn new(max_pause: Millis, now: Moment) -> Self {
        let mut pool = Self {
            max_pause,
            snapshot: None,
            dcs_lost: false,
            request: None,
            expired: None,
            acknowledged: None,
            serving: None,
            pause: None,
            probe: None,
            probe_due: now,
            suspect: false,
            lost: false,
            probes: 0,
            reads: 0,
            target: PoolTarget::INITIAL,
        };
        pool.begin_pause(now, Reason::Starting);
        pool
    }

    fn leads_to(&self, key: Revision) -> bool {
        self.serving
            .as_ref()
            .is_some_and(|serving| serving.leader.key == key)
    }

    fn leader(&self) -> Option<&Leader> {
        self.snapshot.as_ref()?.leader.as_ref()
    }

    fn note_dcs(&mut self, snapshot: Snapshot, read: u64) {
        self.dcs_lost = false;
        if let Some(pause) = &mut self.pause
            && read >= pause.read
        {
            pause.fresh = true;
        }
        // A read is linearizable; a change that comes late from an abandoned watch is outdated.
        if read > 0
            || self
                .snapshot
                .as_ref()
                .is_none_or(|known| snapshot.revision >= known.revision)
        {
            self.snapshot = Some(snapshot);
        }
    }

    fn note_disconnected(&mut self, key: Revision) {
        self.suspect |= self.leads_to(key);
        if let Some(pause) = &mut self.pause {
            pause.confirmed.take_if(|confirmed| confirmed.key == key);
        }
    }

    fn note_drained(&mut self, number: u64) {
        let current = self.target.admission == Admission::Paused && number >= self.target.number;
        if let Some(pause) = self.pause.as_mut().filter(|_| current) {
            pause.drained = true;
        }
    }

    fn note_finding(&mut self, now: Moment, probe: u64, finding: Finding) {
        let Some((_, key)) = self.probe.take_if(|(running, _)| *running == probe) else {
            return;
        };
        self.suspect = false;
        let known = self
            .snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.system_id);
        match finding {
            Finding::Standby { .. } if bug!(PoolTrustsAnybody) => {
                if let Some(pause) = &mut self.pause {
                    pause.confirmed = Some(Confirmed {
                        key,
                        timeline: Timeline(1),
                        at: now,
                    });
                }
            }
            Finding::Primary {
                system_id,
                timeline,
                ..
            } if Some(system_id) == known && self.is_not_older(timeline) => {
                self.lost = false;
                if let Some(pause) = &mut self.pause {
                    pause.confirmed = Some(Confirmed {
                        key,
                        timeline,
                        at: now,
                    });
                }
            }
            _ => {
                self.lost |= self.leads_to(key);
                self.probe_due = now + PROBE_RETRY;
            }
        }
    }

    fn is_not_older(&self, timeline: Timeline) -> bool {
        self.serving
            .as_ref()
            .is_none_or(|serving| timeline >= serving.timeline)
    }

    /// The reason to pause clients; `None` while there is none.
    fn obstacle(&self) -> Option<Reason> {
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
    fn request_applies(&self) -> bool {
        let key = self.leader().map(|leader| leader.key);
        let unexpired = self
            .request
            .filter(|request| Some(request.id) != self.expired);
        unexpired.is_some_and(|request| Some(request.leader) == key || bug!(PauseOutlivesLeader))
    }

    fn wants_probe(&self) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        match &self.pause {
            Some(pause) => {
                !self.request_applies()
                    && pause
                        .confirmed
                        .is_none_or(|confirmed| confirmed.key != leader.key)
            }
            None => self.suspect,
        }
    }

    fn begin_pause(&mut self, now: Moment, cause: Reason) {
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

    fn proceed(&mut self, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.pause.is_none()
            && let Some(cause) = self.obstacle()
        {
            self.reads += 1;
            self.begin_pause(now, cause);
            effects.push(Effect::ReadDcs(self.reads));
        }
        if let Some(pause) = &mut self.pause
            && pause
                .confirmed
                .take_if(|confirmed| now.since(confirmed.at) >= CONFIRMED_FOR)
                .is_some()
        {
            self.probe_due = now;
        }
        self.end_pause(now, &mut effects);
        self.reject_if_late(now);
        self.retarget(&mut effects);
        self.acknowledge(now, &mut effects);
        self.request_evidence(now, &mut effects);
        effects
    }

    /// Ends the pause if all evidence is there.
    fn end_pause(&mut self, now: Moment, effects: &mut Vec<Effect>) {
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

    fn reject_if_late(&mut self, now: Moment) {
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

    /// Where PgBouncer points. While clients wait it is pointed to the next leader in advance, but
    /// not while transactions end on the last one.
    fn addresses(&self) -> Vec<Address> {
        let next = self
            .leader()
            .filter(|_| self.pause.is_some() && !self.request_applies());
        let next = next.or(self.serving.as_ref().map(|serving| &serving.leader));
        next.map(|leader| leader.address.clone())
            .into_iter()
            .collect()
    }

    fn retarget(&mut self, effects: &mut Vec<Effect>) {
        let admission = match &self.pause {
            None => Admission::Open,
            Some(pause) if pause.rejecting => Admission::Rejecting,
            Some(_) => Admission::Paused,
        };
        let addresses = self.addresses();
        if let Some(target) = self.target.next(admission, addresses) {
            self.target = target.clone();
            effects.push(Effect::Retarget(target));
        }
    }

    /// The request that pauses clients and is not acknowledged, and since when.
    fn unacknowledged(&self) -> Option<(PauseRequest, Moment)> {
        let request = self.request.filter(|_| self.request_applies())?;
        let acknowledged = self.acknowledged.is_some_and(|(id, _)| id == request.id);
        self.pause
            .as_ref()
            .filter(|_| !acknowledged)
            .map(|pause| (request, pause.since))
    }

    fn acknowledge(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let request = self.request.filter(|_| self.request_applies());
        let (Some(request), Some(pause)) = (request, &self.pause) else {
            return;
        };
        // Before the first server there are no clients.
        let drained = pause.drained || self.serving.is_none() || bug!(PoolSaysDrained);
        let early = self
            .unacknowledged()
            .is_some_and(|(_, since)| now.since(since) < ACKNOWLEDGE_AFTER);
        if self.acknowledged != Some((request.id, drained)) && (drained || !early) {
            self.acknowledged = Some((request.id, drained));
            effects.push(Effect::Acknowledge {
                pause: request.id,
                drained,
            });
        }
    }

    /// Asks for the evidence that is missing.
    fn request_evidence(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let Some(leader) = self.leader().cloned() else {
            return;
        };
        if self.probe.is_none() && now >= self.probe_due && self.wants_probe() {
            self.probes += 1;
            self.probe = Some((self.probes, leader.key));
            effects.push(Effect::Probe {
                probe: self.probes,
                leader: leader.clone(),
            });
        }
        let dcs_lost = self.dcs_lost && !self.request_applies();
        let Some(pause) = self
            .pause
            .as_mut()
            .filter(|pause| dcs_lost && !pause.fresh && pause.leadership_of.is_none())
        else {
            return;
        };
        if pause
            .asked_at
            .is_none_or(|at| now.since(at) >= CONFIRM_RETRY)
        {
            pause.asked_at = Some(now);
            effects.push(Effect::ConfirmLeadership(leader));
        }
    }

    /// # Panics
    /// If clients could reach a server that is not confirmed: a bug, and worse than a crash.
    fn assert_safe(&self) {
        let confirmed = self
            .serving
            .as_ref()
            .map(|serving| std::slice::from_ref(&serving.leader.address));
        let safe = self.target.admission != Admission::Open
            || confirmed == Some(self.target.addresses.as_slice());
        assert!(safe, "clients would reach an unconfirmed server: {self:?}");
    }
}

#[cfg(test)]
mod tests;
