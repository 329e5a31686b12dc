//! Passwords, by what the server stores and by logins of libpq.

use mrg_base::Address;
use mrg_postgres::{
    accepts, conninfo, fits_passfile, is_scram, quote_identifier, quote_literal, verifier,
};
use serde_json::json;

use crate::libpq::ask;
use crate::server::server;
use crate::text::{fitting, many, report};

/// Passwords that libpq and PostgreSQL can be given. One that has only characters that
/// `SASLprep` drops is an empty password to this crate's SCRAM, and itself to PostgreSQL's.
fn passwords() -> Vec<String> {
    let dropped = |c: char| matches!(c, '\u{ad}' | '\u{200b}'..='\u{200d}' | '\u{feff}');
    let fits = move |text: &str| fits_passfile(text) && !text.chars().all(dropped);
    many(20, fitting(fits))
}

#[test]
fn a_role_logs_in_with_the_password_of_its_verifier() {
    let server = server();
    let passwords = passwords();
    let to = Address {
        host: "127.0.0.1".to_owned(),
        port: server.port(),
    };
    let mut questions = Vec::new();
    for (number, password) in passwords.iter().enumerate() {
        let user = format!("r{number}");
        let verifier = quote_literal(&verifier(password));
        server
            .execute(&format!("CREATE ROLE {user} LOGIN PASSWORD {verifier}"))
            .unwrap();
        let login = conninfo(
            &to,
            &user,
            &[("dbname", "postgres"), ("password", password)],
        );
        questions.push(json!(["login", login, "SELECT session_user"]));
    }
    let mut wrong = Vec::new();
    for (number, (password, found)) in passwords.iter().zip(ask(&questions)).enumerate() {
        if found.as_str() != Some(&format!("r{number}")) {
            wrong.push(format!("{password:?}: {found}"));
        }
        server.execute(&format!("DROP ROLE r{number}")).unwrap();
    }
    report(wrong);
}

#[test]
fn the_verifier_that_the_server_makes_accepts_its_password_and_no_other() {
    let server = server();
    let (role, mut wrong) = (quote_identifier("it's \\ a \"role\""), Vec::new());
    server
        .execute(&format!("CREATE ROLE {role} LOGIN"))
        .unwrap();
    for password in passwords() {
        server
            .execute(&format!(
                "ALTER ROLE {role} PASSWORD {}",
                quote_literal(&password)
            ))
            .unwrap();
        let rows = server.rows("SELECT rolpassword FROM pg_authid WHERE rolname LIKE '%role%\"'");
        let stored = rows[0][0].clone().unwrap();
        let other = format!("{password}x");
        if !is_scram(&stored) || !accepts(&stored, "u", &password) || accepts(&stored, "u", &other)
        {
            wrong.push(format!("{password:?}: {stored}"));
        }
    }
    server.execute(&format!("DROP ROLE {role}")).unwrap();
    report(wrong);
}
