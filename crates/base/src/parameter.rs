//! Names of PostgreSQL's parameters, and which of them execute or load code.

use std::borrow::Borrow;
use std::fmt;

/// Parameters that a standby must not set lower than its primary has them (PostgreSQL's manual,
/// "Hot Standby").
pub const FLOORED_PARAMETERS: &[&str] = &[
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
];

/// The last word of the name of a parameter whose value is run or loaded: `archive_command`,
/// `shared_preload_libraries`, `pgsodium.getkey_script`. Extensions name theirs like PostgreSQL.
const LAST_WORDS: &[&str] = &["command", "library", "libraries", "program", "script"];

/// Parameters that execute or load code and do not say so by their last word.
const OTHERS: &[&str] = &[
    // Where libraries and extensions are looked up; the last one is Debian's.
    "dynamic_library_path",
    "extension_control_path",
    "extension_destdir",
    // A library.
    "jit_provider",
    // Files that the server writes: with `log_line_prefix` a log becomes any file that is read later.
    "log_directory",
    "log_filename",
    // A file that decides who gets in, by a library of its own.
    "krb_server_keyfile",
    // Code of procedural languages.
    "plperl.on_init",
    "plperl.on_plperl_init",
    "plperl.on_plperlu_init",
    "pltcl.start_proc",
    "pltclu.start_proc",
    "plv8.start_proc",
    "pljava.classpath",
    "pljava.libjvm_location",
    "pljava.module_path",
    "pljava.vmoptions",
    // SQL files that are run as superuser when an extension is created.
    "extwlist.custom_path",
    "supautils.extension_custom_scripts_path",
    "supautils.privileged_extensions_custom_scripts_path",
];

/// Directives of `postgresql.conf` that its grammar takes for parameters.
const DIRECTIVES: &[&str] = &["include", "include_dir", "include_if_exists"];

/// A parameter's name, in lower case: PostgreSQL compares names regardless of the case of ASCII
/// letters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParameterName(String);

/// Why a text is not a parameter's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidParameterName {
    /// `postgresql.conf` has no such names.
    Grammar,
    /// `postgresql.conf` would include a file.
    Directive,
}

impl fmt::Display for InvalidParameterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grammar => {
                "is not a parameter's name: letters, digits and `_`, with at most one `.` between two such names"
            }
            Self::Directive => {
                "is a directive that includes a file, and not a parameter; set what the file sets"
            }
        })
    }
}

impl std::error::Error for InvalidParameterName {}

impl ParameterName {
    /// Parses a name, in any case.
    ///
    /// # Errors
    /// If `postgresql.conf` would not read it as the name of a parameter.
    pub fn new(text: &str) -> Result<Self, InvalidParameterName> {
        let is_identifier = |part: &str| {
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            part.bytes().all(legal) && part.bytes().next().is_some_and(|b| !b.is_ascii_digit())
        };
        let (first, second) = text.split_once('.').unwrap_or((text, "_"));
        if !is_identifier(first) || !is_identifier(second) {
            return Err(InvalidParameterName::Grammar);
        }
        let name = text.to_ascii_lowercase();
        if DIRECTIVES.contains(&name.as_str()) {
            return Err(InvalidParameterName::Directive);
        }
        Ok(Self(name))
    }

    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the server runs its value, loads it, looks code up there, or writes a file there that
    /// could be run: setting it is acting as the server's user.
    pub fn executes(&self) -> bool {
        let last = self.0.rsplit(['_', '.']).next().unwrap_or_default();
        LAST_WORDS.contains(&last) || OTHERS.contains(&self.as_str())
    }
}

impl Borrow<str> for ParameterName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ParameterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executes(text: &str) -> bool {
        ParameterName::new(text).unwrap().executes()
    }

    #[test]
    fn every_parameter_of_postgresql_that_runs_or_loads_code_is_known() {
        // From `postgres --describe-config` of 15 to 18 and the manual's chapters on archiving,
        // preloading and authentication.
        for name in [
            "archive_cleanup_command",
            "archive_command",
            "archive_library",
            "dynamic_library_path",
            "extension_control_path",
            "jit_provider",
            "krb_server_keyfile",
            "local_preload_libraries",
            "log_directory",
            "log_filename",
            "oauth_validator_libraries",
            "recovery_end_command",
            "restore_command",
            "session_preload_libraries",
            "shared_preload_libraries",
            "ssl_passphrase_command",
        ] {
            assert!(executes(name), "{name}");
            assert!(executes(&name.to_ascii_uppercase()), "{name}");
        }
    }

    #[test]
    fn an_extensions_parameter_is_known_by_its_last_word() {
        for name in [
            "backup.archive_command",
            "x.command",
            "pgsodium.getkey_script",
            "a.some_Library",
            "plperl.on_init",
        ] {
            assert!(executes(name), "{name}");
        }
    }

    #[test]
    fn parameters_that_only_look_like_commands_are_data() {
        for name in [
            "log_replication_commands",
            "ssl_passphrase_command_supports_reload",
            "archive_mode",
            "log_line_prefix",
            "ssl_cert_file",
            "pg_stat_statements.max",
            "shared_buffers",
            "jit",
        ] {
            assert!(!executes(name), "{name}");
        }
    }

    #[test]
    fn a_name_is_one_that_the_configuration_file_reads_as_such() {
        for (text, expected) in [
            ("Work_Mem", Ok("work_mem")),
            ("_a1.B2_", Ok("_a1.b2_")),
            ("", Err(InvalidParameterName::Grammar)),
            ("1a", Err(InvalidParameterName::Grammar)),
            ("a.1b", Err(InvalidParameterName::Grammar)),
            ("a.", Err(InvalidParameterName::Grammar)),
            (".a", Err(InvalidParameterName::Grammar)),
            ("a.b.c", Err(InvalidParameterName::Grammar)),
            ("a-b", Err(InvalidParameterName::Grammar)),
            (" archive_command", Err(InvalidParameterName::Grammar)),
            (
                "work_mem = 1\narchive_command",
                Err(InvalidParameterName::Grammar),
            ),
            ("Include", Err(InvalidParameterName::Directive)),
            ("include_dir", Err(InvalidParameterName::Directive)),
            ("include_if_exists", Err(InvalidParameterName::Directive)),
        ] {
            let name = ParameterName::new(text);
            assert_eq!(
                name.as_ref().map(ParameterName::as_str),
                expected.as_ref().copied(),
                "{text:?}"
            );
        }
    }
}
