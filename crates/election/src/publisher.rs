//! What a member publishes and when: its member key, `status`, `history`, the replication slots,
//! and the `config` key if it was deleted.
//!
//! None of it decides anything. One write of a kind is under way at a time, and each is made from
//! the state that was observed last; one that failed is due again with the next observation.

use std::collections::{BTreeMap, BTreeSet};

use crate::lease::LeaseId;
use crate::mutant::bug;
use crate::view::{Cluster, Initialize, Postgres};
use mrg_base::{MemberName, Millis, Moment, Timeline};

/// How long a slot outlives the key of a member that may return: it keeps the WAL that the member
/// needs.
pub const SLOT_OUTLIVES_MEMBER: Millis = Millis::seconds(30 * 60);
/// A member key that the DCS does not show is written again after so long: the last write may not
/// have been observed yet.
const KEY_IS_LOST_AFTER: Millis = Millis(500);
/// Slots are checked again after so many loops although nothing changed.
const SLOTS_EVERY: u64 = 5;

/// The value of a member key.
pub trait MemberRecord: Clone + PartialEq {
    /// Whether other members or poolers act on the difference, so that it must not wait for the
    /// next loop.
    fn is_urgent(&self, published: &Self) -> bool;
}

/// The `config` key, as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConfigKey {
    /// It is there.
    Present,
    /// It is not, and settings are in force.
    Missing {
        /// Whether they were read from the key; else they are what the cluster began with.
        remembered: bool,
    },
    /// It is not, and no settings are in force yet.
    Unknown,
}

/// What the member knows when it publishes.
#[derive(Clone, Debug)]
pub struct Observed<'a, M, S> {
    /// The last known state of the DCS.
    pub cluster: &'a Cluster,
    /// Whether the DCS answers.
    pub reachable: bool,
    /// The local postgres.
    pub postgres: &'a Postgres,
    /// Our lease.
    pub lease: Option<LeaseId>,
    /// The lease that our keys were moved from, if they were.
    pub former_lease: Option<LeaseId>,
    /// Whether the leader key is ours.
    pub holds_key: bool,
    /// What the member key should say.
    pub member: M,
    /// The lease of our member key, if it is there.
    pub member_key: Option<LeaseId>,
    /// What `status` should say while this member leads.
    pub status: S,
    /// The `config` key.
    pub config: ConfigKey,
    /// The setting of this name.
    pub loop_wait: Millis,
}

/// What happens to a publisher.
#[derive(Clone, Debug)]
pub enum PublisherEvent<'a, M, S> {
    /// Anything may have changed.
    Observed(Box<Observed<'a, M, S>>),
    /// Whether the member key was written. It is not if it is another member's, or if the DCS does
    /// not answer.
    MemberWritten(bool),
    /// Whether `status` was written.
    StatusWritten(bool),
    /// Whether `history` was written, or was up to date.
    HistoryWritten(bool),
    /// The attempt to write `config` has ended.
    ConfigWritten,
    /// Whether the slots were kept.
    SlotsKept(bool),
    /// The DCS went back in time: what was written to it may be gone.
    DcsReset,
}

/// What to write. Every effect is answered by the event of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublisherEffect<M, S> {
    /// Write the member key under `lease`, if it is absent, ours, or under `former`.
    WriteMember {
        /// Our lease.
        lease: LeaseId,
        /// The lease that our keys were moved from.
        former: Option<LeaseId>,
        /// The value.
        record: M,
    },
    /// Write the settings in force to `config`, if it is absent.
    RestoreConfig,
    /// Write `status`.
    WriteStatus(S),
    /// Write `history` up to this timeline as the leader, over what was read.
    WriteHistory {
        /// Our lease.
        lease: LeaseId,
        /// The timeline that the primary is on.
        timeline: Timeline,
        /// The newest timeline that the key spoke of.
        known: Option<Timeline>,
    },
    /// Keep a replication slot for each of `wanted`, and drop those of `dropped`.
    KeepSlots {
        /// Members that stream, or may return.
        wanted: BTreeSet<MemberName>,
        /// Members that will not.
        dropped: BTreeSet<MemberName>,
        /// Whether the server is the primary.
        primary: bool,
    },
}

/// One kind of write: what was written last, and what is under way.
#[derive(Clone, Debug)]
struct Written<T> {
    /// The last value that was surely written, and when; `None` if it has to be written again.
    last: Option<(Moment, T)>,
    under_way: Option<T>,
}

impl<T> Default for Written<T> {
    fn default() -> Self {
        Self {
            last: None,
            under_way: None,
        }
    }
}

impl<T> Written<T> {
    /// Ends the write that is under way; what was written before stands if it failed and `keep`.
    fn ended(&mut self, now: Moment, done: bool, keep: bool) {
        let value = self.under_way.take();
        if done {
            self.last = value.map(|value| (now, value));
        } else if !keep {
            self.last = None;
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Slots {
    wanted: BTreeSet<MemberName>,
    dropped: BTreeSet<MemberName>,
    primary: bool,
}

/// What a member has published.
#[derive(Clone, Debug)]
pub struct Publisher<M, S> {
    me: MemberName,
    member: Written<(LeaseId, M)>,
    /// When the member key was last written, or this process started.
    member_at: Moment,
    status: Written<S>,
    history: Written<Timeline>,
    /// Since when the `config` key has been absent.
    config_missing: Option<Moment>,
    config_under_way: bool,
    slots: Written<Slots>,
    /// Members with a slot, and when each one's key was last there.
    slot_owners: BTreeMap<MemberName, Moment>,
}

impl<M: MemberRecord, S: Clone + PartialEq> Publisher<M, S> {
    /// A member that has published nothing yet.
    pub fn new(me: MemberName, now: Moment) -> Self {
        Self {
            me,
            member: Written::default(),
            member_at: now,
            status: Written::default(),
            history: Written::default(),
            config_missing: None,
            config_under_way: false,
            slots: Written::default(),
            slot_owners: BTreeMap::new(),
        }
    }

    /// The member record that was written last, if it is known to stand.
    pub fn published(&self) -> Option<&M> {
        self.member.last.as_ref().map(|(_, (_, record))| record)
    }

    /// Takes an event that happened at `now`, and gives what to write, in this order.
    pub fn on(
        &mut self,
        now: Moment,
        event: PublisherEvent<'_, M, S>,
    ) -> Vec<PublisherEffect<M, S>> {
        match event {
            PublisherEvent::Observed(observed) if observed.reachable => {
                return self.observe(now, &observed);
            }
            PublisherEvent::Observed(_) => {}
            PublisherEvent::MemberWritten(done) => {
                self.member.ended(now, done, false);
                if done {
                    self.member_at = now;
                }
            }
            PublisherEvent::StatusWritten(done) => self.status.ended(now, done, true),
            PublisherEvent::HistoryWritten(done) => self.history.ended(now, done, true),
            PublisherEvent::ConfigWritten => self.config_under_way = false,
            PublisherEvent::SlotsKept(done) => {
                if let Some(slots) = self.slots.under_way.as_ref().filter(|_| done) {
                    self.slot_owners
                        .retain(|name, _| !slots.dropped.contains(name));
                }
                self.slots.ended(now, done, true);
            }
            PublisherEvent::DcsReset => {
                self.member.last = None;
                self.status.last = None;
                self.history.last = None;
            }
        }
        Vec::new()
    }

    fn observe(
        &mut self,
        now: Moment,
        observed: &Observed<'_, M, S>,
    ) -> Vec<PublisherEffect<M, S>> {
        let mut effects = Vec::new();
        effects.extend(self.write_member(now, observed));
        effects.extend(self.restore_config(now, observed));
        // A cluster that is still being made may be given up, and must leave nothing that looks
        // like one.
        let made = matches!(observed.cluster.initialize, Some(Initialize::Done(_)))
            || bug!(StatusOfUnfinished);
        let leads = observed.holds_key || bug!(FormerLeaderPublishes);
        if made
            && leads
            && let Postgres::Primary(primary) = observed.postgres
        {
            effects.extend(self.write_status(now, observed));
            effects.extend(self.write_history(observed, primary.position.timeline));
        }
        effects.extend(self.keep_slots(now, observed));
        effects
    }

    /// The member key: at once when something changes that others act on, else once a loop.
    fn write_member(
        &mut self,
        now: Moment,
        observed: &Observed<'_, M, S>,
    ) -> Option<PublisherEffect<M, S>> {
        let lease = observed.lease?;
        let age = now.since(self.member_at);
        let lost = observed.member_key != Some(lease)
            && age > KEY_IS_LOST_AFTER
            && !bug!(LostKeyNotRewritten);
        let record = &observed.member;
        let write = match &self.member.last {
            Some((_, (under, published)))
                if (*under == lease || bug!(KeyUnderFormerLease)) && !lost =>
            {
                record.is_urgent(published) && !bug!(UrgentChangeWaits)
                    || age >= observed.loop_wait && record != published
            }
            _ => true,
        };
        if !write || self.member.under_way.is_some() {
            return None;
        }
        self.member.under_way = Some((lease, record.clone()));
        Some(PublisherEffect::WriteMember {
            lease,
            former: observed.former_lease,
            record: record.clone(),
        })
    }

    /// The `config` key was deleted: a member that remembers it writes it again, the leader at
    /// once, the others where there is no leader to do it. If no member remembers it, the leader
    /// writes what is in force.
    fn restore_config(
        &mut self,
        now: Moment,
        observed: &Observed<'_, M, S>,
    ) -> Option<PublisherEffect<M, S>> {
        let remembered = match observed.config {
            ConfigKey::Unknown => return None,
            ConfigKey::Present => {
                self.config_missing = None;
                return None;
            }
            ConfigKey::Missing { remembered } => remembered || bug!(UnreadConfigRestored),
        };
        let since = *self.config_missing.get_or_insert(now);
        let grace = match (observed.holds_key, remembered) {
            (true, true) => Millis(0),
            (false, true) => observed.loop_wait,
            (true, false) => observed.loop_wait.times(3),
            (false, false) => return None,
        };
        if now.since(since) < grace || self.config_under_way || bug!(ConfigNotRestored) {
            return None;
        }
        self.config_under_way = true;
        Some(PublisherEffect::RestoreConfig)
    }

    fn write_status(
        &mut self,
        now: Moment,
        observed: &Observed<'_, M, S>,
    ) -> Option<PublisherEffect<M, S>> {
        let due = self.status.last.as_ref().is_none_or(|(at, written)| {
            now.since(*at) >= observed.loop_wait && *written != observed.status
        });
        if !due || self.status.under_way.is_some() {
            return None;
        }
        self.status.under_way = Some(observed.status.clone());
        Some(PublisherEffect::WriteStatus(observed.status.clone()))
    }

    /// `history`, once on each timeline. The first has none.
    fn write_history(
        &mut self,
        observed: &Observed<'_, M, S>,
        timeline: Timeline,
    ) -> Option<PublisherEffect<M, S>> {
        let lease = observed.lease?;
        let known = observed.cluster.timeline;
        let written = self.history.last.as_ref().map(|(_, written)| *written);
        // The observed postgres may be older than the timeline that was reserved since.
        let reserved = known > Some(timeline) && !bug!(ReservedTimelineUndone);
        if timeline <= Timeline(1)
            || written == Some(timeline)
            || reserved
            || self.history.under_way.is_some()
        {
            return None;
        }
        self.history.under_way = Some(timeline);
        Some(PublisherEffect::WriteHistory {
            lease,
            timeline,
            known,
        })
    }

    fn keep_slots(
        &mut self,
        now: Moment,
        observed: &Observed<'_, M, S>,
    ) -> Option<PublisherEffect<M, S>> {
        let primary = match observed.postgres {
            Postgres::Primary(_) => true,
            Postgres::Standby(_) => false,
            _ => return None,
        };
        let members = &observed.cluster.members;
        let present = members.keys().filter(|name| **name != self.me);
        self.slot_owners
            .extend(present.cloned().map(|name| (name, now)));
        let may_return = |name: &MemberName, seen: Moment| {
            observed.cluster.expects(name)
                && now.since(seen) < SLOT_OUTLIVES_MEMBER
                && !bug!(SlotDroppedAtOnce)
        };
        let (wanted, dropped): (Vec<_>, Vec<_>) = self
            .slot_owners
            .iter()
            .partition(|(name, seen)| members.contains_key(*name) || may_return(name, **seen));
        let names = |list: Vec<(&MemberName, &Moment)>| {
            let names = list.into_iter().map(|(name, _)| name.clone());
            names.collect::<BTreeSet<_>>()
        };
        let slots = Slots {
            wanted: names(wanted),
            dropped: names(dropped),
            primary,
        };
        let kept = self.slots.last.as_ref().is_some_and(|(at, kept)| {
            now.since(*at) < observed.loop_wait.times(SLOTS_EVERY)
                && (&kept.wanted, kept.primary) == (&slots.wanted, slots.primary)
        });
        if kept || self.slots.under_way.is_some() {
            return None;
        }
        self.slots.under_way = Some(slots.clone());
        Some(PublisherEffect::KeepSlots {
            wanted: slots.wanted,
            dropped: slots.dropped,
            primary,
        })
    }
}

#[cfg(test)]
mod tests;
