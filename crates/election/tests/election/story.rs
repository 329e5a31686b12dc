//! A member and what the test says of the world around it: effects are performed instantly, and the
//! story is told in order.

use std::collections::BTreeMap;

use mrg_base::{Lsn, MemberName, Millis, Moment, Position, Timeline};
use mrg_election::sync::{Names, Stored};
use mrg_election::{
    Action, Cluster, Effect, Event, Failsafe, Initialize, LeaderKey, LeaseId, Member, Mode, Node,
    Outcome, Postgres, PreviousIncarnation, Primary, Reason, Replication, Revision, Settings,
    Standby, StepId, Vote, WalReceiver, WalSender,
};

pub(crate) const ME: &str = "a";
pub(crate) const LEASE: LeaseId = LeaseId(100);
pub(crate) const OTHER: LeaseId = LeaseId(200);

pub(crate) fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

pub(crate) fn at(flushed: u64) -> Position {
    Position {
        timeline: Timeline(1),
        flushed: Lsn(flushed),
    }
}

pub(crate) fn settings(mode: Mode) -> Settings {
    Settings {
        replication: Replication {
            mode,
            count: 1,
            strict: false,
        },
        ..Settings::default()
    }
}

pub(crate) fn member(lease: LeaseId, primary: bool) -> Member {
    Member {
        lease,
        running: true,
        primary,
        position: Some(at(100)),
        may_lead: true,
        may_sync: true,
        just_started: false,
        created: Revision(0),
    }
}

/// Three members; `leader` holds the key.
pub(crate) fn cluster(
    leader: Option<(&str, LeaseId)>,
    sync: Option<(&str, &[&str], usize)>,
) -> Cluster {
    let lease = |member: &str| {
        if member == ME {
            LEASE
        } else {
            LeaseId(OTHER.0 + i64::from(member.as_bytes()[0]))
        }
    };
    let leads = |member: &str| leader.is_some_and(|(name, _)| name == member);
    let stored = sync.map(|(leader, voters, quorum)| {
        let voters = voters.iter().map(|voter| name(voter)).collect();
        (
            Revision(7),
            Stored {
                leader: name(leader),
                voters,
                quorum,
            },
        )
    });
    Cluster {
        revision: Revision(10),
        initialize: Some(Initialize::Done(42)),
        leader: leader.map(|(member, lease)| LeaderKey {
            member: name(member),
            lease,
            created: Revision(5),
        }),
        sync: stored,
        members: ["a", "b", "c"]
            .iter()
            .map(|m| (name(m), member(lease(m), leads(m))))
            .collect(),
        switchover: None,
        optime: Some(Lsn(100)),
        timeline: None,
        timeline_of: None,
        failsafe: Some(listed(&["a", "b", "c"])),
        expected: None,
    }
}

pub(crate) fn listed(members: &[&str]) -> Failsafe {
    Failsafe {
        revision: Revision(8),
        members: members.iter().map(|member| name(member)).collect(),
        outdated: false,
    }
}

pub(crate) fn standby(flushed: u64, upstream: Option<&str>) -> Postgres {
    let receiver = if upstream.is_some() {
        WalReceiver::Streaming
    } else {
        WalReceiver::Stopped
    };
    Postgres::Standby(Standby {
        system_id: 42,
        position: Some(at(flushed)),
        upstream: upstream.map(name),
        receiver,
        fork: None,
    })
}

pub(crate) fn primary(names: Names) -> Postgres {
    let sender = WalSender {
        streaming: true,
        flushed: Lsn(100),
    };
    let senders = BTreeMap::from([(name("b"), sender), (name("c"), sender)]);
    Postgres::Primary(Primary {
        system_id: 42,
        position: at(100),
        names: Some(names),
        senders,
    })
}

pub(crate) fn any_of(members: &[&str]) -> Names {
    Names::Any {
        count: 1,
        members: members.iter().map(|m| name(m)).collect(),
    }
}

pub(crate) struct Story {
    pub node: Node,
    pub now: Moment,
    pub effects: Vec<Effect>,
}

impl Story {
    /// A member that has been up for long, with a lease that was just granted.
    pub(crate) fn new(mode: Mode, cluster: Cluster, postgres: Postgres) -> Self {
        Self::with_past(mode, cluster, postgres, PreviousIncarnation::Known(None))
    }

    pub(crate) fn with_past(
        mode: Mode,
        cluster: Cluster,
        postgres: Postgres,
        past: PreviousIncarnation,
    ) -> Self {
        let now = Moment(1_000_000);
        let node = Node::new(name(ME), settings(mode), Some(1), past, now);
        let mut story = Self {
            node,
            now,
            effects: Vec::new(),
        };
        story.on(Event::Dcs {
            cluster: cluster.clone(),
            linearizable: true,
        });
        let ttl = Millis::seconds(10);
        story.on(Event::LeaseGranted {
            id: LEASE,
            granted: ttl,
            sent: story.now,
        });
        story.on(Event::Postgres { probe: 0, postgres });
        story.on(Event::Dcs {
            cluster,
            linearizable: true,
        });
        story
    }

    pub(crate) fn on(&mut self, event: Event) {
        self.effects.extend(self.node.on(self.now, event));
    }

    pub(crate) fn later(&mut self, millis: u64) {
        self.now = self.now + Millis(millis);
    }

    /// The step that is being performed, if one was begun since the last call.
    pub(crate) fn step(&mut self) -> Option<(StepId, Action)> {
        let found = self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Perform(step, action) => Some((*step, action.clone())),
            _ => None,
        });
        self.effects.clear();
        found
    }

    pub(crate) fn done(&mut self, step: StepId, outcome: Outcome) {
        self.on(Event::Finished { step, outcome });
    }

    /// Performs the current step with an outcome, and gives its action.
    pub(crate) fn perform(&mut self, outcome: Outcome) -> Action {
        let (step, action) = self.step().expect("a step");
        self.done(step, outcome);
        action
    }

    pub(crate) fn expect_no_step(&mut self) {
        assert_eq!(self.step(), None);
    }

    pub(crate) fn look(&mut self, postgres: Postgres) {
        self.on(Event::Postgres {
            probe: u64::MAX,
            postgres,
        });
    }

    pub(crate) fn reason(&self) -> Reason {
        self.node.reason().unwrap()
    }

    /// Runs the race up to the collected votes.
    pub(crate) fn race(&mut self, flushed: u64, votes: Vec<Vote>) {
        assert_eq!(self.perform(Outcome::At(at(flushed))), Action::StopReceiver);
        self.look(standby(flushed, None));
        assert!(matches!(
            self.perform(Outcome::Votes(votes)),
            Action::AskPeers(_)
        ));
        self.look(standby(flushed, None));
    }
}

pub(crate) fn vote(member: &str, flushed: u64) -> Vote {
    Vote {
        member: name(member),
        position: at(flushed),
        candidate: Some(1),
    }
}
