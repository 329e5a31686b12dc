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

/// Checks a line. Empty lines and comments are legal.
///
/// # Errors
/// If no PostgreSQL would read it.
pub fn check_hba_line(line: &str) -> Result<(), InvalidHbaLine> {
    check(line).map_err(|problem| InvalidHbaLine {
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

fn check(line: &str) -> Result<(), String> {
    if line.contains(['\n', '\r', '\0']) {
        return Err(
            "it has a line break or a NUL in it; give each line as an entry of its own".into(),
        );
    }
    if line.len() > LENGTH_MAX {
        return Err(format!("it is longer than {LENGTH_MAX} bytes"));
    }
    let fields = fields(line)?;
    let mut fields = fields.iter().map(String::as_str);
    let Some(kind) = fields.next() else {
        return Ok(());
    };
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
    fields.next().ok_or("the database is missing")?;
    fields.next().ok_or("the user is missing")?;
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
            assert_eq!(check_hba_line(line), Ok(()), "{line}");
        }
    }

    #[test]
    fn a_refusal_does_not_show_the_password_of_another_service() {
        for line in [
            "hots all all 10.0.0.0/8 ldap ldapserver=l ldapbindpasswd=hidden ldapport=1",
            "hots all all 10.0.0.0/8 radius radiusservers=r RadiusSecrets=\"hidden, hidden\"",
        ] {
            let shown = check_hba_line(line).unwrap_err().to_string();
            assert!(
                !shown.contains("hidden") && shown.contains("`hots`"),
                "{shown}"
            );
        }
        let problem = check_hba_line("local all \"postgres ldapbindpasswd=hidden").unwrap_err();
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
            let problem = check_hba_line(line).unwrap_err().to_string();
            assert!(problem.contains(named), "{line}: {problem}");
        }
    }
}
