//! Connection strings, passfiles and addresses, by libpq.

use std::io::Write;
use std::process::{Command, Stdio};

use mrg_base::Address;
use mrg_postgres::{Credentials, conninfo, fits_passfile, passfile, write_private};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use crate::text::{fitting, many, name, report, text};

/// What libpq answers, in order.
pub(crate) fn ask(questions: &[Value]) -> Vec<Value> {
    let mut python = Command::new("python3")
        .args(["-c", include_str!("libpq.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = python.stdin.take().unwrap();
    let lines: Vec<String> = questions.iter().map(Value::to_string).collect();
    let lines = lines.join("\n");
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = python.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), questions.len());
    answers
}

fn address() -> impl Strategy<Value = Address> {
    let host = select(
        &[
            "a",
            "pg-1",
            "pg_node.example.com",
            "10.0.0.2",
            "::1",
            "2001:db8::7",
            "fe80::1%eth0",
        ][..],
    );
    let of = |(host, port): (&str, u16)| Address {
        host: host.to_owned(),
        port,
    };
    (host, 1..u16::MAX).prop_map(of)
}

#[test]
fn a_connection_string_says_what_it_was_made_of() {
    let cases = many(3000, (address(), text(), text(), text()));
    let questions: Vec<Value> = cases
        .iter()
        .map(|(to, user, application, path)| {
            let options = [
                ("application_name", application.as_str()),
                ("passfile", path),
            ];
            json!(["parse", conninfo(to, user, &options)])
        })
        .collect();
    let mut wrong = Vec::new();
    for ((to, user, application, path), found) in cases.iter().zip(ask(&questions)) {
        let expected = json!({
            "host": to.host, "port": to.port.to_string(), "user": user, "application_name": application, "passfile": path,
        });
        if found != expected {
            wrong.push(format!("{expected} is read as {found}"));
        }
    }
    report(wrong);
}

#[test]
fn each_role_finds_its_own_password_in_a_passfile() {
    let password = fitting(|text| !text.is_empty() && fits_passfile(text));
    // A star alone stands for every name.
    let user = prop_oneof![9 => name(), 1 => Just("*".to_owned())];
    let user = user.prop_filter("does not fit", |name| fits_passfile(name));
    let role = (user, password).prop_map(|(username, password)| Credentials { username, password });
    let directory = tempfile::tempdir().unwrap();
    let (mut questions, mut roles) = (Vec::new(), Vec::new());
    for (number, three) in many(700, proptest::collection::vec(role, 3))
        .iter()
        .enumerate()
    {
        let path = directory.path().join(number.to_string());
        write_private(&path, &passfile(three)).unwrap();
        let to = Address {
            host: "/nowhere".to_owned(),
            port: 1,
        };
        for role in three {
            let path = path.to_string_lossy();
            questions.push(json!([
                "password",
                conninfo(&to, &role.username, &[("passfile", &path)])
            ]));
            // The first of two lines with one name counts.
            let first = three
                .iter()
                .find(|other| other.username == role.username)
                .unwrap();
            roles.push((first.username.clone(), first.password.clone()));
        }
    }
    let mut wrong = Vec::new();
    for ((user, password), found) in roles.into_iter().zip(ask(&questions)) {
        if found != password.as_str() {
            wrong.push(format!("{user:?} has {password:?} and gets {found}"));
        }
    }
    report(wrong);
}

#[test]
fn what_is_an_address_is_one_host_and_one_port_to_libpq() {
    let host = prop_oneof![
        3 => "[a-zA-Z0-9._-]{1,12}",
        1 => "\\[[0-9a-f:.%]{2,9}\\]",
        2 => text(),
        1 => address().prop_map(|address| address.to_string().rsplit_once(':').unwrap().0.to_owned()),
    ];
    let port = prop_oneof![4 => any::<u16>().prop_map(|port| port.to_string()), 1 => text()];
    let texts = many(
        6000,
        (host, port).prop_map(|(host, port)| format!("{host}:{port}")),
    );
    let addresses: Vec<Address> = texts.iter().filter_map(|text| text.parse().ok()).collect();
    assert!(addresses.len() > 1000, "{}", addresses.len());
    let questions: Vec<Value> = addresses
        .iter()
        .flat_map(|address| {
            // libpq would read the zone of an IPv6 address as an escape of the URI.
            let url = format!("postgres://{address}/postgres").replace('%', "%25");
            [
                json!(["parse", conninfo(address, "u", &[])]),
                json!(["parse", url]),
            ]
        })
        .collect();
    let mut wrong = Vec::new();
    for (address, found) in addresses.iter().zip(ask(&questions).chunks(2)) {
        let port = address.port.to_string();
        let is_it =
            |found: &Value| found["host"] == address.host && found["port"].as_str() == Some(&port);
        let again = address.to_string().parse::<Address>();
        if !found.iter().all(is_it) || again.as_ref() != Ok(address) {
            wrong.push(format!("{address:?} is read as {found:?} and {again:?}"));
        }
    }
    report(wrong);
}
