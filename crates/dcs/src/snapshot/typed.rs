//! A snapshot of values that were never bytes: of the store in memory.

use super::{ClusterSnapshot, Intent, Versioned};
use crate::value::Value;
use crate::wire::{self, FailoverData};
use mrg_election::Initialize;

impl ClusterSnapshot {
    pub(super) fn set_typed(&mut self, key: &Versioned<Value>) {
        match key.value.clone() {
            Value::Leader(name) => self.leader = Some(key.with(Some(name))),
            Value::Claim => self.initialize = Some(key.with(Initialize::InProgress(key.lease))),
            Value::SystemId(id) => self.initialize = Some(key.with(Initialize::Done(id))),
            Value::Config(config) => self.config = Some(key.with(Ok(config))),
            Value::Sync(stored) => self.sync = Some(key.with(Some(stored))),
            Value::Failover(data) if data == FailoverData::default() => {
                self.failover = Some(key.with(Intent::Cleared));
            }
            Value::Failover(data) => self.failover = Some(key.with(wire::intent_of(data))),
            Value::Failsafe(members) => self.failsafe = Some(key.with(Some(members))),
            Value::History(lines) => self.history = Some(key.with(lines)),
            Value::Status(data) => self.status = Some(key.with(Some(data))),
            Value::Member(name, data) => {
                self.members.insert(name, key.with(Some(*data)));
            }
            Value::Pause(_) | Value::Pooler(..) => {}
        }
    }
}

impl<T> Versioned<T> {
    fn with<U>(&self, value: U) -> Versioned<U> {
        Versioned {
            value,
            lease: self.lease,
            created: self.created,
            modified: self.modified,
        }
    }
}
