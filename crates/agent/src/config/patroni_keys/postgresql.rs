//! What the section `postgresql` may say both in a member's file and in the dynamic configuration.

use super::{Key, harmless, harmless_unless, noted, refused, refused_unless};

const COPY: &str = "copies are made by pg_basebackup from the leader only";
const PROMOTED: &str = "no program is run before a promotion, so nothing could forbid it";
const STOPPED: &str = "no program is run before postgres stops";
const PATHS: &str = "programs have their usual names";
const REPLACED: &str =
    "what cannot be rewound is replaced by a copy once the leader has confirmed that it leads";
const LISTENS: &str = "the agent connects over its own socket directory";

pub(super) const KEYS: &[Key] = &[
    noted(
        "postgresql.parameters",
        "those of the file win for every name; some are the agent's, which says so in its log; those that execute or load code are read from the file only",
    ),
    noted("postgresql.pg_hba", "after lines for the agent's own roles"),
    refused(
        "postgresql.pg_ident",
        "pg_ident.conf is not written, so logins that it maps would be refused",
        "remove it, and the map= options that use it from postgresql.pg_hba",
    ),
    refused(
        "postgresql.callbacks",
        "no program is run when the role changes",
        "remove it; a load balancer asks GET /primary and GET /replica instead",
    ),
    refused("postgresql.pre_promote", PROMOTED, "remove it"),
    refused("postgresql.before_stop", STOPPED, "remove it"),
    refused_unless(
        "postgresql.create_replica_methods",
        &["basebackup"],
        COPY,
        "set it to [basebackup] or remove it",
    ),
    refused_unless(
        "postgresql.create_replica_method",
        &["basebackup"],
        COPY,
        "set it to [basebackup] or remove it",
    ),
    harmless(
        "postgresql.basebackup",
        "pg_basebackup gets the agent's own options",
    ),
    refused(
        "postgresql.recovery_conf",
        "recovery settings are read as parameters only",
        "move restore_command and the like to postgresql.parameters",
    ),
    refused(
        "postgresql.custom_conf",
        "no other file is included",
        "move what it sets to postgresql.parameters",
    ),
    refused(
        "postgresql.krbsrvname",
        "the agent does not log in by Kerberos",
        "remove it, and use password authentication for the agent's roles",
    ),
    refused(
        "postgresql.bin_name",
        PATHS,
        "set postgresql.bin_dir to a directory that has them by their usual names",
    ),
    harmless(
        "postgresql.pg_ctl_timeout",
        "mrg.stop_timeout limits a stop; a start is not limited",
    ),
    harmless_unless(
        "postgresql.remove_data_directory_on_rewind_failure",
        &["true"],
        REPLACED,
    ),
    harmless_unless(
        "postgresql.remove_data_directory_on_diverged_timelines",
        &["true"],
        REPLACED,
    ),
    harmless("postgresql.use_unix_socket", LISTENS),
    harmless("postgresql.use_unix_socket_repl", LISTENS),
    harmless(
        "postgresql.database",
        "the agent connects to the database postgres",
    ),
];
