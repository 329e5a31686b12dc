//! A namespace for each test: created before it, deleted after it, with the volumes that it used.

use std::fmt::{Debug, Write as _};
use std::path::PathBuf;

use anyhow::Context;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{self, PersistentVolume, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt};
use mrg_api::{PgBouncerPool, PostgresCluster};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::lab::Lab;
use crate::pods;
use crate::wait::{eventually, seconds};

/// Who the API server thinks the tests are, for server-side apply.
const FIELD_MANAGER: &str = "e2e";

/// How many lines of each pod's log a failure prints.
const LINES: usize = 25;

/// The place of a test, of which no other test knows.
#[derive(Clone)]
pub struct Namespace {
    /// The lab that it is in.
    pub lab: Lab,
    name: String,
}

impl Namespace {
    /// Creates it; what an interrupted run left under this name is deleted first.
    pub(crate) async fn create(lab: &Lab, name: &str) -> anyhow::Result<Self> {
        let namespace = Self {
            lab: lab.clone(),
            name: name.to_owned(),
        };
        namespace.delete().await?;
        let object: v1::Namespace = serde_json::from_value(json!({
            "metadata": {
                "name": name,
                "labels": { "pod-security.kubernetes.io/enforce": "restricted" },
            },
        }))?;
        Api::all(lab.client.clone())
            .create(&kube::api::PostParams::default(), &object)
            .await
            .with_context(|| format!("unable to create the namespace {name}"))?;
        std::fs::create_dir_all(namespace.folder())?;
        Ok(namespace)
    }

    /// Its objects of a kind.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.lab.client.clone(), &self.name)
    }

    /// Creates or changes an object, as `kubectl apply --server-side` does.
    ///
    /// # Errors
    /// If the API server refuses it.
    pub async fn apply<K>(&self, object: &K) -> anyhow::Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
        K::DynamicType: Default,
    {
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let name = object.name_any();
        self.api()
            .patch(&name, &parameters, &Patch::Apply(object))
            .await
            .with_context(|| format!("unable to apply {name}"))
    }

    /// Runs a command in a container of a pod and returns what it printed.
    ///
    /// # Errors
    /// If it ends with anything but 0.
    pub async fn execute(
        &self,
        pod: &str,
        container: &str,
        command: &[&str],
    ) -> anyhow::Result<String> {
        let printed = pods::execute(&self.api(), pod, container, command).await?;
        Ok(printed.output.trim_end().to_owned())
    }

    /// Runs `kubectl mrg` in it and returns what it printed, errors last.
    ///
    /// # Errors
    /// If it ends with anything but 0; with what it printed.
    pub async fn kubectl_mrg(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let program = self.lab.target().join("lab/kubectl-mrg");
        let output = tokio::process::Command::new(&program)
            .args(["--namespace", &self.name])
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("unable to start {}", program.display()))?;
        let mut printed = String::from_utf8_lossy(&output.stdout).into_owned();
        printed.push_str(&String::from_utf8_lossy(&output.stderr));
        anyhow::ensure!(
            output.status.success(),
            "kubectl mrg {}: {printed}",
            arguments.join(" ")
        );
        Ok(printed)
    }

    /// Prints what a test measured, under its name.
    pub fn note(&self, measured: impl AsRef<str>) {
        println!("    {}: {}", self.name, measured.as_ref());
    }

    /// Where files of the test go; they are kept.
    pub(crate) fn folder(&self) -> PathBuf {
        self.lab.target().join("e2e").join(&self.name)
    }

    /// What there is now: every object's conditions, every pod, and the last lines of its log.
    /// The whole logs and objects go to files.
    pub(crate) async fn evidence(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        let all = ListParams::default();
        for cluster in self.api::<PostgresCluster>().list(&all).await? {
            let status = cluster.status.clone().unwrap_or_default();
            let _ = writeln!(
                text,
                "{}: leader {:?}, sync {:?}",
                cluster.name_any(),
                status.leader,
                status.sync
            );
            conditions(&mut text, &status.conditions);
            self.keep(
                &format!("{}.cluster.json", cluster.name_any()),
                &serde_json::to_string_pretty(&cluster)?,
            )?;
        }
        for pool in self.api::<PgBouncerPool>().list(&all).await? {
            let status = pool.status.clone().unwrap_or_default();
            let _ = writeln!(text, "{}: target {:?}", pool.name_any(), status.target);
            conditions(&mut text, &status.conditions);
            self.keep(
                &format!("{}.pool.json", pool.name_any()),
                &serde_json::to_string_pretty(&pool)?,
            )?;
        }
        let pods = self.api::<Pod>();
        for pod in pods.list(&all).await? {
            let _ = writeln!(text, "{}", pods::summary(&pod));
            for (container, log) in pods::logs(&pods, &pod).await {
                for line in pods::last_lines(&log, LINES) {
                    let _ = writeln!(text, "    {line}");
                }
                self.keep(&format!("{}.{container}.log", pod.name_any()), &log)?;
            }
        }
        let _ = writeln!(text, "the logs are in {}", self.folder().display());
        Ok(text)
    }

    fn keep(&self, file: &str, text: &str) -> std::io::Result<()> {
        std::fs::write(self.folder().join(file), text)
    }

    /// Deletes it with all that is in it, and empties the volumes that its claims had.
    pub(crate) async fn delete(&self) -> anyhow::Result<()> {
        let namespaces: Api<v1::Namespace> = Api::all(self.lab.client.clone());
        if let Err(error) = namespaces
            .delete(&self.name, &DeleteParams::default())
            .await
        {
            anyhow::ensure!(is_absent(&error), "unable to delete {}: {error}", self.name);
        }
        // Nobody needs a database that stops in good order.
        self.api::<Pod>()
            .delete_collection(
                &DeleteParams::default().grace_period(1),
                &ListParams::default(),
            )
            .await?;
        eventually("the namespace is gone", seconds(90), async || {
            let Some(left) = namespaces.get_opt(&self.name).await? else {
                return Ok(());
            };
            let conditions = left.status.and_then(|status| status.conditions);
            let words = conditions.unwrap_or_default();
            let words: Vec<_> = words.into_iter().filter_map(|one| one.message).collect();
            anyhow::bail!("{}", words.join("; "))
        })
        .await?;
        self.empty_volumes().await
    }

    /// Nobody provisions volumes in the lab: those that claims of this namespace had are emptied
    /// and offered again.
    async fn empty_volumes(&self) -> anyhow::Result<()> {
        let volumes: Api<PersistentVolume> = Api::all(self.lab.client.clone());
        for volume in volumes.list(&ListParams::default()).await? {
            let claim = volume
                .spec
                .as_ref()
                .and_then(|spec| spec.claim_ref.as_ref());
            let name = claim.and_then(|claim| claim.namespace.as_deref());
            if name != Some(&self.name) {
                continue;
            }
            self.lab.empty_volume(&volume.name_any()).await?;
            let free = Patch::Merge(json!({ "spec": { "claimRef": null } }));
            volumes
                .patch(&volume.name_any(), &PatchParams::default(), &free)
                .await?;
        }
        Ok(())
    }
}

fn conditions(
    text: &mut String,
    conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
) {
    for one in conditions {
        let _ = writeln!(
            text,
            "    {}={} {}: {}",
            one.type_, one.status, one.reason, one.message
        );
    }
}

fn is_absent(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
