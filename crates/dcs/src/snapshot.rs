//! Everything that is known of a cluster's keys, parsed once for each revision.

mod typed;

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{DynamicConfig, InvalidConfig, settings};
use crate::keys::{Key, Keys};
use crate::poolers::PoolerRecord;
use crate::value::Value;
use crate::wire::{self, Entry, HistoryLine, MemberData, StatusData};
use mrg_base::{Lsn, MemberName};
use mrg_election::{
    Cluster, Failsafe, Initialize, LeaderKey, LeaseId, Member, Revision, Stored, SwitchoverRequest,
};
use mrg_pool_core::{Leader, PauseRequest, Snapshot};

/// A part of a cluster's keys that is read and watched as a whole.
pub trait Section: Clone + Default + Send + Sync + 'static {
    /// What all paths of its keys begin with.
    fn prefix(keys: &Keys) -> String;

    /// A key was written, at `name` after the prefix.
    fn put(&mut self, name: &str, entry: &Entry);

    /// A key was written, with a value that was never bytes: in memory. Keys of other sections are
    /// ignored.
    fn set(&mut self, key: &Versioned<Value>);

    /// A key was deleted.
    fn delete(&mut self, name: &str);

    /// Everything up to this revision is in.
    fn advance(&mut self, _revision: Revision) {}
}

/// A parsed value with what the store knows about its key.
#[derive(Clone, Debug, PartialEq)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// The lease that the key hangs off; 0 for none.
    pub lease: LeaseId,
    /// The revision that created the key.
    pub created: Revision,
    /// The revision that wrote it last.
    pub modified: Revision,
}

impl<T> Versioned<T> {
    fn read(entry: &Entry, value: T) -> Self {
        Self {
            value,
            lease: LeaseId(entry.lease),
            created: Revision(entry.created),
            modified: Revision(entry.modified),
        }
    }
}

impl Versioned<Value> {
    /// The key as etcd stores it.
    pub fn entry(&self) -> Entry {
        Entry {
            value: self.value.render().into_bytes(),
            lease: self.lease.0,
            created: self.created.0,
            modified: self.modified.0,
        }
    }
}

/// The value of `failover`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// `{}`: no request.
    Cleared,
    /// Hand over.
    HandOver {
        /// The leader that is to step down; `None` for a forced failover.
        leader: Option<MemberName>,
        /// The member that is to take over; `None` for any.
        candidate: Option<MemberName>,
    },
    /// Neither: it cannot be read, names impossible members, or is scheduled, which is not
    /// supported. No member acts on it.
    Unknown,
}

/// The members' keys and what they decide by, as of one revision: Patroni's prefix.
///
/// What cannot be read counts as absent where it would be acted on, and as present where it would
/// be written over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterSnapshot {
    revision: Revision,
    leader: Option<Versioned<Option<MemberName>>>,
    initialize: Option<Versioned<Initialize>>,
    config: Option<Versioned<Result<DynamicConfig, InvalidConfig>>>,
    sync: Option<Versioned<Option<Stored>>>,
    failover: Option<Versioned<Intent>>,
    failsafe: Option<Versioned<Option<BTreeMap<MemberName, String>>>>,
    history: Option<Versioned<Vec<HistoryLine>>>,
    status: Option<Versioned<Option<StatusData>>>,
    members: BTreeMap<MemberName, Versioned<Option<MemberData>>>,
}

impl Section for ClusterSnapshot {
    fn prefix(keys: &Keys) -> String {
        keys.prefix().to_owned()
    }

    fn put(&mut self, name: &str, entry: &Entry) {
        let bytes = &entry.value;
        match Key::in_cluster(name) {
            Some(Key::Leader) => self.leader = Some(Versioned::read(entry, wire::leader(bytes))),
            Some(Key::Initialize) => {
                let value = wire::initialize(bytes, LeaseId(entry.lease));
                self.initialize = Some(Versioned::read(entry, value));
            }
            Some(Key::Config) => {
                self.config = Some(Versioned::read(entry, DynamicConfig::parse(bytes)));
            }
            Some(Key::Sync) => self.sync = Some(Versioned::read(entry, wire::sync(bytes))),
            Some(Key::Failover) => {
                self.failover = Some(Versioned::read(entry, wire::intent(bytes)));
            }
            Some(Key::Failsafe) => {
                self.failsafe = Some(Versioned::read(entry, wire::failsafe(bytes)));
            }
            Some(Key::History) => self.history = Some(Versioned::read(entry, wire::history(bytes))),
            Some(Key::Status) => self.status = Some(Versioned::read(entry, wire::status(bytes))),
            Some(Key::Member(member)) => {
                let data = serde_json::from_slice(bytes).ok();
                self.members.insert(member, Versioned::read(entry, data));
            }
            Some(Key::Pause | Key::Pooler(_)) | None => {}
        }
    }

    fn set(&mut self, key: &Versioned<Value>) {
        self.set_typed(key);
    }

    fn delete(&mut self, name: &str) {
        if let Some(key) = Key::in_cluster(name) {
            self.remove(&key);
        }
    }

    fn advance(&mut self, revision: Revision) {
        self.revision = revision;
    }
}

impl ClusterSnapshot {
    /// The snapshot of raw keys, by their names under Patroni's prefix.
    pub fn parse(revision: Revision, entries: &BTreeMap<String, Entry>) -> Self {
        let mut snapshot = Self::default();
        for (name, entry) in entries {
            snapshot.put(name, entry);
        }
        snapshot.advance(revision);
        snapshot
    }

    fn remove(&mut self, key: &Key) {
        match key {
            Key::Leader => self.leader = None,
            Key::Initialize => self.initialize = None,
            Key::Config => self.config = None,
            Key::Sync => self.sync = None,
            Key::Failover => self.failover = None,
            Key::Failsafe => self.failsafe = None,
            Key::History => self.history = None,
            Key::Status => self.status = None,
            Key::Member(name) => {
                self.members.remove(name);
            }
            Key::Pause | Key::Pooler(_) => {}
        }
    }

    /// The revision as of which all of it holds; 0 before the first read.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The leader key, also if its value names no member.
    pub fn leader_key(&self) -> Option<&Versioned<Option<MemberName>>> {
        self.leader.as_ref()
    }

    /// The leader: its name, lease, and the revision that created the key.
    pub fn leader(&self) -> Option<LeaderKey> {
        let key = self.leader.as_ref()?;
        Some(LeaderKey {
            member: key.value.clone()?,
            lease: key.lease,
            created: key.created,
        })
    }

    /// The system identifier, or a claim.
    pub fn initialize(&self) -> Option<Initialize> {
        self.initialize.as_ref().map(|key| key.value)
    }

    /// The dynamic configuration, also if it cannot be read.
    pub fn config(&self) -> Option<&Versioned<Result<DynamicConfig, InvalidConfig>>> {
        self.config.as_ref()
    }

    /// Which members may take over, with the revision that said so.
    pub fn sync(&self) -> Option<(Revision, &Stored)> {
        let key = self.sync.as_ref()?;
        Some((key.modified, key.value.as_ref()?))
    }

    /// The revision of a `/sync` that cannot be read: it counts as absent, and is written over as
    /// it is.
    pub fn unreadable_sync(&self) -> Option<Revision> {
        let key = self.sync.as_ref().filter(|key| key.value.is_none())?;
        Some(key.modified)
    }

    /// The request to hand over.
    pub fn intent(&self) -> Option<&Versioned<Intent>> {
        self.failover.as_ref()
    }

    /// Whether something other than the cleared request stands in `/failover`.
    pub fn has_intent(&self) -> bool {
        self.intent()
            .is_some_and(|key| key.value != Intent::Cleared)
    }

    /// The members that may race, with the URLs of their REST APIs; `None` also if the key cannot
    /// be read.
    pub fn failsafe(&self) -> Option<&BTreeMap<MemberName, String>> {
        self.failsafe.as_ref()?.value.as_ref()
    }

    /// The lines of the history, oldest first; none if the key is absent or cannot be read.
    pub fn history(&self) -> &[HistoryLine] {
        self.history.as_ref().map_or(&[], |key| &key.value)
    }

    /// The revision that wrote the history last; `None` without the key.
    pub fn history_modified(&self) -> Option<Revision> {
        self.history.as_ref().map(|key| key.modified)
    }

    /// What the leader last said of its position; `None` also if the key cannot be read.
    pub fn status(&self) -> Option<&StatusData> {
        self.status.as_ref()?.value.as_ref()
    }

    /// The members whose keys can be read.
    pub fn members(&self) -> impl Iterator<Item = (&MemberName, &MemberData)> {
        self.members
            .iter()
            .filter_map(|(name, key)| Some((name, key.value.as_ref()?)))
    }

    /// What a member publishes, if its key is there and can be read.
    pub fn member(&self, name: &MemberName) -> Option<&MemberData> {
        self.members.get(name)?.value.as_ref()
    }

    /// The lease that a member's key hangs off, whether or not its value can be read.
    pub fn member_lease(&self, name: &MemberName) -> Option<LeaseId> {
        self.members.get(name).map(|key| key.lease)
    }

    /// What is in force where there is no `config` key and no member remembers one: what the
    /// cluster was bootstrapped with. It may have been asynchronous then, and `/sync` may say that
    /// it no longer is: then only the members named there may take over.
    pub fn config_without_key(&self, bootstrap: &DynamicConfig) -> DynamicConfig {
        let mut config = bootstrap.clone();
        let synchronous = settings(&config).is_ok_and(|settings| settings.is_synchronous());
        if !synchronous && self.sync().is_some() {
            let quorum = serde_json::Value::from("quorum");
            config.0.insert("synchronous_mode".to_owned(), quorum);
        }
        config
    }

    /// What the election looks at.
    pub fn cluster(&self) -> Cluster {
        let last = self.history().last();
        let members = self.members.iter().filter_map(|(name, key)| {
            let data = key.value.as_ref()?;
            Some((name.clone(), election_member(key, data)))
        });
        Cluster {
            revision: self.revision,
            initialize: self.initialize(),
            leader: self.leader(),
            sync: self
                .sync()
                .map(|(revision, stored)| (revision, stored.clone())),
            members: members.collect(),
            switchover: self.switchover(),
            optime: self.status().map(|status| Lsn(status.optime)),
            timeline: last.map(HistoryLine::next_timeline),
            timeline_of: last.and_then(|line| MemberName::new(&line.leader).ok()),
            failsafe: self.failsafe_list(),
            expected: self.expected(),
        }
    }

    fn switchover(&self) -> Option<SwitchoverRequest> {
        let key = self.failover.as_ref()?;
        match &key.value {
            Intent::HandOver { leader, candidate } => Some(SwitchoverRequest {
                leader: leader.clone(),
                candidate: candidate.clone(),
                revision: key.modified,
            }),
            Intent::Cleared | Intent::Unknown => None,
        }
    }

    /// One that cannot be read lists no member: the leader writes it again, and without a leader it
    /// has to be deleted.
    fn failsafe_list(&self) -> Option<Failsafe> {
        let key = self.failsafe.as_ref()?;
        let members = key.value.as_ref();
        let moved = |(name, url): (&MemberName, &String)| {
            self.member(name).is_some_and(|data| data.api_url != *url)
        };
        Some(Failsafe {
            revision: key.modified,
            members: members
                .into_iter()
                .flat_map(BTreeMap::keys)
                .cloned()
                .collect(),
            outdated: members.into_iter().flatten().any(moved),
        })
    }

    /// Which members belong to the cluster: `mrg.members` of the configuration, an array of names.
    /// What cannot be read says nothing.
    fn expected(&self) -> Option<BTreeSet<MemberName>> {
        let config = self.config.as_ref()?.value.as_ref().ok()?;
        let names = config.0.get("mrg")?.get("members")?.as_array()?;
        names
            .iter()
            .map(|name| MemberName::new(name.as_str()?).ok())
            .collect()
    }

    /// What a pooler looks at. A leader whose address is not known is none that clients could
    /// reach.
    pub fn seen(&self) -> Snapshot {
        let member = |(name, data): (&MemberName, &MemberData)| {
            let address = data.postgres_address()?;
            Some((name.clone(), mrg_pool_core::Member { address }))
        };
        let members: BTreeMap<_, _> = self.members().filter_map(member).collect();
        let leader = self.leader().and_then(|key| {
            Some(Leader {
                key: key.created,
                address: members.get(&key.member)?.address.clone(),
                member: key.member,
            })
        });
        let system_id = match self.initialize() {
            Some(Initialize::Done(id)) => Some(id),
            Some(Initialize::InProgress(_)) | None => None,
        };
        Snapshot {
            revision: self.revision.0,
            system_id,
            leader,
            members,
        }
    }
}

fn election_member<T>(key: &Versioned<T>, data: &MemberData) -> Member {
    Member {
        lease: key.lease,
        created: key.created,
        running: data.is_running(),
        primary: data.is_primary_or_master(),
        position: data.position(),
        may_lead: data.may_lead(),
        may_sync: data.may_sync(),
        just_started: data.just_started,
    }
}

/// The poolers' records, by pod; one that cannot be read counts as absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Poolers(pub BTreeMap<String, PoolerRecord>);

impl Section for Poolers {
    fn prefix(keys: &Keys) -> String {
        keys.poolers()
    }

    fn put(&mut self, pod: &str, entry: &Entry) {
        match serde_json::from_slice(&entry.value) {
            Ok(record) => self.0.insert(pod.to_owned(), record),
            Err(_) => self.0.remove(pod),
        };
    }

    fn set(&mut self, key: &Versioned<Value>) {
        if let Value::Pooler(pod, record) = &key.value {
            self.0.insert(pod.clone(), PoolerRecord::clone(record));
        }
    }

    fn delete(&mut self, pod: &str) {
        self.0.remove(pod);
    }
}

/// The request to the poolers; one that cannot be read counts as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pause(pub Option<PauseRequest>);

impl Section for Pause {
    fn prefix(keys: &Keys) -> String {
        keys.path(&Key::Pause)
    }

    /// The section is the one key, so that nothing is left of its name.
    fn put(&mut self, name: &str, entry: &Entry) {
        if name.is_empty() {
            self.0 = wire::pause(&entry.value).map(|leader| PauseRequest {
                id: Revision(entry.modified),
                leader,
            });
        }
    }

    fn set(&mut self, key: &Versioned<Value>) {
        if let Value::Pause(leader) = key.value {
            self.0 = Some(PauseRequest {
                id: key.modified,
                leader,
            });
        }
    }

    fn delete(&mut self, name: &str) {
        if name.is_empty() {
            self.0 = None;
        }
    }
}
