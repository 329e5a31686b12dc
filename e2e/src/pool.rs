//! A test's pool of connections.

use anyhow::Context;
use k8s_openapi::api::core::v1::Service;
use mrg_api::pgbouncer_pool::{
    Alias, ClusterRef, Failover, Mode, PgBouncerPoolSpec, PoolMode, Switchover,
};
use mrg_api::postgres_cluster::Scheduling;
use mrg_api::{Duration, PgBouncerPool};

use crate::cluster::{Cluster, reasons};
use crate::namespace::Namespace;
use crate::wait::{eventually, seconds};

/// Two pods with few connections, for the database `app` of a cluster.
pub fn small_pool(cluster: &Cluster, mode: Mode) -> PgBouncerPoolSpec {
    PgBouncerPoolSpec {
        cluster_ref: ClusterRef {
            name: cluster.name().to_owned(),
        },
        mode,
        port: None,
        replicas: 2,
        processes: 1,
        image: "localhost/postgres:17".to_owned(),
        run_as_user: 999,
        pool_mode: PoolMode::default(),
        max_client_connections: 1000,
        default_pool_size: 8,
        users: Vec::new(),
        databases: vec![Alias {
            name: alias(mode).to_owned(),
            database: "app".to_owned(),
        }],
        settings: std::collections::BTreeMap::default(),
        switchover: Switchover::default(),
        failover: Failover::default(),
        read: None,
        tls: None,
        drain: Duration::seconds(5),
        resources: None,
        scheduling: Scheduling::default(),
    }
}

fn alias(mode: Mode) -> &'static str {
    match mode {
        Mode::Write => "mrg_write",
        Mode::Read => "mrg_read",
    }
}

/// A pool in a test's namespace.
pub struct Pool {
    namespace: Namespace,
    name: String,
    mode: Mode,
}

impl Pool {
    /// Creates a pool and waits until it serves.
    ///
    /// # Errors
    /// If it does not within a minute.
    pub async fn create(
        namespace: &Namespace,
        name: &str,
        spec: &PgBouncerPoolSpec,
    ) -> anyhow::Result<Self> {
        let pool = Self {
            namespace: namespace.clone(),
            name: name.to_owned(),
            mode: spec.mode,
        };
        pool.apply(spec).await?;
        pool.serves(seconds(60)).await?;
        Ok(pool)
    }

    /// Changes its specification.
    ///
    /// # Errors
    /// If the API server refuses it.
    pub async fn apply(&self, spec: &PgBouncerPoolSpec) -> anyhow::Result<()> {
        let object = PgBouncerPool::new(&self.name, spec.clone());
        self.namespace.apply(&object).await?;
        Ok(())
    }

    /// The object.
    ///
    /// # Errors
    /// If the API server does not give it.
    pub async fn object(&self) -> anyhow::Result<PgBouncerPool> {
        Ok(self.namespace.api().get(&self.name).await?)
    }

    /// Waits until the operator has done what the specification says, and clients are served.
    ///
    /// # Errors
    /// After the deadline.
    pub async fn serves(&self, within: std::time::Duration) -> anyhow::Result<()> {
        let what = format!("the pool {} serves", self.name);
        eventually(&what, within, async || {
            let object = self.object().await?;
            let status = object.status.unwrap_or_default();
            let reasons = reasons(&status.conditions);
            let observed = status.observed_generation == object.metadata.generation;
            let serves = reasons.contains("Ready=Healthy, Reconciling=Settled");
            anyhow::ensure!(observed && serves, "observed: {observed}, {reasons}");
            Ok(())
        })
        .await
    }

    /// The address of its Service, the port, and the database as clients name it.
    pub(crate) async fn endpoint(&self) -> anyhow::Result<(String, u16, &'static str)> {
        let service: Service = self.namespace.api().get(&self.name).await?;
        let address = service.spec.and_then(|spec| spec.cluster_ip);
        let port = match self.mode {
            Mode::Write => 6432,
            Mode::Read => 6433,
        };
        let address = address.with_context(|| format!("{} has no address", self.name))?;
        Ok((address, port, alias(self.mode)))
    }
}
