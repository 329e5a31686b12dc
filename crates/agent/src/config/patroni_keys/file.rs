//! The sections of a member's file, but for what `postgresql` shares with the dynamic configuration.

use super::{Key, done, harmless, harmless_unless, noted, refused, refused_unless};

const ETCD_TLS: &str = "TLS to etcd is not supported";
const ETCD_PLAIN: &str = "reach etcd through a local TLS tunnel or without TLS on the members' own network, and remove cacert, cert, key and protocol";
const ETCD_FOUND: &str = "etcd's endpoints are not looked up";
const ETCD_HOSTS: &str = "list them as etcd3.hosts";
const REST_TLS: &str = "TLS of the REST API is not supported; it would answer without";
const REST_PLAIN: &str = "remove certfile, keyfile, cafile, ciphers and verify_client, and put a proxy that speaks TLS in front or keep the port on the members' own network";
const ALLOWLIST: &str = "the REST API does not look at its clients' addresses";
const FIREWALL: &str = "restrict the port by a firewall or a network policy";
const OTHER_STORE: &str = "the agent keeps its cluster in etcd v3 only";
const USE_ETCD: &str = "set etcd3.hosts and remove this section";
const LIBPQ_TLS: &str = "the agent connects with sslmode=prefer and without a certificate";
const LIBPQ_PLAIN: &str = "remove it, and use password authentication";
const REST_SERVER: &str = "the HTTP server has no such limit";
const HEADERS: &str = "the REST API sends no further headers";

/// The rows; `etcd` and `etcd3` are the same section.
pub(super) const KEYS: &[Key] = &[
    noted("name", "ASCII letters, digits and `- _ .`, at most 63"),
    noted("scope", "ASCII letters, digits and `- _ .`, at most 63"),
    done("namespace"),
    harmless(
        "thread_pool_size",
        "the agent has no thread pool of that kind",
    ),
    harmless(
        "thread_stack_size",
        "the agent has no thread pool of that kind",
    ),
    harmless(
        "log",
        "the agent logs JSON to its standard output; RUST_LOG sets the level",
    ),
    noted("ctl", "read by patronictl itself"),
    done("restapi.listen"),
    done("restapi.connect_address"),
    done("restapi.authentication"),
    refused("restapi.certfile", REST_TLS, REST_PLAIN),
    refused("restapi.keyfile", REST_TLS, REST_PLAIN),
    refused("restapi.keyfile_password", REST_TLS, REST_PLAIN),
    refused("restapi.cafile", REST_TLS, REST_PLAIN),
    refused("restapi.ciphers", REST_TLS, REST_PLAIN),
    refused_unless("restapi.verify_client", &["none"], REST_TLS, REST_PLAIN),
    refused("restapi.allowlist", ALLOWLIST, FIREWALL),
    refused("restapi.allowlist_include_members", ALLOWLIST, FIREWALL),
    harmless("restapi.http_extra_headers", HEADERS),
    harmless("restapi.https_extra_headers", HEADERS),
    harmless("restapi.request_queue_size", REST_SERVER),
    harmless("restapi.thread_pool_size", REST_SERVER),
    harmless(
        "restapi.server_tokens",
        "the REST API sends no Server header",
    ),
    done("etcd3.host"),
    done("etcd3.hosts"),
    done("etcd3.username"),
    done("etcd3.password"),
    refused_unless("etcd3.protocol", &["http"], ETCD_TLS, ETCD_PLAIN),
    refused("etcd3.cacert", ETCD_TLS, ETCD_PLAIN),
    refused("etcd3.cert", ETCD_TLS, ETCD_PLAIN),
    refused("etcd3.key", ETCD_TLS, ETCD_PLAIN),
    refused("etcd3.url", ETCD_FOUND, ETCD_HOSTS),
    refused("etcd3.proxy", ETCD_FOUND, ETCD_HOSTS),
    refused("etcd3.srv", ETCD_FOUND, ETCD_HOSTS),
    refused("etcd3.srv_suffix", ETCD_FOUND, ETCD_HOSTS),
    harmless_unless(
        "etcd3.use_proxies",
        &["true"],
        "only the listed endpoints are used in any case",
    ),
    noted("etcd.host", "spoken to as etcd v3"),
    noted("etcd.hosts", "spoken to as etcd v3"),
    noted("etcd.username", "spoken to as etcd v3"),
    noted("etcd.password", "spoken to as etcd v3"),
    refused_unless("etcd.protocol", &["http"], ETCD_TLS, ETCD_PLAIN),
    refused("etcd.cacert", ETCD_TLS, ETCD_PLAIN),
    refused("etcd.cert", ETCD_TLS, ETCD_PLAIN),
    refused("etcd.key", ETCD_TLS, ETCD_PLAIN),
    refused("etcd.url", ETCD_FOUND, ETCD_HOSTS),
    refused("etcd.proxy", ETCD_FOUND, ETCD_HOSTS),
    refused("etcd.srv", ETCD_FOUND, ETCD_HOSTS),
    refused("etcd.srv_suffix", ETCD_FOUND, ETCD_HOSTS),
    harmless_unless(
        "etcd.use_proxies",
        &["true"],
        "only the listed endpoints are used in any case",
    ),
    refused("consul", OTHER_STORE, USE_ETCD),
    refused("zookeeper", OTHER_STORE, USE_ETCD),
    refused("exhibitor", OTHER_STORE, USE_ETCD),
    refused("kubernetes", OTHER_STORE, USE_ETCD),
    refused("raft", OTHER_STORE, USE_ETCD),
    refused(
        "citus",
        "Citus is not supported",
        "remove the section, and run one cluster",
    ),
    noted("bootstrap.dcs", "see the dynamic configuration"),
    noted(
        "bootstrap.initdb",
        "a list; data checksums, UTF8 and the C.UTF-8 locale are added",
    ),
    refused_unless(
        "bootstrap.method",
        &["initdb"],
        "a new cluster is made by initdb only, so it would be empty",
        "restore the data directory of one member by hand, start that member first, and remove bootstrap.method",
    ),
    refused(
        "bootstrap.post_init",
        "no program is run after initdb",
        "run it by hand once the cluster leads",
    ),
    refused(
        "bootstrap.post_bootstrap",
        "no program is run after initdb",
        "run it by hand once the cluster leads",
    ),
    refused(
        "bootstrap.users",
        "no roles are made but the agent's own",
        "make them by SQL once the cluster leads; Patroni 4 does not make them either",
    ),
    refused(
        "bootstrap.pg_hba",
        "no lines are added to pg_hba.conf at the bootstrap only",
        "move them to postgresql.pg_hba",
    ),
    done("postgresql.listen"),
    done("postgresql.connect_address"),
    done("postgresql.data_dir"),
    done("postgresql.bin_dir"),
    harmless(
        "postgresql.proxy_address",
        "the member key has no proxy_url",
    ),
    refused(
        "postgresql.config_dir",
        "the configuration is written into the data directory",
        "remove it, and move what the directory's files set to postgresql.parameters",
    ),
    noted(
        "postgresql.pgpass",
        "`pgpass` in `<data_dir>.run` if it is not set; best in memory, as below /run",
    ),
    done("postgresql.authentication.superuser.username"),
    done("postgresql.authentication.superuser.password"),
    refused_unless(
        "postgresql.authentication.superuser.sslmode",
        &["disable", "allow", "prefer"],
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused_unless(
        "postgresql.authentication.superuser.gssencmode",
        &["disable", "prefer"],
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused_unless(
        "postgresql.authentication.superuser.channel_binding",
        &["disable", "prefer"],
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused_unless(
        "postgresql.authentication.superuser.sslnegotiation",
        &["postgres"],
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused(
        "postgresql.authentication.superuser.sslcert",
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused(
        "postgresql.authentication.superuser.sslkey",
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused(
        "postgresql.authentication.superuser.sslpassword",
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused(
        "postgresql.authentication.superuser.sslrootcert",
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused(
        "postgresql.authentication.superuser.sslcrl",
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused(
        "postgresql.authentication.superuser.sslcrldir",
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    done("postgresql.authentication.replication.username"),
    done("postgresql.authentication.replication.password"),
    refused_unless(
        "postgresql.authentication.replication.sslmode",
        &["disable", "allow", "prefer"],
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused_unless(
        "postgresql.authentication.replication.gssencmode",
        &["disable", "prefer"],
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused_unless(
        "postgresql.authentication.replication.channel_binding",
        &["disable", "prefer"],
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused_unless(
        "postgresql.authentication.replication.sslnegotiation",
        &["postgres"],
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused(
        "postgresql.authentication.replication.sslcert",
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused(
        "postgresql.authentication.replication.sslkey",
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused(
        "postgresql.authentication.replication.sslpassword",
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused(
        "postgresql.authentication.replication.sslrootcert",
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused(
        "postgresql.authentication.replication.sslcrl",
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused(
        "postgresql.authentication.replication.sslcrldir",
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    noted(
        "postgresql.authentication.rewind.username",
        "without it pg_rewind connects as the superuser, as in Patroni",
    ),
    done("postgresql.authentication.rewind.password"),
    refused_unless(
        "postgresql.authentication.rewind.sslmode",
        &["disable", "allow", "prefer"],
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused_unless(
        "postgresql.authentication.rewind.gssencmode",
        &["disable", "prefer"],
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused_unless(
        "postgresql.authentication.rewind.channel_binding",
        &["disable", "prefer"],
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused_unless(
        "postgresql.authentication.rewind.sslnegotiation",
        &["postgres"],
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused(
        "postgresql.authentication.rewind.sslcert",
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused(
        "postgresql.authentication.rewind.sslkey",
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused(
        "postgresql.authentication.rewind.sslpassword",
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused(
        "postgresql.authentication.rewind.sslrootcert",
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused(
        "postgresql.authentication.rewind.sslcrl",
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    refused(
        "postgresql.authentication.rewind.sslcrldir",
        LIBPQ_TLS,
        LIBPQ_PLAIN,
    ),
    harmless_unless(
        "postgresql.use_pg_rewind",
        &["true"],
        "it is read from the dynamic configuration only, and on by default",
    ),
    refused_unless(
        "watchdog.mode",
        &["off", "automatic"],
        "no watchdog device is used; the fence kills postgres if the agent hangs, but not if the kernel does",
        "set it to automatic or off",
    ),
    harmless("watchdog.device", "no watchdog device is used"),
    harmless("watchdog.safety_margin", "no watchdog device is used"),
    harmless("watchdog.driver", "no watchdog device is used"),
    done("tags.nofailover"),
    done("tags.failover_priority"),
    done("tags.nosync"),
    done("tags.noloadbalance"),
    noted(
        "tags.sync_priority",
        "0 is nosync; other values do not order the standbys",
    ),
    harmless("tags.clonefrom", "copies are made from the leader"),
    harmless(
        "tags.replicatefrom",
        "every standby streams from the leader",
    ),
    harmless("tags.nostream", "every standby streams from the leader"),
    noted("tags.*", "shown"),
    noted("mrg.incarnation_file", "mrg-agent's own"),
    noted("mrg.termination_message", "mrg-agent's own"),
    noted("mrg.container", "mrg-agent's own"),
    noted("mrg.databases", "mrg-agent's own"),
    noted("mrg.secret_directory", "mrg-agent's own"),
    noted("mrg.stop_timeout", "mrg-agent's own"),
    noted("mrg.environment", "mrg-agent's own"),
    noted(
        "mrg.executable_settings_file",
        "mrg-agent's own; the operator mounts it",
    ),
    noted(
        "mrg.executable_settings_from_dcs",
        "mrg-agent's own; true takes settings that execute or load code from etcd, as Patroni does",
    ),
];
