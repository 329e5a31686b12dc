//! Lines of `pg_hba.conf`, as far as they can be checked without a server: PostgreSQL's manual,
//! "The `pg_hba.conf` File". A file with one wrong line is refused as a whole, and a server does
//! not start with it.

#![deny(clippy::indexing_slicing, clippy::panic)]

mod options;
mod tokens;

use std::net::IpAddr;

use options::{METHODS, check_options};
use tokens::fields;

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
    check(line, source).map_err(|problem| {
        let secrets = secrets(line);
        let shown = line.strip_suffix(secrets).unwrap_or(line);
        let cut = if secrets.is_empty() { "" } else { "…" };
        let line = shown.chars().take(200).chain(cut.chars()).collect();
        let values = secrets.trim_start_matches(char::is_alphanumeric);
        let reveals = |word: &str| word.len() > 2 && problem.contains(word);
        let problem = if values.split(|c: char| !c.is_alphanumeric()).any(reveals) {
            "it is wrong after the name of an option that holds a password, which is not shown; put the value in double quotes"
                .to_owned()
        } else {
            problem
        };
        InvalidHbaLine { line, problem }
    })
}

/// Options whose value is a password: `ldapbindpasswd`, `radiussecrets`.
const SECRET_OPTIONS: &[&str] = &["passw", "secret"];

/// What people must not see of a line: everything after the name of such an option. Empty if there is
/// none.
fn secrets(line: &str) -> &str {
    let lower = line.to_ascii_lowercase();
    let end_of_name = |word: &&str| Some(lower.find(word)? + word.len());
    let end = SECRET_OPTIONS.iter().filter_map(end_of_name).min();
    end.and_then(|end| line.get(end..)).unwrap_or_default()
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
    let mut fields = fields.iter().map(Vec::as_slice);
    let Some(kind) = fields.next() else {
        return Ok(());
    };
    let kind = only("connection type", kind)?;
    if source == HbaSource::Store {
        check_foreign(kind, fields.clone())?;
    }
    if INCLUDES.contains(&kind) {
        return match (fields.next(), fields.next()) {
            (Some([_]), None) => Ok(()),
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
        check_address(&mut fields)?;
    }
    let method = fields
        .next()
        .ok_or("the authentication method is missing")?;
    let method = only("authentication method", method)?;
    check_method(kind, method)?;
    check_options(kind, method, fields.flatten().map(String::as_str))
}

/// The token of a field that is no list.
fn only<'a>(what: &str, field: &'a [String]) -> Result<&'a str, String> {
    match field {
        [token] => Ok(token),
        several => Err(format!(
            "`{}` is a list, and a line has one {what}; write a line for each",
            several.join(",")
        )),
    }
}

/// Checks that a line from the store names no file. PostgreSQL takes `@name` for one in every field;
/// in quotes it would be a name, and such names are not worth telling apart.
fn check_foreign<'a>(
    kind: &str,
    mut fields: impl Iterator<Item = &'a [String]>,
) -> Result<(), String> {
    if INCLUDES.contains(&kind) {
        return Err(format!(
            "`{kind}` reads a file of the member, and these lines come from etcd; write its lines here, or set postgresql.pg_hba in the member's file"
        ));
    }
    if kind.starts_with('@') || fields.any(|field| field.iter().any(|token| token.starts_with('@')))
    {
        return Err("`@` reads names from a file of the member, and these lines come from etcd; write the names here".into());
    }
    Ok(())
}

fn check_method(kind: &str, method: &str) -> Result<(), String> {
    if !METHODS.contains(&method) {
        let known = METHODS.join(", ");
        return Err(format!(
            "`{method}` is no authentication method; these are: {known}"
        ));
    }
    match (method, kind) {
        ("gss" | "sspi", "local") => Err(format!("`{method}` is not for `local`")),
        ("peer", kind) if kind != "local" => Err("`peer` is for `local` alone".into()),
        ("cert", kind) if kind != "hostssl" => Err("`cert` is for `hostssl` alone".into()),
        _ => Ok(()),
    }
}

/// Checks the address and its mask: a name, a range, or an IP address with a mask in the next field.
fn check_address<'a>(fields: &mut impl Iterator<Item = &'a [String]>) -> Result<(), String> {
    let address = fields.next().ok_or("the address is missing")?;
    let address = only("address", address)?;
    if let Some((ip, length)) = address.split_once('/') {
        return check_range(address, ip, length);
    }
    let Ok(ip) = address.parse::<IpAddr>() else {
        if is_like_an_ip(address) {
            return Err(format!(
                "`{address}` is no IP address; write all four numbers of one, or all of an IPv6 address without its zone"
            ));
        }
        return Ok(());
    };
    let mask = fields
        .next()
        .ok_or_else(|| format!("`{address}` has neither a length (`/32`) nor a mask after it"))?;
    let mask = only("mask", mask)?;
    match mask.parse::<IpAddr>() {
        Ok(mask) if mask.is_ipv4() == ip.is_ipv4() => Ok(()),
        Ok(_) => Err(format!("`{mask}` is no mask of `{address}`")),
        Err(_) => Err(format!("`{mask}` is no mask of an IP address")),
    }
}

/// Whether PostgreSQL could take an address for a number: the C library reads `10.1`, `0x7f000001`
/// and `fe80::1%eth0`.
fn is_like_an_ip(address: &str) -> bool {
    let is_number = |part: &str| {
        let hexadecimal = part.strip_prefix("0x").or(part.strip_prefix("0X"));
        match hexadecimal {
            Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
            None => !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()),
        }
    };
    address.contains(':') || address.trim().split('.').all(is_number)
}

fn check_range(address: &str, ip: &str, length: &str) -> Result<(), String> {
    let ip: IpAddr = ip
        .parse()
        .map_err(|_| format!("`{address}` is no range of IP addresses"))?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    match length.parse::<u8>() {
        Ok(length) if length <= most => Ok(()),
        _ => Err(format!(
            "`{address}`: the length is not between 0 and {most}"
        )),
    }
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
            "host a , b, c 10.0.0.0/8 md5",
            "host all all 3ab.de radius \"radiusservers=10.0.0.1,10.0.0.2\" radiussecrets=s",
            "host all all ::ffff:10.0.0.1 ff:: ldap ldapbasedn=\"dc=a, dc=b\" ldapport=389",
            "host all all all oauth issuer=i scope=s validator.own=x",
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
            "host all all @addresses scram-sha-256",
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
        for line in [
            "local all \"postgres ldapbindpasswd=hidden",
            "host all all all ldap ldapbindpasswd=a,hidden ldapprefix=b",
            "host all all all ldap ldapbindpasswd= hidden=x ldapprefix=b",
            "host all all ldapbindpasswd=a,hidden",
        ] {
            let shown = check_hba_line(line, HbaSource::File)
                .unwrap_err()
                .to_string();
            assert!(!shown.contains("hidden"), "{shown}");
        }
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
            ("local all all peer map=a,b", "name=value"),
            ("local all all peer mapp=a", "`mapp`"),
            ("local all all trust map=a", "no option of `trust`"),
            ("host all all all peer", "`local` alone"),
            ("local all all gss", "not for `local`"),
            ("hostnossl all all all cert", "`hostssl` alone"),
            ("host all all all md5 clientcert=verify-ca", "for `hostssl`"),
            ("hostssl all all all cert clientcert=on", "verify-full"),
            ("host all all all ldap ldapport=x", "no port"),
            ("host all all all ldap ldapserver=l", "`ldapbasedn`"),
            (
                "host all all all ldap ldapprefix=a ldapbasedn=b",
                "remove either",
            ),
            (
                "host all all all radius radiusservers=10.0.0.1",
                "`radiussecrets`",
            ),
            ("host all all a,b md5", "one address"),
            ("local,host all all md5", "one connection type"),
            ("host all all 10.1 255.0.0.0 md5", "all four numbers"),
            ("host all all fe80::1%eth0 ff:: md5", "without its zone"),
            ("host all all 10.0.0.0 ff:: md5", "no mask of `10.0.0.0`"),
            ("local all all trust\nhost all all all trust", "line break"),
        ] {
            let problem = check_hba_line(line, HbaSource::Store)
                .unwrap_err()
                .to_string();
            assert!(problem.contains(named), "{line}: {problem}");
        }
    }
}
