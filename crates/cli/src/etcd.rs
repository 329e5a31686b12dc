//! The managed etcd of a PostgresCluster: what its members say, and its rebuild around the running
//! primary.

mod look;

use std::time::Duration;

use clap::Subcommand;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::ask::confirm_name;
use super::{Error, Place};
use look::{Seen, look};
use mrg_api::PostgresCluster;
use mrg_api::postgres_cluster::{
    EtcdRebuild, EtcdRebuildPhase, REBUILD_ETCD_ANNOTATION, RebuildRequest,
};

/// What is done with a cluster's etcd.
#[derive(Subcommand)]
pub enum EtcdCommand {
    /// What its members say, and which member of the database leads
    Status {
        /// The PostgresCluster
        cluster: String,
    },
    /// Builds a managed etcd that has lost its quorum for good again, empty, around the running
    /// primary, which then writes the cluster's keys. The old data stays on its volumes until the new
    /// members are restarted
    Rebuild {
        /// The PostgresCluster
        cluster: String,
        /// Although etcd has its quorum, no primary runs, or failsafe mode is off
        #[arg(long)]
        force: bool,
        /// Do not ask: the name of the PostgresCluster once more
        #[arg(short, long, value_name = "CLUSTER")]
        yes: Option<String>,
    },
}

/// How long the operator may take to take a request up.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(60);
/// How long a rebuild is followed. It goes on without.
const FOLLOWED_FOR: Duration = Duration::from_secs(900);

pub(crate) async fn run(place: &Place, command: EtcdCommand) -> Result<String, Error> {
    match command {
        EtcdCommand::Status { cluster } => {
            let object = get(place, &cluster).await?;
            Ok(look(place, &cluster).await?.text(&object))
        }
        EtcdCommand::Rebuild {
            cluster,
            force,
            yes,
        } => rebuild(place, &cluster, force, yes.as_deref()).await,
    }
}

fn clusters(place: &Place) -> Api<PostgresCluster> {
    Api::namespaced(place.client.clone(), &place.namespace)
}

async fn get(place: &Place, name: &str) -> Result<PostgresCluster, Error> {
    clusters(place)
        .get(name)
        .await
        .map_err(Error::request(format!("read the PostgresCluster {name}")))
}

async fn rebuild(
    place: &Place,
    name: &str,
    force: bool,
    yes: Option<&str>,
) -> Result<String, Error> {
    let object = get(place, name).await?;
    if let Some(why) = impossible(name, &object) {
        return Err(Error::Refused(why));
    }
    let seen = look(place, name).await?;
    eprint!("{}", seen.text(&object));
    if let Some(why) = objection(name, &object, &seen)
        && !force
    {
        return Err(Error::Refused(why));
    }
    let what = format!(
        "The etcd of {name} is replaced by an empty one. Its old members end; their data is kept beside the new until the members are next restarted"
    );
    confirm_name(&what, name, yes)?;
    let request = RebuildRequest {
        token: jiff::Timestamp::now().as_millisecond().to_string(),
        force,
    };
    let value = request.to_string();
    let patch = json!({ "metadata": { "annotations": { (REBUILD_ETCD_ANNOTATION): value } } });
    clusters(place)
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map_err(Error::request(format!(
            "request the rebuild of {name}'s etcd"
        )))?;
    follow(place, name, &request.token).await
}

/// Why there is nothing that a rebuild could do, whatever is forced.
fn impossible(name: &str, object: &PostgresCluster) -> Option<String> {
    if object.spec.etcd.managed.is_none() {
        return Some(format!(
            "the etcd of {name} is not the operator's (spec.etcd.external); make it answer again, empty or restored: the running primary then writes the cluster's keys into it"
        ));
    }
    let status = object.status.as_ref();
    let rebuild = status.and_then(|status| status.etcd_rebuild.as_ref());
    rebuild
        .filter(|rebuild| rebuild.phase.is_under_way())
        .map(|rebuild| {
            format!(
                "the etcd of {name} is being rebuilt already: {}",
                rebuild.message
            )
        })
}

/// Why a rebuild would do harm, or be of no use, with the next step. The operator looks again.
fn objection(name: &str, object: &PostgresCluster, seen: &Seen) -> Option<String> {
    if let Some(member) = seen.quorum() {
        return Some(format!(
            "{member} says that etcd has its quorum; a member that lost its volume joins the others by itself: `kubectl logs {name}-etcd-ORDINAL -c configure` says what keeps it; --force rebuilds all the same"
        ));
    }
    if !object.spec.failover.failsafe {
        return Some(format!(
            "spec.failover.failsafe of {name} is off, so no primary outlives its etcd, and none could write the cluster's keys into a new one; bring a majority of etcd's members back, or see docs/runbooks/postgres.md and give --force"
        ));
    }
    if seen.primary().is_none() {
        return Some(format!(
            "no member of {name} accepts writes, so none could write the cluster's keys into a new etcd; bring a majority of etcd's members back, or see docs/runbooks/postgres.md and give --force"
        ));
    }
    None
}

/// Follows a request to its end, and says on the way where it stands.
async fn follow(place: &Place, name: &str, token: &str) -> Result<String, Error> {
    let began = Instant::now();
    let mut told = String::new();
    loop {
        let status = get(place, name).await?.status.unwrap_or_default();
        let rebuild = status
            .etcd_rebuild
            .filter(|rebuild| rebuild.request == token);
        match rebuild {
            Some(rebuild) => {
                if let Some(end) = end(&rebuild) {
                    return end;
                }
                if rebuild.message != told {
                    eprintln!("{}", rebuild.message);
                    told = rebuild.message;
                }
                if began.elapsed() > FOLLOWED_FOR {
                    return Err(Error::Refused(format!(
                        "it takes longer than {} min, and goes on: {told}; `kubectl mrg status` shows where it stands",
                        FOLLOWED_FOR.as_secs() / 60
                    )));
                }
            }
            None if began.elapsed() > TAKEN_UP_WITHIN => {
                return Err(Error::Refused(format!(
                    "the operator has not taken the request up within {} s; it stands as an annotation of {name}: does the operator run, and is spec valid (`kubectl describe pgc {name}`)?",
                    TAKEN_UP_WITHIN.as_secs()
                )));
            }
            None => {}
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// What to say at the end of a rebuild; `None` while it is under way.
fn end(rebuild: &EtcdRebuild) -> Option<Result<String, Error>> {
    match rebuild.phase {
        EtcdRebuildPhase::Done => Some(Ok(format!("{}\n", rebuild.message))),
        EtcdRebuildPhase::Refused => Some(Err(Error::Refused(format!(
            "the operator refuses: {}",
            rebuild.message
        )))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use look::{DatabaseMember, EtcdMember};
    use serde_json::Value;

    fn object(change: impl Fn(&mut Value)) -> PostgresCluster {
        let mut object = json!({
            "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "PostgresCluster",
            "metadata": { "name": "pg", "namespace": "n" },
            "spec": { "replicas": 3, "image": "i", "storage": { "size": "1Gi" } },
        });
        change(&mut object);
        serde_json::from_value(object).unwrap()
    }

    fn seen(healthy: bool, leads: bool) -> Seen {
        let etcd = EtcdMember {
            name: "pg-etcd-0".to_owned(),
            node: "n1".to_owned(),
            healthy,
            says: "no quorum: RAFT NO LEADER".to_owned(),
        };
        let database = DatabaseMember {
            name: "pg-1".to_owned(),
            leads,
            by_promises: true,
            started: Some("2026-01-01 00:00:00".to_owned()),
            says: String::new(),
        };
        Seen {
            etcd: vec![etcd],
            database: vec![database],
        }
    }

    #[test]
    fn only_an_etcd_without_a_quorum_around_a_running_primary_is_rebuilt_unforced() {
        let plain = object(|_| {});
        assert_eq!(objection("pg", &plain, &seen(false, true)), None);
        for (what, seen, words) in [
            (
                &plain,
                seen(true, true),
                "pg-etcd-0 says that etcd has its quorum",
            ),
            (&plain, seen(false, false), "no member of pg accepts writes"),
            (
                &object(|object| object["spec"]["failover"] = json!({ "failsafe": false })),
                seen(false, true),
                "spec.failover.failsafe of pg is off",
            ),
        ] {
            let why = objection("pg", what, &seen).unwrap();
            assert!(why.contains(words) && why.contains("--force"), "{why}");
        }
    }

    #[test]
    fn another_etcd_than_the_operators_and_a_second_rebuild_are_refused_whatever_is_forced() {
        assert_eq!(impossible("pg", &object(|_| {})), None);
        let external = object(|object| {
            object["spec"]["etcd"] = json!({ "external": { "endpoints": ["http://e:2379"] } });
        });
        assert!(
            impossible("pg", &external)
                .unwrap()
                .contains("spec.etcd.external")
        );
        let under_way = object(|object| {
            object["status"] = json!({ "etcdRebuild": {
                "request": "1", "phase": "StartingMembers", "since": "2026-01-01T00:00:00Z", "message": "waiting",
            } });
        });
        assert!(
            impossible("pg", &under_way)
                .unwrap()
                .ends_with("already: waiting")
        );
    }

    #[test]
    fn what_was_found_says_who_leads_and_how_long_that_lasts() {
        let text = seen(false, true).text(&object(|_| {}));
        assert!(
            text.contains("pg-etcd-0   n1     no quorum: RAFT NO LEADER"),
            "{text}"
        );
        assert!(
            text.contains("pg-1 leads by its members' promises, renewed for 10s at a time as long as every member answers"),
            "{text}"
        );
    }
}
