//! A test's database cluster.

use std::collections::BTreeMap;

use anyhow::Context;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::ListParams;
use mrg_api::postgres_cluster::{
    Bootstrap, Database, Etcd, Failover, ManagedEtcd, ParameterValue, PostgresClusterSpec,
    PostgresClusterStatus, Postgresql, Replication, Scheduling, Spread, Storage,
};
use mrg_api::{Duration, PostgresCluster};
use serde_json::json;

use crate::namespace::Namespace;
use crate::pods;
use crate::wait::{eventually, seconds};

/// The container of a database pod.
const POSTGRES: &str = "postgres";

/// Where etcd keeps its members, which the tests' clusters have three of.
const ETCD_MEMBERS: usize = 3;

/// A small cluster that fails over quickly: three members, no two on a node, with an etcd of their
/// own.
pub fn small_cluster() -> PostgresClusterSpec {
    let gibibyte = || Storage {
        size: "1Gi".to_owned(),
        storage_class_name: None,
    };
    PostgresClusterSpec {
        replicas: 3,
        image: "localhost/postgres:17".to_owned(),
        bin_directory: None,
        run_as_user: 999,
        scope: None,
        storage: gibibyte(),
        resources: None,
        scheduling: Scheduling {
            spread: Spread::Required,
            ..Scheduling::default()
        },
        etcd: Etcd {
            managed: Some(ManagedEtcd {
                image: "localhost/etcd:3.6".to_owned(),
                storage: gibibyte(),
                ..ManagedEtcd::default()
            }),
            external: None,
        },
        failover: Failover {
            ttl: Duration::seconds(5),
            loop_wait: Duration::seconds(1),
            retry_timeout: Duration::seconds(2),
            ..Failover::default()
        },
        replication: Replication::default(),
        postgresql: Postgresql {
            parameters: [("max_connections", "50"), ("shared_buffers", "32MB")]
                .map(|(name, value)| (name.to_owned(), ParameterValue(value.to_owned())))
                .into(),
            pg_hba: None,
            use_pg_rewind: true,
        },
        bootstrap: Bootstrap {
            databases: vec![Database {
                name: "app".to_owned(),
                owner: "app".to_owned(),
            }],
            ..Bootstrap::default()
        },
        deletion_policy: mrg_api::postgres_cluster::DeletionPolicy::default(),
    }
}

/// A cluster in a test's namespace.
pub struct Cluster {
    /// Where it is.
    pub namespace: Namespace,
    name: String,
}

impl Cluster {
    /// Creates a small cluster named `pg` and waits until it is healthy.
    ///
    /// # Errors
    /// If it does not become healthy within three minutes.
    pub async fn create(namespace: &Namespace) -> anyhow::Result<Self> {
        let cluster = Self {
            namespace: namespace.clone(),
            name: "pg".to_owned(),
        };
        let began = std::time::Instant::now();
        let spec = small_cluster();
        cluster.apply(&spec).await?;
        let healthy = async || cluster.is_healthy().await;
        eventually("a healthy cluster", seconds(180), healthy).await?;
        cluster.etcd_healthy().await?;
        namespace.note(format!("healthy after {} ms", began.elapsed().as_millis()));
        Ok(cluster)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the member with this ordinal.
    pub fn member_name(&self, ordinal: usize) -> String {
        format!("{}-{ordinal}", self.name)
    }

    /// Changes its specification.
    ///
    /// # Errors
    /// If the API server refuses it.
    pub async fn apply(&self, spec: &PostgresClusterSpec) -> anyhow::Result<()> {
        let mut object = PostgresCluster::new(&self.name, spec.clone());
        // The apply configuration of a tester is not about the status.
        object.status = None;
        self.namespace.apply(&object).await?;
        Ok(())
    }

    /// The object.
    ///
    /// # Errors
    /// If the API server does not give it.
    pub async fn object(&self) -> anyhow::Result<PostgresCluster> {
        Ok(self.namespace.api().get(&self.name).await?)
    }

    /// What the operator says of it.
    ///
    /// # Errors
    /// If the API server does not give it.
    pub async fn status(&self) -> anyhow::Result<PostgresClusterStatus> {
        Ok(self.object().await?.status.unwrap_or_default())
    }

    /// One of the status' conditions.
    ///
    /// # Errors
    /// If there is none of this type.
    pub async fn condition(&self, kind: &str) -> anyhow::Result<Condition> {
        let conditions = self.status().await?.conditions;
        let found = conditions.into_iter().find(|one| one.type_ == kind);
        found.with_context(|| format!("no condition {kind}"))
    }

    /// Waits until the operator has done what the specification says, every member leads or
    /// streams, and etcd has all its members.
    ///
    /// # Errors
    /// If that takes more than two minutes.
    pub async fn healthy(&self) -> anyhow::Result<()> {
        let healthy = async || self.is_healthy().await;
        eventually("a healthy cluster", seconds(120), healthy).await?;
        self.etcd_healthy().await
    }

    async fn is_healthy(&self) -> anyhow::Result<()> {
        let object = self.object().await?;
        let status = object.status.unwrap_or_default();
        let all = format!("{0}/{0}", object.spec.replicas);
        let is = |kind: &str, reason: &str| {
            let mut conditions = status.conditions.iter();
            conditions.any(|one| one.type_ == kind && one.reason == reason)
        };
        let observed = status.observed_generation == object.metadata.generation;
        let ready = status.ready.as_deref() == Some(&all);
        if observed && ready && is("Ready", "Healthy") && is("Reconciling", "Settled") {
            return Ok(());
        }
        anyhow::bail!(
            "generation {:?} of {:?}, {:?} of {all} ready, {}",
            status.observed_generation,
            object.metadata.generation,
            status.ready,
            reasons(&status.conditions)
        )
    }

    /// After a cut etcd's members find each other again later than the database's: TCP waits longer
    /// and longer between two attempts.
    async fn etcd_healthy(&self) -> anyhow::Result<()> {
        let arguments = ["endpoint", "health", "--cluster", "--command-timeout=2s"];
        let all_healthy = async || {
            let said = self.etcdctl(0, &arguments).await?;
            let healthy = said.matches("is healthy").count();
            anyhow::ensure!(healthy == ETCD_MEMBERS, "{healthy} healthy: {said}");
            Ok(())
        };
        eventually("an etcd with all its members", seconds(60), all_healthy).await
    }

    /// What `etcdctl` prints in one of the cluster's etcd pods, errors last.
    ///
    /// # Errors
    /// If it fails.
    pub async fn etcdctl(&self, ordinal: usize, arguments: &[&str]) -> anyhow::Result<String> {
        let command = [&["etcdctl"], arguments].concat();
        let (pods, pod) = (self.namespace.api(), self.etcd_name(ordinal));
        let printed = pods::execute(&pods, &pod, "etcd", &command).await?;
        Ok(printed.output + &printed.errors)
    }

    /// The name of the etcd pod with this ordinal.
    pub fn etcd_name(&self, ordinal: usize) -> String {
        format!("{}-etcd-{ordinal}", self.name)
    }

    /// The member that leads, by the status.
    ///
    /// # Errors
    /// If none does.
    pub async fn leader(&self) -> anyhow::Result<String> {
        let leader = self.status().await?.leader;
        leader.filter(|name| !name.is_empty()).context("no leader")
    }

    /// Waits until the status names another leader than this one.
    ///
    /// # Errors
    /// After the deadline.
    pub async fn led_by_another_than(
        &self,
        old: &str,
        within: std::time::Duration,
    ) -> anyhow::Result<String> {
        eventually("another leader", within, async || {
            let leader = self.leader().await?;
            anyhow::ensure!(leader != old, "{leader} leads");
            Ok(leader)
        })
        .await
    }

    /// A pod by its name.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn pod(&self, name: &str) -> anyhow::Result<Pod> {
        Ok(self.namespace.api().get(name).await?)
    }

    /// The pods of its database's members.
    ///
    /// # Errors
    /// If the API server does not list them.
    pub async fn members(&self) -> anyhow::Result<Vec<Pod>> {
        self.labelled("app.kubernetes.io/name=postgres").await
    }

    /// Those of its pods that have a label, too.
    ///
    /// # Errors
    /// If the API server does not list them.
    pub async fn labelled(&self, label: &str) -> anyhow::Result<Vec<Pod>> {
        let selector = format!("mrg.bluebird.id/cluster={},{label}", self.name);
        let parameters = ListParams::default().labels(&selector);
        Ok(self.namespace.api().list(&parameters).await?.items)
    }

    /// The members that do not lead.
    ///
    /// # Errors
    /// If none leads.
    pub async fn standbys(&self) -> anyhow::Result<Vec<String>> {
        let leader = self.leader().await?;
        let names = self
            .members()
            .await?
            .iter()
            .map(ResourceExt::name_any)
            .collect::<Vec<_>>();
        Ok(names.into_iter().filter(|name| *name != leader).collect())
    }

    /// The members by name, with what is different in a pod that was created again.
    ///
    /// # Errors
    /// If the API server does not list them.
    pub async fn identities(&self) -> anyhow::Result<BTreeMap<String, Option<String>>> {
        let pods = self.members().await?;
        Ok(pods.iter().map(|pod| (pod.name_any(), pod.uid())).collect())
    }

    /// What a query returns on a member, as `psql -At` prints it.
    ///
    /// # Errors
    /// If psql fails.
    pub async fn sql(&self, member: &str, query: &str) -> anyhow::Result<String> {
        self.psql(member, "postgres", query).await
    }

    /// The same in a database of the cluster.
    ///
    /// # Errors
    /// If psql fails.
    pub async fn psql(&self, member: &str, database: &str, query: &str) -> anyhow::Result<String> {
        let command = ["psql", "-U", "postgres", "-d", database, "-qAtc", query];
        self.namespace.execute(member, POSTGRES, &command).await
    }

    /// Waits until every member has this value of a parameter.
    ///
    /// # Errors
    /// After the deadline.
    pub async fn all_show(
        &self,
        parameter: &str,
        value: &str,
        within: std::time::Duration,
    ) -> anyhow::Result<()> {
        let what = format!("{parameter} = {value} everywhere");
        eventually(&what, within, async || {
            for member in self.members().await? {
                let name = member.name_any();
                let shown = self.sql(&name, &format!("show {parameter}")).await?;
                anyhow::ensure!(shown == value, "{name} has {shown}");
            }
            Ok(())
        })
        .await
    }

    /// Kills a member's postmaster with SIGKILL; its agent goes on.
    ///
    /// # Errors
    /// If the pod does not run.
    pub async fn kill_postmaster(&self, member: &str) -> anyhow::Result<()> {
        let kill = "kill -9 $(head -n 1 /var/lib/postgresql/data/pgdata/postmaster.pid)";
        self.namespace
            .execute(member, POSTGRES, &["sh", "-c", kill])
            .await?;
        Ok(())
    }

    /// A password of its Secret, e.g. `superuser-password`.
    ///
    /// # Errors
    /// If the Secret does not have it.
    pub async fn password(&self, key: &str) -> anyhow::Result<String> {
        let name = format!("{}-credentials", self.name);
        let secret: Secret = self.namespace.api().get(&name).await?;
        let mut data = secret.data.unwrap_or_default();
        let value = data
            .remove(key)
            .with_context(|| format!("{name} has no {key}"))?;
        Ok(String::from_utf8(value.0)?)
    }

    /// Asks the leader to hand over to any other, again and again until one can take over, and
    /// waits for the status to name it.
    ///
    /// # Errors
    /// If that takes more than a minute.
    pub async fn switch_over(&self) -> anyhow::Result<()> {
        let password = self.password("rest-password").await?;
        let http = reqwest::Client::builder().timeout(seconds(70)).build()?;
        let from = eventually("a switchover", seconds(60), async || {
            let from = self.leader().await?;
            let status = self.pod(&from).await?.status.unwrap_or_default();
            let address = status.pod_ip.context("no address")?;
            let request = http
                .post(format!("http://{address}:8008/switchover"))
                .basic_auth("mrg", Some(&password))
                .json(&json!({ "leader": from }));
            let said = request.send().await?.text().await?;
            anyhow::ensure!(said.starts_with("Successfully"), "{said}");
            self.namespace.note(said);
            Ok(from)
        })
        .await?;
        self.led_by_another_than(&from, seconds(20)).await?;
        Ok(())
    }
}

/// `Ready=Healthy, Reconciling=Settled`.
pub(crate) fn reasons(conditions: &[Condition]) -> String {
    let words = conditions
        .iter()
        .map(|one| format!("{}={}", one.type_, one.reason));
    words.collect::<Vec<_>>().join(", ")
}
