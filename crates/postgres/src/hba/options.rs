//! Authentication methods and their options: PostgreSQL's manual, "Authentication Methods".

use std::collections::BTreeSet;

pub(super) const METHODS: &[&str] = &[
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
    OAUTH,
];
/// Its validators have options of their own.
const OAUTH: &str = "oauth";

/// Options, and the methods that have them.
const OPTIONS: &[(&[&str], &[&str])] = &[
    (&["map"], &["ident", "peer", "gss", "sspi", "cert"]),
    (&["clientcert", "clientname"], METHODS),
    (&["pamservice", "pam_use_hostname"], &["pam"]),
    (&["krb_realm", "include_realm"], &["gss", "sspi"]),
    (&["compat_realm", "upn_username"], &["sspi"]),
    (LDAP_BINDS, &["ldap"]),
    (LDAP_SEARCHES, &["ldap"]),
    (
        &["ldapurl", "ldaptls", "ldapscheme", "ldapserver", "ldapport"],
        &["ldap"],
    ),
    (
        &[
            "radiusservers",
            "radiusports",
            "radiussecrets",
            "radiusidentifiers",
        ],
        &["radius"],
    ),
];
/// A name is made of the user's.
const LDAP_BINDS: &[&str] = &["ldapprefix", "ldapsuffix"];
/// A name is searched for.
const LDAP_SEARCHES: &[&str] = &[
    "ldapbasedn",
    "ldapbinddn",
    "ldapbindpasswd",
    "ldapsearchattribute",
    "ldapsearchfilter",
];

/// Checks the options of a method in a line of this connection type.
pub(super) fn check_options<'a>(
    kind: &str,
    method: &str,
    options: impl IntoIterator<Item = &'a str>,
) -> Result<(), String> {
    if method == OAUTH {
        return Ok(());
    }
    let mut set = BTreeSet::new();
    for option in options {
        let (name, value) = option.split_once('=').ok_or_else(|| {
            format!("`{option}` is no option: these are written name=value, in double quotes if there is a comma or a blank in it")
        })?;
        let known = OPTIONS.iter().find(|(names, _)| names.contains(&name));
        let (_, methods) = known.ok_or_else(|| format!("`{name}` is no option of PostgreSQL's"))?;
        if !methods.contains(&method) {
            let methods = methods.join(", ");
            return Err(format!(
                "`{name}` is no option of `{method}`, but of {methods}"
            ));
        }
        check_value(kind, name, value)?;
        set.insert(name);
    }
    let any = |names: &[&str]| names.iter().any(|name| set.contains(name));
    match method {
        "ldap" if any(LDAP_BINDS) && any(LDAP_SEARCHES) => Err(
            "`ldapprefix` and `ldapsuffix` are for a login without a search, and the other options for one; remove either"
                .into(),
        ),
        "ldap" if !any(LDAP_BINDS) && !any(&["ldapbasedn", "ldapurl"]) => Err(
            "`ldap` needs `ldapbasedn`, `ldapprefix`, `ldapsuffix` or `ldapurl`".into(),
        ),
        "ldap" if any(&["ldapsearchattribute"]) && any(&["ldapsearchfilter"]) => Err(
            "`ldapsearchattribute` and `ldapsearchfilter` exclude each other; remove one".into(),
        ),
        "radius" if !any(&["radiusservers"]) || !any(&["radiussecrets"]) => {
            Err("`radius` needs `radiusservers` and `radiussecrets`".into())
        }
        _ => Ok(()),
    }
}

/// Values that PostgreSQL does not take as they are.
fn check_value(kind: &str, name: &str, value: &str) -> Result<(), String> {
    let allowed: &[&str] = match name {
        // PostgreSQL 13 reads the last three, too.
        "clientcert" => &["verify-ca", "verify-full", "no-verify", "0", "1"],
        "clientname" => &["CN", "DN"],
        "ldapport" if value.parse::<u16>().is_ok_and(|port| port > 0) => return Ok(()),
        "ldapport" => return Err(format!("`{value}` is no port")),
        _ => return Ok(()),
    };
    if kind != "hostssl" {
        return Err(format!("`{name}` is for `hostssl`, and this is `{kind}`"));
    }
    if allowed.contains(&value) {
        return Ok(());
    }
    let allowed = allowed.join(" or ");
    Err(format!("`{name}` is {allowed}, and not `{value}`"))
}
