//! `pgbouncer.ini`, by what the console shows.

use std::collections::BTreeMap;

use mrg_pgbouncer::{Database, is_one_line};
use proptest::prelude::*;

use crate::bouncer::{Bouncer, login};
use crate::text::{many, report, text};

/// Settings that take any text.
const SETTINGS: [&str; 3] = [
    "server_check_query",
    "server_reset_query",
    "ignore_startup_parameters",
];

async fn setting(bouncer: &Bouncer, name: &str) -> Option<String> {
    let rows = bouncer.show("CONFIG").await;
    let row = rows.iter().find(|row| row["key"] == name)?;
    row.get("value").cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_is_what_it_was_set_to_or_is_refused() {
    let mut bouncer = Bouncer::start(Vec::new(), vec![login("app", "secret")], 1).await;
    let (mut wrong, mut refused) = (Vec::new(), 0);
    for values in many(150, proptest::collection::vec(text(), 3)) {
        refused += values.iter().filter(|value| !is_one_line(value)).count();
        let fitting = SETTINGS
            .iter()
            .zip(&values)
            .filter(|(_, value)| is_one_line(value));
        bouncer.configuration.settings = fitting
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        bouncer.reload().await;
        for (name, value) in &bouncer.configuration.settings {
            let found = setting(&bouncer, name).await;
            if found.as_ref() != Some(value) {
                wrong.push(format!("{name}: {value:?} is {found:?}"));
            }
        }
    }
    assert!(refused > 20, "{refused}");
    report(wrong);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_is_what_the_console_was_told() {
    let bouncer = Bouncer::start(Vec::new(), vec![login("app", "secret")], 1).await;
    let console = bouncer.console().await;
    let mut wrong = Vec::new();
    for value in many(150, text()) {
        let set = console.set("server_check_query", &value).await;
        let found = setting(&bouncer, "server_check_query").await;
        if set.is_ok() && found.as_ref() != Some(&value) {
            wrong.push(format!("{value:?} is {found:?}"));
        }
        if set.is_err() && is_one_line(&value) {
            wrong.push(format!("{value:?}: {set:?}"));
        }
    }
    report(wrong);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_database_and_each_process_leads_where_it_was_to_lead() {
    let any = ("[a-zA-Z0-9_.-]{1,12}", text());
    let named = any.prop_map(|(alias, name)| Database { alias, name });
    let fitting = named.prop_filter("is refused", |database| database.check().is_ok());
    // Each alias once.
    let databases: BTreeMap<String, Database> = many(300, fitting)
        .into_iter()
        .map(|database| (database.alias.clone(), database))
        .collect();
    let bouncer = Bouncer::start(
        databases.into_values().collect(),
        vec![login("app", "secret")],
        2,
    )
    .await;
    let rows = bouncer.show("DATABASES").await;
    let mut wrong = Vec::new();
    for database in &bouncer.configuration.databases {
        let found = rows.iter().find(|row| row["name"] == database.alias);
        let leads = found.is_some_and(|row| {
            row["database"] == database.name
                && row["host"].ends_with("/server's \\ x")
                && row["port"] == "1"
        });
        if !leads {
            wrong.push(format!("{database:?} is {found:?}"));
        }
    }
    report(wrong);
    let peers: Vec<String> = bouncer
        .show("PEERS")
        .await
        .iter()
        .map(|row| row["host"].clone())
        .collect();
    let parent = bouncer.configuration.directory.parent().unwrap();
    assert_eq!(
        peers,
        ["1", "2"].map(|number| parent.join(number).to_string_lossy().into_owned())
    );
}
