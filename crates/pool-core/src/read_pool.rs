//! The read pool: its clients are spread over the standbys that keep up.

use std::collections::{BTreeMap, BTreeSet};

use crate::view::{Address, Finding, Gate, Seen, Setting};
use crate::why::Why;
use mrg_base::{Lsn, MemberName, Millis, Moment};

/// How far a standby may be behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxLag {
    /// In bytes of WAL.
    Bytes(u64),
    /// In age of the newest transaction that can be seen.
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

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadEvent {
    /// Time passed.
    Tick,
    /// The DCS said this.
    Dcs(Seen),
    /// A server was looked at, or closed its connection.
    Looked {
        /// Which.
        member: MemberName,
        /// Where it was looked at.
        address: Address,
        /// What it is.
        finding: Finding,
    },
}

/// A read pool.
#[derive(Debug)]
pub struct Reads {
    max_lag: MaxLag,
    fallback: Fallback,
    max_hold: Millis,
    seen: Seen,
    findings: BTreeMap<MemberName, (Address, Finding)>,
    serving: BTreeSet<MemberName>,
    empty_since: Option<Moment>,
    setting: Setting,
}

impl Reads {
    /// A pool whose clients wait for the first server.
    pub fn new(max_lag: MaxLag, fallback: Fallback, max_hold: Millis) -> Self {
        let setting = Setting {
            number: 0,
            gate: Gate::Hold,
            addresses: Vec::new(),
        };
        let (seen, findings, serving) = (Seen::default(), BTreeMap::new(), BTreeSet::new());
        Self {
            max_lag,
            fallback,
            max_hold,
            seen,
            findings,
            serving,
            empty_since: None,
            setting,
        }
    }

    /// Which servers to look at.
    pub fn followed(&self) -> BTreeMap<MemberName, Address> {
        self.seen
            .members
            .iter()
            .map(|(name, member)| (name.clone(), member.address.clone()))
            .collect()
    }

    /// Whom clients reach.
    pub fn serving(&self) -> &BTreeSet<MemberName> {
        &self.serving
    }

    /// Why clients wait, or do not.
    pub fn why(&self) -> Why {
        match self.setting.gate {
            Gate::Flow => Why::Confirmed,
            Gate::Refuse => Why::HeldTooLong,
            Gate::Hold if self.empty_since.is_none() => Why::Starting,
            Gate::Hold => Why::NoReplica,
        }
    }

    /// Since when clients wait.
    pub fn held_since(&self) -> Option<Moment> {
        self.empty_since
    }

    /// When to call again at the latest.
    pub fn wake_at(&self) -> Option<Moment> {
        self.empty_since
            .filter(|_| self.setting.gate == Gate::Hold)
            .map(|since| since + self.max_hold)
    }

    /// Takes an event; a new setting if there is one.
    pub fn on(&mut self, now: Moment, event: ReadEvent) -> Option<Setting> {
        match event {
            ReadEvent::Tick => {}
            ReadEvent::Dcs(seen) => {
                self.seen = seen;
                self.findings.retain(|name, (address, _)| {
                    self.seen
                        .members
                        .get(name)
                        .is_some_and(|member| member.address == *address)
                });
            }
            ReadEvent::Looked {
                member,
                address,
                finding,
            } => {
                if self
                    .seen
                    .members
                    .get(&member)
                    .is_some_and(|known| known.address == address)
                {
                    self.findings.insert(member, (address, finding));
                }
            }
        }
        self.serving = self.choose();
        let addresses: Vec<Address> = self
            .serving
            .iter()
            .filter_map(|name| Some(self.findings.get(name)?.0.clone()))
            .collect();
        let started = !self.setting.addresses.is_empty();
        self.empty_since = if addresses.is_empty() && started {
            self.empty_since.or(Some(now))
        } else {
            None
        };
        let late = self
            .empty_since
            .is_some_and(|since| now.since(since) >= self.max_hold);
        let gate = match () {
            () if !addresses.is_empty() => Gate::Flow,
            () if late => Gate::Refuse,
            () => Gate::Hold,
        };
        // Nowhere to go is no address to write down.
        let addresses = if addresses.is_empty() {
            self.setting.addresses.clone()
        } else {
            addresses
        };
        if gate == self.setting.gate && addresses == self.setting.addresses {
            return None;
        }
        self.setting = Setting {
            number: self.setting.number + 1,
            gate,
            addresses,
        };
        Some(self.setting.clone())
    }

    fn choose(&self) -> BTreeSet<MemberName> {
        let leader = self.seen.leader.as_ref().map(|leader| &leader.member);
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
            // How far it is while nobody knows stays as it was.
            MaxLag::Bytes(limit) => self
                .bytes_behind(*replayed)
                .map_or(serves, |behind| behind <= limit / share),
            MaxLag::Time(limit) => behind.0 <= limit.0 / share,
        };
        near && self.seen.system_id.is_none_or(|known| known == *system_id)
    }

    /// `None` while there is a leader that has not answered the first question yet.
    fn bytes_behind(&self, replayed: Lsn) -> Option<u64> {
        let leader = self
            .seen
            .leader
            .as_ref()
            .map(|leader| &leader.member)
            .filter(|leader| self.seen.members.contains_key(leader));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Leader, Member};
    use mrg_base::Timeline;
    use mrg_election::Revision;

    fn name(text: &str) -> MemberName {
        MemberName::new(text).unwrap()
    }

    fn address(text: &str) -> Address {
        Address {
            host: format!("10.0.0.{}", text.trim_start_matches('n')),
            port: 5432,
        }
    }

    fn seen(leader: &str, members: &[&str]) -> Seen {
        let member = |text: &&str| {
            (
                name(text),
                Member {
                    address: address(text),
                },
            )
        };
        let leader = Leader {
            key: Revision(1),
            member: name(leader),
            address: address(leader),
        };
        Seen {
            revision: 1,
            system_id: Some(7),
            leader: Some(leader),
            members: members.iter().map(member).collect(),
        }
    }

    fn standby(replayed: u64) -> Finding {
        Finding::Standby {
            system_id: 7,
            replayed: Lsn(replayed),
            behind: Millis(0),
        }
    }

    fn looked(text: &str, finding: Finding) -> ReadEvent {
        ReadEvent::Looked {
            member: name(text),
            address: address(text),
            finding,
        }
    }

    const PRIMARY: Finding = Finding::Primary {
        system_id: 7,
        timeline: Timeline(1),
        written: Lsn(1_000),
    };

    fn pool(fallback: Fallback) -> Reads {
        let mut pool = Reads::new(MaxLag::Bytes(100), fallback, Millis(500));
        for event in [
            ReadEvent::Dcs(seen("n1", &["n1", "n2", "n3"])),
            looked("n1", PRIMARY),
            looked("n2", standby(1_000)),
            looked("n3", standby(960)),
        ] {
            pool.on(Moment(0), event);
        }
        assert_eq!(pool.setting.addresses, vec![address("n2"), address("n3")]);
        assert_eq!(pool.why(), Why::Confirmed);
        pool
    }

    #[test]
    fn a_laggard_and_a_lost_standby_leave_and_come_back_when_they_are_near() {
        let mut pool = pool(Fallback::Refuse);
        assert_eq!(
            pool.on(Moment(1), looked("n3", standby(800)))
                .unwrap()
                .addresses,
            vec![address("n2")]
        );
        assert_eq!(
            pool.on(Moment(2), looked("n3", standby(920))),
            None,
            "80 bytes behind is within the limit, but not clearly"
        );
        assert_eq!(
            pool.on(Moment(3), looked("n3", standby(960)))
                .unwrap()
                .addresses
                .len(),
            2
        );
        assert_eq!(
            pool.on(Moment(4), looked("n2", Finding::Unreachable))
                .unwrap()
                .addresses,
            vec![address("n3")]
        );
    }

    #[test]
    fn without_a_standby_clients_use_the_primary_or_wait_and_are_refused() {
        let mut to_primary = pool(Fallback::Primary);
        let mut refusing = pool(Fallback::Refuse);
        for pool in [&mut to_primary, &mut refusing] {
            pool.on(Moment(1), looked("n2", Finding::Unreachable));
            pool.on(Moment(1), looked("n3", Finding::Unreachable));
        }
        assert_eq!(
            (
                to_primary.setting.gate,
                to_primary.setting.addresses.clone()
            ),
            (Gate::Flow, vec![address("n1")])
        );
        assert_eq!(
            (refusing.setting.gate, refusing.why()),
            (Gate::Hold, Why::NoReplica)
        );
        assert_eq!(refusing.wake_at(), Some(Moment(501)));
        assert_eq!(
            refusing.on(Moment(501), ReadEvent::Tick).unwrap().gate,
            Gate::Refuse
        );
        assert_eq!(
            refusing
                .on(Moment(502), looked("n2", standby(1_000)))
                .unwrap()
                .gate,
            Gate::Flow
        );
    }

    #[test]
    fn a_laggard_that_answers_before_the_primary_is_not_taken_for_near() {
        let mut pool = Reads::new(MaxLag::Bytes(100), Fallback::Refuse, Millis(500));
        pool.on(Moment(0), ReadEvent::Dcs(seen("n1", &["n1", "n2", "n3"])));
        assert_eq!(
            pool.on(Moment(1), looked("n2", standby(800))),
            None,
            "nobody knows yet how far the primary is"
        );
        assert_eq!(pool.on(Moment(2), looked("n1", PRIMARY)), None);
        assert_eq!(
            pool.on(Moment(3), looked("n3", standby(1_000)))
                .unwrap()
                .addresses,
            vec![address("n3")]
        );
        let mut pool = Reads::new(MaxLag::Bytes(100), Fallback::Refuse, Millis(500));
        pool.on(Moment(0), ReadEvent::Dcs(seen("n1", &["n1", "n2", "n3"])));
        pool.on(Moment(1), looked("n2", standby(800)));
        let setting = pool
            .on(Moment(2), looked("n1", Finding::Unreachable))
            .unwrap();
        assert_eq!(
            setting.addresses,
            vec![address("n2")],
            "without a primary nothing new is written"
        );
    }

    #[test]
    fn whoever_serves_goes_on_until_a_new_leader_has_answered() {
        let mut pool = pool(Fallback::Refuse);
        let mut moved = seen("n4", &["n1", "n2", "n3", "n4"]);
        moved.members.remove(&name("n1"));
        assert_eq!(pool.on(Moment(1), ReadEvent::Dcs(moved)), None);
        let ahead = Finding::Primary {
            system_id: 7,
            timeline: Timeline(2),
            written: Lsn(1_050),
        };
        assert_eq!(pool.on(Moment(2), looked("n4", ahead)), None);
        assert_eq!(pool.serving, [name("n2"), name("n3")].into());
    }

    #[test]
    fn a_standby_that_becomes_the_leader_leaves() {
        let mut pool = pool(Fallback::Refuse);
        pool.on(Moment(1), ReadEvent::Dcs(seen("n2", &["n1", "n2", "n3"])));
        assert_eq!(pool.serving, [name("n3")].into());
    }

    #[test]
    fn a_server_of_another_system_at_the_same_address_is_not_used() {
        let mut pool = pool(Fallback::Refuse);
        pool.on(
            Moment(1),
            looked(
                "n3",
                Finding::Standby {
                    system_id: 8,
                    replayed: Lsn(1_000),
                    behind: Millis(0),
                },
            ),
        );
        assert_eq!(pool.serving, [name("n2")].into());
    }

    #[test]
    fn nobody_is_let_in_and_nobody_refused_before_the_first_server() {
        let mut pool = Reads::new(MaxLag::Time(Millis(100)), Fallback::Refuse, Millis(500));
        assert_eq!(
            pool.on(Moment(0), ReadEvent::Dcs(seen("n1", &["n1", "n2"]))),
            None
        );
        assert_eq!(pool.on(Moment(9_000), ReadEvent::Tick), None);
        assert_eq!(pool.why(), Why::Starting);
    }
}
