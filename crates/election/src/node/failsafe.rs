//! Failsafe membership: the members that may race, as a leader writes them into `failsafe`.
//!
//! A leader without the DCS leads by the promises of all members that may race, and a member that
//! is not in the key does not (docs/ha.md, "Without etcd"). So no member is added while promises
//! count or are asked for, and the members of a write that is in doubt are asked, too.

use std::collections::{BTreeMap, BTreeSet};

use super::Node;
use crate::event::Effect;
use crate::mutant::bug;
use crate::view::{Cluster, DcsView, InDoubt, Initialize, Revision};
use mrg_base::{MemberName, Millis, Moment};

/// How long a member that is away stays listed, so that a restart costs no member its candidacy;
/// one that does not belong to the cluster any more goes at once.
const OUTLIVES_MEMBER: Millis = Millis::seconds(60);
/// The pause after a write that failed.
const RETRY: Millis = Millis(250);

/// What a leader remembers of its list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Listing {
    /// Since when this leader has missed those who are listed and away.
    away: BTreeMap<MemberName, Moment>,
    writing: bool,
    /// The write that is under way was begun before the DCS went back in time.
    overtaken: bool,
    due: Moment,
    /// What the last write made of the key; nothing is written before that is read.
    written: Revision,
}

impl Listing {
    /// Of a DCS that went back in time the key is not known. What a write that is under way does to
    /// it is none of the next one's concern: it compares.
    pub(super) fn after_reset(before: &Self) -> Self {
        Self {
            writing: before.writing,
            overtaken: before.writing,
            ..Self::default()
        }
    }

    /// When the list may have to change although nothing happens.
    pub(super) fn wake_at(&self) -> impl Iterator<Item = Moment> {
        self.away
            .values()
            .map(|since| *since + OUTLIVES_MEMBER)
            .chain([self.due])
    }
}

impl Node {
    /// Writes the list, if it is to be another.
    pub(super) fn keep_listing(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let view = self.view(now);
        let leads = view.holds_key() && self.postgres_is_primary() && !self.exited;
        let DcsView::Read(cluster) = &self.dcs else {
            return;
        };
        // A cluster that is still being made may be given up, and must leave nothing that looks
        // like one.
        let made = matches!(cluster.initialize, Some(Initialize::Done(_)));
        if !leads || !made {
            self.listing.away.clear();
            return;
        }
        let promised =
            self.memory.held_promises.is_some_and(|until| now < until) || self.rounds.is_open();
        let waits = self.listing.writing
            || now < self.listing.due
            || self.memory.read < self.listing.written;
        if waits || promised && !bug!(ListsWhilePromised) {
            return;
        }
        let (failsafe, peers) = (cluster.failsafe.clone(), view.peers());
        let listed = failsafe
            .as_ref()
            .map(|stored| stored.members.clone())
            .unwrap_or_default();
        let may_return = listed
            .iter()
            .filter(|name| cluster.expects(name))
            .cloned()
            .collect();
        let wanted = self
            .settings
            .failover
            .failsafe
            .then(|| self.wanted(now, &may_return, peers));
        let outdated = failsafe.as_ref().is_some_and(|stored| stored.outdated);
        if wanted == failsafe.as_ref().map(|stored| stored.members.clone()) && !outdated {
            return;
        }
        let over = failsafe.map(|stored| stored.revision);
        let unsettled = self
            .memory
            .unsettled
            .take()
            .filter(|unsettled| unsettled.over == over);
        let mut unsettled = unsettled.unwrap_or(InDoubt {
            over,
            members: BTreeSet::new(),
            removed: false,
        });
        unsettled.members.extend(wanted.iter().flatten().cloned());
        unsettled.removed |= wanted.is_none();
        self.memory.unsettled = Some(unsettled);
        self.listing.writing = true;
        effects.push(Effect::WriteFailsafe {
            over,
            members: wanted,
        });
    }

    /// All members that are there, and those that have not been away for long and may return.
    fn wanted(
        &mut self,
        now: Moment,
        may_return: &BTreeSet<MemberName>,
        mut peers: BTreeSet<MemberName>,
    ) -> BTreeSet<MemberName> {
        let away: BTreeSet<&MemberName> = may_return
            .iter()
            .filter(|name| **name != self.me && !peers.contains(*name))
            .collect();
        self.listing.away.retain(|name, _| away.contains(name));
        let mut stay = Vec::new();
        for name in away {
            let since = *self.listing.away.entry(name.clone()).or_insert(now);
            if now.since(since) < OUTLIVES_MEMBER {
                stay.push(name.clone());
            }
        }
        peers.extend(stay);
        peers.insert(self.me.clone());
        peers
    }

    /// What became of the write; `None` if it was not done, or is in doubt.
    pub(super) fn note_listed(&mut self, now: Moment, written: Option<Revision>) {
        self.listing.writing = false;
        let overtaken = std::mem::take(&mut self.listing.overtaken);
        match written.filter(|_| !overtaken) {
            Some(revision) => self.listing.written = revision,
            None => self.listing.due = now + RETRY,
        }
    }

    /// Every write of ours compares: once the key is another than it was over, it is what it is.
    pub(super) fn settle_listing(&mut self, cluster: &Cluster) {
        self.memory.read = cluster.revision;
        let now_is = cluster.failsafe.as_ref().map(|stored| stored.revision);
        self.memory
            .unsettled
            .take_if(|unsettled| unsettled.over != now_is);
    }
}
