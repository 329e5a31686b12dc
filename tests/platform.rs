//! What an OrderServiceSet becomes, from the example that users apply, and what is refused of it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends with the first surprise"
)]

use std::collections::BTreeMap;

use jiff::Timestamp;
use mrg_api::OrderServiceSet;
use mrg_api::order_service_set::CanaryStatus;
use mrg_kube_support::Manifest;
use mrg_operator::kinds::order_service_set::build::{self, Settings};
use mrg_operator::kinds::order_service_set::orders;
use mrg_operator::kinds::order_service_set::trial::Trial;
use mrg_operator::kinds::order_service_set::validate::{Address, Desired, Wiring, validate};
use mrg_operator::kinds::service_resilience::inject::Image;
use serde_json::{Value, json};

fn example() -> Value {
    let text = include_str!("../examples/mrg-platform.yaml");
    let set = text.split("\n---\n").last().unwrap();
    let mut set: Value = serde_saphyr::from_str(set).unwrap();
    set["metadata"]["namespace"] = json!("mrg");
    set["metadata"]["uid"] = json!("u");
    set
}

fn wiring() -> Wiring {
    let address = |host: &str, port, database: &str| Address {
        host: host.to_owned(),
        port,
        database: database.to_owned(),
    };
    Wiring {
        write: address("mrg-write", 6432, "mrg_write"),
        read: address("mrg-read", 6433, "mrg_read"),
        user: "mrg".to_owned(),
        secret: "mrg-postgres-credentials".to_owned(),
        key: "mrg-password".to_owned(),
        cluster: "mrg-postgres".to_owned(),
        database: "mrg".to_owned(),
        owner: Some("mrg_owner".to_owned()),
        queue_secret: "mrg-queue".to_owned(),
        fails_over: true,
    }
}

fn settings(image: &str) -> Settings {
    Settings {
        sidecar: Image {
            name: image.to_owned(),
            pull_policy: "IfNotPresent".to_owned(),
        },
        priority_classes: Some("mrg-".to_owned()),
    }
}

fn desired(set: Value) -> Result<Desired, String> {
    let set: OrderServiceSet = serde_json::from_value(set).map_err(|error| error.to_string())?;
    validate(&set, Some(&wiring()), Timestamp::UNIX_EPOCH).map_err(|problems| problems.to_string())
}

fn pods(desired: &Desired, name: &str) -> Value {
    let service = desired
        .services
        .iter()
        .find(|service| service.catalog.name == name)
        .unwrap();
    build::template(desired, service, &settings("mrg:1"))
}

fn of<'a>(objects: &'a [Manifest], kind: &str, name: &str) -> Option<&'a Value> {
    objects
        .iter()
        .find(|object| object.kind() == kind && object.name() == name)
        .map(|object| &object.0)
}

#[test]
fn the_example_is_ten_services_with_all_that_the_catalog_says() {
    let desired = desired(example()).unwrap();
    assert_eq!(desired.services.len(), 10);
    let objects = build::around(&desired, &BTreeMap::new(), None);
    for service in &desired.services {
        let name = service.catalog.name;
        for kind in ["ServiceResilience", "Service", "ServiceAccount"] {
            assert!(of(&objects, kind, name).is_some(), "{kind} {name}");
        }
        let pods = pods(&desired, name);
        assert_eq!(
            pods["spec"]["initContainers"][0]["name"], "mrg-proxy",
            "{name}"
        );
        assert_eq!(
            pods["spec"]["containers"][0]["readinessProbe"]["httpGet"]["path"], "/ready",
            "{name}"
        );
        assert_eq!(
            pods["spec"]["containers"][0]["image"],
            format!("registry.example/mybb-ms/{name}:1.0.0")
        );
        assert_eq!(
            service.resilience.spec.min_replicas(),
            service.catalog.tier.value.min_replicas().value
        );
    }
    assert!(of(&objects, "HorizontalPodAutoscaler", "orderorchestrator").is_some());
    assert_eq!(
        objects
            .iter()
            .filter(|object| object.kind() == "HorizontalPodAutoscaler")
            .count(),
        1
    );
    assert_eq!(
        pods(&desired, "orderorchestrator")["spec"]["priorityClassName"],
        "mrg-p0"
    );
    assert_eq!(pods(&desired, "fds")["spec"]["priorityClassName"], "mrg-p2");
}

#[test]
fn calls_are_wired_through_the_sidecar_and_addresses_come_from_secrets() {
    let desired = desired(example()).unwrap();
    let pods = pods(&desired, "orderorchestrator");
    let variable = |name: &str| {
        let all = pods["spec"]["containers"][0]["env"].as_array().unwrap();
        all.iter()
            .find(|variable| variable["name"] == name)
            .cloned()
            .unwrap_or_default()
    };
    assert_eq!(
        variable("TAXIPARTNERGATEWAY_URL")["value"],
        "http://127.0.0.1:19002"
    );
    assert_eq!(
        variable("DATABASE_URL")["value"],
        "postgres://$(DATABASE_USER):$(DATABASE_PASSWORD)@mrg-write:6432/mrg_write"
    );
    assert_eq!(
        variable("DATABASE_READ_URL")["value"],
        "postgres://$(DATABASE_USER):$(DATABASE_PASSWORD)@mrg-read:6433/mrg_read"
    );
    assert_eq!(
        variable("DATABASE_PASSWORD")["valueFrom"]["secretKeyRef"]["name"],
        "mrg-postgres-credentials"
    );
    assert_eq!(
        variable("REDIS_URL")["valueFrom"]["secretKeyRef"],
        json!({ "name": "mrg-stores", "key": "redis" })
    );
    let resilience = |name: &str| {
        desired
            .services
            .iter()
            .find(|service| service.catalog.name == name)
            .unwrap()
            .resilience
            .spec
            .clone()
    };
    let payment = resilience("paymentprocessor").dependencies[0].clone();
    let providers: Vec<&str> = payment
        .providers
        .iter()
        .map(|provider| provider.name.as_str())
        .collect();
    assert_eq!(providers, ["midtrans", "xendit", "nicepay"]);
    assert!(payment.pin.is_some() && payment.timeout.total.as_seconds() == 10);
    assert!(
        resilience("taxipartnergateway").dependencies[0]
            .fallback
            .queue
            .is_some(),
        "orders wait while the dispatch is down"
    );
    assert_eq!(
        resilience("notificationcenter").dependencies[0]
            .retry
            .attempts,
        5
    );
}

#[test]
fn only_those_that_customers_call_are_reached_by_everybody() {
    let desired = desired(example()).unwrap();
    let objects = build::around(&desired, &BTreeMap::new(), None);
    assert!(of(&objects, "NetworkPolicy", "orderorchestrator").is_none());
    let policy = of(&objects, "NetworkPolicy", "taxipartnergateway").unwrap();
    let callers: Vec<&str> = policy["spec"]["ingress"][1]["from"]
        .as_array()
        .unwrap()
        .iter()
        .map(|from| {
            from["podSelector"]["matchExpressions"][0]["values"][0]
                .as_str()
                .unwrap()
        })
        .collect();
    assert_eq!(
        callers,
        ["orderorchestrator", "sessionmanager", "taxipartnergateway"],
        "those that call it, and itself for its canary"
    );
}

#[test]
fn another_version_of_the_operator_or_a_pushed_setting_changes_no_pods_and_another_image_does() {
    let revisions = |desired: &Desired, operator: &str| -> Vec<String> {
        desired
            .services
            .iter()
            .map(|service| build::revision(desired, service, &settings(operator)))
            .collect()
    };
    let before = desired(example()).unwrap();
    assert_eq!(revisions(&before, "mrg:1"), revisions(&before, "mrg:2"));
    let mut forced = example();
    forced["spec"]["services"][0]["overrides"] = json!([{ "dependency": "fds", "state": "Open", "reason": "drill", "until": "2999-01-01T00:00:00Z" }]);
    assert_eq!(
        revisions(&before, "mrg:1"),
        revisions(&desired(forced).unwrap(), "mrg:1"),
        "breakers are pushed to sidecars that run"
    );
    let mut newer = example();
    newer["spec"]["services"][0]["image"] =
        json!("registry.example/mybb-ms/orderorchestrator:1.1.0");
    let after = revisions(&desired(newer).unwrap(), "mrg:1");
    let changed = after
        .iter()
        .zip(revisions(&before, "mrg:1"))
        .filter(|(after, before)| *after != before)
        .count();
    assert_eq!(changed, 1);
}

#[test]
fn what_is_tried_out_is_reached_by_nobody_but_the_pods_beside_it_and_changes_none_of_them() {
    let desired = desired(example()).unwrap();
    let service = desired
        .services
        .iter()
        .find(|service| service.catalog.name == "fds")
        .unwrap();
    let revision = build::revision(&desired, service, &settings("mrg:1"));
    let state = CanaryStatus {
        revision: revision.clone(),
        weight: 25,
        step: 1,
        steps: 4,
        ..CanaryStatus::default()
    };
    let trial = Trial { state, runs: true };
    let objects = build::trial(&desired, service, &trial, 8, &settings("mrg:1")).unwrap();
    let pods = of(&objects, "Deployment", "fds-canary").unwrap();
    assert_eq!(pods["spec"]["replicas"], 2, "a quarter of eight");
    assert_eq!(
        pods["spec"]["template"]["metadata"]["labels"]["mrg.bluebird.id/service"],
        "fds-canary"
    );
    let around = build::around(&desired, &BTreeMap::from([("fds", trial.clone())]), None);
    assert_eq!(
        of(&around, "Service", "fds").unwrap()["spec"]["selector"]["mrg.bluebird.id/service"],
        "fds"
    );
    assert_eq!(
        of(&objects, "Service", "fds-canary").unwrap()["spec"]["selector"]["mrg.bluebird.id/service"],
        "fds-canary"
    );
    let canary = &of(&around, "ServiceResilience", "fds").unwrap()["spec"]["inbound"]["canary"];
    assert_eq!(
        (&canary["share"], &canary["url"]),
        (&json!(25), &json!("http://fds-canary:8080")),
        "the weight is kept at the door of those that serve"
    );
    let resilience = of(&objects, "ServiceResilience", "fds-canary").unwrap();
    assert_eq!(resilience["spec"]["targetRef"]["name"], "fds-canary");
    assert_eq!(
        resilience["metadata"]["annotations"]["mrg.bluebird.id/workload"], "fds",
        "what it queues is the service's"
    );
    let over = Trial {
        runs: false,
        ..trial
    };
    let around = build::around(&desired, &BTreeMap::from([("fds", over)]), None);
    assert!(
        of(&around, "ServiceResilience", "fds").unwrap()["spec"]["inbound"]["canary"].is_null()
    );
}

#[test]
fn order_reads_are_split_by_credentials_and_by_path_and_an_upgrade_of_the_operator_restarts_nobody()
{
    let mut set = example();
    set["spec"]["readSplit"] =
        json!({ "archive": { "url": "file:///archive", "claimName": "orders-archive" } });
    let desired = desired(set).unwrap();
    let objects = orders::objects(&desired, &settings("mrg:1"), false, |_| None);
    let variable = |name: &str, variable: &str| {
        let pods =
            of(&objects, "Deployment", name).unwrap()["spec"]["template"]["spec"]["containers"][0]
                ["env"]
                .clone();
        pods.as_array()
            .unwrap()
            .iter()
            .find(|found| found["name"] == variable)
            .cloned()
            .unwrap_or_default()
    };
    assert_eq!(
        variable("orders-active", "ORDERS_PRIMARY_DSN")["value"],
        "postgres://mrg_orders_active:$(PASSWORD)@mrg-write:6432/mrg_write"
    );
    assert_eq!(
        variable("orders-history", "ORDERS_REPLICA_DSN")["value"],
        "postgres://mrg_orders_history:$(PASSWORD)@mrg-read:6433/mrg_read"
    );
    assert_eq!(
        variable("orders-history", "ORDERS_CHANGES_DSN")["value"],
        "postgres://mrg_orders_history:$(PASSWORD)@mrg-postgres-rw:5432/mrg"
    );
    assert_eq!(
        variable("orders-history", "PASSWORD")["valueFrom"]["secretKeyRef"]["key"],
        "mrg_orders_history-password"
    );
    assert_eq!(
        variable("orders-history", "ORDERS_ARCHIVED_AFTER")["value"],
        "2592000000ms",
        "30 days"
    );
    assert_eq!(
        of(&objects, "CronJob", "orders-archive").unwrap()["spec"]["concurrencyPolicy"],
        "Forbid"
    );
    assert_eq!(
        objects
            .iter()
            .filter(|object| object.kind() == "Job")
            .count(),
        1
    );

    let before = of(&objects, "Deployment", "orders-active").unwrap().clone();
    let applied = |name: &str| {
        let there = of(&objects, "Deployment", name)?;
        let annotation = |key: &str| {
            there["metadata"]["annotations"][key]
                .as_str()
                .map(str::to_owned)
        };
        Some((
            annotation(build::REVISION)?,
            serde_json::from_str(&annotation(build::TEMPLATE)?).ok()?,
        ))
    };
    let later = orders::objects(&desired, &settings("mrg:2"), true, applied);
    assert_eq!(
        of(&later, "Deployment", "orders-active").unwrap()["spec"]["template"],
        before["spec"]["template"]
    );
    assert!(
        later.iter().all(|object| object.kind() != "Job"),
        "the database is prepared once"
    );

    let routes = orders::routes(25, "orders-1-25");
    let to = |path: &str| {
        routes
            .iter()
            .find(|route| route.takes(path))
            .map(|route| (route.to.url.host.as_str(), route.to.share))
    };
    assert_eq!(to("/orders/history"), Some(("orders-history", 25)));
    assert_eq!(to("/orders/7/history"), Some(("orders-history", 25)));
    assert_eq!(to("/orders/active"), Some(("orders-active", 25)));
    assert_eq!(
        to("/orders/7"),
        Some(("orders-active", 25)),
        "whoever does not know which it is"
    );
    assert_eq!(to("/orders"), None);
    assert_eq!(to("/carts/7"), None);
}

#[test]
fn the_tables_of_order_reads_are_made_as_the_databases_owner_and_the_superuser_only_makes_roles() {
    let mut set = example();
    set["spec"]["readSplit"] = json!({});
    let job = |desired: &Desired| {
        let objects = orders::objects(desired, &settings("mrg:1"), false, |_| None);
        objects
            .into_iter()
            .find(|object| object.kind() == "Job")
            .map(|object| object.0)
    };
    let mut desired = desired(set).unwrap();
    let made = job(&desired).unwrap();
    let environment = &made["spec"]["template"]["spec"]["containers"][0]["env"];
    let of = |name: &str| {
        let all = environment.as_array().unwrap();
        all.iter().find(|entry| entry["name"] == name).unwrap()
    };
    assert_eq!(
        of("OWNER_PASSWORD")["valueFrom"]["secretKeyRef"],
        json!({ "name": "mrg-postgres-credentials", "key": "mrg_owner-password" })
    );
    assert_eq!(
        of("ORDERS_OWNER_DSN")["value"],
        "postgres://mrg_owner:$(OWNER_PASSWORD)@mrg-postgres-rw:5432/mrg"
    );
    assert_eq!(
        of("SUPERUSER_PASSWORD")["valueFrom"]["secretKeyRef"]["key"],
        "superuser-password"
    );
    let of_superuser: Vec<&Value> = environment
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry.to_string().contains("$(SUPERUSER_PASSWORD)"))
        .collect();
    assert_eq!(
        of_superuser,
        [
            &json!({ "name": "ORDERS_ROLES_DSN", "value": "postgres://postgres:$(SUPERUSER_PASSWORD)@mrg-postgres-rw:5432/postgres" })
        ]
    );

    let name = made["metadata"]["name"].clone();
    let rename = |desired: &mut Desired, owner: Option<&str>| {
        desired.wiring.as_mut().unwrap().owner = owner.map(str::to_owned);
    };
    rename(&mut desired, Some("other"));
    assert_ne!(
        job(&desired).unwrap()["metadata"]["name"],
        name,
        "a job is made once: another login is another job"
    );
    rename(&mut desired, None);
    assert_eq!(job(&desired), None, "without an owner there is no login");
}

#[test]
fn a_service_that_runs_elsewhere_is_not_deployed_and_still_called() {
    let mut set = example();
    set["spec"]["services"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "name": "fds", "deploy": false }));
    let desired = desired(set).unwrap();
    assert_eq!(desired.services.len(), 9);
    assert!(
        of(
            &build::around(&desired, &BTreeMap::new(), None),
            "Service",
            "fds"
        )
        .is_none()
    );
    let calls = &desired.services[0].resilience.spec.dependencies;
    assert!(calls.iter().any(|dependency| dependency.name == "fds"));
}

#[test]
fn a_queues_address_bears_any_password() {
    use base64::Engine;
    let desired = desired(example()).unwrap();
    let secret = build::queue_secret(&desired, &wiring(), "p@ss/w:rd");
    let dsn = base64::engine::general_purpose::STANDARD
        .decode(secret.0["data"]["dsn"].as_str().unwrap())
        .unwrap();
    assert_eq!(
        String::from_utf8(dsn).unwrap(),
        "postgres://mrg:p%40ss%2Fw%3Ard@mrg-write:6432/mrg_write"
    );
}

/// What is changed of the example, and the field and the words of the refusal.
fn wrong() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    let call = |name: &str, more: &Value| {
        let mut call = json!({ "name": name, "port": 19101, "providers": [{ "name": "x", "url": "http://fds:8080" }] });
        call.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        call
    };
    let service = |more: Value| {
        let mut service = json!({ "name": "orderorchestrator" });
        service
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!([service])
    };
    vec![
        (
            "/spec/services",
            service(json!({ "replicas": 2 })),
            "spec.services[orderorchestrator].replicas",
            "fewer than the 3 pods of tier P0",
        ),
        (
            "/spec/services",
            service(json!({ "autoscaling": { "minReplicas": 1, "maxReplicas": 3 } })),
            "spec.services[orderorchestrator].autoscaling.minReplicas",
            "raise it",
        ),
        (
            "/spec/services",
            service(json!({ "without": ["bbd"] })),
            "spec.services[orderorchestrator].without",
            "it calls paymentprocessor",
        ),
        (
            "/spec/providers",
            json!([]),
            "spec.providers",
            "there is no address for `midtrans`",
        ),
        (
            "/spec/services",
            service(json!({ "dependencies": [call("mine", &json!({ "port": 19001 }))] })),
            "spec.services[orderorchestrator].dependencies[7].port",
            "another dependency's port",
        ),
        (
            "/spec/services",
            service(
                json!({ "dependencies": [call("mine", &json!({ "timeout": { "attempt": "5s", "total": "1s" } }))] }),
            ),
            "dependencies[7].timeout.total",
            "raise it",
        ),
        (
            "/spec/services",
            service(
                json!({ "overrides": [{ "dependency": "nobody", "state": "Open", "reason": "why", "until": "2999-01-01T00:00:00Z" }] }),
            ),
            "spec.services[orderorchestrator].overrides[0].dependency",
            "no dependency is named `nobody`",
        ),
        (
            "/spec/services",
            service(
                json!({ "overrides": [{ "dependency": "fds", "state": "Open", "reason": "why", "until": "tomorrow" }] }),
            ),
            "overrides[0].until",
            "`tomorrow` is no moment",
        ),
        (
            "/spec/services",
            json!([
                { "name": "fds", "dependencies": [{ "name": "users", "port": 19101, "breaker": { "mode": "Off" },
                  "providers": [{ "name": "userservice", "url": "http://userservice:8080" }] }] },
                { "name": "userservice", "dependencies": [{ "name": "fds", "port": 19101, "breaker": { "mode": "Off" },
                  "providers": [{ "name": "fds", "url": "http://fds.mrg:8080" }] }] },
            ]),
            "spec.services",
            "call each other in a circle without a breaker",
        ),
    ]
}

#[test]
fn wrong_specs_are_refused_with_field_value_and_remedy() {
    for (path, value, field, words) in wrong() {
        let mut set = example();
        *set.pointer_mut(path).unwrap() = value.clone();
        let refused = desired(set)
            .err()
            .unwrap_or_else(|| panic!("{path} = {value} was taken"));
        assert!(
            refused.contains(field) && refused.contains(words),
            "{path} = {value}: {refused}"
        );
    }
}
