//! Lines of `pg_hba.conf`, as far as they can be checked without a server: PostgreSQL's manual,
//! "The `pg_hba.conf` File". A file with one wrong line is refused as a whole, and a server does
//! not start with it.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::net::IpAddr;

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pg_hba line `{line}`: {problem}")]
pub struct InvalidHbaLine {
    line: String,
    problem: String,
}

const CONNECTION_TYPES: &[&str] = &[
    "local",
    "host",
    "hostssl",
    "hostnossl",
    "hostgssenc",
    "hostnogssenc",
];
const INCLUDES: &[&str] = &["include", "include_if_exists", "include_dir"];
const METHODS: &[&str] = &[
    "trust",
    "reject",
    "scram-sha-256",
    "md5",
    "password",
    "gss",
    "sspi",
    "ident",
    "peer",
    "ldap",
    "radius",
    "cert",
    "pam",
    "bsd",
    "oauth",
];
/// A field may stand for many, but a line holds this many bytes at most.
const LENGTH_MAX: usize = 8_192;

/// Where a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HbaSource {
    /// A file of the member itself.
    File,
    /// The cluster's store: what it says is data, and names no files of the member.
    Store,
}

/// Checks a line. Empty lines and comments are legal.
///
/// # Errors
/// If no PostgreSQL would read it, or not as it stands there; from the store also if it makes the
/// server read another file.
pub fn check_hba_line(line: &str, source: HbaSource) -> Result<(), InvalidHbaLine> {
    check(line, source).map_err(|problem| InvalidHbaLine {
        line: without_secrets(line).chars().take(200).collect(),
        problem,
    })
}

/// Options whose value is a password: `ldapbindpasswd`, `radiussecrets`.
const SECRET_OPTIONS: &[&str] = &["passw", "secret"];

/// A line as people may see it: what follows the name of such an option is left out.
fn without_secrets(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let end_of_name = |word: &&str| Some(lower.find(word)? + word.len());
    let end = SECRET_OPTIONS.iter().filter_map(end_of_name).min();
    match end.and_then(|end| line.get(..end)) {
        Some(shown) => format!("{shown}…"),
        None => line.to_owned(),
    }
}

fn check(line: &str, source: HbaSource) -> Result<(), String> {
    if line.contains(|c: char| c.is_control() && c != '\t') {
        return Err(
            "it has a line break or another control character in it; give each line as an entry of its own"
                .into(),
        );
    }
    // PostgreSQL appends the next line, also to a comment.
    if line.ends_with('\\') {
        return Err("it ends with a backslash, which joins the next line to it; write the whole line in one entry".into());
    }
    if line.len() > LENGTH_MAX {
        return Err(format!("it is longer than {LENGTH_MAX} bytes"));
    }
    let fields = fields(line)?;
    let mut fields = fields.iter().map(String::as_str);
    let Some(kind) = fields.next() else {
        return Ok(());
    };
    if source == HbaSource::Store && INCLUDES.contains(&kind) {
        return Err(format!(
            "`{kind}` reads a file of the member, and these lines come from etcd; write its lines here, or set postgresql.pg_hba in the member's file"
        ));
    }
    if INCLUDES.contains(&kind) {
        return match (fields.next(), fields.next()) {
            (Some(_), None) => Ok(()),
            _ => Err(format!("`{kind}` takes one path")),
        };
    }
    if !CONNECTION_TYPES.contains(&kind) {
        let known = CONNECTION_TYPES.join(", ");
        return Err(format!(
            "`{kind}` is no connection type; these are: {known}"
        ));
    }
    let database = fields.next().ok_or("the database is missing")?;
    let user = fields.next().ok_or("the user is missing")?;
    if source == HbaSource::Store && [database, user].into_iter().any(names_a_file) {
        return Err("`@` reads names from a file of the member, and these lines come from etcd; write the names here".into());
    }
    if kind != "local" {
        let address = fields.next().ok_or("the address is missing")?;
        if is_bare_ip(address)? {
            let mask = fields.next().ok_or_else(|| {
                format!("`{address}` has neither a length (`/32`) nor a mask after it")
            })?;
            mask.parse::<IpAddr>()
                .map_err(|_| format!("`{mask}` is no mask of an IP address"))?;
        }
    }
    let method = fields
        .next()
        .ok_or("the authentication method is missing")?;
    if !METHODS.contains(&method) {
        let known = METHODS.join(", ");
        return Err(format!(
            "`{method}` is no authentication method; these are: {known}"
        ));
    }
    for option in fields {
        if !option.contains('=') {
            return Err(format!(
                "`{option}` is no option: these are written name=value"
            ));
        }
    }
    Ok(())
}

/// Whether one of the names in a field is that of a file with names. One in quotes would be a name;
/// such names are not worth telling apart.
fn names_a_file(field: &str) -> bool {
    field
        .split(',')
        .any(|name| name.trim_start().starts_with('@'))
}

/// Whether an address is an IP address without its length, so that a mask follows.
fn is_bare_ip(address: &str) -> Result<bool, String> {
    let Some((ip, length)) = address.split_once('/') else {
        return Ok(address.parse::<IpAddr>().is_ok());
    };
    let ip: IpAddr = ip
        .parse()
        .map_err(|_| format!("`{address}` is no range of IP addresses"))?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    match length.parse::<u8>() {
        Ok(length) if length <= most => Ok(false),
        _ => Err(format!(
            "`{address}`: the length is not between 0 and {most}"
        )),
    }
}

/// The fields of a line. Within double quotes spaces and `#` are literal; a comma makes the next
/// word part of the same field.
fn fields(line: &str) -> Result<Vec<String>, String> {
    let (mut fields, mut field, mut quoted, mut listed) = (Vec::new(), None, false, false);
    for character in line.chars() {
        match character {
            '"' => {
                quoted = !quoted;
                field.get_or_insert_with(String::new);
            }
            '#' if !quoted => break,
            ' ' | '\t' if !quoted => {
                if !listed {
                    fields.extend(field.take());
                }
            }
            other => {
                listed = other == ',' && !quoted;
                field.get_or_insert_with(String::new).push(other);
            }
        }
    }
    if quoted {
        return Err("a double quote is not closed".into());
    }
    fields.extend(field);
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_postgresql_reads_are_accepted() {
        for line in [
            "",
            "# a comment",
            "local all all peer map=local",
            "host all all 0.0.0.0/0 scram-sha-256 # everyone",
            "hostssl  \"my db\",other  +group, \"a b\"  ::1/128  cert clientcert=verify-full",
            "host all all 10.0.0.0 255.0.0.0 md5",
            "host all /^app_.*$ .example.com ldap ldapserver=l ldapprefix=\"cn=\"",
            "host replication replicator samenet reject",
            "include extra.conf",
        ] {
            assert_eq!(check_hba_line(line, HbaSource::File), Ok(()), "{line}");
        }
    }

    #[test]
    fn a_line_from_the_store_makes_the_server_read_no_other_file() {
        for line in [
            "include /tmp/x.conf",
            "include_dir /tmp",
            "include_if_exists /dev/zero",
            "host @/tmp/databases all all scram-sha-256",
            "host all app,@users all scram-sha-256",
            "host all \"@users\" all scram-sha-256",
            "host all app, @users all scram-sha-256",
        ] {
            assert_eq!(check_hba_line(line, HbaSource::File), Ok(()), "{line}");
            let refused = check_hba_line(line, HbaSource::Store).unwrap_err();
            assert!(refused.to_string().contains("etcd"), "{line}: {refused}");
        }
        for line in [
            "host all a@b all md5",
            "hostssl all all samenet cert map=@x",
        ] {
            assert_eq!(check_hba_line(line, HbaSource::Store), Ok(()), "{line}");
        }
    }

    #[test]
    fn a_line_is_read_as_it_stands_there() {
        for line in [
            "# hides the next one \\",
            "local all all peer \\",
            "host all all all trust\u{b}",
            "local all all trust\rhost all all all trust",
            "local all all trust\0",
        ] {
            assert!(check_hba_line(line, HbaSource::File).is_err(), "{line:?}");
        }
    }

    #[test]
    fn a_refusal_does_not_show_the_password_of_another_service() {
        for line in [
            "hots all all 10.0.0.0/8 ldap ldapserver=l ldapbindpasswd=hidden ldapport=1",
            "hots all all 10.0.0.0/8 radius radiusservers=r RadiusSecrets=\"hidden, hidden\"",
        ] {
            let shown = check_hba_line(line, HbaSource::File)
                .unwrap_err()
                .to_string();
            assert!(
                !shown.contains("hidden") && shown.contains("`hots`"),
                "{shown}"
            );
        }
        let problem = check_hba_line(
            "local all \"postgres ldapbindpasswd=hidden",
            HbaSource::File,
        )
        .unwrap_err();
        assert!(!problem.to_string().contains("hidden"), "{problem}");
    }

    #[test]
    fn a_typing_error_is_named() {
        for (line, named) in [
            ("hots all all 10.0.0.0/8 md5", "`hots`"),
            ("host all all 10.0.0.0/8 mdd5", "`mdd5`"),
            ("host all all 10.0.0.0/33 md5", "between 0 and 32"),
            ("host all all 10.0.0/8 md5", "`10.0.0/8`"),
            ("host all all 10.0.0.1 md5", "no mask"),
            ("host all all md5", "method is missing"),
            ("host all all 10.0.0.1", "neither a length"),
            ("local all", "user is missing"),
            ("local all \"all peer", "not closed"),
            ("local all all peer map", "name=value"),
            ("local all all trust\nhost all all all trust", "line break"),
        ] {
            let problem = check_hba_line(line, HbaSource::Store)
                .unwrap_err()
                .to_string();
            assert!(problem.contains(named), "{line}: {problem}");
        }
    }
}
