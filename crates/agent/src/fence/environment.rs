//! What PostgreSQL's programs find in their environment: names on a list, so that no password of
//! the agent's is among them.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::ffi::{OsStr, OsString};

/// Variables that programs need, or that say how the C library and the server's libraries behave.
const INHERITED: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "TZ",
    "TZDIR",
    "LANG",
    "LANGUAGE",
    "LOCPATH",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "MALLOC_ARENA_MAX",
    "MALLOC_CONF",
    "GLIBC_TUNABLES",
    "ICU_DATA",
    "KRB5_CONFIG",
    "KRB5_KTNAME",
    "LDAPCONF",
    "NSS_WRAPPER_GROUP",
    "NSS_WRAPPER_PASSWD",
    "OPENSSL_CONF",
    "OPENSSL_MODULES",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "PG_OOM_ADJUST_FILE",
    "PG_OOM_ADJUST_VALUE",
];
/// Locale variables begin with this.
const LOCALE: &str = "LC_";

/// The variables of `all` that PostgreSQL's programs inherit: those on the list, and `more`.
pub(crate) fn inherited(
    all: impl IntoIterator<Item = (OsString, OsString)>,
    more: &[String],
) -> Vec<(OsString, OsString)> {
    let is_inherited = |name: &OsStr| {
        name.to_str().is_some_and(|name| {
            INHERITED.contains(&name)
                || name.starts_with(LOCALE)
                || more.iter().any(|other| other == name)
        })
    };
    all.into_iter()
        .filter(|(name, _)| is_inherited(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_variable_is_inherited_that_is_not_listed() {
        let all = [
            "PATH",
            "LC_TIME",
            "LANG",
            "PATRONI_SUPERUSER_PASSWORD",
            "PATRONI_ETCD3_PASSWORD",
            "MRG_PASSWORD_APP",
            "APP_PW",
            "PGPASSWORD",
            "PGOPTIONS",
            "AWS_SECRET_ACCESS_KEY",
            "lc_x",
        ];
        let all = all.map(|name| (OsString::from(name), OsString::from("x")));
        let names = |more: &[&str]| -> Vec<String> {
            let more: Vec<String> = more.iter().map(|name| (*name).to_owned()).collect();
            let names = inherited(all.clone(), &more).into_iter();
            names.map(|(name, _)| name.into_string().unwrap()).collect()
        };
        assert_eq!(names(&[]), ["PATH", "LC_TIME", "LANG"]);
        assert_eq!(
            names(&["AWS_SECRET_ACCESS_KEY"]),
            ["PATH", "LC_TIME", "LANG", "AWS_SECRET_ACCESS_KEY"]
        );
    }
}
