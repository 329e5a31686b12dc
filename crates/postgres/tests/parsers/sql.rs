//! Literals and identifiers, in a session of the agent's.

use mrg_postgres::{quote_identifier, quote_literal};

use crate::server::server;
use crate::text::{many, name, report, text};

#[test]
fn a_literal_is_the_text_that_it_was_made_of_whatever_the_role_is_set_to() {
    let server = server();
    let mut wrong = Vec::new();
    for conforming in ["on", "off"] {
        let set = format!("ALTER ROLE postgres SET standard_conforming_strings = {conforming}");
        server.execute(&set).unwrap();
        for some in many(2000, text()).chunks(100) {
            let literals: Vec<String> = some.iter().map(|text| quote_literal(text)).collect();
            let sql = format!("SELECT unnest(ARRAY[{}]::text[])", literals.join(", "));
            let found = server.in_agents_session(&sql);
            let found = found.unwrap_or_else(|error| vec![format!("{error:?}"); some.len()]);
            for (text, found) in some.iter().zip(found) {
                if *text != found {
                    wrong.push(format!("{conforming}: {text:?} is {found:?}"));
                }
            }
        }
    }
    server
        .execute("ALTER ROLE postgres RESET standard_conforming_strings")
        .unwrap();
    report(wrong);
}

#[test]
fn an_identifier_is_the_name_that_it_was_made_of() {
    let server = server();
    let mut wrong = Vec::new();
    for some in many(400, name()).chunks(100) {
        for (number, name) in some.iter().enumerate() {
            let table = quote_identifier(name);
            let sql = format!(
                "CREATE TEMP TABLE {table} ({table} int); COMMENT ON TABLE {table} IS '{number}'"
            );
            // The same name twice is no fault.
            let _ = server.execute(&sql);
        }
        let found = server.rows(
            "SELECT relname::text, attname::text FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid AND attnum = 1
             WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r'",
        );
        for name in some {
            let row = [Some(name.clone()), Some(name.clone())];
            if !found.iter().any(|found| **found == row) {
                wrong.push(format!("{name:?}"));
            }
        }
        server.execute("DISCARD TEMP").unwrap();
    }
    report(wrong);
}
