//! The dynamic configuration, but for what `postgresql` shares with a member's file.

use super::{Key, done, harmless, harmless_unless, noted, refused};

const SLOTS: &str = "permanent slots are not made, moved along on standbys or kept over a failover";
const NO_SLOTS: &str =
    "remove them, and make the slots by SQL on each member that needs them; they stay there";
const OF_THE_FILE: &str = "it is read from the member's file only, as in Patroni";

pub(super) const KEYS: &[Key] = &[
    noted(
        "ttl",
        "3 s at least; must be at least loop_wait + 2 * retry_timeout",
    ),
    noted("loop_wait", "1 s at least"),
    noted("retry_timeout", "1 s at least"),
    done("maximum_lag_on_failover"),
    harmless(
        "maximum_lag_on_syncnode",
        "a synchronous standby is replaced when it stops streaming",
    ),
    harmless("max_timelines_history", "the history is kept whole"),
    noted(
        "primary_start_timeout",
        "0: no time at all; then a member that is fit takes over",
    ),
    noted("master_start_timeout", "primary_start_timeout before 3.0"),
    harmless(
        "primary_stop_timeout",
        "mrg.stop_timeout of the member's file limits a stop",
    ),
    harmless(
        "master_stop_timeout",
        "mrg.stop_timeout of the member's file limits a stop",
    ),
    harmless(
        "primary_race_backoff",
        "a candidate asks the other members before it races",
    ),
    done("synchronous_mode"),
    done("synchronous_mode_strict"),
    noted("synchronous_node_count", "1 at least"),
    noted("failsafe_mode", "on by default"),
    harmless_unless("check_timeline", &["true"], "timelines are always compared"),
    done("pause"),
    harmless(
        "member_slots_ttl",
        "a slot is kept for 30 minutes after its member has gone",
    ),
    refused("slots", SLOTS, NO_SLOTS),
    refused("permanent_slots", SLOTS, NO_SLOTS),
    refused("permanent_replication_slots", SLOTS, NO_SLOTS),
    noted(
        "ignore_slots",
        "slots that the agent did not make are never dropped",
    ),
    refused(
        "standby_cluster",
        "a cluster that follows another one is not supported; it would be a second primary",
        "remove it to run a cluster of its own, or keep Patroni on this one",
    ),
    refused(
        "citus",
        "Citus is not supported",
        "remove the section, and run one cluster",
    ),
    done("postgresql.use_pg_rewind"),
    harmless_unless("postgresql.use_slots", &["true"], "slots are always used"),
    harmless("postgresql.listen", OF_THE_FILE),
    harmless("postgresql.connect_address", OF_THE_FILE),
    harmless("postgresql.proxy_address", OF_THE_FILE),
    harmless("postgresql.config_dir", OF_THE_FILE),
    harmless("postgresql.data_dir", OF_THE_FILE),
    harmless("postgresql.pgpass", OF_THE_FILE),
    harmless("postgresql.authentication", OF_THE_FILE),
    noted("mrg.on_crash", "mrg-agent's own"),
    noted("mrg.members", "mrg-agent's own"),
    noted(
        "mrg.unresponsive_after",
        "mrg-agent's own; seconds, 0 switches it off",
    ),
    noted(
        "mrg.executable_settings",
        "mrg-agent's own; the version of the mounted settings",
    ),
];
