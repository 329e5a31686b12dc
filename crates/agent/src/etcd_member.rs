//! Configures a member of a managed etcd before it starts: a new cluster, the data that is there,
//! or, when the volume was lost, leaving and joining again. Runs as an init container, so that the
//! etcd image stays plain.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use mrg_dcs_etcd::{EtcdMember, Membership};

/// What the member is told by its pod.
struct Member {
    name: String,
    domain: String,
    set: String,
    replicas: u32,
    may_be_new: bool,
}

const REQUEST_WITHIN: Duration = Duration::from_secs(5);

impl Member {
    fn from_environment() -> anyhow::Result<Self> {
        let get = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
        Ok(Self {
            name: get("POD_NAME")?,
            domain: get("MRG_ETCD_DOMAIN")?,
            set: get("MRG_ETCD_NAME")?,
            replicas: get("MRG_ETCD_REPLICAS")?
                .parse()
                .context("MRG_ETCD_REPLICAS is not a number")?,
            may_be_new: get("MRG_ETCD_STATE")? == "new",
        })
    }

    fn url(&self, name: &str, port: u16) -> String {
        format!("http://{name}.{}:{port}", self.domain)
    }

    fn names(&self) -> Vec<String> {
        (0..self.replicas)
            .map(|i| format!("{}-{i}", self.set))
            .collect()
    }

    fn config(&self, initial_cluster: &str, state: &str) -> Value {
        json!({
            "name": self.name,
            "data-dir": "/var/lib/etcd/data",
            "listen-client-urls": "http://0.0.0.0:2379",
            "advertise-client-urls": self.url(&self.name, 2379),
            "listen-peer-urls": "http://0.0.0.0:2380",
            "initial-advertise-peer-urls": self.url(&self.name, 2380),
            "listen-metrics-urls": "http://0.0.0.0:2381",
            "initial-cluster": initial_cluster,
            "initial-cluster-token": self.set,
            "initial-cluster-state": state,
            "strict-reconfig-check": true,
            "auto-compaction-mode": "periodic",
            "auto-compaction-retention": "10m",
            "quota-backend-bytes": 1_073_741_824u64,
            "snapshot-count": 10_000,
            // Half of etcd's defaults: when etcd's own leader is lost with the database's, its
            // election comes on top of the lease, and its successor extends every lease by one
            // election timeout.
            "heartbeat-interval": 50,
            "election-timeout": 500,
            "log-level": "warn",
        })
    }

    fn initial(&self) -> String {
        self.names()
            .iter()
            .map(|name| format!("{name}={}", self.url(name, 2380)))
            .collect::<Vec<_>>()
            .join(",")
    }

    /// Leaves (as the member whose data is lost) and joins anew, through the others.
    async fn rejoin(&self) -> anyhow::Result<Option<String>> {
        let others: Vec<String> = self
            .names()
            .into_iter()
            .filter(|name| *name != self.name)
            .map(|name| self.url(&name, 2379))
            .collect();
        if others.is_empty() {
            return Ok(None);
        }
        let mut etcd = Membership::connect(others, REQUEST_WITHIN).await?;
        let peer = self.url(&self.name, 2380);
        let members = etcd.list().await?;
        let old = members
            .iter()
            .find(|member| member.name == self.name || member.peer_urls.contains(&peer));
        let members = match old {
            // Added and never started: only the configuration is missing.
            Some(member) if member.name.is_empty() => members,
            Some(member) => {
                println!("removing the member {:x} whose data is lost", member.id);
                etcd.remove(member.id).await?;
                etcd.add(&peer).await?
            }
            None => etcd.add(&peer).await?,
        };
        let entry = |member: &EtcdMember| {
            let url = member.peer_urls.first()?;
            let name = if *url == peer {
                &self.name
            } else {
                &member.name
            };
            Some(format!("{name}={url}"))
        };
        Ok(Some(
            members
                .iter()
                .filter_map(entry)
                .collect::<Vec<_>>()
                .join(","),
        ))
    }
}

/// Writes etcd's configuration file.
///
/// # Errors
/// If the environment is incomplete, the other members cannot be asked to take this one in, or the
/// file cannot be written.
pub async fn configure(file: &Path) -> anyhow::Result<()> {
    let member = Member::from_environment()?;
    let has_data = Path::new("/var/lib/etcd/data/member/wal").exists();
    let (initial, state) = if has_data {
        (member.initial(), "existing")
    } else if member.may_be_new {
        (member.initial(), "new")
    } else {
        match member.rejoin().await {
            Ok(Some(initial)) => (initial, "existing"),
            Ok(None) => bail!(
                "the only member lost its data; delete the PostgresCluster's etcd pods and volumes to begin anew: the databases are not touched by that"
            ),
            Err(error) => bail!(
                "no data here, and the other members cannot be asked to take this one in ({error:#}); trying again"
            ),
        }
    };
    let text = serde_json::to_string_pretty(&member.config(&initial, state))?;
    std::fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))?;
    println!("{}: {state}, with {initial}", member.name);
    Ok(())
}
