//! Configures a member of a managed etcd before it starts: a new cluster, the data that is there,
//! or, when the volume was lost, leaving and joining again. Runs as an init container, so that the
//! etcd image stays plain.
//!
//! An etcd that was rebuilt has another generation: another data directory on the same volume, and
//! another token, by which its members and those of the one before never take each other for their
//! own. What is left of earlier generations is removed once the operator has seen the new quorum.

use std::path::{Path, PathBuf};
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
    /// How often the etcd was rebuilt.
    generation: u32,
    may_be_new: bool,
}

/// Where the volume is.
const VOLUME: &str = "/var/lib/etcd";

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
            generation: match std::env::var("MRG_ETCD_GENERATION") {
                Ok(text) => text
                    .parse()
                    .context("MRG_ETCD_GENERATION is not a number")?,
                Err(_) => 0,
            },
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
            "data-dir": Path::new(VOLUME).join(numbered("data", self.generation)),
            "listen-client-urls": "http://0.0.0.0:2379",
            "advertise-client-urls": self.url(&self.name, 2379),
            "listen-peer-urls": "http://0.0.0.0:2380",
            "initial-advertise-peer-urls": self.url(&self.name, 2380),
            "listen-metrics-urls": "http://0.0.0.0:2381",
            "initial-cluster": initial_cluster,
            "initial-cluster-token": numbered(&self.set, self.generation),
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

    /// Leaves (as the member whose data is lost) and joins again, through the others.
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

/// The name of what there is one of in each generation.
fn numbered(name: &str, generation: u32) -> String {
    match generation {
        0 => name.to_owned(),
        generation => format!("{name}-{generation}"),
    }
}

/// The generation that a data directory of this name belongs to.
fn generation_of(directory: &str) -> Option<u32> {
    match directory.strip_prefix("data")? {
        "" => Some(0),
        number => number.strip_prefix('-')?.parse().ok(),
    }
}

/// Removes the data of earlier generations. A directory that cannot be removed only takes up space.
fn remove_earlier(volume: &Path, generation: u32) {
    let entries = std::fs::read_dir(volume).into_iter().flatten().flatten();
    let earlier: Vec<PathBuf> = entries
        .filter(|entry| {
            let name = entry.file_name();
            generation_of(&name.to_string_lossy()).is_some_and(|found| found < generation)
        })
        .map(|entry| entry.path())
        .collect();
    for path in earlier {
        match std::fs::remove_dir_all(&path) {
            Ok(()) => println!("removed {}, of an etcd that was rebuilt", path.display()),
            Err(error) => println!("failed to remove {}: {error}", path.display()),
        }
    }
}

/// Writes etcd's configuration file.
///
/// # Errors
/// If the environment is incomplete, the other members cannot be asked to take this one in, or the
/// file cannot be written.
pub async fn configure(file: &Path) -> anyhow::Result<()> {
    let member = Member::from_environment()?;
    let data = Path::new(VOLUME).join(numbered("data", member.generation));
    let has_data = data.join("member/wal").exists();
    if !member.may_be_new {
        remove_earlier(Path::new(VOLUME), member.generation);
    }
    let (initial, state) = if has_data {
        (member.initial(), "existing")
    } else if member.may_be_new {
        (member.initial(), "new")
    } else {
        match member.rejoin().await {
            Ok(Some(initial)) => (initial, "existing"),
            Ok(None) => bail!(
                "the only member lost its data; `kubectl mrg etcd rebuild` builds a new etcd around the running primary"
            ),
            Err(error) => bail!(
                "no data here, and the other members cannot be asked to take this one in ({error:#}); trying again; if a majority lost its data, `kubectl mrg etcd rebuild` builds a new etcd around the running primary"
            ),
        }
    };
    let text = serde_json::to_string_pretty(&member.config(&initial, state))?;
    std::fs::write(file, text).with_context(|| format!("failed to write {}", file.display()))?;
    println!("{}: {state}, with {initial}", member.name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(generation: u32) -> Member {
        Member {
            name: "pg-etcd-1".to_owned(),
            domain: "pg-etcd.n.svc".to_owned(),
            set: "pg-etcd".to_owned(),
            replicas: 3,
            generation,
            may_be_new: true,
        }
    }

    #[test]
    fn each_generation_has_its_own_data_and_token_and_the_first_has_those_of_before() {
        for (generation, directory, token) in [
            (0, "/var/lib/etcd/data", "pg-etcd"),
            (2, "/var/lib/etcd/data-2", "pg-etcd-2"),
        ] {
            let config = member(generation).config("", "new");
            assert_eq!(config["data-dir"], directory);
            assert_eq!(config["initial-cluster-token"], token);
        }
    }

    #[test]
    fn only_earlier_generations_are_removed() {
        let volume = tempfile::tempdir().unwrap();
        let names = ["data", "data-1", "data-2", "data-3", "data-x", "lost+found"];
        for name in names {
            std::fs::create_dir_all(volume.path().join(name).join("member")).unwrap();
        }
        remove_earlier(volume.path(), 2);
        let left = |name: &&str| volume.path().join(name).exists();
        let left: Vec<&str> = names.into_iter().filter(left).collect();
        assert_eq!(left, ["data-2", "data-3", "data-x", "lost+found"]);
    }
}
