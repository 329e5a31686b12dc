//! What a member publishes, as it follows from what it observes of its server.

use std::collections::BTreeMap;

use crate::wire::{MemberData, StatusData};
use crate::words::{MemberRole, MemberState, ReplicationState};
use mrg_base::MemberName;
use mrg_election::{Postgres, WalReceiver};

impl MemberState {
    /// Patroni's word for the state of postgres.
    pub fn of(postgres: &Postgres) -> Self {
        match postgres {
            Postgres::Primary(_) | Postgres::Standby(_) => MemberState::Running,
            Postgres::Starting | Postgres::Unknown => MemberState::Starting,
            Postgres::Stopped(_) | Postgres::Unusable => MemberState::Stopped,
            Postgres::NoData => MemberState::CreatingReplica,
        }
    }
}

impl MemberRole {
    /// Patroni's word for the role of postgres.
    pub fn of(postgres: &Postgres) -> Self {
        match postgres {
            Postgres::Primary(_) => MemberRole::Primary,
            Postgres::NoData => MemberRole::Uninitialized,
            _ => MemberRole::Replica,
        }
    }
}

impl MemberData {
    /// What the member key says of postgres. The replayed position is not observed by the election,
    /// so it is missing.
    pub fn of(postgres: &Postgres) -> Self {
        let mut data = MemberData {
            state: MemberState::of(postgres),
            role: MemberRole::of(postgres),
            ..MemberData::default()
        };
        match postgres {
            Postgres::Primary(primary) => {
                data.xlog_location = Some(primary.position.flushed.0);
                data.timeline = Some(primary.position.timeline.0);
            }
            Postgres::Standby(standby) => {
                let flushed = standby.position.map(|position| position.flushed.0);
                data.xlog_location = flushed;
                data.receive_lsn = flushed;
                data.timeline = standby.position.map(|position| position.timeline.0);
                let streaming = standby.receiver == WalReceiver::Streaming;
                data.replication_state = Some(if streaming {
                    ReplicationState::Streaming
                } else {
                    ReplicationState::InArchiveRecovery
                });
            }
            _ => {}
        }
        data
    }
}

impl StatusData {
    /// What `status` says; nothing, if this member is no primary.
    pub fn of(me: &MemberName, postgres: &Postgres) -> Self {
        let Postgres::Primary(primary) = postgres else {
            return StatusData::default();
        };
        let senders = primary.senders.iter();
        let mut slots: BTreeMap<String, u64> = senders
            .map(|(name, sender)| (name.slot_name(), sender.flushed.0))
            .collect();
        slots.insert(me.slot_name(), primary.position.flushed.0);
        StatusData {
            optime: primary.position.flushed.0,
            slots,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mrg_base::{Lsn, Moment, Position, Timeline};
    use mrg_election::{Primary, Standby, WalSender};

    fn name(text: &str) -> MemberName {
        MemberName::new(text).unwrap()
    }

    fn position() -> Position {
        Position {
            timeline: Timeline(3),
            flushed: Lsn(500),
        }
    }

    #[test]
    fn the_election_reads_of_a_member_what_that_observed() {
        let primary = Postgres::Primary(Primary {
            system_id: 7,
            position: position(),
            names: None,
            senders: BTreeMap::new(),
        });
        let standby = |position, receiver| {
            Postgres::Standby(Standby {
                system_id: 7,
                position,
                upstream: None,
                receiver,
                fork: None,
            })
        };
        let broken = WalReceiver::Broken(Moment(1));
        for (postgres, running, leads, at) in [
            (primary, true, true, Some(position())),
            (
                standby(Some(position()), WalReceiver::Streaming),
                true,
                false,
                Some(position()),
            ),
            (standby(None, broken), true, false, None),
            (Postgres::Starting, false, false, None),
            (Postgres::NoData, false, false, None),
        ] {
            let data = MemberData::of(&postgres);
            assert_eq!(data.is_running(), running, "{postgres:?}");
            assert_eq!(data.is_primary(), leads, "{postgres:?}");
            assert_eq!(data.position(), at, "{postgres:?}");
        }
    }

    #[test]
    fn a_status_has_the_position_of_each_slot() {
        let sender = WalSender {
            streaming: true,
            flushed: Lsn(400),
        };
        let postgres = Postgres::Primary(Primary {
            system_id: 7,
            position: position(),
            names: None,
            senders: [(name("b-1"), sender)].into(),
        });
        let status = StatusData::of(&name("a-0"), &postgres);
        let slots = [("a_0".to_owned(), 500), ("b_1".to_owned(), 400)];
        assert_eq!((status.optime, status.slots), (500, slots.into()));
        let stopped = StatusData::of(&name("a-0"), &Postgres::NoData);
        assert_eq!(stopped, StatusData::default());
    }
}
