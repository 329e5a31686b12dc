//! What events make of what a member knows.

use super::Node;
use crate::event::{Effect, Event};
use crate::hand_over::HandOverEvent;
use crate::lease::{LeaseId, Promise};
use crate::mutant::bug;
use crate::rules::has_traces;
use crate::view::{Cluster, DcsView, Initialize, Poll, Postgres, Silence, WalReceiver};
use mrg_base::Moment;

impl Node {
    pub(super) fn note(&mut self, now: Moment, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Tick => {}
            Event::Dcs {
                cluster,
                linearizable,
            } => self.note_dcs(now, cluster, linearizable, effects),
            Event::DcsLost => self.note_lost(now),
            Event::DcsReset => self.note_reset(now),
            Event::LeaseGranted { id, granted, sent } => {
                self.keeper
                    .granted(id, granted, sent, &self.settings.failover);
                // Whatever the DCS is believed to say may be older than this lease.
                effects.push(Effect::ReadDcs);
            }
            Event::LeaseKept { id, sent } => self.note_kept(now, id, sent, effects),
            Event::LeaseUnanswered => self.keeper.unanswered(now),
            Event::LeaseGone(id) => {
                let early = self.keeper.lease().is_some_and(|lease| lease.is_valid(now));
                if self.keeper.gone(now, id) {
                    self.memory.past_leases.insert(id);
                    if early && !bug!(LostLeaseIgnored) {
                        self.note_lease_lost(now, effects);
                    }
                }
            }
            Event::WritesFail(fail) => self.memory.writes_fail = fail,
            Event::Postgres { probe, postgres } => {
                if probe >= self.probes {
                    self.note_postgres(now, postgres);
                }
            }
            Event::Pulse { asked, answered } => self.note_pulse(now, asked, answered),
            Event::PostmasterGone => {
                self.race.take_if(|_| !bug!(RaceOutlivesServer));
                let probe = self.probe();
                effects.push(probe);
            }
            Event::Finished { step, outcome } => self.finish(now, step, &outcome, effects),
            Event::PromiseAsked(request) => {
                let answer = self.promise(now, &request);
                effects.push(Effect::AnswerPromise(request.reply, answer));
            }
            Event::PromiseWithdrawn { lease, round } => self.note_withdrawn(lease, round),
            Event::Promises { round, asked, all } => {
                let until = self
                    .rounds
                    .close(now, round, asked, all, &self.settings.failover);
                self.memory.held_promises = self.memory.held_promises.max(until);
            }
            Event::FailsafeWritten(revision) => self.note_listed(now, revision),
            Event::VoteAsked { reply } => self.pending_votes.push(reply),
            Event::Settings(settings) => {
                self.memory.longest_ttl = self.memory.longest_ttl.max(settings.failover.ttl);
                self.settings = settings;
                // What was seen before it was switched off says nothing when it is on again.
                let wants_pulse = self.settings.failover.wants_pulse();
                self.memory.silence.take_if(|_| !wants_pulse);
                self.keeper.retimed(&self.settings.failover);
            }
            Event::Priority(priority) => self.memory.priority = priority,
            Event::RestartRequested => self.memory.restart_requested = true,
            Event::ReinitializeRequested => self.note_reinitialize(now, effects),
            Event::Stop => self.memory.stop_requested = true,
        }
    }

    fn note_lost(&mut self, now: Moment) {
        self.keeper.unreached(now);
        if let DcsView::Read(last) = &self.dcs {
            self.dcs = DcsView::Away {
                since: now,
                last: last.clone(),
            };
        }
    }

    fn note_withdrawn(&mut self, lease: LeaseId, round: u64) {
        let withdrawn = |promise: &mut Promise| promise.lease == lease && promise.round <= round;
        self.memory.promised.take_if(withdrawn);
    }

    fn note_dcs(
        &mut self,
        now: Moment,
        cluster: Cluster,
        linearizable: bool,
        effects: &mut Vec<Effect>,
    ) {
        if self
            .dcs
            .last()
            .is_some_and(|last| last.revision > cluster.revision)
            && !bug!(OldNewsBelieved)
        {
            if linearizable && !bug!(OvertakenReadForgotten) {
                self.keeper.reached(now);
            }
            // The read that is waited for was overtaken by a write of our own: what it would have
            // shown is still not known.
            if linearizable && self.reading && !bug!(OvertakenReadAwaited) {
                effects.push(Effect::ReadDcs);
            }
            return;
        }
        if linearizable || self.dcs == DcsView::Unread {
            self.note_first_read(cluster.revision);
        }
        if linearizable {
            self.reading = false;
            self.keeper.reached(now);
        }
        if let (Some(key), Some(next)) = (&cluster.leader, self.keeper.next())
            && key.lease == next.id
        {
            // The move was done, though its answer did not come yet, or never will.
            self.move_to(key.lease);
        }
        let unmoved = cluster.leader.as_ref().is_none_or(|key| {
            self.keeper
                .lease()
                .is_some_and(|lease| lease.id == key.lease)
        });
        if linearizable && unmoved {
            self.keeper.not_moved(now);
        }
        self.adopt(now, cluster);
    }

    /// The state of the DCS is this.
    fn adopt(&mut self, now: Moment, cluster: Cluster) {
        let leadership = |cluster: Option<&Cluster>| {
            cluster
                .and_then(|cluster| cluster.leader.as_ref())
                .map(|key| key.created)
        };
        if leadership(self.dcs.last()) != leadership(Some(&cluster)) {
            // What failed under another leader says nothing of what to do under this one, or
            // without any.
            self.idle_until = now;
            self.failures = 0;
            self.memory.copied = false;
        }
        let known = self
            .memory
            .system_id
            .filter(|_| self.memory.reset.is_some());
        if let (Some(Initialize::Done(system_id)), None) = (cluster.initialize, known) {
            self.memory.system_id = Some(system_id);
        }
        // Without data here and without a cluster there has been no leader to promise anything to.
        let nothing = cluster.initialize.is_none()
            && cluster.leader.is_none()
            && cluster.sync.is_none()
            && !has_traces(&cluster);
        if nothing && self.postgres == Postgres::NoData && self.memory.reset.is_none() {
            self.memory.forgot_promises = false;
        }
        self.memory.knows_cluster |= self.memory.system_id.is_some() || has_traces(&cluster);
        let told = cluster.timeline.map(|of| (of, cluster.timeline_of.clone()));
        if told.as_ref().map(|(of, _)| *of) >= self.memory.timeline.as_ref().map(|(of, _)| *of)
            && !bug!(TimelineForgotten)
        {
            self.memory.timeline = told;
        }
        self.settle_listing(&cluster);
        self.dcs = DcsView::Read(cluster);
        let has_leader = self
            .dcs
            .last()
            .is_some_and(|cluster| cluster.leader.is_some());
        self.memory.leaderless = if has_leader {
            None
        } else {
            self.memory.leaderless.or(Some(now))
        };
        if has_leader {
            self.memory.poll = Poll::NotAsked;
        }
        self.drop_reinitialize_without_leader(now);
        if has_leader && self.view(now).other_leader().is_some() {
            self.race = None;
            self.memory.held_promises = None;
        }
    }

    fn note_postgres(&mut self, now: Moment, postgres: Postgres) {
        self.note_service(now, &postgres);
        match &postgres {
            Postgres::Primary(primary) => {
                self.memory.standby_was_streaming =
                    primary.senders.values().any(|sender| sender.streaming);
                self.memory
                    .names_set_at
                    .get_or_insert(primary.position.flushed);
                self.hand_over(HandOverEvent::Primary);
            }
            Postgres::Standby(standby) if standby.receiver == WalReceiver::Streaming => {
                self.memory.rewind_failures = 0;
                self.memory.rewound = false;
                self.memory.copied = false;
            }
            _ => {}
        }
        self.postgres = postgres;
    }

    /// Whether the leader's server serves.
    fn note_service(&mut self, now: Moment, postgres: &Postgres) {
        let runs = matches!(
            postgres,
            Postgres::Primary(_) | Postgres::Starting | Postgres::Unknown
        );
        let leads = self.view(now).holds_key();
        self.memory.silence.take_if(|_| !leads || !runs);
        self.memory.unserved = match postgres {
            Postgres::Starting | Postgres::Unknown if leads => self.memory.unserved.or(Some(now)),
            // One that ends and starts again and again does not serve either.
            Postgres::Stopped(_) if leads => self.memory.unserved,
            _ => None,
        };
    }

    fn note_pulse(&mut self, now: Moment, asked: Moment, answered: bool) {
        let silence = self.memory.silence.take();
        if answered || !self.view(now).holds_key() {
            return;
        }
        let (since, pulses) = silence.map_or((asked, 0), |silence| (silence.since, silence.pulses));
        let pulses = pulses.saturating_add(1);
        self.memory.silence = Some(Silence { since, pulses });
    }

    fn note_kept(&mut self, now: Moment, id: LeaseId, sent: Moment, effects: &mut Vec<Effect>) {
        let sent = if bug!(LeaseCountsFromAnswer) {
            now
        } else {
            sent
        };
        if self.keeper.lease().is_some_and(|lease| lease.id == id) {
            self.note_confirmed(sent);
        }
        let promised = self.view(now).holds_promises();
        if let Some(useless) = self
            .keeper
            .kept(now, id, sent, &self.settings.failover, promised)
        {
            self.memory.past_leases.insert(useless);
        }
        if self.view(now).valid_lease().is_none() {
            return;
        }
        self.memory.held_promises = None;
        let Some(round) = self.rounds.release(now) else {
            return;
        };
        // The key protects a writer from here on, or there is none. Else the promises run out by
        // themselves.
        if self.view(now).holds_key() || self.is_harmless() {
            let members = self.view(now).electors().into_iter().flatten().collect();
            effects.push(Effect::WithdrawPromises { members, round });
        }
    }

    /// Our keys stand under the lease of the new ttl.
    pub(super) fn move_to(&mut self, lease: LeaseId) {
        let former = self.keeper.moved(lease, &self.settings.failover);
        self.memory.past_leases.extend(former);
    }
}
