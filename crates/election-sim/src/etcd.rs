//! An etcd as the members see it: one history of revisions, leases, compare-and-set. What goes
//! wrong between it and them is the network's part; what goes wrong in it is that for a while it
//! has no leader, and answers nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use mrg_base::{Lsn, MemberName, Timeline};
use mrg_election::mutant::bug;
use mrg_election::sync::Stored;
use mrg_election::{
    Cluster, Failsafe, Initialize, LeaderKey, LeaseId, Member, Revision, Settings,
    SwitchoverRequest,
};
use mrg_pool_core::PauseRequest;

/// What a pooler writes of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PoolerKey {
    /// The request that it heeds.
    pub pause: Option<Revision>,
    /// Whether its last transaction is done.
    pub drained: bool,
}

/// All keys, as of one revision.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    /// What the election looks at.
    pub cluster: Cluster,
    /// `config`, unless somebody deleted it.
    pub settings: Option<Settings>,
    /// The request to the poolers.
    pub pause: Option<PauseRequest>,
    /// The poolers.
    pub poolers: BTreeMap<usize, PoolerKey>,
}

/// Who owns a lease and when it ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granted {
    /// The ttl, in the milliseconds of etcd's clock.
    pub ttl: u64,
    /// When it ends.
    pub ends: u64,
}

/// A transaction. Those that speak of a lease are done only if it is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Transaction {
    /// Create `initialize`, if absent.
    ClaimInitialize,
    /// Delete it, if it is ours.
    AbandonInitialize,
    /// Store the system identifier, if we lead.
    StoreSystemId(u64, Lsn),
    /// Create the leader key, if absent.
    Acquire,
    /// Put the leader key under another lease, if it is ours.
    Move(LeaseId),
    /// Delete the leader key and the request to the poolers, if it is ours.
    Release,
    /// Compare-and-set `/sync`, if we lead.
    WriteSync(Option<Revision>, Stored),
    /// Compare-and-set the switchover request.
    ClearSwitchover(Revision),
    /// Write our member key, if it is absent, ours, or our former lease's.
    ClaimMember(Member, Option<LeaseId>),
    /// `status`.
    PutStatus(Lsn),
    /// `history`.
    PutHistory(Timeline, Option<Timeline>),
    /// `history` in advance, if we lead.
    Reserve(Timeline, Option<Timeline>),
    /// `failsafe`, if we lead and it is unchanged.
    PutFailsafe(Option<Revision>, Option<BTreeSet<MemberName>>),
    /// Ask the poolers to hold, if we lead.
    PutPause(Revision),
    /// Take that back, if we lead.
    DeletePause,
    /// Write `config` again, if it is absent.
    RestoreConfig(Settings),
}

/// The state of etcd.
#[derive(Debug, Default)]
pub(crate) struct Etcd {
    keys: Rc<Keys>,
    /// Which lease a key hangs off: `initialize`, the request to the poolers, a pooler's key.
    claim: Option<LeaseId>,
    pause_lease: Option<LeaseId>,
    leases: BTreeMap<LeaseId, Granted>,
    granted: i64,
}

impl Etcd {
    /// Empty, but for the configuration.
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            keys: Rc::new(Keys {
                settings: Some(settings),
                ..Keys::default()
            }),
            ..Self::default()
        }
    }

    /// Everything, now.
    pub(crate) fn keys(&self) -> &Rc<Keys> {
        &self.keys
    }

    /// A lease, if it is there.
    pub(crate) fn lease(&self, id: LeaseId) -> Option<Granted> {
        self.leases.get(&id).copied()
    }

    /// Changes keys: the next revision.
    pub(crate) fn change<T>(&mut self, change: impl FnOnce(&mut Keys, Revision) -> T) -> T {
        let keys = Rc::make_mut(&mut self.keys);
        let next = Revision(keys.cluster.revision.0 + 1);
        keys.cluster.revision = next;
        change(keys, next)
    }

    /// Grants a lease.
    pub(crate) fn grant(&mut self, now: u64, ttl: u64) -> LeaseId {
        self.granted += 1;
        let id = LeaseId(self.granted);
        self.leases.insert(
            id,
            Granted {
                ttl,
                ends: now + ttl,
            },
        );
        id
    }

    /// Keeps a lease; whether it was there.
    pub(crate) fn keep(&mut self, now: u64, id: LeaseId) -> bool {
        let Some(lease) = self.leases.get_mut(&id) else {
            return false;
        };
        lease.ends = now + lease.ttl;
        true
    }

    /// A new leader of etcd gives every lease its whole ttl again.
    pub(crate) fn promote(&mut self, now: u64) -> Vec<(LeaseId, u64)> {
        for lease in self.leases.values_mut() {
            lease.ends = now + lease.ttl;
        }
        self.leases
            .iter()
            .map(|(id, lease)| (*id, lease.ends))
            .collect()
    }

    /// Ends a lease and everything that hangs off it; whether there was one.
    pub(crate) fn revoke(&mut self, id: LeaseId) -> bool {
        if self.leases.remove(&id).is_none() {
            return false;
        }
        let claimed = self.claim.take_if(|claim| *claim == id).is_some();
        let paused = self.pause_lease.take_if(|lease| *lease == id).is_some();
        self.change(|keys, _| {
            keys.cluster.members.retain(|_, member| member.lease != id);
            keys.cluster.leader.take_if(|leader| leader.lease == id);
            if claimed && matches!(keys.cluster.initialize, Some(Initialize::InProgress(_))) {
                keys.cluster.initialize = None;
            }
            if paused {
                keys.pause = None;
            }
        });
        true
    }

    fn leads(&self, lease: LeaseId) -> bool {
        self.keys
            .cluster
            .leader
            .as_ref()
            .is_some_and(|leader| leader.lease == lease)
    }

    /// Does a transaction; the revision if its conditions held.
    pub(crate) fn transact(
        &mut self,
        who: &MemberName,
        lease: LeaseId,
        transaction: Transaction,
    ) -> Option<Revision> {
        let cluster = &self.keys.cluster;
        let alive = self.leases.contains_key(&lease);
        let leads = self.leads(lease);
        let holds = match &transaction {
            Transaction::ClaimInitialize => alive && cluster.initialize.is_none(),
            Transaction::AbandonInitialize => {
                self.claim == Some(lease)
                    && cluster.initialize == Some(Initialize::InProgress(lease))
            }
            Transaction::Acquire => {
                alive && (cluster.leader.is_none() || bug!(AcquireWithoutCompare))
            }
            Transaction::Move(to) => leads && self.leases.contains_key(to),
            Transaction::StoreSystemId(..) | Transaction::Release | Transaction::DeletePause => {
                leads
            }
            Transaction::PutFailsafe(over, _) => {
                leads && cluster.failsafe.as_ref().map(|stored| stored.revision) == *over
            }
            Transaction::PutHistory(_, known) | Transaction::Reserve(_, known) => {
                leads && cluster.timeline == *known
            }
            Transaction::PutPause(leadership) => {
                leads
                    && cluster
                        .leader
                        .as_ref()
                        .is_some_and(|leader| leader.created == *leadership)
            }
            Transaction::WriteSync(expected, _) => {
                bug!(SyncWithoutCompare)
                    || leads && cluster.sync.as_ref().map(|(revision, _)| *revision) == *expected
            }
            Transaction::ClearSwitchover(expected) => cluster
                .switchover
                .as_ref()
                .is_some_and(|request| request.revision == *expected),
            Transaction::ClaimMember(_, former) => {
                let key = cluster.members.get(who);
                alive && key.is_none_or(|key| key.lease == lease || Some(key.lease) == *former)
            }
            Transaction::RestoreConfig(_) => self.keys.settings.is_none(),
            Transaction::PutStatus(_) => true,
        };
        if !holds {
            return None;
        }
        match &transaction {
            Transaction::ClaimInitialize => self.claim = Some(lease),
            Transaction::StoreSystemId(..) | Transaction::AbandonInitialize => self.claim = None,
            Transaction::PutPause(_) => self.pause_lease = Some(lease),
            _ => {}
        }
        Some(self.change(|keys, revision| apply(keys, revision, who, lease, transaction)))
    }
}

fn apply(
    keys: &mut Keys,
    revision: Revision,
    who: &MemberName,
    lease: LeaseId,
    transaction: Transaction,
) -> Revision {
    let cluster = &mut keys.cluster;
    match transaction {
        Transaction::ClaimInitialize => cluster.initialize = Some(Initialize::InProgress(lease)),
        Transaction::AbandonInitialize => cluster.initialize = None,
        Transaction::StoreSystemId(id, optime) => {
            cluster.initialize = Some(Initialize::Done(id));
            cluster.optime.get_or_insert(optime);
        }
        Transaction::Acquire => {
            cluster.leader = Some(LeaderKey {
                member: who.clone(),
                lease,
                created: revision,
            });
        }
        Transaction::Move(to) => {
            if let Some(leader) = &mut cluster.leader {
                leader.lease = to;
            }
        }
        Transaction::Release => {
            cluster.leader = None;
            keys.pause = None;
        }
        Transaction::WriteSync(_, stored) => cluster.sync = Some((revision, stored)),
        Transaction::ClearSwitchover(_) => cluster.switchover = None,
        Transaction::ClaimMember(member, _) => {
            cluster.members.insert(who.clone(), member);
        }
        Transaction::PutStatus(optime) => cluster.optime = Some(optime),
        Transaction::PutHistory(timeline, _) | Transaction::Reserve(timeline, _) => {
            cluster.timeline = Some(timeline);
            cluster.timeline_of = Some(who.clone());
        }
        Transaction::PutFailsafe(_, members) => {
            cluster.failsafe = members.map(|members| Failsafe {
                revision,
                members,
                outdated: false,
            });
        }
        Transaction::PutPause(leader) => {
            keys.pause = Some(PauseRequest {
                id: revision,
                leader,
            });
        }
        Transaction::DeletePause => keys.pause = None,
        Transaction::RestoreConfig(settings) => keys.settings = Some(settings),
    }
    revision
}

/// A person's request to hand over.
pub(crate) fn request(
    keys: &mut Keys,
    revision: Revision,
    leader: Option<MemberName>,
    candidate: Option<MemberName>,
) {
    keys.cluster.switchover = Some(SwitchoverRequest {
        leader,
        candidate,
        revision,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> MemberName {
        MemberName::new(text).expect("a legal name")
    }

    #[test]
    fn what_a_deposed_leader_still_had_to_say_of_sync_is_not_written() {
        let mut etcd = Etcd::new(Settings::default());
        let (old, new) = (etcd.grant(0, 5_000), etcd.grant(0, 5_000));
        assert!(
            etcd.transact(&name("a"), old, Transaction::Acquire)
                .is_some()
        );
        let first = etcd.transact(
            &name("a"),
            old,
            Transaction::WriteSync(None, Stored::only(name("a"))),
        );
        assert!(first.is_some());
        assert!(
            etcd.transact(&name("b"), new, Transaction::Acquire)
                .is_none(),
            "the key is there"
        );
        etcd.revoke(old);
        assert!(
            etcd.transact(&name("b"), new, Transaction::Acquire)
                .is_some()
        );
        let wider = Stored {
            voters: [name("c")].into(),
            ..Stored::only(name("a"))
        };
        assert!(
            etcd.transact(
                &name("a"),
                old,
                Transaction::WriteSync(first, wider.clone())
            )
            .is_none(),
            "it does not lead"
        );
        let second = etcd.transact(
            &name("b"),
            new,
            Transaction::WriteSync(first, Stored::only(name("b"))),
        );
        assert!(second.is_some());
        assert!(
            etcd.transact(&name("b"), new, Transaction::WriteSync(first, wider))
                .is_none(),
            "it was changed since"
        );
    }
}
