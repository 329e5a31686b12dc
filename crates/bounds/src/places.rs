//! Which connections a listener has open, and which of them gives way to a new one. Pure: the time
//! comes in.
//!
//! A stranger that opens as many connections as it can must not keep the kubelet or another member
//! out. So a peer has a bound of its own, and loses one of its connections to a new one; and where
//! there is no place left at all, the peer with the most connections loses one. It is the one that has
//! waited longest for a request, which is what a client does that sends nothing, or sends slowly; if
//! all of them have a request under way, that of the oldest request.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

/// A connection's number. Later ones are higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id(u64);

#[derive(Clone, Copy, Debug)]
struct Connection {
    peer: IpAddr,
    phase: Phase,
    /// When the phase began.
    since: Instant,
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// A request is being answered.
    Serving,
    /// Its client has not sent a whole head yet, or is being sent an answer.
    Waiting,
}

/// The open connections.
#[derive(Debug)]
pub(crate) struct Places {
    /// At most so many in all.
    connections: usize,
    /// At most so many of one address.
    per_peer: usize,
    open: BTreeMap<Id, Connection>,
    last: u64,
}

/// A place for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub id: Id,
    /// The connection that has to end for it.
    pub instead_of: Option<Id>,
}

impl Places {
    pub(crate) fn new(connections: usize, per_peer: usize) -> Self {
        Self {
            connections,
            per_peer,
            open: BTreeMap::new(),
            last: 0,
        }
    }

    /// A place for a connection of `peer`; `None` if it is to be closed. The connection that gives
    /// way is not among the open ones any more.
    pub(crate) fn take(&mut self, peer: IpAddr, now: Instant) -> Option<Place> {
        let peer = peer.to_canonical();
        let of_peer = self.open.values().filter(|it| it.peer == peer);
        let own = of_peer.count();
        let instead_of = if own >= self.per_peer {
            Some(self.oldest(|connection| connection.peer == peer, |_| own)?)
        } else if self.open.len() >= self.connections {
            let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
            for connection in self.open.values() {
                *counts.entry(connection.peer).or_default() += 1;
            }
            let count = |peer: &IpAddr| counts.get(peer).copied().unwrap_or_default();
            let may_go = |connection: &Connection| {
                connection.phase == Phase::Waiting || count(&connection.peer) > own + 1
            };
            Some(self.oldest(may_go, count)?)
        } else {
            None
        };
        if let Some(id) = instead_of {
            self.open.remove(&id);
        }
        self.last += 1;
        let id = Id(self.last);
        let connection = Connection {
            peer,
            phase: Phase::Waiting,
            since: now,
        };
        self.open.insert(id, connection);
        Some(Place { id, instead_of })
    }

    /// Of those that may go: of the peer with the most, one that waits, the oldest.
    fn oldest(
        &self,
        may_go: impl Fn(&Connection) -> bool,
        count: impl Fn(&IpAddr) -> usize,
    ) -> Option<Id> {
        let rank = |connection: &Connection| {
            let Connection { peer, phase, since } = connection;
            (count(peer), *phase, Reverse(*since))
        };
        let candidates = self.open.iter().filter(|(_, it)| may_go(it));
        candidates
            .max_by_key(|(id, connection)| (rank(connection), Reverse(**id)))
            .map(|(id, _)| *id)
    }

    /// Notes what a connection does from now on.
    pub(crate) fn note(&mut self, id: Id, phase: Phase, now: Instant) {
        if let Some(connection) = self.open.get_mut(&id) {
            (connection.phase, connection.since) = (phase, now);
        }
    }

    /// A connection has ended.
    pub(crate) fn leave(&mut self, id: Id) {
        self.open.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Script {
        places: Places,
        now: Instant,
    }

    impl Script {
        fn new(connections: usize, per_peer: usize) -> Self {
            Self {
                places: Places::new(connections, per_peer),
                now: Instant::now(),
            }
        }

        fn take(&mut self, peer: u8) -> Option<Place> {
            self.now += Duration::from_millis(1);
            self.places.take([10, 0, 0, peer].into(), self.now)
        }

        /// A connection that is served from its beginning.
        fn serving(&mut self, peer: u8) -> Id {
            let id = self.take(peer).unwrap().id;
            self.places.note(id, Phase::Serving, self.now);
            id
        }
    }

    #[test]
    fn a_peer_at_its_bound_loses_the_connection_that_has_waited_longest() {
        let mut script = Script::new(100, 3);
        let silent = script.take(1).unwrap().id;
        let first = script.serving(1);
        let second = script.serving(1);
        let other = script.take(2).unwrap();
        assert_eq!(other.instead_of, None, "it is not the other peer's matter");
        let third = script.take(1).unwrap();
        assert_eq!(third.instead_of, Some(silent));
        // One that was served later has waited for less long.
        script.places.note(third.id, Phase::Serving, script.now);
        for id in [second, third.id, first] {
            script.now += Duration::from_millis(1);
            script.places.note(id, Phase::Waiting, script.now);
        }
        assert_eq!(script.take(1).unwrap().instead_of, Some(second));
    }

    #[test]
    fn a_peer_with_as_many_requests_under_way_as_it_may_have_loses_the_oldest() {
        let mut script = Script::new(100, 2);
        let first = script.serving(1);
        let second = script.serving(1);
        assert_eq!(script.take(2).unwrap().instead_of, None);
        let third = script.take(1).unwrap();
        assert_eq!(third.instead_of, Some(first));
        script.places.leave(second);
        assert_eq!(script.take(1).unwrap().instead_of, None);
    }

    #[test]
    fn a_stranger_that_takes_every_place_keeps_no_other_peer_out() {
        let mut script = Script::new(8, 4);
        let first = script.serving(1);
        for peer in [1, 1, 1, 2, 2, 2, 2] {
            script.serving(peer);
        }
        let probe = script.take(3).unwrap();
        assert_eq!(probe.instead_of, Some(first));
        // Now the other has the most, and one of its connections has nothing to do.
        let idle = *script.places.open.keys().nth(5).unwrap();
        script.places.note(idle, Phase::Waiting, script.now);
        assert_eq!(script.take(3).unwrap().instead_of, Some(idle));
    }

    #[test]
    fn where_each_peer_has_one_connection_only_one_without_a_request_gives_way() {
        let mut script = Script::new(2, 2);
        script.serving(1);
        let idle = script.take(2).unwrap().id;
        assert_eq!(script.take(3).unwrap().instead_of, Some(idle));
        for id in script.places.open.keys().copied().collect::<Vec<_>>() {
            script.places.note(id, Phase::Serving, script.now);
        }
        assert_eq!(script.take(4), None);
    }

    #[test]
    fn an_ipv4_peer_of_a_listener_on_ipv6_is_the_same_peer() {
        let mut script = Script::new(8, 1);
        let first = script.take(1).unwrap().id;
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        let place = script.places.take(mapped, script.now).unwrap();
        assert_eq!(place.instead_of, Some(first));
    }
}
