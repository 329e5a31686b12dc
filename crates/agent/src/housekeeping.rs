//! What a member writes of itself and, as the leader, of the cluster: its member key, `status`,
//! `history`, slots. [`Publisher`] says what and when; none of it may hold up the loop, so it is
//! performed in a task of its own that always works on the newest state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::context::{Context, Status};
use crate::dcs_record::DcsRecord;
use crate::obstacle::obstacle;
use crate::passwords::Passwords;
use crate::rest::reports::PATRONI_VERSION;
use crate::roles::OwnRoles;
use crate::run::PROBE_INTERVAL;
use mrg_base::{Address, MemberName, Timeline, lock};
use mrg_dcs::wire::{MemberData, StatusData};
use mrg_dcs::{Attempt, DynamicConfig, Store, Writer};
use mrg_election::publisher::{ConfigKey, Observed, Publisher, PublisherEffect, PublisherEvent};
use mrg_election::{Initialize, LeaseId, Postgres, Revision};
use mrg_telemetry::chain;

/// What the server's files should follow.
#[derive(Clone)]
pub(crate) struct Configured {
    /// The revision of the dynamic configuration; `None` if it was not read from the key.
    pub revision: Option<Revision>,
    /// The dynamic configuration in force.
    pub config: Arc<DynamicConfig>,
    /// Where the members are.
    pub addresses: BTreeMap<MemberName, Address>,
}

/// Between two looks at what is mounted, which a kubelet swaps once in a minute or so: no event says
/// that it changed.
const MOUNT_READ_INTERVAL: Duration = Duration::from_secs(2);

/// How long a text in the member key may be: etcd takes no key of any size, and the texts quote what
/// others have written.
const TEXT_MAX: usize = 4_096;

/// The task's handle.
pub(crate) struct Housekeeping {
    wake: Arc<Notify>,
    wanted: Arc<Mutex<Option<Configured>>>,
    reset: Arc<AtomicBool>,
}

type Publish = PublisherEffect<MemberData, StatusData>;
type Published = PublisherEvent<'static, MemberData, StatusData>;

impl Housekeeping {
    /// Starts the task.
    pub(crate) fn new(context: Arc<Context>) -> Self {
        let wake = Arc::new(Notify::new());
        let wanted = Arc::new(Mutex::new(None));
        let reset = Arc::new(AtomicBool::new(false));
        let task = Task {
            record: DcsRecord::new(context.config.dcs_file()),
            reset: reset.clone(),
            publisher: Publisher::new(context.config.name.clone(), mrg_clock::now()),
            context,
            wanted: wanted.clone(),
            passwords: Passwords::default(),
            roles: OwnRoles::default(),
            mounted: None,
            wanted_last: None,
            looked: Instant::now(),
            configured: None,
            in_force: None,
        };
        tokio::spawn(task.run(wake.clone()));
        Self {
            wake,
            wanted,
            reset,
        }
    }

    /// etcd went back in time: what was published may be gone.
    pub(crate) fn reset(&self) {
        self.reset.store(true, Ordering::Release);
    }

    /// Something may have changed.
    pub(crate) fn tend(&self) {
        self.wake.notify_one();
    }

    /// The server's files should follow this.
    pub(crate) fn configure(&self, configured: Configured) {
        *lock(&self.wanted) = Some(configured);
        self.wake.notify_one();
    }
}

struct Task {
    context: Arc<Context>,
    wanted: Arc<Mutex<Option<Configured>>>,
    reset: Arc<AtomicBool>,
    record: DcsRecord,
    publisher: Publisher<MemberData, StatusData>,
    passwords: Passwords,
    roles: OwnRoles,
    /// When the mounted passwords were read last.
    mounted: Option<Instant>,
    /// What was taken over last.
    wanted_last: Option<Configured>,
    /// When the mounted settings were looked at last.
    looked: Instant,
    /// The dynamic configuration that postgres was given, and when.
    configured: Option<(Revision, Instant)>,
    in_force: Option<InForce>,
}

/// The dynamic configuration that the server was given.
struct InForce {
    config: Arc<DynamicConfig>,
    /// Whether it was ever read from the key.
    remembered: bool,
}

impl Task {
    async fn run(mut self, wake: Arc<Notify>) {
        loop {
            wake.notified().await;
            let wanted = lock(&self.wanted).take();
            if self.reset.swap(false, Ordering::AcqRel) {
                self.configured = None;
                self.publisher
                    .on(mrg_clock::now(), PublisherEvent::DcsReset);
            }
            let mounted = self.context.config.own.executable_settings_file.is_some();
            let looks_again = mounted && self.looked.elapsed() >= MOUNT_READ_INTERVAL;
            let again = self.wanted_last.clone().filter(|_| looks_again);
            if let Some(wanted) = wanted.or(again) {
                self.configure(wanted).await;
            }
            self.read_mounted();
            let status = self.context.status();
            if !status.dcs_reachable {
                continue;
            }
            if let Some(Initialize::Done(system_id)) = status.snapshot.initialize() {
                self.context.server.note_system(system_id);
            }
            self.context.server.note_tablespaces();
            self.record.keep(&status, self.context.store.mark()).await;
            self.publish(&status).await;
            let leads = status.holds_key && matches!(status.postgres, Postgres::Primary(_));
            self.passwords.keep(&self.context, leads).await;
            // Until then the bootstrap itself makes the roles.
            let initialized = matches!(status.snapshot.initialize(), Some(Initialize::Done(_)));
            self.roles.keep(&self.context, leads && initialized).await;
        }
    }

    /// Takes over passwords of the agent's own that changed in a mounted Secret.
    fn read_mounted(&mut self) {
        let mounted = self.context.config.mounted();
        let is_due = self
            .mounted
            .is_none_or(|at| at.elapsed() >= MOUNT_READ_INTERVAL);
        if !mounted.is_there() || !is_due {
            return;
        }
        self.mounted = Some(Instant::now());
        let credentials = &self.context.credentials;
        let changed = credentials.read_mounted(&mounted, mrg_clock::now());
        if !changed.is_empty() {
            tracing::info!(of = changed.join(", "), "passwords in the Secret changed");
        }
    }

    /// Brings the server's files in line.
    async fn configure(&mut self, wanted: Configured) {
        let server = &self.context.server;
        let Configured {
            revision,
            config,
            addresses,
        } = wanted.clone();
        match server.configure(&config, addresses).await {
            // What waits for a restart is not known before all that belongs together is there.
            Ok(()) if server.awaits_settings() => {}
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
        self.looked = Instant::now();
        self.in_force = Some(InForce {
            config,
            remembered: revision.is_some(),
        });
        self.wanted_last = Some(wanted);
    }

    /// Writes what is due, one after the other.
    async fn publish(&mut self, status: &Status) {
        let observed = self.observed(status);
        let event = PublisherEvent::Observed(Box::new(observed));
        for effect in self.publisher.on(mrg_clock::now(), event) {
            let outcome = self.perform(status, effect).await;
            self.publisher.on(mrg_clock::now(), outcome);
        }
    }

    fn observed<'a>(&self, status: &'a Status) -> Observed<'a, MemberData, StatusData> {
        let mut member = member_data(&self.context, status);
        // What waits for a restart is known a probe later.
        let known = self
            .configured
            .filter(|(_, at)| at.elapsed() > PROBE_INTERVAL * 3 / 2);
        let published = self.publisher.published().and_then(|data| data.configured);
        member.configured = known.map(|(revision, _)| revision).or(published);
        let name = &self.context.config.name;
        let config = match (&self.in_force, status.snapshot.config()) {
            (None, _) => ConfigKey::Unknown,
            (Some(_), Some(_)) => ConfigKey::Present,
            (Some(InForce { remembered, .. }), None) => ConfigKey::Missing {
                remembered: *remembered,
            },
        };
        Observed {
            cluster: &status.cluster,
            reachable: status.dcs_reachable,
            postgres: &status.postgres,
            lease: status.lease,
            former_lease: status.former_lease,
            holds_key: status.holds_key,
            member,
            member_key: status.snapshot.member_lease(name),
            status: StatusData::of(name, &status.postgres),
            config,
            loop_wait: status.settings.failover.loop_wait,
        }
    }

    async fn perform(&self, status: &Status, effect: Publish) -> Published {
        match effect {
            PublisherEffect::WriteMember {
                lease,
                former,
                record,
            } => PublisherEvent::MemberWritten(self.write_member(lease, former, record).await),
            PublisherEffect::RestoreConfig => {
                self.restore_config().await;
                PublisherEvent::ConfigWritten
            }
            PublisherEffect::WriteStatus(data) => {
                let within = self.context.dcs_within();
                let written = self.context.store.put_status(data, within).await;
                PublisherEvent::StatusWritten(written.is_done())
            }
            PublisherEffect::WriteHistory {
                lease, timeline, ..
            } => PublisherEvent::HistoryWritten(self.write_history(status, lease, timeline).await),
            PublisherEffect::KeepSlots {
                wanted,
                dropped,
                primary,
            } => PublisherEvent::SlotsKept(self.keep_slots(&wanted, &dropped, primary).await),
        }
    }

    async fn write_member(
        &self,
        lease: LeaseId,
        former: Option<LeaseId>,
        record: MemberData,
    ) -> bool {
        let (store, within) = (&self.context.store, self.context.dcs_within());
        let name = &self.context.config.name;
        match store
            .publish_member(name, record, lease, former, within)
            .await
        {
            Attempt::Done(_) => true,
            // The node sees whose it is, waits and gives the reason.
            Attempt::Conflict => false,
            Attempt::InDoubt(error) | Attempt::Failed(error) => {
                tracing::debug!(error = chain(&error), "failed to write the member key");
                false
            }
        }
    }

    async fn restore_config(&self) {
        let Some(in_force) = &self.in_force else {
            return;
        };
        let (store, within) = (&self.context.store, self.context.dcs_within());
        let config = DynamicConfig::clone(&in_force.config);
        match store.create_config(config, within).await {
            Attempt::Done(_) => tracing::warn!(
                "the config key was deleted; it is written again, as this member knows it"
            ),
            Attempt::Conflict => {}
            Attempt::InDoubt(error) | Attempt::Failed(error) => tracing::debug!(
                error = chain(&error),
                "failed to write the config key again"
            ),
        }
    }

    /// One line for each timeline that ended, from PostgreSQL's own history file.
    async fn write_history(&self, status: &Status, lease: LeaseId, timeline: Timeline) -> bool {
        let file = format!("pg_wal/{:08X}.history", timeline.0);
        let path = self.context.server.data().join(file);
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let writer = Writer {
            me: &self.context.config.name,
            lease: Some(lease),
            snapshot: &status.snapshot,
            config: None,
            postgres: &status.postgres,
            time: &jiff::Timestamp::now().to_string(),
        };
        let Some(transaction) = writer.history(lease, &text) else {
            return true;
        };
        let within = self.context.dcs_within();
        let written = self.context.store.execute(transaction, within).await;
        written.is_done()
    }

    async fn keep_slots(
        &self,
        wanted: &BTreeSet<MemberName>,
        dropped: &BTreeSet<MemberName>,
        primary: bool,
    ) -> bool {
        let Ok(session) = self.context.server.session().await else {
            return false;
        };
        let kept = session.keep_slots(wanted, dropped, primary).await;
        if let Err(error) = &kept {
            tracing::debug!(error = chain(error), "failed to keep the slots");
        }
        kept.is_ok()
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push_str(" …");
    }
    text
}

/// What the member key says.
fn member_data(context: &Context, status: &Status) -> MemberData {
    let config = &context.config;
    let facts = context.server.facts().unwrap_or_default();
    let pending = facts.pending_restart;
    let mounted = context.server.mounted_settings();
    let reason = |(name, old, new): &(String, String, String)| {
        (name.clone(), json!({ "old_value": old, "new_value": new }))
    };
    let mut data = MemberData {
        state: status.member_state(),
        just_started: status.just_started,
        refused_parameters: context.server.refused_parameters().map(bounded),
        unsupported_config: status.unsupported_config.clone().map(bounded),
        executable_settings: mounted.as_ref().map(|(version, _)| version.clone()),
        awaited_settings: mounted.and_then(|(_, difference)| difference.map(bounded)),
        ignored_settings: status
            .ignored
            .iter()
            .map(|found| found.setting.clone())
            .collect(),
        unusable_data: context.server.unusable_data(),
        obstacle: obstacle(context, status),
        passwords: Some(context.credentials.fingerprint(config.scope.as_str())),
        server_version: (facts.version > 0).then_some(facts.version),
        pending_restart_reason: pending.iter().map(reason).collect(),
        conn_url: format!("postgres://{}/postgres", config.connect),
        api_url: config.api_url(),
        version: PATRONI_VERSION.to_owned(),
        pause: status.settings.paused,
        pending_restart: !pending.is_empty(),
        tags: status.tags.as_ref().clone(),
        ..MemberData::of(&status.postgres)
    };
    if matches!(status.postgres, Postgres::Standby(_)) {
        data.replay_lsn = facts.replayed.map(|lsn| lsn.0);
    }
    data
}

#[cfg(test)]
mod tests {
    use super::{TEXT_MAX, bounded};

    #[test]
    fn a_text_that_quotes_a_huge_key_is_cut_between_two_characters() {
        assert_eq!(bounded("é".to_owned()), "é");
        let cut = bounded("é".repeat(TEXT_MAX));
        assert!(
            cut.len() < TEXT_MAX + 8 && cut.ends_with("é …"),
            "{}",
            cut.len()
        );
    }
}
