//! `postgresql.parameters`, of a file or of the dynamic configuration.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use mrg_base::{InvalidParameterName, ParameterName};
use mrg_postgres::RESERVED_PARAMETERS;

/// Parameters by name, with the values that `postgresql.conf` has.
pub(crate) type Parameters = BTreeMap<ParameterName, String>;

/// Where settings that execute or load code are taken from. What etcd says is data: access to etcd
/// is not to be access to every member as the user of postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodeSource {
    /// From the member's own file.
    MemberFile,
    /// From a file that the operator mounts.
    Mounted,
    /// From the dynamic configuration as well, as Patroni does.
    Store,
}

/// Why a parameter cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Untaken {
    Name(InvalidParameterName),
    /// The value has a character that ends a string in PostgreSQL.
    Nul,
    /// It executes or loads code, and comes from etcd.
    Executes(CodeSource),
    /// The same, and in a file it has no effect either.
    Reserved,
}

impl fmt::Display for Untaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instead = match self {
            Self::Name(invalid) => return invalid.fmt(f),
            Self::Nul => return f.write_str("its value has a NUL in it; remove that"),
            Self::Reserved => "remove it: the agent sets it itself",
            Self::Executes(CodeSource::Mounted) => {
                "set it in spec.postgresql.parameters of the PostgresCluster"
            }
            Self::Executes(CodeSource::MemberFile | CodeSource::Store) => {
                "move it to postgresql.parameters of each member's file, or set mrg.executable_settings_from_dcs: true there to take it from etcd as Patroni does"
            }
        };
        write!(
            f,
            "not taken from etcd, since it executes or loads code; {instead}"
        )
    }
}

impl Untaken {
    pub(crate) fn executes(self) -> bool {
        matches!(self, Self::Executes(_) | Self::Reserved)
    }
}

/// A parameter's value as `postgresql.conf` has it.
pub(crate) fn parameter_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => if *flag { "on" } else { "off" }.to_owned(),
        other => other.to_string(),
    }
}

/// Reads the parameters of a file of the member, and gives the others with the reason.
pub(crate) fn of_file(values: &Map<String, Value>) -> (Parameters, Vec<(String, Untaken)>) {
    read(values, None)
}

/// Reads the parameters of the dynamic configuration, and gives the others with the reason.
pub(crate) fn of_store(
    values: &Map<String, Value>,
    code: CodeSource,
) -> (Parameters, Vec<(String, Untaken)>) {
    read(values, (code != CodeSource::Store).then_some(code))
}

/// `elsewhere` is where settings that execute or load code are taken from, if not from here.
fn read(
    values: &Map<String, Value>,
    elsewhere: Option<CodeSource>,
) -> (Parameters, Vec<(String, Untaken)>) {
    let (mut parameters, mut untaken) = (Parameters::new(), Vec::new());
    for (name, value) in values.iter().filter(|(_, value)| !value.is_null()) {
        let text = parameter_text(value);
        let read = ParameterName::new(name).map_err(Untaken::Name);
        let read = read.and_then(|name| match elsewhere.filter(|_| name.executes()) {
            Some(_) if RESERVED_PARAMETERS.contains(&name.as_str()) => Err(Untaken::Reserved),
            Some(code) => Err(Untaken::Executes(code)),
            None if text.contains('\0') => Err(Untaken::Nul),
            None => Ok(name),
        });
        match read {
            Ok(parsed) => {
                parameters.insert(parsed, text);
            }
            Err(why) => untaken.push((name.clone(), why)),
        }
    }
    (parameters, untaken)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values() -> Map<String, Value> {
        let values = json!({
            "Work_Mem": "4MB", "fsync": true, "max_connections": 70, "archive_mode": null,
            "Restore_Command": "cp /a %p", "recovery_end_command": "id", "x.preload_libraries": "x", "include": "/tmp/x.conf",
            "work_mem = '1MB'\nrestore_command": "id", "application_name": "a\u{0}b",
        });
        values.as_object().cloned().unwrap_or_default()
    }

    fn names(parameters: &Parameters) -> Vec<&str> {
        parameters.keys().map(ParameterName::as_str).collect()
    }

    #[test]
    fn what_comes_from_the_store_executes_nothing() {
        for code in [CodeSource::MemberFile, CodeSource::Mounted] {
            let (parameters, untaken) = of_store(&values(), code);
            assert_eq!(names(&parameters), ["fsync", "max_connections", "work_mem"]);
            let executing: Vec<&str> = untaken
                .iter()
                .filter(|(_, why)| why.executes())
                .map(|(name, _)| name.as_str())
                .collect();
            assert_eq!(
                executing,
                [
                    "Restore_Command",
                    "recovery_end_command",
                    "x.preload_libraries"
                ]
            );
            assert_eq!(untaken.len(), 6, "{untaken:?}");
        }
    }

    #[test]
    fn a_file_may_name_programs_but_no_directives() {
        for (parameters, untaken) in [of_file(&values()), of_store(&values(), CodeSource::Store)] {
            assert_eq!(
                names(&parameters),
                [
                    "fsync",
                    "max_connections",
                    "recovery_end_command",
                    "restore_command",
                    "work_mem",
                    "x.preload_libraries"
                ]
            );
            assert_eq!(parameters.get("fsync").map(String::as_str), Some("on"));
            assert_eq!(untaken.len(), 3, "{untaken:?}");
        }
    }

    #[test]
    fn each_reason_names_the_way_out() {
        for (untaken, way_out) in [
            (
                Untaken::Executes(CodeSource::MemberFile),
                "each member's file",
            ),
            (
                Untaken::Executes(CodeSource::Mounted),
                "spec.postgresql.parameters",
            ),
            (Untaken::Nul, "remove"),
            (Untaken::Reserved, "remove it"),
            (
                Untaken::Name(InvalidParameterName::Directive),
                "set what the file sets",
            ),
        ] {
            assert!(untaken.to_string().contains(way_out), "{untaken}");
        }
    }
}
