//! What a member writes to the store: the transaction that performs an action of the election.

use std::collections::BTreeSet;

use crate::config::DynamicConfig;
use crate::history::{next_timeline, reserved, told};
use crate::snapshot::ClusterSnapshot;
use crate::transaction::Transaction;
use crate::wire::StatusData;
use mrg_base::MemberName;
use mrg_election::{Action, LeaseId, Outcome, Postgres, Revision};

/// A member, with what it knows at the moment of a write.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// Its name.
    pub me: &'a MemberName,
    /// Its lease; `None` if none was granted, or it was lost.
    pub lease: Option<LeaseId>,
    /// The newest snapshot.
    pub snapshot: &'a ClusterSnapshot,
    /// The dynamic configuration in force, if it was read from the store: it is written again to a
    /// store that went back in time.
    pub config: Option<&'a DynamicConfig>,
    /// The local postgres, as last seen.
    pub postgres: &'a Postgres,
    /// Now, in ISO 8601: for people.
    pub time: &'a str,
}

/// Why an action is not even tried. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untried {
    /// It writes under the member's lease, or compares with it, and there is none.
    NoLease,
    /// Another timeline was begun than the decision knew of.
    AnotherTimeline,
}

impl Untried {
    /// What came of the step.
    pub fn outcome(self) -> Outcome {
        match self {
            Untried::NoLease => Outcome::Failed("there is no lease".to_owned()),
            Untried::AnotherTimeline => Outcome::Refused("another timeline was begun".to_owned()),
        }
    }
}

impl Writer<'_> {
    /// The transaction that performs an action; `None` if the action is not one write to the store.
    ///
    /// # Errors
    /// If it is not tried: without a lease, or because another timeline was begun meanwhile.
    pub fn action(&self, action: &Action) -> Result<Option<Transaction>, Untried> {
        let lease = || self.lease.ok_or(Untried::NoLease);
        Ok(Some(match action {
            Action::ClaimInitialize => Transaction::claim_initialize(lease()?),
            Action::AbandonInitialize => Transaction::abandon_initialize(lease()?),
            Action::StoreSystemId(id) => {
                Transaction::store_system_id(lease()?, *id, self.first_status())
            }
            Action::AcquireLeader => Transaction::acquire_leader(lease()?, self.me),
            Action::MoveLeader(to) => Transaction::move_leader(lease()?, *to, self.me),
            Action::ReleaseLeader => {
                Transaction::release_leader(lease()?, self.snapshot.status().cloned())
            }
            Action::EvictLeader(stale) => Transaction::evict_leader(*stale),
            Action::RestoreKeys { system_id, stored } => {
                let config = self.config.cloned();
                Transaction::restore_keys(lease()?, self.me, *system_id, config, stored.clone())
            }
            Action::WriteSync { expected, stored } => {
                // A key that cannot be read counts as absent, and is written over as it is.
                let over = expected.or_else(|| self.snapshot.unreadable_sync());
                Transaction::write_sync(lease()?, over, stored.clone())
            }
            Action::ClearSwitchover { expected } => Transaction::take_failover(*expected),
            Action::ReserveTimeline { after, known } => {
                let lease = lease()?;
                let lines = self.snapshot.history();
                // The write compares with what was read, so that must be what was decided by.
                if next_timeline(lines) != *known {
                    return Err(Untried::AnotherTimeline);
                }
                let lines = reserved(lines, *after, self.me, self.time);
                Transaction::write_history(lease, self.snapshot.history_modified(), lines)
            }
            Action::ResumePoolers => Transaction::resume_poolers(lease()?),
            Action::InitDb
            | Action::PostBootstrap
            | Action::Start(_)
            | Action::Stop(_)
            | Action::Promote
            | Action::PausePoolers { .. }
            | Action::Checkpoint
            | Action::StopReceiver
            | Action::Follow(_)
            | Action::SetSyncNames(_)
            | Action::ConfirmLeader(_)
            | Action::RemoveData
            | Action::Rewind(_)
            | Action::BaseBackup(_)
            | Action::AskPeers(_)
            | Action::AwaitReceipt { .. } => return Ok(None),
        }))
    }

    /// The first `status`: of a cluster that was just made.
    fn first_status(&self) -> StatusData {
        let optime = match self.postgres {
            Postgres::Primary(primary) => primary.position.flushed.0,
            _ => 0,
        };
        StatusData {
            optime,
            ..StatusData::default()
        }
    }

    /// Writes `history` from PostgreSQL's own file; `None` if the key says the same. Only over what
    /// was read: a late write would undo the timeline that a leader has reserved since.
    pub fn history(&self, lease: LeaseId, file: &str) -> Option<Transaction> {
        let known = self.snapshot.history();
        let lines = told(file, known, self.me, self.time);
        let over = self.snapshot.history_modified();
        (lines != known).then(|| Transaction::write_history(lease, over, lines))
    }

    /// Writes the list of the members that may race, as Patroni keeps it: names and addresses.
    /// `api_url` is this member's own; a member without a key keeps the address that is listed.
    ///
    /// # Errors
    /// [`Untried::NoLease`].
    pub fn failsafe(
        &self,
        over: Option<Revision>,
        listed: Option<BTreeSet<MemberName>>,
        api_url: &str,
    ) -> Result<Transaction, Untried> {
        let address = |name: &MemberName| match self.snapshot.member(name) {
            _ if name == self.me => api_url.to_owned(),
            Some(data) => data.api_url.clone(),
            None => {
                let stored = self.snapshot.failsafe().and_then(|stored| stored.get(name));
                stored.cloned().unwrap_or_default()
            }
        };
        let addressed = |name: MemberName| {
            let url = address(&name);
            (name, url)
        };
        let members = listed.map(|listed| listed.into_iter().map(addressed).collect());
        let lease = self.lease.ok_or(Untried::NoLease)?;
        Ok(Transaction::write_failsafe(lease, over, members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::MemberData;
    use crate::{Value, Write, memory::Memory};
    use mrg_base::{Lsn, Millis, Position, Timeline};
    use mrg_election::Stored;

    fn name(text: &str) -> MemberName {
        MemberName::new(text).unwrap()
    }

    /// A member that knows this snapshot, and nothing else.
    fn writer<'a>(
        me: &'a MemberName,
        lease: Option<LeaseId>,
        snapshot: &'a ClusterSnapshot,
    ) -> Writer<'a> {
        Writer {
            me,
            lease,
            snapshot,
            config: None,
            postgres: &Postgres::NoData,
            time: "",
        }
    }

    fn writes(transaction: &Transaction) -> &[Write] {
        &transaction.branches()[0].writes
    }

    #[test]
    fn a_member_without_a_lease_tries_nothing_that_needs_one() {
        let snapshot = ClusterSnapshot::default();
        let me = name("a");
        let writer = writer(&me, None, &snapshot);
        let stored = Stored::only(name("a"));
        let expected = None;
        for action in [
            Action::AcquireLeader,
            Action::ReleaseLeader,
            Action::WriteSync { expected, stored },
        ] {
            assert_eq!(writer.action(&action), Err(Untried::NoLease), "{action:?}");
        }
        let expected = Revision(3);
        let cleared = writer.action(&Action::ClearSwitchover { expected });
        assert_eq!(cleared, Ok(Some(Transaction::take_failover(expected))));
        assert_eq!(writer.action(&Action::InitDb), Ok(None));
    }

    #[test]
    fn a_release_carries_the_status_that_was_read() {
        let mut memory = Memory::default();
        let lease = memory.grant(Millis(1_000));
        let status = StatusData {
            optime: 9,
            ..StatusData::default()
        };
        let release = |memory: &Memory| {
            let snapshot = memory.read::<ClusterSnapshot>();
            let me = name("a");
            let writer = writer(&me, Some(lease), &snapshot);
            writer.action(&Action::ReleaseLeader).unwrap().unwrap()
        };
        assert!(
            !release(&memory).puts(),
            "nothing is made where there is none"
        );
        memory.write(&[Write::Put(Value::Status(status.clone()), None)]);
        let expected = Transaction::release_leader(lease, Some(status));
        assert_eq!(release(&memory), expected);
    }

    #[test]
    fn a_timeline_is_reserved_over_the_history_that_was_decided_by() {
        let mut memory = Memory::default();
        let lease = memory.grant(Millis(1_000));
        let snapshot = memory.read::<ClusterSnapshot>();
        let me = name("a");
        let writer = writer(&me, Some(lease), &snapshot);
        let after = Position {
            timeline: Timeline(1),
            flushed: Lsn(256),
        };
        let reserve = |known| writer.action(&Action::ReserveTimeline { after, known });
        assert_eq!(reserve(Some(Timeline(2))), Err(Untried::AnotherTimeline));
        let reserved = reserve(None).unwrap().unwrap();
        let [Write::Put(Value::History(lines), None)] = writes(&reserved) else {
            panic!("{reserved:?}");
        };
        assert_eq!(next_timeline(lines), Some(Timeline(2)));
        assert_eq!(writer.history(lease, ""), None, "there is nothing to tell");
        assert!(writer.history(lease, "1\t0/100\tx\n").is_some());
    }

    #[test]
    fn a_listed_member_that_is_away_keeps_its_address() {
        let mut memory = Memory::default();
        let lease = memory.grant(Millis(1_000));
        let listed = [(name("c"), "http://c".to_owned())].into();
        let data = MemberData {
            api_url: "http://b".to_owned(),
            ..MemberData::default()
        };
        memory.write(&[
            Write::Put(Value::Failsafe(listed), None),
            Write::Put(Value::Member(name("b"), Box::new(data)), Some(lease)),
        ]);
        let snapshot = memory.read::<ClusterSnapshot>();
        let me = name("a");
        let writer = writer(&me, Some(lease), &snapshot);
        let listed = ["a", "b", "c"].map(name).into();
        let written = writer.failsafe(None, Some(listed), "http://a").unwrap();
        let addresses = ["a", "b", "c"].map(|member| (name(member), format!("http://{member}")));
        let expected = Write::Put(Value::Failsafe(addresses.into()), None);
        assert_eq!(writes(&written), [expected]);
    }
}
