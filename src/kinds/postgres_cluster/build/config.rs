//! The spec as the members read it: Patroni's dynamic configuration, which the operator keeps in etcd,
//! and apart from it the settings that execute or load code, which it mounts.

use serde_json::{Map, Value, json};

use crate::checksum::checksum;
use crate::kinds::postgres_cluster::validate::Desired;
use mrg_api::postgres_cluster::{Mode, OnCrash};
use mrg_base::ParameterName;
use mrg_dcs::wire::compact;

/// Parameters of the spec as JSON: those that execute or load code, or the others.
fn parameters(desired: &Desired, executing: bool) -> Map<String, Value> {
    let executes = |name: &str| ParameterName::new(name).is_ok_and(|name| name.executes());
    let all = desired.spec.postgresql.parameters.iter();
    all.filter(|(name, _)| executes(name) == executing)
        .map(|(name, value)| (name.clone(), json!(value.0)))
        .collect()
}

/// What the version of the mounted settings is: the same parameters have the same one.
pub(crate) fn executable_version(desired: &Desired) -> String {
    checksum(&compact(&parameters(desired, true)), 8)
}

/// The mounted file with the settings that execute or load code. What stands in etcd is never
/// executed.
pub(super) fn executable_settings(desired: &Desired) -> Value {
    json!({ "version": executable_version(desired), "parameters": parameters(desired, true) })
}

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
    let mut postgresql = json!({
        "use_pg_rewind": spec.postgresql.use_pg_rewind,
        "use_slots": true,
        "parameters": parameters(desired, false),
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
            "executable_settings": executable_version(desired),
        },
        "postgresql": postgresql,
    });
    config.as_object().cloned().unwrap_or_default()
}
