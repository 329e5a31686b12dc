//! What the parts of a running agent share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::config::{AgentConfig, Finding};
use crate::credentials::OwnCredentials;
use crate::peers::Peers;
use crate::server::Server;
use mrg_base::{Address, MemberName, Millis, Moment};
use mrg_dcs::health::Health;
use mrg_dcs::wire::MemberData;
use mrg_dcs::{ClusterSnapshot, DynamicConfig, MemberState};
use mrg_dcs_etcd::Etcd;
use mrg_election::{Cluster, LeaseId, Postgres, Reason, Settings};

/// What the REST API and the housekeeping show of this member.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each read by another part"
)]
pub(crate) struct Status {
    /// The keys as last seen.
    pub snapshot: Arc<ClusterSnapshot>,
    /// What they say.
    pub cluster: Arc<Cluster>,
    /// Milliseconds since the Unix epoch when etcd last answered.
    pub dcs_last_seen: u64,
    /// Whether etcd answers.
    pub dcs_reachable: bool,
    /// Whether etcd went back in time, and nothing written since settles who leads.
    pub dcs_reset: bool,
    /// The dynamic configuration in force, if it was read from etcd.
    pub config: Option<Arc<DynamicConfig>>,
    /// How it answers each kind of request.
    pub etcd: Arc<Health>,
    /// The local postgres as last seen.
    pub postgres: Postgres,
    /// Whether the leader key is ours, surely.
    pub holds_key: bool,
    /// Until when the leader key is surely ours, or all members' promises hold.
    pub leads_until: Option<Moment>,
    /// Until when all members' promises let this member lead without etcd; `None` if they do not.
    pub promised_until: Option<Moment>,
    /// Whether postgres may accept writes here: by the key, or by the members' promises.
    pub may_write: bool,
    /// Our lease.
    pub lease: Option<LeaseId>,
    /// The lease before it, if our keys were moved from there.
    pub former_lease: Option<LeaseId>,
    /// The reason of the last decision.
    pub why: Option<Reason>,
    /// Whether it cannot win yet: it does not know what it promised before it started.
    pub just_started: bool,
    /// Whether the data here is being replaced by a copy, or is about to be.
    pub creates_replica: bool,
    /// Why the last step on the server failed; `None` once postgres has started since.
    pub failure: Option<String>,
    /// Why the copy failed that a person asked for last, if it did.
    pub reinitialize_failure: Option<String>,
    /// How often each reason was given.
    pub reasons: BTreeMap<Reason, u64>,
    /// The settings in force.
    pub settings: Settings,
    /// This member's tags.
    pub tags: Arc<Map<String, Value>>,
    /// What is wrong with the dynamic configuration; the last good one is in force then.
    pub config_error: Option<String>,
    /// What of the dynamic configuration is not supported and not in force.
    pub unsupported_config: Option<String>,
    /// Settings that have no effect: of the member's file, and of the dynamic configuration.
    pub ignored: Arc<Vec<Finding>>,
    /// Milliseconds by [`mrg_clock`] when the agent's loop last ran.
    pub loop_ran: u64,
}

impl Status {
    /// Patroni's word for the state of postgres; one that is about to be replaced by a copy has it
    /// from the request on.
    pub(crate) fn member_state(&self) -> MemberState {
        if self.creates_replica {
            MemberState::CreatingReplica
        } else {
            MemberState::of(&self.postgres)
        }
    }
}

/// Shared by all tasks of an agent.
pub(crate) struct Context {
    /// The configuration.
    pub config: Arc<AgentConfig>,
    /// The cluster's keys.
    pub store: Arc<Etcd>,
    /// The local server.
    pub server: Arc<Server>,
    /// The passwords of the agent's own roles, and of the REST API.
    pub credentials: Arc<OwnCredentials>,
    /// The other members.
    pub peers: Peers,
    status: watch::Sender<Status>,
}

impl Context {
    /// Puts the parts together.
    pub(crate) fn new(
        config: Arc<AgentConfig>,
        store: Arc<Etcd>,
        server: Arc<Server>,
        credentials: Arc<OwnCredentials>,
        peers: Peers,
        settings: Settings,
    ) -> Self {
        let status = Status {
            snapshot: Arc::default(),
            cluster: Arc::default(),
            dcs_last_seen: 0,
            dcs_reachable: false,
            dcs_reset: false,
            config: None,
            etcd: Arc::default(),
            postgres: Postgres::Unknown,
            holds_key: false,
            leads_until: None,
            promised_until: None,
            may_write: false,
            lease: None,
            former_lease: None,
            why: None,
            just_started: false,
            creates_replica: false,
            failure: None,
            reinitialize_failure: None,
            reasons: BTreeMap::new(),
            settings,
            tags: Arc::new(config.tags.clone()),
            config_error: None,
            unsupported_config: None,
            ignored: Arc::new(config.ignored.clone()),
            loop_ran: 0,
        };
        Self {
            config,
            store,
            server,
            credentials,
            peers,
            status: watch::Sender::new(status),
        }
    }

    /// The member's status.
    pub(crate) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Changes the status.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
    }

    /// Waits until the status says what is looked for, and gives it; `None` if it does not in time.
    pub(crate) async fn wait_for<T>(
        &self,
        within: Duration,
        mut look_for: impl FnMut(&Status) -> Option<T>,
    ) -> Option<T> {
        let mut status = self.status.subscribe();
        let mut found = None;
        let looked = status.wait_for(|status| {
            found = look_for(status);
            found.is_some()
        });
        tokio::time::timeout(within, looked).await.ok()?.ok()?;
        found
    }

    /// How long a request to etcd may take.
    pub(crate) fn dcs_within(&self) -> Duration {
        self.status().settings.failover.retry_timeout.duration()
    }

    /// How long an orderly stop of postgres may take: a lease long at most, or what the
    /// configuration says.
    pub(crate) fn stop_within(&self) -> Duration {
        self.config
            .own
            .stop_timeout
            .map_or(Millis::seconds(30), Millis::seconds)
            .duration()
    }
}

/// Where the members' servers are.
pub(crate) fn addresses(snapshot: &ClusterSnapshot) -> BTreeMap<MemberName, Address> {
    let address =
        |(name, data): (&MemberName, &MemberData)| Some((name.clone(), data.postgres_address()?));
    snapshot.members().filter_map(address).collect()
}
