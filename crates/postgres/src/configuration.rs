//! `postgresql.conf` and `pg_hba.conf`, written whole, as Patroni does: the file that initdb wrote is
//! kept as `postgresql.base.conf` and included.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::credentials::Authentication;
use crate::private_file::write_private;
use mrg_base::{FLOORED_PARAMETERS, ParameterName};

/// Parameters that the agent sets itself, in lower case. A user's value for them has no effect.
pub const RESERVED_PARAMETERS: &[&str] = &[
    "cluster_name",
    "config_file",
    "data_directory",
    "external_pid_file",
    "hba_file",
    "hot_standby",
    "ident_file",
    "listen_addresses",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "promote_trigger_file",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restart_after_crash",
    "synchronous_standby_names",
    "unix_socket_directories",
    "unix_socket_group",
    "unix_socket_permissions",
];

/// The file that initdb wrote, under the name that it is kept and included by.
pub const BASE_FILE: &str = "postgresql.base.conf";
/// The line of `postgresql.conf` that includes it.
const BASE_FILE_INCLUDE: &str = "include 'postgresql.base.conf'";

/// The file of a data directory that is included, or will be from the next
/// [`Configuration::write`] on; `None` if there is none, and an empty one will be made.
pub fn base_file(data_directory: &Path) -> Option<PathBuf> {
    let base = data_directory.join(BASE_FILE);
    if base.exists() {
        return Some(base);
    }
    // A file that includes the base is one of ours, or Patroni's: as the base it would include
    // itself.
    let conf = data_directory.join("postgresql.conf");
    let is_initdbs = std::fs::read_to_string(&conf)
        .is_ok_and(|text| !text.lines().any(|line| line.trim() == BASE_FILE_INCLUDE));
    is_initdbs.then_some(conf)
}

/// The minimum standby settings: the primary's values of [`FLOORED_PARAMETERS`], from what
/// `pg_controldata` prints (`max_connections setting:   100`, and `max_locks_per_xact setting`,
/// `max_prepared_xacts setting`). Lines that cannot be read are skipped.
pub fn minimum_standby_settings(control_data: &str) -> BTreeMap<String, u64> {
    let minimum = |line: &str| {
        let (name, value) = line.split_once(" setting:")?;
        let name = name
            .trim()
            .replace("xacts", "transactions")
            .replace("xact", "transaction");
        if !FLOORED_PARAMETERS.contains(&name.as_str()) {
            return None;
        }
        Some((name, value.trim().parse().ok()?))
    };
    control_data.lines().filter_map(minimum).collect()
}

/// Quotes a string constant for SQL (with `standard_conforming_strings`).
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Quotes a value for `postgresql.conf`, whose lexer knows C's escapes beside the doubled quote
/// (PostgreSQL's `guc-file.l`); a line break would end the line.
pub fn quote_setting(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('\'');
    for character in value.chars() {
        match character {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            other => quoted.push(other),
        }
    }
    quoted.push('\'');
    quoted
}

/// Quotes an identifier for SQL and for `pg_hba.conf`.
pub fn quote_identifier(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// Everything that decides how the server runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// `cluster_name`
    pub cluster_name: String,
    /// `listen_addresses`
    pub listen: String,
    /// `port`
    pub port: u16,
    /// The directory of the socket; only the server's own user may use it.
    pub socket_directory: PathBuf,
    /// The user's parameters.
    pub parameters: BTreeMap<ParameterName, String>,
    /// On a standby, see [`minimum_standby_settings`]; empty on a primary.
    pub minimums: BTreeMap<String, u64>,
    /// The user's lines of `pg_hba.conf`; a default that requires SCRAM if `None`.
    pub hba: Option<Vec<String>>,
    /// The agent's roles.
    pub authentication: Authentication,
    /// `synchronous_standby_names`
    pub synchronous_standby_names: String,
    /// `primary_conninfo`; empty for none.
    pub primary_conninfo: String,
    /// `primary_slot_name`; empty for none.
    pub primary_slot_name: String,
}

/// Parameters that the user may change.
const DEFAULTS: &[(&str, &str)] = &[
    ("wal_level", "replica"),
    ("max_wal_senders", "10"),
    ("max_replication_slots", "10"),
    ("wal_keep_size", "128MB"),
    ("max_slot_wal_keep_size", "2GB"),
    ("wal_log_hints", "on"),
    // The interval at which a standby that comes too early for a new primary tries again; until it
    // streams, commits wait.
    ("wal_retrieve_retry_interval", "100ms"),
    ("wal_receiver_timeout", "10s"),
    ("wal_sender_timeout", "10s"),
    ("password_encryption", "scram-sha-256"),
    ("logging_collector", "off"),
];

const HBA_HEADER: &str = "# Written by mrg-agent; changes here are lost. Use spec.postgresql.pgHba or patronictl edit-config.\n";
/// Stands before the user's lines.
const USER_LINES: &str = "# The configuration's lines:\n";

/// The user's lines in a `pg_hba.conf` that [`Configuration::render_hba`] has made; `None` if the
/// file is another's.
pub fn user_hba_lines(text: &str) -> Option<Vec<String>> {
    let rest = text.strip_prefix(HBA_HEADER)?;
    let (_, lines) = rest.split_once(USER_LINES)?;
    Some(lines.lines().map(str::to_owned).collect())
}

impl Configuration {
    /// The parameters in force: defaults, then the user's, then the reserved ones.
    fn effective(&self) -> BTreeMap<String, String> {
        let mut all: BTreeMap<String, String> = DEFAULTS
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        let unreserved = self
            .parameters
            .iter()
            .filter(|(name, _)| !RESERVED_PARAMETERS.contains(&name.as_str()));
        all.extend(unreserved.map(|(name, value)| (name.to_string(), value.clone())));
        for (name, minimum) in &self.minimums {
            // PostgreSQL's own default of these is not above what any primary of ours had, so an
            // absent one is set, too.
            let set = all.get(name).and_then(|value| value.parse::<u64>().ok());
            if set.is_none_or(|value| value < *minimum) {
                all.insert(name.clone(), minimum.to_string());
            }
        }
        let port = self.port.to_string();
        // A list of directories, which a comma or a blank would end.
        let socket = quote_identifier(&self.socket_directory.to_string_lossy());
        let reserved: [(&str, &str); 13] = [
            ("cluster_name", &self.cluster_name),
            ("listen_addresses", &self.listen),
            ("port", &port),
            ("unix_socket_directories", &socket),
            ("unix_socket_permissions", "0700"),
            ("unix_socket_group", ""),
            ("hot_standby", "on"),
            // The exit of the postmaster is what the agent reacts to; a silent restart would hide a
            // crash.
            ("restart_after_crash", "off"),
            ("recovery_target_timeline", "latest"),
            ("recovery_target", ""),
            ("synchronous_standby_names", &self.synchronous_standby_names),
            ("primary_conninfo", &self.primary_conninfo),
            ("primary_slot_name", &self.primary_slot_name),
        ];
        all.extend(
            reserved
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into())),
        );
        all
    }

    /// The text of `postgresql.conf`.
    pub fn render(&self) -> String {
        let mut text = String::from(
            "# Written by mrg-agent; changes here are lost. Use spec.postgresql.parameters or patronictl edit-config.\n",
        );
        let _ = writeln!(text, "{BASE_FILE_INCLUDE}\n");
        for (name, value) in self.effective() {
            let _ = writeln!(text, "{name} = {}", quote_setting(&value));
        }
        text
    }

    /// The text of `pg_hba.conf`. The agent's own access comes first; the socket admits only the
    /// server's own user.
    pub fn render_hba(&self) -> String {
        let superuser = quote_identifier(&self.authentication.superuser.username);
        let replication = quote_identifier(&self.authentication.replication.username);
        let mut text = String::from(HBA_HEADER);
        let _ = writeln!(text, "local all {superuser} trust");
        let _ = writeln!(text, "host replication {replication} all scram-sha-256");
        let _ = writeln!(text, "host all {superuser} all scram-sha-256");
        if let Some(rewind) = &self.authentication.rewind {
            let rewind = quote_identifier(&rewind.username);
            let _ = writeln!(text, "host postgres {rewind} all scram-sha-256");
        }
        text.push_str(USER_LINES);
        match &self.hba {
            Some(lines) => {
                for line in lines {
                    let _ = writeln!(text, "{line}");
                }
            }
            None => text.push_str("local all all scram-sha-256\nhost all all all scram-sha-256\n"),
        }
        text
    }

    /// Writes the files into a data directory, each whole or not at all. Commands in them may contain
    /// credentials, so they are readable by their owner only.
    ///
    /// What `ALTER SYSTEM` has set stays, as PostgreSQL says it does, but for the parameters that the
    /// agent sets itself, over which it would win: their names are given, and their lines removed.
    ///
    /// # Errors
    /// If a file cannot be written. Those before it are.
    pub fn write(&self, data_directory: &Path) -> std::io::Result<Vec<String>> {
        let base = data_directory.join(BASE_FILE);
        let conf = data_directory.join("postgresql.conf");
        match base_file(data_directory) {
            Some(found) if found == base => {}
            Some(initdbs) => std::fs::rename(initdbs, &base)?,
            None => std::fs::write(&base, "")?,
        }
        write_private(&conf, &self.render())?;
        write_private(&data_directory.join("pg_hba.conf"), &self.render_hba())?;
        let auto = data_directory.join("postgresql.auto.conf");
        let (kept, removed) = without_reserved(&std::fs::read_to_string(&auto).unwrap_or_default());
        if !removed.is_empty() {
            write_private(&auto, &kept)?;
        }
        Ok(removed)
    }
}

/// The text of `postgresql.auto.conf` without the lines of parameters that the agent sets itself, and
/// their names.
fn without_reserved(text: &str) -> (String, Vec<String>) {
    let reserved = |line: &str| {
        // The value may follow at once: `port'5432'`.
        let ends = |c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && c != '_' && c != '.';
        let name = line.split(ends).next().unwrap_or_default();
        let name = name.to_ascii_lowercase();
        RESERVED_PARAMETERS.contains(&name.as_str()).then_some(name)
    };
    let (mut kept, mut removed) = (String::new(), Vec::new());
    for line in text.lines() {
        match reserved(line.trim_start()) {
            Some(name) => removed.push(name),
            None => kept.extend([line, "\n"]),
        }
    }
    (kept, removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Credentials;

    fn role(username: &str) -> Credentials {
        Credentials {
            username: username.to_owned(),
            password: "secret".to_owned(),
        }
    }

    fn name(text: &str) -> ParameterName {
        ParameterName::new(text).unwrap()
    }

    fn configuration() -> Configuration {
        Configuration {
            port: 5432,
            parameters: [
                (name("work_mem"), "4MB".to_owned()),
                (name("Synchronous_Standby_Names"), "*".to_owned()),
                (name("HBA_file"), "/tmp/x".to_owned()),
            ]
            .into(),
            authentication: Authentication {
                superuser: role("postgres"),
                replication: role("replicator"),
                rewind: None,
            },
            ..Configuration::default()
        }
    }

    #[test]
    fn a_reserved_parameter_of_the_users_has_no_effect() {
        let text = configuration().render();
        assert!(text.contains("work_mem = '4MB'"));
        assert!(text.contains("synchronous_standby_names = ''"));
        assert!(text.contains("restart_after_crash = 'off'"));
        let lower = text.to_ascii_lowercase();
        assert_eq!(lower.matches("synchronous_standby_names").count(), 1);
        assert!(!lower.contains("hba_file"), "{text}");
    }

    #[test]
    fn a_standby_keeps_at_least_what_its_primary_had() {
        let printed = "wal_level setting:  replica\nmax_connections setting:   60\nmax_locks_per_xact setting:  64\nmax_prepared_xacts setting: 0\n";
        let minimums = minimum_standby_settings(printed);
        assert_eq!(minimums.len(), 3);
        assert_eq!(minimums["max_locks_per_transaction"], 64);
        let mut configuration = Configuration {
            minimums,
            ..configuration()
        };
        configuration
            .parameters
            .insert(name("max_connections"), "50".to_owned());
        assert!(configuration.render().contains("max_connections = '60'"));
        configuration
            .parameters
            .insert(name("max_connections"), "70".to_owned());
        assert!(configuration.render().contains("max_connections = '70'"));
    }

    #[test]
    fn what_alter_system_has_set_stays_but_for_what_the_agent_sets() {
        let text = "# Do not edit\nwork_mem = '33MB'\nsynchronous_standby_names = ''\n  Port=1\n";
        let (kept, removed) = without_reserved(text);
        assert_eq!(kept, "# Do not edit\nwork_mem = '33MB'\n");
        assert_eq!(removed, ["synchronous_standby_names", "port"]);
    }

    #[test]
    fn the_users_lines_are_found_again_in_the_file() {
        let lines = vec!["host all all ::/0 md5".to_owned(), "# x".to_owned()];
        let with = Configuration {
            hba: Some(lines.clone()),
            ..configuration()
        };
        assert_eq!(user_hba_lines(&with.render_hba()), Some(lines));
        assert_eq!(user_hba_lines("local all all trust\n"), None);
    }

    #[test]
    fn a_setting_is_quoted_for_postgresqls_lexer() {
        for (value, quoted) in [
            ("4MB", "'4MB'"),
            ("it's", "'it''s'"),
            (r"s/\./_/", r"'s/\\./_/'"),
            (r"C:\new", r"'C:\\new'"),
            ("two\nlines\r", r"'two\nlines\r'"),
        ] {
            assert_eq!(quote_setting(value), quoted);
        }
    }

    #[test]
    fn quotes_cannot_break_out_of_a_statement() {
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_identifier("a\"b"), "\"a\"\"b\"");
    }

    #[test]
    fn no_password_is_written_and_each_role_of_the_agents_may_log_in() {
        let mut configuration = configuration();
        configuration.authentication.rewind = Some(role("rewinder"));
        let (text, hba) = (configuration.render(), configuration.render_hba());
        assert!(!text.contains("secret") && !hba.contains("secret"));
        for line in [
            "local all \"postgres\" trust",
            "host replication \"replicator\" all scram-sha-256",
            "host postgres \"rewinder\" all scram-sha-256",
        ] {
            assert!(hba.contains(line), "{hba}");
        }
    }

    #[test]
    fn files_are_written_once_the_base_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(
            directory.path().join("postgresql.conf"),
            "max_connections = 7\n",
        )
        .unwrap();
        configuration().write(directory.path()).unwrap();
        configuration().write(directory.path()).unwrap();
        let base = std::fs::read_to_string(directory.path().join("postgresql.base.conf")).unwrap();
        assert_eq!(base, "max_connections = 7\n");

        // A base that was deleted is not made from a file that includes it.
        std::fs::remove_file(directory.path().join("postgresql.base.conf")).unwrap();
        configuration().write(directory.path()).unwrap();
        let base = std::fs::read_to_string(directory.path().join("postgresql.base.conf")).unwrap();
        assert_eq!(base, "");
    }
}
