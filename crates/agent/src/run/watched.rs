//! Snapshots of etcd, on their way to the node.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

use crate::config::{BOOTSTRAP_DCS, Finding, audit_dynamic};
use crate::context::addresses;
use crate::housekeeping::Configured;
use crate::run::Agent;
use mrg_dcs::{ClusterSnapshot, DynamicConfig, InvalidConfig, wire};
use mrg_dcs_etcd::{WatchCommand, WatchEvent};
use mrg_election::watch_order::{WatchInput, WatchOutput};
use mrg_election::{Event, Revision, Settings};
use mrg_telemetry::chain;

/// Hands commands to the watch when it takes them. The loop must not wait for a watch that waits for
/// etcd, and all reads that the watch has not begun are one.
pub(super) async fn forward(
    mut queue: mpsc::UnboundedReceiver<WatchCommand>,
    watch: mpsc::Sender<WatchCommand>,
) {
    while let Some(first) = queue.recv().await {
        let Ok(place) = watch.reserve().await else {
            return;
        };
        let (mut timers, mut read) = (None, None);
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                WatchCommand::Read(number) => read = read.max(Some(number)),
                WatchCommand::Again => read = read.or(Some(0)),
                WatchCommand::Timers { .. } => timers = Some(command),
            }
            next = queue.try_recv().ok();
        }
        let read = read.map(WatchCommand::Read);
        let mut commands = [timers, read].into_iter().flatten();
        if let Some(command) = commands.next() {
            place.send(command);
        }
        for command in commands {
            if watch.send(command).await.is_err() {
                return;
            }
        }
    }
}

impl Agent {
    pub(super) async fn watched(&mut self, event: WatchEvent<ClusterSnapshot>) {
        match event {
            WatchEvent::Reset => self.reset().await,
            // The words of it are logged with those of every other request.
            WatchEvent::Lost(_) => self.lost().await,
            WatchEvent::Seen { snapshot, asked } => self.seen(snapshot, asked).await,
        }
    }

    async fn lost(&mut self) {
        self.context.update(|status| status.dcs_reachable = false);
        self.event(Event::DcsLost).await;
    }

    /// etcd went back in time: revisions of before say nothing any more.
    async fn reset(&mut self) {
        tracing::warn!(
            "etcd went back in time: it is empty, restored from a backup, or another one"
        );
        self.order.on(WatchInput::Reset);
        self.dynamic.reset();
        self.audited = None;
        self.housekeeping.reset();
        self.event(Event::DcsReset).await;
    }

    /// A snapshot that answers the reads up to the number `answered`. One that is older than the
    /// last is dropped: what it answers is answered by a later one.
    async fn seen(&mut self, snapshot: Arc<ClusterSnapshot>, answered: u64) {
        let arrived = WatchInput::Arrived {
            revision: snapshot.revision(),
            has_leader: snapshot.leader_key().is_some(),
        };
        if self.order.on(arrived).is_empty() {
            return;
        }
        self.snapshot = snapshot.clone();
        let cluster = snapshot.cluster();
        self.context.update(|status| {
            status.snapshot = snapshot.clone();
            status.cluster = Arc::new(cluster);
            status.dcs_last_seen = epoch_ms();
            status.dcs_reachable = true;
        });
        self.learn_addresses(&snapshot);
        self.configure(&snapshot).await;
        let doubted = self.doubts_config(&snapshot);
        let outputs = self.order.on(WatchInput::Configured { asked: answered });
        self.follow(outputs).await;
        if doubted && !self.doubts_config(&snapshot) {
            self.configure(&snapshot).await;
        }
    }

    fn doubts_config(&self, snapshot: &ClusterSnapshot) -> bool {
        let modified = snapshot.config().map_or(Revision(0), |key| key.modified);
        self.node.doubts_config(mrg_clock::now(), modified)
    }

    /// Performs what the order of reads and snapshots says.
    pub(super) async fn follow(&mut self, outputs: Vec<WatchOutput>) {
        for output in outputs {
            match output {
                WatchOutput::Read(number) => self.read(number),
                WatchOutput::Deliver { linearizable } => {
                    let cluster = self.context.status().cluster.as_ref().clone();
                    let event = Event::Dcs {
                        cluster,
                        linearizable,
                    };
                    self.event(event).await;
                }
                WatchOutput::Vote { reply } => self.event(Event::VoteAsked { reply }).await,
                // Only the answer to an arrival, which `seen` takes over.
                WatchOutput::Take => {}
            }
        }
    }

    pub(super) fn read(&self, number: u64) {
        let _ = self.commands.send(WatchCommand::Read(number));
    }

    fn learn_addresses(&self, snapshot: &ClusterSnapshot) {
        let failsafe = snapshot.failsafe().into_iter().flatten();
        let listed = failsafe.filter_map(|(name, url)| Some((name.clone(), wire::base_of(url)?)));
        self.context.peers.learn(listed.collect());
        let present = snapshot
            .members()
            .filter_map(|(name, data)| Some((name.clone(), data.api_base()?)));
        self.context.peers.learn(present.collect());
    }

    pub(super) async fn configure(&mut self, snapshot: &ClusterSnapshot) {
        let key = snapshot
            .config()
            .map(|key| (key.modified, key.value.clone()));
        let bootstrap = &self.context.config.bootstrap;
        let without_key = snapshot.config_without_key(bootstrap);
        let doubted = self.doubts_config(snapshot);
        let in_force = self.dynamic.observe(key, without_key, doubted);
        if let Some(settings) = in_force.settings {
            self.take_settings(settings).await;
        }
        if let Some(error) = in_force.refused {
            self.refuse_config(&error);
        }
        if let Some(revision) = in_force.revision
            && self.audited != Some(revision)
        {
            self.audited = Some(revision);
            self.audit(&in_force.config);
        }
        let config = Arc::new(in_force.config);
        let remembered = in_force.revision.map(|_| config.clone());
        self.context.update(|status| status.config = remembered);
        self.housekeeping.configure(Configured {
            revision: in_force.revision,
            config,
            addresses: addresses(snapshot),
        });
    }

    /// Says once what of a configuration that another program has written is not in force.
    fn audit(&self, config: &DynamicConfig) {
        let audit = audit_dynamic(&config.0, self.context.config.code_source());
        let refused = audit.refused.iter().chain(&audit.executing);
        let lines: Vec<String> = refused.map(ToString::to_string).collect();
        let unsupported = (!lines.is_empty()).then(|| format!("config: {}", lines.join("; ")));
        if let Some(text) = &unsupported
            && self.context.status().unsupported_config.as_ref() != Some(text)
        {
            tracing::warn!(
                error = text,
                "settings of the dynamic configuration are not in force"
            );
        }
        // `bootstrap.dcs` is of no interest any more.
        let own = self
            .ignored
            .iter()
            .filter(|found| !found.setting.starts_with(BOOTSTRAP_DCS));
        let ignored: Vec<Finding> = own.cloned().chain(audit.ignored).collect();
        self.context.update(|status| {
            if *status.ignored != ignored {
                status.ignored = Arc::new(ignored);
            }
            status.unsupported_config = unsupported;
        });
    }

    async fn take_settings(&mut self, settings: Settings) {
        let timers = WatchCommand::Timers {
            every: settings.failover.loop_wait.duration(),
            within: settings.failover.retry_timeout.duration(),
        };
        let _ = self.commands.send(timers);
        self.context.update(|status| {
            status.settings = settings;
            status.config_error = None;
        });
        self.event(Event::Settings(settings)).await;
    }

    fn refuse_config(&self, error: &InvalidConfig) {
        let text = chain(error);
        if self.context.status().config_error.as_deref() != Some(&text) {
            tracing::error!(
                error = text,
                "the dynamic configuration is refused; the last good one stays in force"
            );
        }
        self.context
            .update(|status| status.config_error = Some(text));
    }
}

fn epoch_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn reads_that_wait_for_the_watch_are_one_and_no_command_is_lost() {
        let (commands, queue) = mpsc::unbounded_channel();
        let (sender, mut watch) = mpsc::channel(1);
        tokio::spawn(forward(queue, sender));
        for number in 1..=10_000 {
            commands.send(WatchCommand::Read(number)).unwrap();
        }
        let timers = WatchCommand::Timers {
            every: Duration::from_secs(1),
            within: Duration::from_secs(2),
        };
        commands.send(timers).unwrap();
        drop(commands);
        let (mut count, mut last, mut timed) = (0, 0, false);
        while let Some(command) = watch.recv().await {
            count += 1;
            match command {
                WatchCommand::Read(number) => last = number,
                WatchCommand::Again => {}
                WatchCommand::Timers { .. } => timed = true,
            }
        }
        assert!(
            last == 10_000 && timed && count < 10,
            "{count} {last} {timed}"
        );
    }
}
