//! What is written to the store, and on which condition: one constructor for each operation.
//!
//! A compare-and-set is tried once ([`Transaction::is_repeatable`] is false): done again after its
//! answer was lost, it would find its own write and report a conflict. After an unknown outcome,
//! and after a conflict, the election drops the rest of its decision and reads linearizably before
//! it decides again; what holds until that read is said at each operation ("In doubt").

use std::collections::BTreeMap;

use crate::config::DynamicConfig;
use crate::keys::Key;
use crate::poolers::PoolerRecord;
use crate::value::Value;
use crate::wire::{FailoverData, HistoryLine, MemberData, StatusData};
use mrg_base::MemberName;
use mrg_election::mutant::bug;
use mrg_election::{LeaseId, Revision, Stored};

/// A condition on one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// It does not exist.
    Absent(Key),
    /// It exists, and was last written by this revision.
    Unchanged(Key, Revision),
    /// It exists and hangs off this lease.
    Owned(Key, LeaseId),
}

impl Compare {
    /// As it was read: last written by this revision, or absent.
    fn as_read(key: Key, modified: Option<Revision>) -> Self {
        match modified {
            Some(revision) => Compare::Unchanged(key, revision),
            None => Compare::Absent(key),
        }
    }
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Put the value under its key, which hangs off the lease from then on, or off none.
    Put(Value, Option<LeaseId>),
    /// Delete the key, if it is there.
    Delete(Key),
}

/// Writes that happen together if all compares hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    /// All of them have to hold; without any the writes happen in any case.
    pub compares: Vec<Compare>,
    /// All of them happen at one revision.
    pub writes: Vec<Write>,
}

/// Branches, of which the first that holds is done, at one revision; none holds: a conflict.
#[derive(Clone, Debug, PartialEq)]
pub struct Transaction {
    operation: &'static str,
    branches: Vec<Branch>,
    repeatable: bool,
}

fn put(value: Value) -> Write {
    Write::Put(value, None)
}

fn put_under(lease: LeaseId, value: Value) -> Write {
    Write::Put(value, Some(lease))
}

fn leads(lease: LeaseId) -> Compare {
    Compare::Owned(Key::Leader, lease)
}

/// These compares, but none of them in a build with the bug that leaves them out.
fn unless<const N: usize>(left_out: bool, compares: [Compare; N]) -> Vec<Compare> {
    if left_out {
        Vec::new()
    } else {
        compares.into()
    }
}

impl Transaction {
    fn once(operation: &'static str, compares: Vec<Compare>, writes: Vec<Write>) -> Self {
        Self {
            operation,
            branches: vec![Branch { compares, writes }],
            repeatable: false,
        }
    }

    /// A write over whatever is there, which may be done twice.
    fn unconditional(operation: &'static str, write: Write) -> Self {
        let branch = Branch {
            compares: Vec::new(),
            writes: vec![write],
        };
        Self {
            operation,
            branches: vec![branch],
            repeatable: true,
        }
    }

    /// What it is for, as the rest of "failed to …".
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// The branches, in the order in which they are tried.
    pub fn branches(&self) -> &[Branch] {
        &self.branches
    }

    /// Whether it puts a key, whichever branch is done. A store without space does only those that
    /// do not.
    pub fn puts(&self) -> bool {
        let is_put = |write: &Write| matches!(write, Write::Put(..));
        self.branches
            .iter()
            .any(|branch| branch.writes.iter().any(is_put))
    }

    /// Whether it may be done again when its outcome is not known.
    pub fn is_repeatable(&self) -> bool {
        self.repeatable
    }

    /// Creates the leader key under `lease` if it is absent.
    ///
    /// In doubt: the key may be ours, and is not counted on: nothing is promoted. The next read shows
    /// the owner, by the lease.
    pub fn acquire_leader(lease: LeaseId, member: &MemberName) -> Self {
        Self::once(
            "acquire the leader key",
            unless(bug!(AcquireWithoutCompare), [Compare::Absent(Key::Leader)]),
            vec![put_under(lease, Value::Leader(member.clone()))],
        )
    }

    /// Moves the leader key from one of our leases to another, if it hangs off the first. It keeps
    /// the revision that created it, so that the leadership goes on.
    ///
    /// In doubt: the key hangs off either lease, so both have to be renewed until a read shows which.
    pub fn move_leader(from: LeaseId, to: LeaseId, member: &MemberName) -> Self {
        Self::once(
            "move the leader key to another lease",
            vec![leads(from)],
            vec![put_under(to, Value::Leader(member.clone()))],
        )
    }

    /// Deletes the leader key if it hangs off `lease`, and the request to the poolers with it,
    /// which was about this leadership. Only after nothing of our server writes any more.
    ///
    /// `status` is what the key of that name says; it is written again along with it. A store that
    /// takes no puts, for want of space or of a permission, deletes all the same; by the put it
    /// refuses the whole, and the key stays where it is instead of going where no other member can
    /// take it. `None`: there is no such key, and none is made.
    ///
    /// In doubt: our server has stopped already. A key that is still there is released again, and
    /// goes with the lease at the latest.
    pub fn release_leader(lease: LeaseId, status: Option<StatusData>) -> Self {
        let mut writes = vec![Write::Delete(Key::Leader), Write::Delete(Key::Pause)];
        writes.extend(status.map(|status| put(Value::Status(status))));
        Self::once(
            "release the leader key",
            unless(bug!(ReleaseWithoutCompare), [leads(lease)]),
            writes,
        )
    }

    /// Deletes the leader key of before a reset of the store, and the request to the poolers with
    /// it, if it still hangs off `lease`. Only by a primary whose right to write has not ended.
    ///
    /// In doubt: the key is read again; nothing else was touched.
    pub fn evict_leader(lease: LeaseId) -> Self {
        Self::once(
            "delete the leader key of before the reset",
            vec![leads(lease)],
            vec![Write::Delete(Key::Leader), Write::Delete(Key::Pause)],
        )
    }

    /// In a store that went back in time: creates the leader key under `lease` if it is absent, and
    /// with it writes what the cluster is, over whatever is there: its system identifier, its
    /// configuration if it is known, `/sync` if it is used. A request to hand over of before is
    /// cleared. At one revision, so that no member can see half of it.
    ///
    /// In doubt: the next read shows the owner of the leader key, by the lease; all or nothing of the
    /// rest is there.
    pub fn restore_keys(
        lease: LeaseId,
        member: &MemberName,
        system_id: u64,
        config: Option<DynamicConfig>,
        stored: Option<Stored>,
    ) -> Self {
        let mut writes = vec![
            put_under(lease, Value::Leader(member.clone())),
            put(Value::SystemId(system_id)),
            put(Value::Failover(FailoverData::default())),
        ];
        writes.extend(config.map(|config| put(Value::Config(config))));
        writes.extend(stored.map(|stored| put(Value::Sync(stored))));
        let absent = vec![Compare::Absent(Key::Leader)];
        Self::once("restore the cluster's keys", absent, writes)
    }

    /// Claims the bootstrap: creates `initialize` under `lease` if it is absent. A claim whose
    /// owner dies is free again.
    ///
    /// In doubt: nothing is created until a read shows the claim under our lease.
    pub fn claim_initialize(lease: LeaseId) -> Self {
        Self::once(
            "claim the bootstrap",
            vec![Compare::Absent(Key::Initialize)],
            vec![put_under(lease, Value::Claim)],
        )
    }

    /// Deletes `initialize` if it is our claim. Only after the data directory is gone.
    ///
    /// In doubt: a claim that is still there ends with the lease.
    pub fn abandon_initialize(lease: LeaseId) -> Self {
        Self::once(
            "abandon the bootstrap",
            vec![Compare::Owned(Key::Initialize, lease)],
            vec![Write::Delete(Key::Initialize)],
        )
    }

    /// Writes the system identifier if we lead, and the first `status` if there is none: should
    /// `initialize` be deleted, that shows that the cluster exists, from its first moment on.
    ///
    /// In doubt: it is written again; the identifier never changes.
    pub fn store_system_id(lease: LeaseId, id: u64, first: StatusData) -> Self {
        let store = || put(Value::SystemId(id));
        let both = Branch {
            compares: vec![leads(lease), Compare::Absent(Key::Status)],
            writes: vec![store(), put(Value::Status(first))],
        };
        let alone = Branch {
            compares: vec![leads(lease)],
            writes: vec![store()],
        };
        Self {
            operation: "store the system identifier",
            branches: vec![both, alone],
            repeatable: false,
        }
    }

    /// Narrows or widens `/sync` if we lead and it was last written by `over` (`None`: if it is
    /// absent).
    ///
    /// In doubt: either value may be in force. PostgreSQL goes on to wait for the standbys it waited
    /// for, which the order of the steps makes safe under both; see [`mrg_election::sync`].
    pub fn write_sync(lease: LeaseId, over: Option<Revision>, stored: Stored) -> Self {
        Self::once(
            "write /sync",
            unless(
                bug!(SyncWithoutCompare),
                [leads(lease), Compare::as_read(Key::Sync, over)],
            ),
            vec![put(Value::Sync(stored))],
        )
    }

    /// Writes `/history` if we lead and it was last written by `over` (`None`: if it is absent): the
    /// reservation of the next timeline before a promotion, and PostgreSQL's own words afterwards.
    ///
    /// In doubt: nothing is promoted. The next read shows which member reserved the timeline.
    pub fn write_history(lease: LeaseId, over: Option<Revision>, lines: Vec<HistoryLine>) -> Self {
        Self::once(
            "write /history",
            unless(
                bug!(HistoryWithoutCompare),
                [leads(lease), Compare::as_read(Key::History, over)],
            ),
            vec![put(Value::History(lines))],
        )
    }

    /// Writes `/failsafe`, or deletes it (`members` is `None`), if we lead and it was last written by
    /// `over` (`None`: if it is absent).
    ///
    /// In doubt: members of the old and of the new list may race, so the promises of all of them
    /// are needed until a read shows which it is.
    pub fn write_failsafe(
        lease: LeaseId,
        over: Option<Revision>,
        members: Option<BTreeMap<MemberName, String>>,
    ) -> Self {
        let write = members.map_or(Write::Delete(Key::Failsafe), |members| {
            put(Value::Failsafe(members))
        });
        Self::once(
            "write /failsafe",
            vec![leads(lease), Compare::as_read(Key::Failsafe, over)],
            vec![write],
        )
    }

    /// Writes the leader's position, over whatever is there: no decision compares it, and the next
    /// write corrects one that comes late.
    ///
    /// In doubt: it is written again with the next position.
    pub fn put_status(data: StatusData) -> Self {
        Self::unconditional("write /status", put(Value::Status(data)))
    }

    /// Publishes a member under its lease if its key is absent, or hangs off that lease or off
    /// `former`, the lease that this process had before. A conflict: another process goes by the
    /// same name.
    ///
    /// In doubt: it is published again.
    pub fn publish_member(
        member: &MemberName,
        data: MemberData,
        lease: LeaseId,
        former: Option<LeaseId>,
    ) -> Self {
        let key = Key::Member(member.clone());
        let put = put_under(lease, Value::Member(member.clone(), Box::new(data)));
        let branch = |compare| Branch {
            compares: vec![compare],
            writes: vec![put.clone()],
        };
        let owners = [Some(lease), former];
        let absent = branch(Compare::Absent(key.clone()));
        let owned = owners
            .into_iter()
            .flatten()
            .map(|owner| branch(Compare::Owned(key.clone(), owner)));
        Self {
            operation: "publish the member",
            branches: std::iter::once(absent).chain(owned).collect(),
            repeatable: true,
        }
    }

    /// Creates `/config` if it is absent: at the bootstrap, and where it was deleted.
    ///
    /// In doubt, and after a conflict: a configuration that is there stays.
    pub fn create_config(config: DynamicConfig) -> Self {
        Self::write_config(None, config)
    }

    /// Writes the intent: `/config`, if it was last written by `over` (`None`: if it is absent).
    ///
    /// In doubt: either configuration may be in force. The operator compares with what the next
    /// read shows, and writes again; a client of the REST API gets an error.
    pub fn write_config(over: Option<Revision>, config: DynamicConfig) -> Self {
        Self::once(
            "write /config",
            vec![Compare::as_read(Key::Config, over)],
            vec![put(Value::Config(config))],
        )
    }

    /// Requests a switchover or failover, in place of another request that may stand: Patroni's
    /// `POST /switchover` and `POST /failover` compare nothing either, so that a person can correct
    /// a request that cannot be fulfilled.
    ///
    /// In doubt: the request may stand, and is followed or made again.
    pub fn request_failover(request: FailoverData) -> Self {
        Self::unconditional("request a hand-over", put(Value::Failover(request)))
    }

    /// Withdraws whatever request stands.
    ///
    /// In doubt: it may still stand, and is withdrawn again.
    pub fn withdraw_failover() -> Self {
        let cleared = put(Value::Failover(FailoverData::default()));
        Self::unconditional("withdraw the hand-over", cleared)
    }

    /// Takes a request out of `/failover` once it was fulfilled or cannot be, if it is still the
    /// one that was read.
    ///
    /// In doubt: the request may still stand; the next read shows it.
    pub fn take_failover(expected: Revision) -> Self {
        Self::once(
            "clear the hand-over",
            vec![Compare::Unchanged(Key::Failover, expected)],
            vec![put(Value::Failover(FailoverData::default()))],
        )
    }

    /// Asks the poolers to hold their clients, if we lead. The request names the leadership
    /// (`created` of the leader key), is named by its own revision, and ends with the lease.
    ///
    /// In doubt: the poolers may hold their clients. [`Transaction::resume_poolers`] ends that, and so
    /// does the end of the leadership; each pooler gives up after its own longest hold.
    pub fn ask_poolers(lease: LeaseId, leadership: Revision) -> Self {
        Self::once(
            "ask the poolers",
            vec![leads(lease)],
            vec![put_under(lease, Value::Pause(leadership))],
        )
    }

    /// Takes the request to the poolers back, if we lead.
    ///
    /// In doubt: the poolers may go on holding their clients, no longer than their longest hold.
    pub fn resume_poolers(lease: LeaseId) -> Self {
        Self::once(
            "resume the poolers",
            vec![leads(lease)],
            vec![Write::Delete(Key::Pause)],
        )
    }

    /// Publishes a pooler's record under its lease. Only this pod writes its key.
    ///
    /// In doubt: it is published again.
    pub fn publish_pooler(pod: &str, record: PoolerRecord, lease: LeaseId) -> Self {
        let value = Value::Pooler(pod.to_owned(), Box::new(record));
        Self::unconditional("publish the pooler", put_under(lease, value))
    }
}
