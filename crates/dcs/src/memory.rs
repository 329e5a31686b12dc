//! The store in memory: one history of revisions, leases, compares. Exact where operations can
//! tell: revisions are counted as etcd counts them, a transaction is one revision, a put moves the
//! key to its lease, a lease that ends takes its keys with it.
//!
//! [`Memory`] is synchronous and has no clock: time comes in by [`Memory::advance`].
//! [`MemoryStore`] is a [`Store`] on it, whose answers can be lost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::keys::{Key, Keys};
use crate::snapshot::{Section, Versioned};
use crate::store::{Attempt, Error, Granted, Store};
use crate::transaction::{Compare, Transaction, Write};
use crate::value::Value;
use mrg_base::{Millis, Moment, lock};
use mrg_election::{LeaseId, Revision};

const NO_LEASE: LeaseId = LeaseId(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    ttl: Millis,
    ends: Moment,
}

/// The keys of one cluster, and leases.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    now: Moment,
    revision: Revision,
    keys: BTreeMap<Key, Versioned<Value>>,
    /// When each key was deleted last: a watch delivers it.
    deleted: BTreeMap<Key, Revision>,
    leases: BTreeMap<LeaseId, Lease>,
    granted: i64,
}

impl Memory {
    /// The newest revision; 0 of a store that was never written.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// A key, if it exists.
    pub fn get(&self, key: &Key) -> Option<&Versioned<Value>> {
        self.keys.get(key)
    }

    /// When a lease ends unless it is renewed; `None` if it has ended.
    pub fn lease_ends(&self, lease: LeaseId) -> Option<Moment> {
        self.leases.get(&lease).map(|lease| lease.ends)
    }

    /// A section of the keys.
    pub fn read<S: Section>(&self) -> S {
        let mut section = S::default();
        for key in self.keys.values() {
            section.set(key);
        }
        section.advance(self.revision);
        section
    }

    /// Brings a section as of the revision `since` up to date, as a watch does: what was written
    /// since is parsed from its bytes, what was deleted since is dropped.
    pub fn follow<S: Section>(&self, section: &mut S, since: Revision, paths: &Keys) {
        let prefix = S::prefix(paths);
        let name = |key| {
            let path = paths.path(key);
            path.strip_prefix(&prefix).map(str::to_owned)
        };
        for (key, value) in self.keys.iter().filter(|(_, key)| key.modified > since) {
            if let Some(name) = name(key) {
                section.put(&name, &value.entry());
            }
        }
        for (key, _) in self.deleted.iter().filter(|(_, at)| **at > since) {
            if let Some(name) = name(key).filter(|_| !self.keys.contains_key(key)) {
                section.delete(&name);
            }
        }
        section.advance(self.revision);
    }

    /// Time passes: leases that have ended by then are revoked, and are the result. It never goes
    /// back.
    pub fn advance(&mut self, now: Moment) -> Vec<LeaseId> {
        self.now = self.now.max(now);
        let ended: Vec<LeaseId> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.ends <= self.now)
            .map(|(id, _)| *id)
            .collect();
        for lease in &ended {
            self.revoke(*lease);
        }
        ended
    }

    /// Grants a lease from now on.
    pub fn grant(&mut self, ttl: Millis) -> LeaseId {
        self.granted += 1;
        let (id, ends) = (LeaseId(self.granted), self.now + ttl);
        self.leases.insert(id, Lease { ttl, ends });
        id
    }

    /// Renews a lease from now on; whether it was there.
    pub fn keep_alive(&mut self, lease: LeaseId) -> bool {
        let Some(lease) = self.leases.get_mut(&lease) else {
            return false;
        };
        lease.ends = self.now + lease.ttl;
        true
    }

    /// A new leader of etcd renews every lease from `now` on: none ends while there is no leader.
    pub fn renew_all(&mut self, now: Moment) {
        self.now = self.now.max(now);
        for lease in self.leases.values_mut() {
            lease.ends = self.now + lease.ttl;
        }
    }

    /// Goes back to what it was, or to nothing: the revision, the keys, and the leases, which are
    /// renewed. Leases that are granted later have new names, as etcd's random ones do.
    pub fn go_back_to(&mut self, backup: Option<&Memory>, now: Moment) {
        let granted = self.granted;
        *self = backup.cloned().unwrap_or_default();
        self.granted = granted;
        self.renew_all(now);
    }

    /// Ends a lease; its keys are deleted at one revision. Whether it was there.
    pub fn revoke(&mut self, lease: LeaseId) -> bool {
        let existed = self.leases.remove(&lease).is_some();
        let keys: Vec<Write> = self
            .keys
            .iter()
            .filter(|(_, key)| key.lease == lease)
            .map(|(name, _)| Write::Delete(name.clone()))
            .collect();
        self.write(&keys);
        existed
    }

    /// Writes at one revision and on no condition, as a person does with `etcdctl`.
    pub fn write(&mut self, writes: &[Write]) {
        let next = Revision(self.revision.0 + 1);
        for write in writes {
            self.write_at(next, write);
        }
    }

    /// Does a transaction: `Ok(Some(revision))` if a branch held, `Ok(None)` if none did.
    ///
    /// # Errors
    /// A lease that the branch would put keys under and that does not exist; nothing is written.
    pub fn transact(&mut self, transaction: &Transaction) -> Result<Option<Revision>, LeaseId> {
        let holding = |compares: &[Compare]| compares.iter().all(|compare| self.holds(compare));
        let branch = transaction
            .branches()
            .iter()
            .find(|branch| holding(&branch.compares));
        let Some(branch) = branch else {
            return Ok(None);
        };
        for write in &branch.writes {
            if let Write::Put(_, Some(lease)) = write
                && !self.leases.contains_key(lease)
            {
                return Err(*lease);
            }
        }
        self.write(&branch.writes);
        Ok(Some(self.revision))
    }

    fn holds(&self, compare: &Compare) -> bool {
        let key = |key| self.keys.get(key);
        match compare {
            Compare::Absent(absent) => key(absent).is_none(),
            Compare::Unchanged(name, revision) => {
                key(name).is_some_and(|key| key.modified == *revision)
            }
            Compare::Owned(name, lease) => key(name).is_some_and(|key| key.lease == *lease),
        }
    }

    fn write_at(&mut self, next: Revision, write: &Write) {
        match write {
            Write::Put(value, lease) => {
                let key = value.key();
                let created = self.keys.get(&key).map_or(next, |old| old.created);
                let versioned = Versioned {
                    value: value.clone(),
                    lease: lease.unwrap_or(NO_LEASE),
                    created,
                    modified: next,
                };
                self.keys.insert(key, versioned);
                self.revision = next;
            }
            Write::Delete(key) => {
                if self.keys.remove(key).is_some() {
                    self.deleted.insert(key.clone(), next);
                    self.revision = next;
                }
            }
        }
    }
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is done, and the answer is lost.
    AnswerLost,
    /// It does not arrive, and is not answered.
    RequestLost,
    /// It cannot be sent.
    Unreachable,
}

/// A [`Store`] in memory. Requests are answered at once; `within` is not waited for.
#[derive(Debug, Default)]
pub struct MemoryStore {
    memory: Mutex<Memory>,
    faults: Mutex<VecDeque<Fault>>,
}

impl MemoryStore {
    /// The store behind it.
    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        lock(&self.memory)
    }

    /// The next tries meet these faults, one each.
    pub fn break_next(&self, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.faults).extend(faults);
    }

    fn once<T>(
        &self,
        operation: &'static str,
        request: impl FnOnce(&mut Memory) -> T,
    ) -> Result<T, Error> {
        let fault = lock(&self.faults).pop_front();
        let endpoint = "memory".to_owned();
        match fault {
            None => Ok(request(&mut self.memory())),
            Some(Fault::AnswerLost) => {
                request(&mut self.memory());
                Err(Error::Timeout {
                    operation,
                    endpoint,
                })
            }
            Some(Fault::RequestLost) => Err(Error::Timeout {
                operation,
                endpoint,
            }),
            Some(Fault::Unreachable) => Err(Error::Connect {
                endpoint,
                source: operation.into(),
            }),
        }
    }

    fn attempt(&self, transaction: &Transaction) -> Attempt<Revision> {
        let operation = transaction.operation();
        match self.once(operation, |memory| memory.transact(transaction)) {
            Ok(Ok(Some(revision))) => Attempt::Done(revision),
            Ok(Ok(None)) => Attempt::Conflict,
            Ok(Err(lease)) => Attempt::Failed(Error::LeaseGone(lease)),
            Err(error) => Attempt::ended_by(error),
        }
    }
}

impl Store for MemoryStore {
    async fn execute(&self, transaction: Transaction, _within: Duration) -> Attempt<Revision> {
        loop {
            let attempt = self.attempt(&transaction);
            let again = transaction.is_repeatable()
                && match &attempt {
                    Attempt::Done(_) | Attempt::Conflict => false,
                    Attempt::InDoubt(_) => true,
                    Attempt::Failed(error) => matches!(error, Error::Connect { .. }),
                };
            if !again {
                return attempt;
            }
        }
    }

    async fn read<S: Section>(&self, _within: Duration) -> Result<S, Error> {
        self.once("read", |memory| memory.read())
    }

    async fn grant(&self, ttl: Millis, _within: Duration) -> Result<Granted, Error> {
        let id = self.once("grant a lease", |memory| memory.grant(ttl))?;
        Ok(Granted { id, ttl })
    }

    async fn keep_alive(&self, lease: LeaseId, _within: Duration) -> Result<(), Error> {
        if self.once("keep the lease", |memory| memory.keep_alive(lease))? {
            Ok(())
        } else {
            Err(Error::LeaseGone(lease))
        }
    }

    async fn revoke(&self, lease: LeaseId, _within: Duration) -> Result<(), Error> {
        self.once("revoke the lease", |memory| memory.revoke(lease))
            .map(|_| ())
    }
}

#[cfg(test)]
mod tests;
