//! The user list, by logins.

use std::collections::BTreeMap;

use mrg_pgbouncer::{Database, Login};
use proptest::prelude::*;
use proptest::sample::select;
use tokio_postgres::SimpleQueryMessage;

use crate::bouncer::{Bouncer, login};
use crate::text::{many, name, report, text};

/// Passwords that PgBouncer could take for something else, or for the end of its list.
fn odd_passwords() -> Vec<String> {
    let hash = "0123456789abcdef0123456789abcdef";
    vec![
        format!("md5{hash}"),
        format!("md5{hash}x"),
        verifier(),
        "SCRAM-SHA-256$".to_owned(),
        "\"".repeat(1023),
        "\"".repeat(1024),
        "x".repeat(1023),
        "x".repeat(1024),
        "a\0b".to_owned(),
        String::new(),
    ]
}

/// What RFC 7677 has for the password `pencil`.
fn verifier() -> String {
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_user_logs_in_with_its_password_and_is_itself_to_the_server() {
    let database = Database {
        alias: "db".to_owned(),
        name: "it's \\ \"x".to_owned(),
    };
    let any = (name(), text()).prop_map(|(user, password)| login(&user, &password));
    let mut logins = many(40, any);
    let odd = odd_passwords().into_iter().enumerate();
    logins.extend(odd.map(|(number, password)| login(&format!("odd {number}"), &password)));
    let refused: Vec<&Login> = logins
        .iter()
        .filter(|login| login.check().is_err())
        .collect();
    assert!(refused.len() > 3 && refused.len() < 20, "{refused:?}");
    let logins: BTreeMap<String, Login> = logins
        .iter()
        .filter(|login| login.check().is_ok())
        .map(|login| (login.user.clone(), login.clone()))
        .collect();
    let bouncer = Bouncer::start(vec![database], logins.into_values().collect(), 1).await;
    let mut wrong = Vec::new();
    for login in &bouncer.configuration.logins {
        let found = match bouncer.connect("db", login).await {
            Ok(client) => bouncer.ask(&client).await,
            Err(error) => Err(error),
        };
        let is_right = found.as_ref().is_ok_and(|messages| {
            messages.iter().any(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    row.get(0) == Some(&login.user) && row.get(1) == Some("it's \\ \"x")
                }
                _ => false,
            })
        });
        if !is_right {
            let password: String = login.password.chars().take(80).collect();
            wrong.push(format!("{:?} with {password:?}: {found:?}", login.user));
        }
    }
    report(wrong);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_does_not_log_in_with_another_password() {
    let right = login("app", "it's \"x\" \\");
    let database = Database {
        alias: "db".to_owned(),
        name: "x".to_owned(),
    };
    let bouncer = Bouncer::start(vec![database], vec![right.clone()], 1).await;
    assert!(
        bouncer.connect("db", &right).await.is_ok(),
        "{}",
        bouncer.log()
    );
    let pieces = select(vec![
        "it's \"\"x\"\" \\",
        "it's \"x\" \\\\",
        "it's ",
        "",
        "it's \"x\" \\ ",
    ]);
    for password in many(5, pieces) {
        let other = login("app", password);
        assert!(bouncer.connect("db", &other).await.is_err(), "{password}");
    }
}
