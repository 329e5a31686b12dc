//! The etcd of the simulation: [`Memory`], the model that `mrg-dcs` holds against a real one, with
//! every key parsed from its bytes as a watch delivers it. What goes wrong between it and the members
//! is the network's part; what goes wrong in it is that for a while it has no leader, and answers
//! nobody.

use std::collections::BTreeSet;
use std::rc::Rc;

use crate::event::Stamp;
use mrg_base::{MemberName, Millis, Moment, Scope};
use mrg_dcs::memory::Memory;
use mrg_dcs::{
    ClusterSnapshot, DynamicConfig, Key, Keys as Paths, NAMESPACE, Pause, Poolers, Transaction,
    Write, settings,
};
use mrg_election::{Cluster, LeaseId, Mode, OnCrash, Revision, Settings};

/// All keys as of one revision, parsed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    /// Patroni's keys.
    pub snapshot: ClusterSnapshot,
    /// What the election looks at of them.
    pub cluster: Cluster,
    /// The settings in `config`, unless somebody deleted it.
    pub settings: Option<Settings>,
    /// The request to the poolers.
    pub pause: Pause,
    /// The poolers' records.
    pub poolers: Poolers,
    /// How often etcd went back before.
    pub era: u32,
}

impl Keys {
    /// How far etcd has come.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp {
            revision: self.cluster.revision,
            era: self.era,
        }
    }

    /// The configuration with the revision that wrote it, if it is there and can be read.
    pub(crate) fn config(&self) -> Option<(Revision, &DynamicConfig)> {
        let key = self.snapshot.config()?;
        Some((key.modified, key.value.as_ref().ok()?))
    }

    /// Takes in what changed in the store since.
    fn follow(&mut self, memory: &Memory, paths: &Paths) {
        let since = self.snapshot.revision();
        let configured = self.config().map(|(revision, _)| revision);
        memory.follow(&mut self.snapshot, since, paths);
        memory.follow(&mut self.pause, since, paths);
        memory.follow(&mut self.poolers, since, paths);
        self.cluster = self.snapshot.cluster();
        let config = self.config();
        if config.map(|(revision, _)| revision) != configured {
            self.settings = config.and_then(|(_, config)| settings(config).ok());
        }
    }
}

/// The dynamic configuration that says these settings, and who belongs to the cluster (`None`: it
/// does not say).
pub(crate) fn config(settings: &Settings, members: Option<&BTreeSet<MemberName>>) -> DynamicConfig {
    let Settings {
        failover,
        replication,
        ..
    } = settings;
    let seconds = |length: Millis| length.0 / 1_000;
    let mode = match replication.mode {
        Mode::Async => "off",
        Mode::Sync => "on",
        Mode::Quorum => "quorum",
    };
    let on_crash = match failover.on_crash {
        OnCrash::Auto => "Auto",
        OnCrash::Failover => "Failover",
        OnCrash::Restart => "Restart",
    };
    let listed = members.map_or_else(String::new, |members| {
        let names: Vec<String> = members.iter().map(|name| format!("\"{name}\"")).collect();
        format!(r#","members":[{}]"#, names.join(","))
    });
    let text = format!(
        r#"{{"ttl":{},"loop_wait":{},"retry_timeout":{},"maximum_lag_on_failover":{},"failsafe_mode":{},"primary_start_timeout":{},"synchronous_mode":"{mode}","synchronous_node_count":{},"synchronous_mode_strict":{},"pause":{},"postgresql":{{"use_pg_rewind":{}}},"mrg":{{"on_crash":"{on_crash}"{listed}}}}}"#,
        seconds(failover.ttl),
        seconds(failover.loop_wait),
        seconds(failover.retry_timeout),
        failover.maximum_lag_bytes,
        failover.failsafe,
        seconds(failover.primary_start_timeout),
        replication.count,
        replication.strict,
        settings.paused,
        settings.use_rewind,
    );
    DynamicConfig::parse(text.as_bytes()).expect("a JSON object")
}

/// The state of etcd.
#[derive(Debug)]
pub(crate) struct Etcd {
    memory: Memory,
    paths: Paths,
    latest: Rc<Keys>,
    /// A backup, if one was made.
    backup: Option<Memory>,
    silent_until: u64,
    /// Whether it had no leader since its leases were last renewed.
    was_silent: bool,
}

impl Etcd {
    /// Empty, but for the configuration.
    pub(crate) fn new(settings: &Settings) -> Self {
        let scope = Scope::new("simulation").expect("a legal scope");
        let mut etcd = Self {
            memory: Memory::default(),
            paths: Paths::new(NAMESPACE, &scope),
            latest: Rc::new(Keys::default()),
            backup: None,
            silent_until: 0,
            was_silent: false,
        };
        let created = etcd.transact(&Transaction::create_config(config(settings, None)));
        assert_eq!(created, Ok(Some(Revision(1))));
        etcd
    }

    /// Everything, now.
    pub(crate) fn keys(&self) -> &Rc<Keys> {
        &self.latest
    }

    fn refresh(&mut self) {
        if self.memory.revision() != self.latest.snapshot.revision() {
            Rc::make_mut(&mut self.latest).follow(&self.memory, &self.paths);
        }
    }

    /// What it holds now is kept.
    pub(crate) fn back_up(&mut self) {
        self.backup = Some(self.memory.clone());
    }

    /// How far it had come when the backup was made.
    pub(crate) fn backup_revision(&self) -> Option<Revision> {
        self.backup.as_ref().map(Memory::revision)
    }

    /// It goes back to the backup, if there is one and it is wanted, or to nothing.
    pub(crate) fn go_back(&mut self, to_backup: bool, now: u64) {
        let backup = self.backup.as_ref().filter(|_| to_backup);
        self.memory.go_back_to(backup, Moment(now));
        self.was_silent = false;
        let era = self.latest.era + 1;
        let mut keys = Keys {
            era,
            ..Keys::default()
        };
        keys.follow(&self.memory, &self.paths);
        self.latest = Rc::new(keys);
    }

    // ---- time ----

    /// It has no leader until then.
    pub(crate) fn fall_silent(&mut self, until: u64) {
        self.silent_until = self.silent_until.max(until);
        self.was_silent = true;
    }

    /// It has a leader again at once.
    pub(crate) fn mend(&mut self) {
        self.silent_until = 0;
    }

    /// Until when it has no leader.
    pub(crate) fn silent_until(&self) -> u64 {
        self.silent_until
    }

    /// Whether it answers.
    pub(crate) fn answers(&self, now: u64) -> bool {
        now >= self.silent_until
    }

    /// Time passes. The leases that end; none does while there is no leader, and the next leader
    /// gives every lease its whole ttl again.
    pub(crate) fn advance(&mut self, now: u64) -> Vec<LeaseId> {
        if !self.answers(now) {
            return Vec::new();
        }
        if std::mem::take(&mut self.was_silent) {
            self.memory.renew_all(Moment(now));
        }
        let ended = self.memory.advance(Moment(now));
        self.refresh();
        ended
    }

    // ---- leases ----

    /// Grants a lease.
    pub(crate) fn grant(&mut self, ttl: u64) -> LeaseId {
        self.memory.grant(Millis(ttl))
    }

    /// Keeps a lease; whether it was there.
    pub(crate) fn keep(&mut self, id: LeaseId) -> bool {
        self.memory.keep_alive(id)
    }

    /// When a lease ends, if it is there.
    pub(crate) fn lease_ends(&self, id: LeaseId) -> Option<u64> {
        self.memory.lease_ends(id).map(|ends| ends.0)
    }

    /// Ends a lease and everything that hangs off it.
    pub(crate) fn revoke(&mut self, id: LeaseId) {
        self.memory.revoke(id);
        self.refresh();
    }

    // ---- keys ----

    /// Does a transaction; see [`Memory::transact`].
    pub(crate) fn transact(
        &mut self,
        transaction: &Transaction,
    ) -> Result<Option<Revision>, LeaseId> {
        let done = self.memory.transact(transaction);
        self.refresh();
        done
    }

    /// A person writes, on no condition.
    pub(crate) fn write(&mut self, writes: &[Write]) {
        self.memory.write(writes);
        self.refresh();
    }

    /// A person deletes keys.
    pub(crate) fn delete(&mut self, keys: impl IntoIterator<Item = Key>) {
        let writes: Vec<Write> = keys.into_iter().map(Write::Delete).collect();
        self.write(&writes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use mrg_election::sync::Stored;

    fn name(text: &str) -> MemberName {
        MemberName::new(text).expect("a legal name")
    }

    #[test]
    fn what_a_deposed_leader_still_had_to_say_of_sync_is_not_written() {
        let mut etcd = Etcd::new(&Settings::default());
        let (old, new) = (etcd.grant(5_000), etcd.grant(5_000));
        let mut transact = |transaction| etcd.transact(&transaction).expect("the leases are there");
        assert!(transact(Transaction::acquire_leader(old, &name("a"))).is_some());
        let first = transact(Transaction::write_sync(old, None, Stored::only(name("a"))));
        assert!(first.is_some());
        let acquired = transact(Transaction::acquire_leader(new, &name("b")));
        assert!(acquired.is_none(), "the key is there");
        etcd.revoke(old);
        let mut transact = |transaction| etcd.transact(&transaction).expect("the lease is there");
        assert!(transact(Transaction::acquire_leader(new, &name("b"))).is_some());
        let wider = Stored {
            voters: [name("c")].into(),
            ..Stored::only(name("a"))
        };
        let late = transact(Transaction::write_sync(old, first, wider.clone()));
        assert!(late.is_none(), "it does not lead");
        let second = transact(Transaction::write_sync(new, first, Stored::only(name("b"))));
        assert!(second.is_some());
        let over_it = transact(Transaction::write_sync(new, first, wider));
        assert!(over_it.is_none(), "it was changed since");
    }

    #[test]
    fn leases_do_not_end_while_there_is_no_leader_and_are_whole_after_that() {
        let mut etcd = Etcd::new(&Settings::default());
        let lease = etcd.grant(5_000);
        let acquired = etcd.transact(&Transaction::acquire_leader(lease, &name("a")));
        assert!(acquired.is_ok_and(|written| written.is_some()));
        etcd.fall_silent(7_000);
        assert!(etcd.advance(6_999).is_empty());
        assert!(etcd.advance(7_000).is_empty());
        assert_eq!(etcd.lease_ends(lease), Some(12_000));
        assert!(etcd.advance(11_999).is_empty());
        assert!(etcd.keys().cluster.leader.is_some());
        assert_eq!(etcd.advance(12_000), [lease]);
        assert!(etcd.keys().cluster.leader.is_none());
    }

    #[test]
    fn settings_are_the_ones_that_the_configuration_says() {
        for seed in 0..200 {
            let mut written = crate::schedule::settings(&mut Random::new(seed));
            written.paused = seed % 2 == 0;
            let members = BTreeSet::from([name("m1"), name("m2")]);
            let mut etcd = Etcd::new(&written);
            assert_eq!(etcd.keys().settings, Some(written));
            assert_eq!(etcd.keys().cluster.expected, None);
            let over = etcd.keys().config().map(|(revision, _)| revision);
            let listed = Transaction::write_config(over, config(&written, Some(&members)));
            assert!(etcd.transact(&listed).is_ok_and(|done| done.is_some()));
            assert_eq!(etcd.keys().settings, Some(written));
            assert_eq!(etcd.keys().cluster.expected, Some(members));
        }
    }
}
