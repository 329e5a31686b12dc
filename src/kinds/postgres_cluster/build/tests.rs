use super::*;
use crate::kinds::postgres_cluster::{Settings, validate};

/// A cluster of three, named `c`, with these parts of a spec besides.
pub(in crate::kinds::postgres_cluster) fn desired(spec: &str) -> Desired {
    let mut object = json!({
        "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "PostgresCluster", "metadata": { "name": "c", "namespace": "n", "uid": "u" },
        "spec": { "replicas": 3, "image": "i", "storage": { "size": "1Gi" }, "etcd": { "managed": { "image": "i" } } },
    });
    let more: Map<String, Value> = serde_json::from_str(spec).unwrap();
    for (name, value) in more {
        object["spec"][name] = value;
    }
    let settings = Settings {
        agent_image: "i".to_owned(),
        agent_pull_policy: "Never".to_owned(),
        priority_class: None,
    };
    validate::validate(&settings, &serde_json::from_value(object).unwrap()).unwrap()
}

#[test]
fn how_long_a_leader_may_not_serve_reaches_the_election() {
    let limit = |spec: &str| {
        let config = mrg_dcs::DynamicConfig(dynamic_config(&desired(spec)));
        mrg_dcs::settings(&config)
            .unwrap()
            .failover
            .unresponsive_after
    };
    for (spec, seconds) in [
        ("{}", 20),
        (r#"{"failover": {"unresponsiveAfter": "1m"}}"#, 60),
        (r#"{"failover": {"unresponsiveAfter": "0s"}}"#, 0),
    ] {
        assert_eq!(limit(spec), mrg_base::Millis::seconds(seconds), "{spec}");
    }
}
