//! What there is: the platform's objects, the pools that it writes and reads through, and their
//! cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ApiResource;
use kube::core::DeserializeGuard;
use kube::{Api, ResourceExt};
use serde_json::Value;

use super::build::{REVISION, SET_LABEL, TEMPLATE};
use super::order::Live;
use super::orders::{USERS, schema_name};
use super::stores::from_here;
use super::validate::{Address, Wiring};
use crate::kinds::postgres_cluster::validate::secret_name;
use crate::seen::{Deployment, Workload};
use crate::shared::Shared;
use mrg_api::order_service_set::Database;
use mrg_api::pgbouncer_pool::Mode;
use mrg_api::service_resilience::ServiceResilienceStatus;
use mrg_api::{OrderServiceSet, PgBouncerPool, PostgresCluster};
use mrg_kube_support::Reader;

/// The superuser of every PostgresCluster.
const SUPERUSER: &str = "postgres";

/// The database as the pools and their cluster show it.
#[derive(Debug, Default)]
pub struct DatabaseState {
    /// How services reach it; `None` if none is asked for.
    pub wiring: Option<Wiring>,
    /// Why it cannot be reached: what is named is not there.
    pub missing: Option<String>,
    /// Why it does not serve now.
    pub trouble: Option<String>,
    /// The longest that clients were held at the last change of leader, in milliseconds, and when
    /// that ended.
    pub last_hold: Option<(i64, String)>,
    /// The user's password.
    pub password: Option<String>,
    /// Why the reads of orders cannot be split: a pool lacks a user, or the job that prepares the
    /// database cannot log in.
    pub read_split_obstacle: Option<String>,
    /// Whether the job that prepares the database for the split was made.
    pub prepared: bool,
    /// Passwords that the cluster's Secret lacks.
    pub lacks_passwords: Vec<String>,
}

/// A Deployment.
pub struct LiveDeployment {
    /// As far as turns depend on it.
    pub live: Live,
    /// The template as it was applied.
    pub template: Option<Value>,
    /// How many pods it is told to have.
    pub replicas: i32,
    /// Whether that number is this operator's.
    pub owns_replicas: bool,
    /// Somebody else's autoscaler decides how many there are.
    pub scaled: bool,
    /// Whether its numbers are about what it is told now, or still about what it was told before.
    pub told: bool,
}

/// Everything.
pub struct Observed {
    /// Deployments by name.
    pub deployments: BTreeMap<String, LiveDeployment>,
    /// What is known of the resilience of each service and canary that has some.
    pub resilience: BTreeMap<String, Option<ServiceResilienceStatus>>,
    /// Where cache and broker are, as this operator reaches them.
    pub stores: BTreeMap<&'static str, String>,
    /// Secrets that pods need and that are not there.
    pub missing_secrets: Vec<String>,
}

fn pool_ready(pool: &PgBouncerPool) -> bool {
    ready(
        pool.status
            .as_ref()
            .map(|status| status.conditions.as_slice()),
    )
    .is_ok()
}

/// Whether the `Ready` condition holds; what it says if not.
fn ready(conditions: Option<&[Condition]>) -> Result<(), String> {
    let condition = conditions
        .unwrap_or_default()
        .iter()
        .find(|condition| condition.type_ == "Ready");
    match condition {
        Some(condition) if condition.status == "True" => Ok(()),
        Some(condition) => Err(format!("{}: {}", condition.reason, condition.message)),
        None => Err("it has not said anything yet".to_owned()),
    }
}

/// The objects that a spec's `database` names.
struct Named {
    write: PgBouncerPool,
    read: PgBouncerPool,
    cluster: PostgresCluster,
}

/// The pools and their cluster, from the shared caches; else what is wrong with the spec's names. An
/// object that cannot be parsed counts as absent.
fn named(shared: &Shared, namespace: &str, database: &Database) -> Result<Named, String> {
    let not_there = |field: &str, what: &str, name: &str| {
        format!(
            "spec.database.{field}: there is no {what} `{name}` in this namespace; create it, or correct the name"
        )
    };
    let pool = |field: &str, name: &str| {
        shared
            .pools
            .get(namespace, name)
            .and_then(|object| readable(&object))
            .ok_or_else(|| not_there(field, "PgBouncerPool", name))
    };
    let write = pool("write.name", &database.write.name)?;
    if write.spec.mode != Mode::Write {
        return Err(format!(
            "spec.database.write.name: `{}` is a pool of mode Read; name one of mode Write",
            database.write.name
        ));
    }
    let read = match &database.read {
        Some(read) => pool("read.name", &read.name)?,
        None => write.clone(),
    };
    let name = &write.spec.cluster_ref.name;
    let cluster = shared
        .clusters
        .get(namespace, name)
        .and_then(|object| readable(&object))
        .ok_or_else(|| not_there("write.name", "PostgresCluster", name))?;
    Ok(Named {
        write,
        read,
        cluster,
    })
}

/// Who owns a database, by the cluster's bootstrap.
fn owner(cluster: &PostgresCluster, database: &str) -> Option<String> {
    let databases = &cluster.spec.bootstrap.databases;
    databases
        .iter()
        .find(|known| known.name == database)
        .map(|known| known.owner.clone())
}

/// How services reach the database; else why no role can be named as which they could log in.
fn wiring(object: &OrderServiceSet, database: &Database, named: &Named) -> Result<Wiring, String> {
    let cluster = named.cluster.name_any();
    let first = named.write.spec.databases.first();
    let first = first
        .map(|alias| alias.database.clone())
        .unwrap_or_default();
    let owner = owner(&named.cluster, &first);
    let user = match database.user.as_ref().or(owner.as_ref()) {
        Some(user) if user == SUPERUSER => Err(format!(
            "spec.database.user: `{SUPERUSER}` is the superuser, as which no application must log in; name another role"
        )),
        Some(user) => Ok(user.clone()),
        None => Err(format!(
            "spec.database.user: it is left out, and PostgresCluster {cluster} does not say in spec.bootstrap.databases who owns `{first}`; \
             name the role that services log in as"
        )),
    }?;
    Ok(Wiring {
        write: address(&named.write),
        read: address(&named.read),
        key: format!("{user}-password"),
        user,
        secret: secret_name(&cluster),
        cluster,
        database: first,
        owner,
        queue_secret: format!("{}-queue", object.name_any()),
        fails_over: named.cluster.spec.replicas > 1,
    })
}

/// Which of the two is not ready, and why.
fn not_ready(cluster: &PostgresCluster, write: &PgBouncerPool) -> Option<String> {
    let conditions = cluster
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice());
    match ready(conditions) {
        Err(why) => Some(format!("PostgresCluster {}: {why}", cluster.name_any())),
        Ok(()) => {
            (!pool_ready(write)).then(|| format!("PgBouncerPool {} is not ready", write.name_any()))
        }
    }
}

/// The database behind the pools that the spec names.
///
/// # Errors
/// If the API server does not answer.
pub(super) async fn database(
    shared: &Shared,
    secrets: &Reader<'_>,
    object: &OrderServiceSet,
) -> Result<DatabaseState, kube::Error> {
    let Some(database) = &object.spec.database else {
        return Ok(DatabaseState::default());
    };
    let namespace = object.namespace().unwrap_or_default();
    let named = match named(shared, &namespace, database) {
        Ok(named) => named,
        Err(missing) => {
            return Ok(DatabaseState {
                missing: Some(missing),
                ..DatabaseState::default()
            });
        }
    };
    let wiring = match wiring(object, database, &named) {
        Ok(wiring) => wiring,
        Err(missing) => {
            return Ok(DatabaseState {
                missing: Some(missing),
                ..DatabaseState::default()
            });
        }
    };
    let Named {
        write,
        read,
        cluster,
    } = named;
    let (secret, key) = (&wiring.secret, &wiring.key);
    let data = secrets.get(&namespace, secret).await?.unwrap_or_default();
    let wanted = USERS.map(|user| format!("{user}-password"));
    let lacks_passwords = wanted
        .into_iter()
        .filter(|key| object.spec.read_split.is_some() && !data.contains_key(key))
        .collect();
    let password = data.get(key).cloned();
    let password = password
        .and_then(|value| String::from_utf8(value).ok())
        .filter(|text| !text.is_empty());
    let trouble = not_ready(&cluster, &write).or_else(|| {
        password
            .is_none()
            .then(|| format!("Secret {secret} has no `{key}` yet"))
    });
    let (mut obstacle, mut prepared) = (None, false);
    if object.spec.read_split.is_some() {
        prepared = is_prepared(shared, &namespace, &wiring).await?;
        let unprepared = || (!prepared).then(|| lacks_owner(&wiring, &data)).flatten();
        obstacle = lacks_user(&write, &read).or_else(unprepared);
    }
    let rewire = write
        .status
        .as_ref()
        .and_then(|status| status.last_rewire.clone());
    Ok(DatabaseState {
        wiring: Some(wiring),
        missing: None,
        trouble,
        read_split_obstacle: obstacle,
        prepared,
        lacks_passwords,
        last_hold: rewire.map(|rewire| (rewire.held_milliseconds, rewire.at)),
        password,
    })
}

/// Whether the job that prepares the database for order reads was made.
async fn is_prepared(
    shared: &Shared,
    namespace: &str,
    wiring: &Wiring,
) -> Result<bool, kube::Error> {
    let Some(owner) = &wiring.owner else {
        return Ok(false);
    };
    let jobs: Api<Job> = Api::namespaced(shared.client.clone(), namespace);
    let job = jobs.get_metadata_opt(&schema_name(wiring, owner)).await?;
    Ok(job.is_some())
}

/// Why nothing can prepare the database for order reads: its tables are made by the role that owns
/// it, and that role's name or password is not known.
fn lacks_owner(wiring: &Wiring, secret: &BTreeMap<String, Vec<u8>>) -> Option<String> {
    let Some(owner) = &wiring.owner else {
        return Some(format!(
            "PostgresCluster {0} does not say who owns the database `{1}`, and only its owner makes the tables of order reads: add \
             {{name: {1}, owner: …}} to its spec.bootstrap.databases; that role's password is then the one in the Secret {2}",
            wiring.cluster, wiring.database, wiring.secret
        ));
    };
    let key = format!("{owner}-password");
    let there = secret.get(&key).is_some_and(|value| !value.is_empty());
    (!there).then(|| {
        format!(
            "Secret {} has no `{key}`, with which the owner of the database `{}` makes the tables of order reads; the operator adds it while \
             it reconciles PostgresCluster {}, see that object's conditions",
            wiring.secret, wiring.database, wiring.cluster
        )
    })
}

fn readable<K: Clone>(object: &DeserializeGuard<K>) -> Option<K> {
    object.0.as_ref().ok().cloned()
}

/// The pools must let the users of `mrg-orders` in.
fn lacks_user(write: &PgBouncerPool, read: &PgBouncerPool) -> Option<String> {
    let lacks = |pool: &PgBouncerPool, user: &str| {
        let known = pool.spec.users.iter().any(|known| known == user);
        (!known).then(|| {
            format!(
                "PgBouncerPool {} does not know the user {user}: add it to its spec.users",
                pool.name_any()
            )
        })
    };
    [write, read]
        .into_iter()
        .flat_map(|pool| USERS.into_iter().take(2).map(move |user| (pool, user)))
        .find_map(|(pool, user)| lacks(pool, user))
}

fn address(pool: &PgBouncerPool) -> Address {
    let usual = if pool.spec.mode == Mode::Write {
        6432
    } else {
        6433
    };
    Address {
        host: pool.name_any(),
        port: pool.spec.port.unwrap_or(usual),
        database: pool
            .spec
            .databases
            .first()
            .map(|alias| alias.name.clone())
            .unwrap_or_default(),
    }
}

fn deployment(
    object: &Deployment,
    autoscalers: &[Arc<HorizontalPodAutoscaler>],
    set: &str,
) -> LiveDeployment {
    let annotation = |name: &str| object.annotations().get(name);
    let Workload {
        wanted,
        counted,
        ready,
        updated,
        told,
        stuck,
        ..
    } = *object.workload;
    let name = object.name_any();
    let of_others = |scaler: &HorizontalPodAutoscaler| {
        let target = scaler.spec.as_ref().map(|spec| &spec.scale_target_ref);
        target.is_some_and(|target| target.kind == "Deployment" && target.name == name)
            && scaler.labels().get(SET_LABEL).map(String::as_str) != Some(set)
    };
    LiveDeployment {
        live: Live {
            revision: annotation(REVISION).cloned().unwrap_or_default(),
            wanted,
            ready,
            updated,
            settled: told && ready >= wanted && updated >= wanted && counted == wanted,
            stuck: told && stuck,
        },
        template: annotation(TEMPLATE).and_then(|text| serde_json::from_str(text).ok()),
        replicas: wanted,
        owns_replicas: owns_replicas(object),
        scaled: autoscalers.iter().any(|scaler| of_others(scaler)),
        told,
    }
}

fn owns_replicas(object: &Deployment) -> bool {
    object.workload.managers.iter().any(|entry| {
        entry.manager.as_deref() == Some(mrg_kube_support::FIELD_MANAGER)
            && entry
                .fields_v1
                .as_ref()
                .is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some())
    })
}

/// Observes. `None` while the watches do not show yet what was written here: who acted on that
/// would take it back.
///
/// # Errors
/// If the API server does not answer.
pub(super) async fn observe(
    shared: &Shared,
    secrets: &Reader<'_>,
    object: &OrderServiceSet,
) -> Result<Option<Observed>, kube::Error> {
    let (namespace, set) = (object.namespace().unwrap_or_default(), object.name_any());
    let written = ApiResource::erase::<Deployment>(&());
    if shared.applied.is_ahead(&written, &namespace, |name| {
        shared.deployments.version(&namespace, name)
    }) {
        return Ok(None);
    }
    let autoscalers = shared.autoscalers.within(&namespace, |_| true);
    let deployments = shared
        .deployments
        .within(&namespace, |object| is_of(object.labels(), &set));
    let resilience = shared
        .resilience
        .within(&namespace, |object| is_of(object.labels(), &set));
    let mut missing_secrets = Vec::new();
    let mut stores = BTreeMap::new();
    for (field, name, store) in [
        ("cache", "redis", &object.spec.cache),
        ("broker", "rabbitmq", &object.spec.broker),
    ] {
        let Some(store) = store else { continue };
        match secrets
            .text(&namespace, &store.secret_name, &store.key)
            .await?
        {
            Some(url) => drop(stores.insert(name, from_here(url.trim(), &namespace))),
            None => missing_secrets.push(format!(
                "spec.{field}: the Secret `{}` with a key `{}` is not there; pods wait for it",
                store.secret_name, store.key
            )),
        }
    }
    let status = |object: Arc<DeserializeGuard<mrg_api::ServiceResilience>>| {
        (
            object.name_any(),
            object
                .0
                .as_ref()
                .ok()
                .and_then(|object| object.status.clone()),
        )
    };
    Ok(Some(Observed {
        deployments: deployments
            .iter()
            .map(|object| (object.name_any(), deployment(object, &autoscalers, &set)))
            .collect(),
        resilience: resilience.into_iter().map(status).collect(),
        stores,
        missing_secrets,
    }))
}

fn is_of(labels: &BTreeMap<String, String>, set: &str) -> bool {
    labels.get(SET_LABEL).map(String::as_str) == Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn named(databases: &Value) -> Named {
        let pool = |name: &str, mode: &str| {
            let pool = json!({
                "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "PgBouncerPool", "metadata": { "name": name },
                "spec": {
                    "clusterRef": { "name": "pg" }, "mode": mode, "image": "x",
                    "databases": [{ "name": "mrg", "database": "app" }],
                },
            });
            serde_json::from_value(pool).unwrap()
        };
        let cluster = json!({
            "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "PostgresCluster", "metadata": { "name": "pg" },
            "spec": { "image": "x", "replicas": 3, "storage": { "size": "1Gi" }, "etcd": {}, "bootstrap": { "databases": databases } },
        });
        Named {
            write: pool("w", "Write"),
            read: pool("r", "Read"),
            cluster: serde_json::from_value(cluster).unwrap(),
        }
    }

    fn wired(databases: &Value, user: Option<&str>) -> Result<Wiring, String> {
        let set = json!({
            "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "OrderServiceSet", "metadata": { "name": "mrg" },
            "spec": { "template": { "image": "x" }, "database": { "write": { "name": "w" }, "user": user }, "services": [] },
        });
        let set: OrderServiceSet = serde_json::from_value(set).unwrap();
        let database = set.spec.database.clone().unwrap();
        wiring(&set, &database, &named(databases))
    }

    #[test]
    fn services_log_in_as_the_owner_or_as_the_role_that_is_named_and_never_as_the_superuser() {
        let owned = json!([{ "name": "app", "owner": "app_owner" }]);
        let unknown = json!([]);
        let by = |databases, user| wired(databases, user).map(|wiring| (wiring.key, wiring.owner));
        let owner = Some("app_owner".to_owned());
        assert_eq!(
            by(&owned, None),
            Ok(("app_owner-password".to_owned(), owner.clone()))
        );
        assert_eq!(
            by(&owned, Some("services")),
            Ok(("services-password".to_owned(), owner))
        );
        assert_eq!(
            by(&unknown, Some("services")),
            Ok(("services-password".to_owned(), None))
        );
        assert!(by(&unknown, None).unwrap_err().contains("who owns `app`"));
        assert!(
            by(&owned, Some("postgres"))
                .unwrap_err()
                .contains("is the superuser")
        );
    }

    #[test]
    fn tables_wait_for_the_name_and_the_password_of_the_databases_owner() {
        let secret = |key: &str, value: &[u8]| BTreeMap::from([(key.to_owned(), value.to_vec())]);
        let unknown = wired(&json!([]), Some("services")).unwrap();
        let why = lacks_owner(&unknown, &secret("services-password", b"x")).unwrap();
        assert!(
            why.contains("{name: app, owner: …} to its spec.bootstrap.databases"),
            "{why}"
        );
        let known = wired(&json!([{ "name": "app", "owner": "app_owner" }]), None).unwrap();
        for wrong in [secret("other", b"x"), secret("app_owner-password", b"")] {
            let why = lacks_owner(&known, &wrong).unwrap();
            assert!(
                why.contains("Secret pg-credentials has no `app_owner-password`"),
                "{why}"
            );
        }
        assert_eq!(
            lacks_owner(&known, &secret("app_owner-password", b"x")),
            None
        );
    }
}
