//! The read pool: its clients are spread over the standbys that keep up.

use std::collections::{BTreeMap, BTreeSet};

use crate::pool::{Effect, Event, PoolCore, Retargeted, Servers};
use crate::reason::Reason;
use crate::view::{Address, Admission, Finding, PoolTarget, Snapshot};
use mrg_base::{Lsn, MemberName, Millis, Moment};

/// How far a standby may be behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxLag {
    /// In bytes of WAL.
    Bytes(u64),
    /// In age of the newest transaction that can be snapshot.
    Time(Millis),
}

/// What clients get when no standby is near enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// The primary.
    Primary,
    /// Nothing: they wait for the longest hold, and are turned away then.
    Refuse,
}

/// A read pool.
#[derive(Debug)]
pub struct ReadPool {
    max_lag: MaxLag,
    fallback: Fallback,
    max_pause: Millis,
    snapshot: Snapshot,
    findings: BTreeMap<MemberName, (Address, Finding)>,
    serving: BTreeSet<MemberName>,
    empty_since: Option<Moment>,
    target: PoolTarget,
}

impl ReadPool {
    /// A pool whose clients wait for the first server.
    pub fn new(max_lag: MaxLag, fallback: Fallback, max_pause: Millis) -> Self {
        Self {
            max_lag,
            fallback,
            max_pause,
            snapshot: Snapshot::default(),
            findings: BTreeMap::new(),
            serving: BTreeSet::new(),
            empty_since: None,
            target: PoolTarget::INITIAL,
        }
    }

    /// Every member: how far a standby is behind shows only beside the leader.
    fn monitored(&self) -> Servers {
        self.snapshot
            .members
            .iter()
            .map(|(name, member)| (name.clone(), member.address.clone()))
            .collect()
    }

    fn is_at(&self, name: &MemberName, address: &Address) -> bool {
        self.snapshot
            .members
            .get(name)
            .is_some_and(|member| member.address == *address)
    }

    fn note_dcs(&mut self, snapshot: Snapshot) {
        self.snapshot = snapshot;
        let mut findings = std::mem::take(&mut self.findings);
        findings.retain(|name, (address, _)| self.is_at(name, address));
        self.findings = findings;
    }

    fn note_finding(&mut self, member: MemberName, address: Address, finding: Finding) {
        if self.is_at(&member, &address) {
            self.findings.insert(member, (address, finding));
        }
    }

    /// Chooses the servers, and opens, pauses or rejects accordingly.
    fn proceed(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.serving = self.choose();
        let addresses: Vec<Address> = self.serving().into_values().collect();
        let paused_since = self.empty_since;
        let started = !self.target.addresses.is_empty();
        self.empty_since = if addresses.is_empty() && started {
            self.empty_since.or(Some(now))
        } else {
            None
        };
        let late = self
            .empty_since
            .is_some_and(|since| now.since(since) >= self.max_pause);
        let admission = if !addresses.is_empty() {
            Admission::Open
        } else if late {
            Admission::Rejecting
        } else {
            Admission::Paused
        };
        // Without a server the last ones stay written down: an empty list is none for PgBouncer.
        let addresses = if addresses.is_empty() {
            self.target.addresses.clone()
        } else {
            addresses
        };
        let Some(target) = self.target.next(admission, addresses) else {
            return;
        };
        if let (Some(since), Admission::Open) = (paused_since, admission) {
            effects.push(Effect::Retargeted(Retargeted {
                cause: Reason::NoReplica,
                paused: now.since(since),
                servers: self.serving(),
            }));
        }
        self.target = target.clone();
        effects.push(Effect::Retarget(target));
    }

    fn choose(&self) -> BTreeSet<MemberName> {
        let leader = self.snapshot.leader.as_ref().map(|leader| &leader.member);
        let near = |name: &&MemberName| Some(*name) != leader && self.is_near(name);
        let standbys: BTreeSet<MemberName> = self.findings.keys().filter(near).cloned().collect();
        if !standbys.is_empty() || self.fallback == Fallback::Refuse {
            return standbys;
        }
        let primary = |name: &&MemberName| {
            matches!(self.findings.get(*name), Some((_, Finding::Primary { .. })))
        };
        leader.filter(primary).cloned().into_iter().collect()
    }

    fn is_near(&self, name: &MemberName) -> bool {
        let Some((
            _,
            Finding::Standby {
                system_id,
                replayed,
                behind,
            },
        )) = self.findings.get(name)
        else {
            return false;
        };
        // One that was too far away comes back only when it is clearly near, so that it does not
        // flap.
        let serves = self.serving.contains(name);
        let share = if serves { 1 } else { 2 };
        let near = match self.max_lag {
            // While the leader's position is unknown the standby stays as it was.
            MaxLag::Bytes(limit) => self
                .bytes_behind(*replayed)
                .map_or(serves, |behind| behind <= limit / share),
            MaxLag::Time(limit) => behind.0 <= limit.0 / share,
        };
        near && self
            .snapshot
            .system_id
            .is_none_or(|known| known == *system_id)
    }

    /// `None` while there is a leader that has not answered the first question yet.
    fn bytes_behind(&self, replayed: Lsn) -> Option<u64> {
        let leader = self
            .snapshot
            .leader
            .as_ref()
            .map(|leader| &leader.member)
            .filter(|leader| self.snapshot.members.contains_key(leader));
        match leader.map(|leader| self.findings.get(leader)) {
            Some(Some((_, Finding::Primary { written, .. }))) => {
                Some(written.bytes_since(replayed))
            }
            Some(None) => None,
            // Without a primary nothing new is written.
            Some(Some(_)) | None => Some(0),
        }
    }
}

impl PoolCore for ReadPool {
    fn on(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Dcs { snapshot, .. } => {
                self.note_dcs(snapshot);
                effects.push(Effect::Monitor(self.monitored()));
            }
            Event::Monitored {
                member,
                address,
                finding,
            } => self.note_finding(member, address, finding),
            // A silent DCS changes nothing, and the rest concerns the leader alone.
            Event::Tick
            | Event::DcsLost
            | Event::DcsReset
            | Event::Pause(_)
            | Event::Disconnected { .. }
            | Event::Probed { .. }
            | Event::LeadershipAnswered { .. }
            | Event::Drained { .. } => {}
        }
        self.proceed(now, &mut effects);
        effects
    }

    fn wake_at(&self) -> Option<Moment> {
        self.empty_since
            .filter(|_| self.target.admission == Admission::Paused)
            .map(|since| since + self.max_pause)
    }

    fn reason(&self) -> Reason {
        match self.target.admission {
            Admission::Open => Reason::Confirmed,
            Admission::Rejecting => Reason::HeldTooLong,
            Admission::Paused if self.empty_since.is_none() => Reason::Starting,
            Admission::Paused => Reason::NoReplica,
        }
    }

    fn paused_since(&self) -> Option<Moment> {
        self.empty_since
    }

    fn serving(&self) -> Servers {
        self.serving
            .iter()
            .filter_map(|name| Some((name.clone(), self.findings.get(name)?.0.clone())))
            .collect()
    }
}

#[cfg(test)]
mod tests;
