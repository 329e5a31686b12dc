//! `postgresql.conf`, by `pg_file_settings`, by what is in force after a reload, and by `postgres -C`.

use std::collections::BTreeMap;

use mrg_base::ParameterName;
use mrg_postgres::{Configuration, RESERVED_PARAMETERS};
use proptest::prelude::*;
use proptest::sample::select;

use crate::server::{Server, postgres, server, succeed};
use crate::text::{many, report, text};

/// A custom parameter takes any text.
fn custom(number: usize) -> ParameterName {
    ParameterName::new(&format!("t.p{number}")).unwrap()
}

/// What the files say, by name.
fn file_settings(server: &Server) -> BTreeMap<String, String> {
    let rows = server.rows("SELECT name, setting, error FROM pg_file_settings");
    let rows = rows.into_iter().map(|row| match <[_; 3]>::try_from(row) {
        Ok([Some(name), Some(setting), _]) => (name, setting),
        other => panic!("pg_file_settings has {other:?}"),
    });
    rows.collect()
}

#[test]
fn a_running_server_has_each_parameter_as_it_was_set() {
    let server = server();
    for (round, values) in many(1500, text()).chunks(500).enumerate() {
        let mut parameters: BTreeMap<_, _> = values
            .iter()
            .enumerate()
            .map(|(number, value)| (custom(number), value.clone()))
            .collect();
        let round = round.to_string();
        parameters.insert(ParameterName::new("t.round").unwrap(), round.clone());
        let prefix = ParameterName::new("log_line_prefix").unwrap();
        parameters.insert(prefix, values[0].clone());
        server.write(&Configuration {
            parameters: parameters.clone(),
            ..server.configuration()
        });
        let in_file = file_settings(&server);
        server.execute("SELECT pg_reload_conf()").unwrap();
        server.wait_for("SELECT current_setting('t.round', true)", &round);
        let mut wrong = Vec::new();
        for (name, value) in &parameters {
            let in_force = server.rows(&format!("SELECT current_setting('{name}')"));
            let in_file = in_file.get(name.as_str());
            if in_file != Some(value) || in_force != [[Some(value.clone())]] {
                wrong.push(format!("{value:?} is {in_file:?}, then {in_force:?}"));
            }
        }
        report(wrong);
    }
    server.write(&server.configuration());
}

#[test]
fn a_server_that_starts_has_a_parameter_as_it_was_set() {
    let server = server();
    let mut wrong = Vec::new();
    for value in many(15, text()) {
        let prefix = ParameterName::new("log_line_prefix").unwrap();
        server.write(&Configuration {
            parameters: [(prefix, value.clone())].into(),
            ..server.configuration()
        });
        let mut asked = postgres();
        asked.args(["-C", "log_line_prefix", "-D"]);
        let printed = succeed(asked.arg(server.data())).stdout;
        if printed != format!("{value}\n").as_bytes() {
            wrong.push(format!(
                "{value:?} is {:?}",
                String::from_utf8_lossy(&printed)
            ));
        }
    }
    server.write(&server.configuration());
    report(wrong);
}

#[test]
fn what_is_taken_for_a_parameters_name_is_one_to_the_server() {
    let pieces = [
        "a", "Z", "_", "0", "9", ".", "..", "$", "-", " ", "\t", "\n", "=", "'", "#", "é", "\\",
        "include", "work_mem", "İ",
    ];
    let piece =
        prop_oneof![4 => "[a-zA-Z_0-9]", 1 => select(pieces.to_vec()).prop_map(str::to_owned)];
    let parts = proptest::collection::vec(piece, 1..6);
    let candidates = many(4000, parts.prop_map(|parts| parts.concat()));
    let names: BTreeMap<ParameterName, String> = candidates
        .iter()
        .filter_map(|text| Some((ParameterName::new(text).ok()?, "x".to_owned())))
        .collect();
    assert!(names.len() > 100, "{}", names.len());
    let server = server();
    server.write(&Configuration {
        parameters: names.clone(),
        ..server.configuration()
    });
    let in_file = file_settings(&server);
    server.write(&server.configuration());
    let unknown = |name: &&ParameterName| !in_file.contains_key(name.as_str());
    report(
        names
            .keys()
            .filter(unknown)
            .map(ToString::to_string)
            .collect(),
    );
}

/// Each way to write a parameter in a file.
fn assignment() -> impl Strategy<Value = (&'static str, String)> {
    let before = select(&["", " ", "\t", "\r", " \t"][..]);
    let between = select(&["=", " = ", " ", "\t", "", "\t=", "\r"][..]);
    let after = select(&["", " # comment", "\t"][..]);
    let parts = (
        before,
        select(RESERVED_PARAMETERS),
        any::<bool>(),
        between,
        after,
    );
    parts.prop_map(|(before, name, upper, between, after)| {
        let written = if upper {
            name.to_ascii_uppercase()
        } else {
            name.to_owned()
        };
        (name, format!("{before}{written}{between}'x'{after}\n"))
    })
}

#[test]
fn what_the_agent_sets_itself_is_not_set_by_alter_system_however_it_is_written() {
    let server = server();
    let auto = server.data().join("postgresql.auto.conf");
    let assignments = many(300, assignment());
    let lines: String = assignments.iter().map(|(_, line)| line.as_str()).collect();
    std::fs::write(&auto, format!("{lines}t.kept = 'it''s = kept'\n")).unwrap();
    let written = server.configuration().write(&server.data()).unwrap();
    server.write(&server.configuration());
    let from_auto = server
        .rows("SELECT name, setting FROM pg_file_settings WHERE sourcefile LIKE '%auto.conf'");
    std::fs::write(&auto, "").unwrap();
    assert_eq!(
        from_auto,
        [["t.kept", "it's = kept"].map(|text| Some(text.to_owned()))]
    );
    let expected: Vec<&str> = assignments.iter().map(|(name, _)| *name).collect();
    assert_eq!(written, expected);
}
