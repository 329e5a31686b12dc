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

mod acknowledgement;
mod evidence;
mod pause;

use crate::pool::{Effect, Event, PoolCore, Servers};
use crate::reason::Reason;
use crate::view::{Address, Admission, Leader, PauseRequest, PoolTarget, Snapshot};
use acknowledgement::ACKNOWLEDGE_AFTER;
use evidence::{CONFIRM_RETRY, CONFIRMED_FOR};
use mrg_base::{MemberName, Millis, Moment, Timeline};
use mrg_election::Revision;
use pause::Pause;

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
            Event::DcsReset => self.note_reset(),
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

    /// The next snapshot is newer, whatever its revision; and what was known of requests is named by
    /// revisions that another one may have now.
    fn note_reset(&mut self) {
        if let Some(known) = &mut self.snapshot {
            known.revision = 0;
        }
        self.request = None;
        self.expired = None;
        self.acknowledged = None;
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
