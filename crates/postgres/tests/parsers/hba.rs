//! `pg_hba.conf`, by `pg_hba_file_rules`.

use std::collections::BTreeMap;

use mrg_postgres::{
    Authentication, Configuration, Credentials, HbaSource, check_hba_line, fits_passfile,
};
use proptest::prelude::*;
use proptest::sample::select;

use crate::server::{Server, server};
use crate::text::{many, name, report, text};

/// Why the server refuses each line of its file; `None` if it reads it. Lines without a rule are left
/// out.
fn verdicts(server: &Server) -> BTreeMap<usize, Option<String>> {
    // With an error beside what was read the line counts, and never matches.
    let rows = server.rows(
        "SELECT line_number::text, CASE WHEN type IS NULL THEN coalesce(error, 'nothing') END FROM pg_hba_file_rules",
    );
    let numbered = |row: Vec<Option<String>>| match <[_; 2]>::try_from(row) {
        Ok([Some(number), verdict]) => (number.parse().unwrap(), verdict),
        other => panic!("pg_hba_file_rules has {other:?}"),
    };
    rows.into_iter().map(numbered).collect()
}

fn user_name() -> impl Strategy<Value = String> {
    let special = [
        "all",
        "+all",
        "sameuser",
        "@users",
        "replication",
        "a,b",
        "# x",
        " x ",
        "x\\",
        "\"",
    ];
    let any = prop_oneof![3 => name(), 1 => select(special.to_vec()).prop_map(str::to_owned)];
    any.prop_filter("is refused", |name| fits_passfile(name))
}

#[test]
fn the_agents_own_lines_name_its_roles() {
    let server = server();
    let role = || {
        user_name().prop_map(|username| Credentials {
            username,
            password: String::new(),
        })
    };
    let mut wrong = Vec::new();
    for (superuser, replication, rewind) in many(200, (role(), role(), role())) {
        let names =
            [&superuser, &replication, &superuser, &rewind].map(|role| role.username.clone());
        let databases = ["all", "replication", "all", "postgres"];
        server.write(&Configuration {
            authentication: Authentication {
                superuser,
                replication,
                rewind: Some(rewind),
            },
            hba: Some(Vec::new()),
            ..server.configuration()
        });
        let found = server.rows(
            "SELECT array_to_string(database, '|'), array_to_string(user_name, '|'), cardinality(user_name)::text, error
             FROM pg_hba_file_rules ORDER BY line_number",
        );
        let expected = databases.iter().zip(&names).map(|(database, name)| {
            vec![
                Some((*database).to_owned()),
                Some(name.clone()),
                Some("1".to_owned()),
                None,
            ]
        });
        if !found.iter().cloned().eq(expected) {
            wrong.push(format!("{names:?} are {found:?}"));
        }
    }
    server.write(&server.configuration());
    report(wrong);
}

fn word(
    known: &'static [&'static str],
    odd: &'static [&'static str],
) -> impl Strategy<Value = String> {
    let plain = prop_oneof![15 => select(known), 1 => select(odd)];
    let written = (plain, 0..40_u8).prop_map(|(word, how)| match how {
        0 => format!("\"{word}\""),
        1 => format!("{word},"),
        2 => format!("{word},{word}"),
        _ => word.to_owned(),
    });
    prop_oneof![60 => written, 1 => text().prop_filter("breaks the line", |text| !text.contains('\n'))]
}

const NAMES: &[&str] = &[
    "all",
    "app",
    "sameuser",
    "replication",
    "+group",
    "a b",
    "a#b",
    "\"a\"\"b\"",
];
const ODD_NAMES: &[&str] = &[
    "@/nowhere/names",
    "x,@/nowhere/names",
    "",
    ",",
    "\"",
    "x\"@y\"",
    "\"\"@x",
    "x,\"@/nowhere/x\"",
];
const ADDRESSES: &[&str] = &[
    "all",
    "samenet",
    "samehost",
    "10.0.0.0/8",
    "::/0",
    "127.0.0.1/32",
    "10.0.0.0 255.0.0.0",
    ":: ff::",
    "example.com",
    ".example.com",
];
const ODD_ADDRESSES: &[&str] = &[
    "10.0.0.0",
    "10.0.0.0/33",
    "10/8",
    "1",
    "0x7f000001",
    "10.0.0.0/8/8",
    "example.com/8",
    "10.0.0.0 ff::",
    "::1 255.0.0.0",
    "::1/129",
    "999.0.0.1",
    "010.0.0.1/32",
    "10.0.0.0/+8",
    "10.0.0.0/",
    "/8",
    "fe80::1%lo/64",
    "::ffff:10.0.0.1/128",
    "@/nowhere/addresses",
    "a,@/nowhere/addresses",
    "a_b",
    "10.0.0.0 255.0.0.0,x",
    "1.2.3.4.5",
    "a:b",
];
const TYPES: &[&str] = &[
    "local",
    "host",
    "host",
    "hostssl",
    "hostnossl",
    "hostgssenc",
    "hostnogssenc",
];
const ODD_TYPES: &[&str] = &["hots", "Host", "@/nowhere/types", ""];
/// Methods with their options, for a socket, for TLS, or for any connection.
const ENDS: &[&str] = &[
    "trust",
    "reject",
    "scram-sha-256",
    "md5",
    "password",
    "ident map=m",
    "pam pamservice=p pam_use_hostname=1",
    "ldap ldapserver=l ldapprefix=\"cn=\"",
    "ldap ldapserver=l \"ldapbasedn=dc=x, dc=y\" ldapsearchattribute=uid ldapport=389 ldaptls=1",
    "ldap ldapscheme=ldaps ldapserver=l ldapsuffix=x",
    "radius radiusservers=10.0.0.1 radiussecrets=s",
    "radius \"radiusservers=10.0.0.1, 10.0.0.2\" \"radiussecrets=\"\"s\"\"\"",
    "trust # local all all",
    "md5#",
];
const OTHER_ENDS: &[&str] = &[
    "peer",
    "peer map=m",
    "gss include_realm=0 krb_realm=R",
    "gss map=m",
    "cert",
    "cert map=m clientname=DN",
    "cert clientcert=verify-full",
    "md5 clientcert=verify-ca",
    "md5 clientname=CN",
];
const ODD_ENDS: &[&str] = &[
    "Trust",
    "krb5",
    "@/nowhere/methods",
    "trust,trust",
    "trust map=m",
    "peer map",
    "ident mapp=m",
    "ident @/nowhere/options=1",
    "ident map=a,b",
    "ident map=a,b=c",
    "md5 clientcert=1",
    "ldap ldapserver=l",
    "ldap ldapprefix=x ldapport=y",
    "md5 =",
    "md5 x,@/nowhere/o=1",
    "ident Map=m",
    "cert clientcert=verify-ca",
    "ldap ldapprefix=x ldapbasedn=y",
    "radius radiusservers=10.0.0.1",
    "radius radiussecrets=x",
    "ldap ldapbasedn=x ldapsearchattribute=a ldapsearchfilter=b",
    "pam krb_realm=R",
    "",
    "\"\"",
    "md5 \"",
    "sspi",
    "bsd",
    "oauth issuer=i scope=s",
];

/// A line that is right more often than not.
fn line() -> impl Strategy<Value = String> {
    let gap = prop_oneof![20 => Just(" "), 1 => select(&["\t", "  ", " , ", "\t \t"][..])];
    let end = prop_oneof![
        6 => select(ENDS).prop_map(str::to_owned),
        4 => select(OTHER_ENDS).prop_map(str::to_owned),
        2 => select(ODD_ENDS).prop_map(str::to_owned),
        1 => text().prop_filter("breaks the line", |text| !text.contains('\n')),
    ];
    let parts = (
        word(TYPES, ODD_TYPES),
        word(NAMES, ODD_NAMES),
        word(NAMES, ODD_NAMES),
        word(ADDRESSES, ODD_ADDRESSES),
        end,
        proptest::collection::vec(gap, 4),
    );
    parts.prop_map(|(kind, database, user, address, end, gaps)| {
        let is_local = kind.contains("local");
        let mut fields = vec![kind, database, user];
        fields.extend((!is_local).then_some(address));
        let with_gap = |(field, gap): (&String, &&str)| format!("{field}{gap}");
        fields.iter().zip(&gaps).map(with_gap).collect::<String>() + &end
    })
}

#[test]
fn a_line_is_right_to_the_agent_as_it_is_to_the_server() {
    let server = server();
    let (mut wrong, mut read, mut refused) = (Vec::new(), 0, 0);
    let lines = many(6000, prop_oneof![9 => line().boxed(), 1 => text().boxed()]);
    // Those that join or break lines would be other lines to the server.
    let whole: Vec<&String> = lines
        .iter()
        .filter(|line| !line.contains('\n') && !line.trim_end_matches('\r').ends_with('\\'))
        .collect();
    for some in whole.chunks(1000) {
        let file = some
            .iter()
            .map(|line| line.as_str())
            .collect::<Vec<_>>()
            .join("\n");
        std::fs::write(server.data().join("pg_hba.conf"), file).unwrap();
        let verdicts = verdicts(&server);
        for (index, line) in some.iter().enumerate() {
            let servers = verdicts.get(&(index + 1)).cloned().flatten();
            match (check_hba_line(line, HbaSource::File), &servers) {
                (Ok(()), None) => read += 1,
                (Err(_), Some(_)) => refused += 1,
                (Ok(()), Some(why)) if is_for_the_server_alone(why, line) => {}
                (Err(ours), None) if is_stricter(&ours.to_string()) => {}
                (ours, _) => wrong.push(format!("{line:?}: agent {ours:?}, server {servers:?}")),
            }
            let opens = servers.is_some_and(|why| why.contains("could not open"));
            if opens && check_hba_line(line, HbaSource::Store).is_ok() {
                wrong.push(format!("{line:?} from the store reads a file"));
            }
        }
    }
    server.write(&server.configuration());
    assert!(
        read > 1000 && refused > 1000,
        "{read} were read, {refused} refused"
    );
    report(wrong);
}

/// Whether only the server can say so: by its version, its build, or the files that are there.
fn is_for_the_server_alone(why: &str, line: &str) -> bool {
    let elsewhere = ["oauth", "bsd", "sspi", "include", "clientcert"];
    why.contains("could not open") || elsewhere.iter().any(|word| line.contains(word))
}

/// What the server reads as something else than it seems to be, and the agent refuses.
fn is_stricter(why: &str) -> bool {
    let reasons = [
        "control character",
        "is no IP address",
        "is no range of IP addresses",
        "quote is not closed",
    ];
    reasons.iter().any(|reason| why.contains(reason))
}

#[test]
fn a_line_that_is_read_and_cannot_match_is_not_wrong() {
    let server = server();
    for (lines, wrong) in [
        ("hostssl all all all scram-sha-256\n", None),
        (
            "hostssl all all all scram-sha-256\nlocal all\n",
            Some("line 2"),
        ),
    ] {
        std::fs::write(server.data().join("pg_hba.conf"), lines).unwrap();
        let found = server.wrong_hba_line();
        assert_eq!(found.is_some(), wrong.is_some(), "{lines}: {found:?}");
        assert!(
            found
                .unwrap_or_default()
                .contains(wrong.unwrap_or_default())
        );
    }
    server.write(&server.configuration());
}
