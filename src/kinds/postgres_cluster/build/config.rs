//! The spec as Patroni's dynamic configuration: the intent that the operator keeps in etcd.

use serde_json::{Map, Value, json};

use crate::kinds::postgres_cluster::validate::Desired;
use mrg_api::postgres_cluster::{Mode, OnCrash};

/// The `config` key.
pub(crate) fn dynamic_config(desired: &Desired) -> Map<String, Value> {
    let spec = &desired.spec;
    let mode = match spec.replication.mode {
        Mode::Async => json!(false),
        Mode::Sync => json!(true),
        Mode::Quorum => json!("quorum"),
    };
    let on_crash = match spec.failover.on_crash {
        OnCrash::Auto => "Auto",
        OnCrash::Failover => "Failover",
        OnCrash::Restart => "Restart",
    };
    let parameters: Map<String, Value> = spec
        .postgresql
        .parameters
        .iter()
        .map(|(name, value)| (name.clone(), json!(value.0)))
        .collect();
    let mut postgresql = json!({
        "use_pg_rewind": spec.postgresql.use_pg_rewind,
        "use_slots": true,
        "parameters": parameters,
    });
    if let Some(lines) = &spec.postgresql.pg_hba {
        postgresql["pg_hba"] = json!(lines);
    }
    let config = json!({
        "ttl": spec.failover.ttl.as_seconds(),
        "loop_wait": spec.failover.loop_wait.as_seconds(),
        "retry_timeout": spec.failover.retry_timeout.as_seconds(),
        "maximum_lag_on_failover": desired.maximum_lag_bytes,
        "failsafe_mode": spec.failover.failsafe,
        "synchronous_mode": mode,
        "synchronous_mode_strict": spec.replication.strict,
        "synchronous_node_count": spec.replication.count,
        "mrg": {
            "on_crash": on_crash,
            "unresponsive_after": spec.failover.unresponsive_after.as_seconds(),
            "members": desired.members(),
        },
        "postgresql": postgresql,
    });
    config.as_object().cloned().unwrap_or_default()
}
