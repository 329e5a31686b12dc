//! The write pool: its clients reach only a server that is shown to be the primary of the newest
//! leadership, and wait otherwise.
//!
//! The rules, from docs/ha.md, "Poolers":
//! 1. A pause begins when the leader asks for it, when the leader key is seen gone or changed, and
//!    when the server closed a connection *and* a probe does not find the primary. A silent DCS or
//!    one closed connection alone begins nothing.
//! 2. A pause ends only for the leader of a linearizable read that began after the pause did
//!    (without DCS: for one whose agent vouches for it), and only when that server itself says that
//!    it is out of recovery, of the same system, on a timeline not older than the last.
//! 3. A request to pause means nothing under another leadership than its own. And it means nothing
//!    any more once it has lasted for the longest hold: whoever made it may be unable to take it
//!    back.
//! 4. What cannot be confirmed within the longest hold is refused, and the search goes on.

use crate::view::{Address, Finding, Gate, Leader, PauseRequest, Seen, Setting};
use crate::why::Why;
use mrg_base::{Millis, Moment, Timeline};
use mrg_election::Revision;
use mrg_election::mutant::bug;

/// The pause between a probe that failed at once and the next.
const PROBE_AGAIN: Millis = Millis(20);
/// How long the last transactions may take before the leader hears that its request is heeded: most
/// often it hears only that they are done.
const SAY_SO_AFTER: Millis = Millis(100);
/// What a probe found counts for so long: the connection that it leaves tells nothing of a server
/// whose machine is cut off.
const CONFIRMED_FOR: Millis = Millis(1_000);
/// The pause between two questions to an agent.
const ASK_AGAIN: Millis = Millis(200);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The time that [`Writes::wake_at`] named has come, or any other.
    Tick,
    /// The DCS said this. `read` is the newest [`Effect::ReadDcs`] that the read behind it began
    /// after.
    Dcs {
        /// The state.
        seen: Seen,
        /// The number of the newest request that it answers; 0 if it is a change that was watched.
        read: u64,
    },
    /// The DCS does not answer.
    DcsLost,
    /// The pause request, as it stands now.
    Pause(Option<PauseRequest>),
    /// A connection to the server was closed by it.
    Disconnected {
        /// The leadership that the connection was for.
        key: Revision,
    },
    /// A probe ended.
    Probed {
        /// Which.
        probe: u64,
        /// What it found.
        finding: Finding,
    },
    /// The leader's agent answered, or did not.
    Vouched {
        /// Which leadership it was asked about.
        key: Revision,
        /// Whether it holds a lease or promises that last.
        leads: bool,
    },
    /// No transaction is under way any more under this setting or a later one.
    Drained {
        /// The setting.
        number: u64,
    },
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Bring PgBouncer there.
    Set(Setting),
    /// Ask the server what it is; wait a moment for it to leave recovery. The connection then tells
    /// when the server is gone.
    Probe {
        /// The number of the probe.
        probe: u64,
        /// Whom.
        leader: Leader,
    },
    /// Ask the leader's agent whether it still leads.
    AskAgent(Leader),
    /// Read the DCS linearizably and label the answer with this number.
    ReadDcs(u64),
    /// Tell the leader that its request is heeded, and whether the last transaction is done.
    Acknowledge {
        /// The request.
        pause: Revision,
        /// Whether nothing is under way any more.
        drained: bool,
    },
    /// Clients work again.
    Rewired(Rewired),
}

/// A hold that ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewired {
    /// What began it.
    pub cause: Why,
    /// How long it was.
    pub held: Millis,
    /// Whom clients reach now.
    pub leader: Leader,
}

/// What a probe found.
#[derive(Clone, Copy, Debug)]
struct Confirmed {
    key: Revision,
    timeline: Timeline,
    at: Moment,
}

#[derive(Debug)]
struct Hold {
    since: Moment,
    cause: Why,
    read: u64,
    fresh: bool,
    vouched: Option<Revision>,
    asked_agent: Option<Moment>,
    confirmed: Option<Confirmed>,
    drained: bool,
    refusing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    leader: Leader,
    timeline: Timeline,
}

/// A write pool.
#[derive(Debug)]
pub struct Writes {
    max_hold: Millis,
    seen: Option<Seen>,
    away: bool,
    pause: Option<PauseRequest>,
    /// The request that was heeded for long enough.
    outlived: Option<Revision>,
    acknowledged: Option<(Revision, bool)>,
    target: Option<Target>,
    hold: Option<Hold>,
    probe: Option<(u64, Revision)>,
    probe_due: Moment,
    suspect: bool,
    lost: bool,
    probes: u64,
    reads: u64,
    setting: Setting,
}

impl Writes {
    /// A pool whose clients wait for the first server.
    pub fn new(max_hold: Millis, now: Moment) -> Self {
        let mut pool = Self {
            max_hold,
            seen: None,
            away: false,
            pause: None,
            outlived: None,
            acknowledged: None,
            target: None,
            hold: None,
            probe: None,
            probe_due: now,
            suspect: false,
            lost: false,
            probes: 0,
            reads: 0,
            setting: Setting {
                number: 0,
                gate: Gate::Hold,
                addresses: Vec::new(),
            },
        };
        pool.begin_hold(now, Why::Starting);
        pool
    }

    /// Why clients wait, or do not.
    pub fn why(&self) -> Why {
        match &self.hold {
            None => Why::Confirmed,
            Some(hold) if hold.refusing => Why::HeldTooLong,
            Some(hold) => hold.cause,
        }
    }

    /// The leader that clients reach, or reached last.
    pub fn target(&self) -> Option<&Leader> {
        self.target.as_ref().map(|target| &target.leader)
    }

    /// Since when clients wait.
    pub fn held_since(&self) -> Option<Moment> {
        self.hold.as_ref().map(|hold| hold.since)
    }

    /// When to call again with [`Event::Tick`] at the latest.
    pub fn wake_at(&self) -> Option<Moment> {
        let probe = (self.probe.is_none() && self.wants_probe()).then_some(self.probe_due);
        let hold = self.hold.as_ref();
        let refusal = hold
            .filter(|hold| !hold.refusing && self.target.is_some())
            .map(|hold| hold.since + self.max_hold);
        let agent = hold
            .filter(|hold| self.away && hold.vouched.is_none())
            .and_then(|hold| hold.asked_agent)
            .map(|at| at + ASK_AGAIN);
        let say_so = self.unsaid().map(|(_, since)| since + SAY_SO_AFTER);
        let stale = hold
            .and_then(|hold| hold.confirmed)
            .map(|confirmed| confirmed.at + CONFIRMED_FOR);
        [probe, refusal, agent, say_so, stale]
            .into_iter()
            .flatten()
            .min()
    }

    /// Takes an event and says what to do.
    pub fn on(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        match event {
            Event::Tick => {}
            Event::Dcs { seen, read } => self.note_dcs(seen, read),
            Event::DcsLost => self.away = true,
            Event::Pause(pause) => self.pause = pause,
            Event::Disconnected { key } => self.note_disconnected(key),
            Event::Probed { probe, finding } => self.note_finding(now, probe, finding),
            Event::Vouched { key, leads } => {
                if let Some(hold) = &mut self.hold {
                    hold.vouched = leads.then_some(key);
                }
            }
            Event::Drained { number } => {
                let current = self.setting.gate == Gate::Hold && number >= self.setting.number;
                if let Some(hold) = self.hold.as_mut().filter(|_| current) {
                    hold.drained = true;
                }
            }
        }
        let effects = self.proceed(now);
        self.assert_safe();
        effects
    }

    fn leads_to(&self, key: Revision) -> bool {
        self.target
            .as_ref()
            .is_some_and(|target| target.leader.key == key)
    }

    fn leader(&self) -> Option<&Leader> {
        self.seen.as_ref()?.leader.as_ref()
    }

    fn note_dcs(&mut self, seen: Seen, read: u64) {
        self.away = false;
        if let Some(hold) = &mut self.hold
            && read >= hold.read
        {
            hold.fresh = true;
        }
        // A read is linearizable; a change that comes late from an abandoned watch is not news.
        if read > 0
            || self
                .seen
                .as_ref()
                .is_none_or(|known| seen.revision >= known.revision)
        {
            self.seen = Some(seen);
        }
    }

    fn note_disconnected(&mut self, key: Revision) {
        self.suspect |= self.leads_to(key);
        if let Some(hold) = &mut self.hold {
            hold.confirmed.take_if(|confirmed| confirmed.key == key);
        }
    }

    fn note_finding(&mut self, now: Moment, probe: u64, finding: Finding) {
        let Some((_, key)) = self.probe.take_if(|(running, _)| *running == probe) else {
            return;
        };
        self.suspect = false;
        let known = self.seen.as_ref().and_then(|seen| seen.system_id);
        match finding {
            Finding::Standby { .. } if bug!(PoolTrustsAnybody) => {
                if let Some(hold) = &mut self.hold {
                    hold.confirmed = Some(Confirmed {
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
                if let Some(hold) = &mut self.hold {
                    hold.confirmed = Some(Confirmed {
                        key,
                        timeline,
                        at: now,
                    });
                }
            }
            _ => {
                self.lost |= self.leads_to(key);
                self.probe_due = now + PROBE_AGAIN;
            }
        }
    }

    fn is_not_older(&self, timeline: Timeline) -> bool {
        self.target
            .as_ref()
            .is_none_or(|target| timeline >= target.timeline)
    }

    /// What stands between the clients and the server.
    fn obstacle(&self) -> Option<Why> {
        let Some(seen) = &self.seen else {
            return Some(Why::Starting);
        };
        let Some(leader) = &seen.leader else {
            return Some(Why::LeaderGone);
        };
        let Some(target) = &self.target else {
            return Some(Why::Starting);
        };
        match () {
            () if self.pause_applies() => Some(Why::PauseAsked),
            () if target.leader != *leader => Some(Why::LeaderChanged),
            () if self.lost => Some(Why::ServerLost),
            () => None,
        }
    }

    /// A request is about one leadership, and ends with it.
    fn pause_applies(&self) -> bool {
        let key = self.leader().map(|leader| leader.key);
        let heeded = self.pause.filter(|pause| Some(pause.id) != self.outlived);
        heeded.is_some_and(|pause| Some(pause.leader) == key || bug!(PauseOutlivesLeader))
    }

    fn wants_probe(&self) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        match &self.hold {
            Some(hold) => {
                !self.pause_applies()
                    && hold
                        .confirmed
                        .is_none_or(|confirmed| confirmed.key != leader.key)
            }
            None => self.suspect,
        }
    }

    fn begin_hold(&mut self, now: Moment, cause: Why) {
        self.hold = Some(Hold {
            since: now,
            cause,
            read: self.reads,
            fresh: false,
            vouched: None,
            asked_agent: None,
            confirmed: None,
            drained: false,
            refusing: false,
        });
        // A probe from before the pause proves nothing about after it.
        self.probe = None;
        self.probe_due = now;
    }

    fn proceed(&mut self, now: Moment) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.hold.is_none()
            && let Some(cause) = self.obstacle()
        {
            self.reads += 1;
            self.begin_hold(now, cause);
            effects.push(Effect::ReadDcs(self.reads));
        }
        if let Some(hold) = &mut self.hold
            && hold
                .confirmed
                .take_if(|confirmed| now.since(confirmed.at) >= CONFIRMED_FOR)
                .is_some()
        {
            self.probe_due = now;
        }
        self.end_hold(now, &mut effects);
        self.refuse_if_late(now);
        self.set(&mut effects);
        self.acknowledge(now, &mut effects);
        self.inquire(now, &mut effects);
        effects
    }

    /// Ends the hold if everything is shown.
    fn end_hold(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let Some(hold) = &self.hold else { return };
        let Some(leader) = self.leader().cloned().filter(|_| !self.pause_applies()) else {
            return;
        };
        let assured =
            bug!(PoolTrustsOldNews) || hold.fresh || self.away && hold.vouched == Some(leader.key);
        let Some(confirmed) = hold
            .confirmed
            .filter(|confirmed| assured && confirmed.key == leader.key)
        else {
            return;
        };
        let timeline = confirmed.timeline;
        effects.push(Effect::Rewired(Rewired {
            cause: hold.cause,
            held: now.since(hold.since),
            leader: leader.clone(),
        }));
        self.target = Some(Target { leader, timeline });
        self.hold = None;
        self.suspect = false;
        self.lost = false;
    }

    fn refuse_if_late(&mut self, now: Moment) {
        let (started, max_hold) = (self.target.is_some(), self.max_hold);
        let asked = self
            .pause
            .filter(|_| self.pause_applies())
            .map(|pause| pause.id);
        // Before the first server nobody is let in, so nobody has to be turned away.
        if let Some(hold) = self
            .hold
            .as_mut()
            .filter(|hold| started && now.since(hold.since) >= max_hold)
        {
            hold.refusing = true;
            self.outlived = asked.or(self.outlived);
        }
    }

    /// Where PgBouncer points. While clients wait it is turned to the next leader in advance, but
    /// not while transactions end on the last one.
    fn addresses(&self) -> Vec<Address> {
        let next = self
            .leader()
            .filter(|_| self.hold.is_some() && !self.pause_applies());
        let next = next.or(self.target.as_ref().map(|target| &target.leader));
        next.map(|leader| leader.address.clone())
            .into_iter()
            .collect()
    }

    fn set(&mut self, effects: &mut Vec<Effect>) {
        let gate = match &self.hold {
            None => Gate::Flow,
            Some(hold) if hold.refusing => Gate::Refuse,
            Some(_) => Gate::Hold,
        };
        let addresses = self.addresses();
        if gate != self.setting.gate || addresses != self.setting.addresses {
            self.setting = Setting {
                number: self.setting.number + 1,
                gate,
                addresses,
            };
            effects.push(Effect::Set(self.setting.clone()));
        }
    }

    /// The request that is heeded and not yet said to be, and since when.
    fn unsaid(&self) -> Option<(PauseRequest, Moment)> {
        let pause = self.pause.filter(|_| self.pause_applies())?;
        let said = self.acknowledged.is_some_and(|(id, _)| id == pause.id);
        self.hold
            .as_ref()
            .filter(|_| !said)
            .map(|hold| (pause, hold.since))
    }

    fn acknowledge(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let pause = self.pause.filter(|_| self.pause_applies());
        let (Some(pause), Some(hold)) = (pause, &self.hold) else {
            return;
        };
        // Before the first server there are no clients.
        let drained = hold.drained || self.target.is_none() || bug!(PoolSaysDrained);
        let early = self
            .unsaid()
            .is_some_and(|(_, since)| now.since(since) < SAY_SO_AFTER);
        if self.acknowledged != Some((pause.id, drained)) && (drained || !early) {
            self.acknowledged = Some((pause.id, drained));
            effects.push(Effect::Acknowledge {
                pause: pause.id,
                drained,
            });
        }
    }

    /// Asks for what is missing.
    fn inquire(&mut self, now: Moment, effects: &mut Vec<Effect>) {
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
        let away = self.away && !self.pause_applies();
        let Some(hold) = self
            .hold
            .as_mut()
            .filter(|hold| away && !hold.fresh && hold.vouched.is_none())
        else {
            return;
        };
        if hold.asked_agent.is_none_or(|at| now.since(at) >= ASK_AGAIN) {
            hold.asked_agent = Some(now);
            effects.push(Effect::AskAgent(leader));
        }
    }

    /// # Panics
    /// If clients could reach a server that is not confirmed: a bug, and worse than a crash.
    fn assert_safe(&self) {
        let confirmed = self
            .target
            .as_ref()
            .map(|target| std::slice::from_ref(&target.leader.address));
        let safe =
            self.setting.gate != Gate::Flow || confirmed == Some(self.setting.addresses.as_slice());
        assert!(safe, "clients would reach an unconfirmed server: {self:?}");
    }
}

#[cfg(test)]
mod tests;
