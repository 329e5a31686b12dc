//! What a member writes of itself and, as the leader, of the cluster: its member key, `status`,
//! `history`, slots. None of it decides anything, and none of it may hold up the loop: it runs in a
//! task of its own that always works on the newest state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::context::{Context, Status};
use crate::passwords::Passwords;
use crate::rest::reports::{PATRONI_VERSION, role, state};
use crate::run::LOOK_EVERY;
use mrg_base::{MemberName, Timeline};
use mrg_dcs::wire::{HistoryLine, MemberData, PROMOTION_UNDER_WAY, StatusData};
use mrg_dcs::{Attempt, DynamicConfig, ReplicationState, Store, next_timeline};
use mrg_election::{Initialize, LeaseId, Postgres, Revision, WalReceiver};
use mrg_postgres::ConnectTo;
use mrg_telemetry::chain;

/// The revision of the dynamic configuration, itself, and where the members are.
type Configured = (
    Option<Revision>,
    DynamicConfig,
    BTreeMap<MemberName, ConnectTo>,
);

/// The task's handle.
pub(crate) struct Housekeeping {
    wake: Arc<Notify>,
    wanted: Arc<Mutex<Option<Configured>>>,
}

/// A member is remembered for so long after its key is gone: its slot keeps the WAL it needs.
const SLOT_OUTLIVES_MEMBER: Duration = Duration::from_secs(30 * 60);

impl Housekeeping {
    /// Starts the task.
    pub(crate) fn new(context: Arc<Context>) -> Self {
        let wake = Arc::new(Notify::new());
        let wanted = Arc::new(Mutex::new(None));
        let task = Task {
            context,
            wanted: wanted.clone(),
            member: None,
            member_written: Instant::now(),
            status_written: None,
            members_seen: BTreeMap::new(),
            slots_kept: None,
            timeline: None,
            passwords: Passwords::default(),
            configured: None,
            in_force: None,
            config_missing: None,
        };
        tokio::spawn(task.run(wake.clone()));
        Self { wake, wanted }
    }

    /// Something may have changed.
    pub(crate) fn tend(&self) {
        self.wake.notify_one();
    }

    /// The server's files should follow this.
    pub(crate) fn configure(
        &self,
        revision: Option<Revision>,
        dynamic: DynamicConfig,
        addresses: BTreeMap<MemberName, ConnectTo>,
    ) {
        *self
            .wanted
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) =
            Some((revision, dynamic, addresses));
        self.wake.notify_one();
    }
}

struct Task {
    context: Arc<Context>,
    wanted: Arc<Mutex<Option<Configured>>>,
    member: Option<(LeaseId, MemberData)>,
    member_written: Instant,
    status_written: Option<(Instant, StatusData)>,
    members_seen: BTreeMap<MemberName, Instant>,
    slots_kept: Option<(Instant, BTreeSet<MemberName>, bool)>,
    timeline: Option<Timeline>,
    passwords: Passwords,
    /// The dynamic configuration that postgres was given, and when.
    configured: Option<(Revision, Instant)>,
    /// What is in force, and whether it was ever read.
    in_force: Option<(DynamicConfig, bool)>,
    /// Since when the `config` key has been gone.
    config_missing: Option<Instant>,
}

impl Task {
    async fn run(mut self, wake: Arc<Notify>) {
        loop {
            wake.notified().await;
            let wanted = self
                .wanted
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .take();
            if let Some((revision, dynamic, addresses)) = wanted {
                match self.context.server.configure(&dynamic, addresses).await {
                    Ok(())
                        if self
                            .configured
                            .is_none_or(|(known, _)| Some(known) != revision) =>
                    {
                        self.configured = revision.map(|revision| (revision, Instant::now()));
                    }
                    Ok(()) => {}
                    Err(error) => {
                        tracing::warn!(error = chain(&error), "failed to write the configuration");
                    }
                }
                self.in_force = Some((dynamic, revision.is_some()));
            }
            let status = self.context.status();
            if !status.dcs_reachable {
                continue;
            }
            let system = status.snapshot.initialize();
            if let Some(Initialize::Done(system_id)) = system {
                self.context.server.note_system(system_id);
            }
            self.write_member(&status).await;
            self.restore_config(&status).await;
            // A cluster that is still being made may be given up, and must leave nothing that looks
            // like one.
            let finished = matches!(system, Some(Initialize::Done(_)));
            if finished && status.holds_key && matches!(status.postgres, Postgres::Primary(_)) {
                self.write_status(&status).await;
                self.write_history(&status).await;
            }
            self.keep_slots(&status).await;
            let leads = status.holds_key && matches!(status.postgres, Postgres::Primary(_));
            self.passwords.keep(&self.context, leads).await;
        }
    }

    /// The member key: at once when something changes that others act on, else once a loop.
    async fn write_member(&mut self, status: &Status) {
        let Some(lease) = status.lease else { return };
        let mut data = member_data(&self.context, status);
        // What waits for a restart is known a look later.
        let known = self
            .configured
            .filter(|(_, at)| at.elapsed() > LOOK_EVERY * 3 / 2);
        data.configured = known
            .map(|(revision, _)| revision)
            .or(self.member.as_ref().and_then(|(_, data)| data.configured));
        let name = &self.context.config.name;
        let lost = status.snapshot.member_lease(name) != Some(lease)
            && self.member_written.elapsed() > Duration::from_millis(500);
        let due = self.member_written.elapsed() >= status.settings.failover.loop_wait.duration();
        let write = match &self.member {
            Some((old_lease, old)) if *old_lease == lease && !lost => {
                pressing(&data) != pressing(old) || due && *old != data
            }
            _ => true,
        };
        if !write {
            return;
        }
        let (former, within) = (status.former_lease, self.context.dcs_within());
        let store = &self.context.store;
        let published = store.publish_member(name, data.clone(), lease, former, within);
        match published.await {
            Attempt::Done(_) => {
                self.member = Some((lease, data));
                self.member_written = Instant::now();
            }
            // The node sees whose it is, waits and says so.
            Attempt::Conflict => self.member = None,
            Attempt::InDoubt(error) | Attempt::Failed(error) => {
                tracing::debug!(error = chain(&error), "failed to write the member key");
                self.member = None;
            }
        }
    }

    /// Somebody deleted `config`: whoever remembers it writes it again, the leader at once, the
    /// others where nobody leads. If nobody remembers it, the leader writes what is in force.
    async fn restore_config(&mut self, status: &Status) {
        let Some((in_force, known)) = &self.in_force else {
            return;
        };
        if status.snapshot.config().is_some() {
            self.config_missing = None;
            return;
        }
        let since = *self.config_missing.get_or_insert_with(Instant::now);
        let loop_wait = status.settings.failover.loop_wait.duration();
        let patience = match (status.holds_key, known) {
            (true, true) => Duration::ZERO,
            (false, true) => loop_wait,
            (true, false) => 3 * loop_wait,
            (false, false) => return,
        };
        if since.elapsed() < patience {
            return;
        }
        let (store, within) = (&self.context.store, self.context.dcs_within());
        match store.create_config(in_force.clone(), within).await {
            Attempt::Done(_) => tracing::warn!(
                "somebody deleted the config key; it is written again, as this member knows it"
            ),
            Attempt::Conflict => {}
            Attempt::InDoubt(error) | Attempt::Failed(error) => tracing::debug!(
                error = chain(&error),
                "failed to write the config key again"
            ),
        }
    }

    async fn write_status(&mut self, status: &Status) {
        let Postgres::Primary(primary) = &status.postgres else {
            return;
        };
        let me = (
            self.context.config.name.slot_name(),
            primary.position.flushed.0,
        );
        let mut slots: BTreeMap<String, u64> = primary
            .senders
            .iter()
            .map(|(name, sender)| (name.slot_name(), sender.flushed.0))
            .collect();
        slots.insert(me.0, me.1);
        let data = StatusData {
            optime: primary.position.flushed.0,
            slots,
        };
        let loop_wait = status.settings.failover.loop_wait.duration();
        let due = self
            .status_written
            .as_ref()
            .is_none_or(|(at, old)| at.elapsed() >= loop_wait && *old != data);
        if !due {
            return;
        }
        let (store, within) = (&self.context.store, self.context.dcs_within());
        if store.put_status(data.clone(), within).await.is_done() {
            self.status_written = Some((Instant::now(), data));
        }
    }

    /// One line for each timeline that ended, from PostgreSQL's own history file.
    async fn write_history(&mut self, status: &Status) {
        let Postgres::Primary(primary) = &status.postgres else {
            return;
        };
        let timeline = primary.position.timeline;
        if self.timeline == Some(timeline) {
            return;
        }
        let known = status.snapshot.history();
        // What was seen of postgres may be older than what was reserved since.
        if next_timeline(known) > Some(timeline) {
            return;
        }
        let path = self
            .context
            .server
            .data()
            .join(format!("pg_wal/{:08X}.history", timeline.0));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let me = self.context.config.name.to_string();
        let now = jiff::Timestamp::now().to_string();
        let lines: Vec<HistoryLine> = text
            .lines()
            .filter_map(|line| {
                let mut fields = line.splitn(3, '\t');
                let timeline: u32 = fields.next()?.trim().parse().ok()?;
                let ended_at: mrg_base::Lsn = fields.next()?.trim().parse().ok()?;
                let reason = fields.next().unwrap_or_default().to_owned();
                let old = known
                    .iter()
                    .find(|line| line.timeline == timeline && line.reason != PROMOTION_UNDER_WAY);
                Some(old.cloned().unwrap_or_else(|| HistoryLine {
                    timeline,
                    ended_at: ended_at.0,
                    reason,
                    time: now.clone(),
                    leader: me.clone(),
                }))
            })
            .collect();
        if lines == known || self.put_history(status, lines).await {
            self.timeline = Some(timeline);
        }
    }

    /// Only as the leader, and only over what was read: a late write would undo the timeline that a
    /// leader has reserved since.
    async fn put_history(&self, status: &Status, lines: Vec<HistoryLine>) -> bool {
        let Some(lease) = status.lease else {
            return false;
        };
        let (over, within) = (
            status.snapshot.history_modified(),
            self.context.dcs_within(),
        );
        let store = &self.context.store;
        store
            .write_history(lease, over, lines, within)
            .await
            .is_done()
    }

    async fn keep_slots(&mut self, status: &Status) {
        let primary = match &status.postgres {
            Postgres::Primary(_) => true,
            Postgres::Standby(_) => false,
            _ => return,
        };
        let now = Instant::now();
        let me = self.context.config.name.clone();
        let newest = self.context.status().snapshot;
        let names = newest.members().map(|(name, _)| name);
        let present: BTreeSet<MemberName> = names.filter(|name| **name != me).cloned().collect();
        self.members_seen
            .extend(present.iter().cloned().map(|name| (name, now)));
        let (others, gone): (BTreeSet<MemberName>, BTreeSet<MemberName>) = {
            let returns = |name: &MemberName| status.cluster.expects(name);
            let needs_slot = |name: &MemberName, seen: &Instant| {
                present.contains(name) || returns(name) && seen.elapsed() < SLOT_OUTLIVES_MEMBER
            };
            let (fresh, stale): (Vec<_>, Vec<_>) = self
                .members_seen
                .iter()
                .partition(|(name, seen)| needs_slot(name, seen));
            let names = |list: Vec<(&MemberName, &Instant)>| {
                list.into_iter().map(|(name, _)| name.clone()).collect()
            };
            (names(fresh), names(stale))
        };
        let loop_wait = status.settings.failover.loop_wait.duration();
        let kept = self.slots_kept.as_ref().is_some_and(|(at, names, role)| {
            at.elapsed() < loop_wait * 5 && *names == others && *role == primary
        });
        if kept {
            return;
        }
        let Ok(session) = self.context.server.session().await else {
            return;
        };
        match session.keep_slots(&others, &gone, primary).await {
            Ok(()) => {
                self.members_seen.retain(|name, _| !gone.contains(name));
                self.slots_kept = Some((now, others, primary));
            }
            Err(error) => tracing::debug!(error = chain(&error), "failed to keep the slots"),
        }
    }
}

/// What others act on: without what moves all the time, and what is only for people.
fn pressing(data: &MemberData) -> MemberData {
    MemberData {
        xlog_location: None,
        receive_lsn: None,
        replay_lsn: None,
        obstacle: None,
        ..data.clone()
    }
}

/// What the member key says.
fn member_data(context: &Context, status: &Status) -> MemberData {
    let config = &context.config;
    let facts = context.server.facts().unwrap_or_default();
    let replayed = facts.replayed.map(|lsn| lsn.0);
    let pending = facts.pending_restart;
    let reason = |(name, old, new): &(String, String, String)| {
        (name.clone(), json!({ "old_value": old, "new_value": new }))
    };
    let mut data = MemberData {
        refused_parameters: context.server.refused_parameters(),
        unusable_data: context.server.unusable_data(),
        obstacle: status
            .why
            .filter(|why| why.is_obstacle())
            .map(|why| why.sentence().to_owned()),
        server_version: (facts.version > 0).then_some(facts.version),
        pending_restart_reason: pending.iter().map(reason).collect(),
        conn_url: format!("postgres://{}/postgres", config.connect),
        api_url: config.api_url(),
        state: state(status).into(),
        role: role(status).into(),
        version: PATRONI_VERSION.to_owned(),
        pause: status.settings.paused,
        pending_restart: !pending.is_empty(),
        tags: config.tags.clone(),
        ..MemberData::default()
    };
    match &status.postgres {
        Postgres::Primary(primary) => {
            data.xlog_location = Some(primary.position.flushed.0);
            data.timeline = Some(primary.position.timeline.0);
        }
        Postgres::Standby(standby) => {
            let flushed = standby.position.map(|position| position.flushed.0);
            data.xlog_location = flushed;
            data.receive_lsn = flushed;
            data.replay_lsn = replayed;
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
