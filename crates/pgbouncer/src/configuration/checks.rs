//! What PgBouncer's files can hold, and its program tell apart (1.24's `loader.c` and `scram.c`).

use super::{Database, Login};

/// The user that the pooler is to the console.
pub const ADMINISTRATOR: &str = "mrg-pooler";

/// PgBouncer reads names of databases up to this length, in bytes.
const NAME_MOST: usize = 63;
/// The same of a user, with its quotes doubled.
const USER_MOST: usize = 127;
/// The same of a password; its SCRAM prepares no longer one.
const PASSWORD_MOST: usize = 1023;

/// Whether a value stays as it is in its line of `pgbouncer.ini`, which has no quoting: a line break
/// would end it, and blanks around it are cut off.
pub fn is_one_line(value: &str) -> bool {
    !value.chars().any(char::is_control) && value.trim_matches(' ') == value
}

impl Database {
    /// Checks that `pgbouncer.ini` can name the database.
    ///
    /// # Errors
    /// Why it cannot, and what to do.
    pub fn check(&self) -> Result<(), &'static str> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if self.alias.is_empty() || !self.alias.chars().all(plain) {
            return Err("has other characters than letters, digits, _, . and -");
        }
        if self.alias == "pgbouncer" {
            return Err("is PgBouncer's own console; choose another alias");
        }
        if self.alias.len() > NAME_MOST || self.name.len() > NAME_MOST {
            return Err("is, or leads to, a name of more than 63 bytes; choose a shorter one");
        }
        if self.name.is_empty() || self.name.contains(['\n', '\0']) {
            return Err(
                "leads to a name that is empty or has a line break; rename the database on the server",
            );
        }
        Ok(())
    }
}

impl Login {
    /// Checks that the user list can hold the login: one that it cannot would take those after it
    /// away, too.
    ///
    /// # Errors
    /// Why it cannot, and what to do.
    pub fn check(&self) -> Result<(), &'static str> {
        let length = self.user.len() + self.user.matches('"').count();
        if self.user == ADMINISTRATOR {
            return Err("is the pooler itself; choose another user");
        }
        if self.user.is_empty() || self.user.contains('\0') || length > USER_MOST {
            return Err(
                "is empty, has a NUL, or is longer than PgBouncer reads; choose another user",
            );
        }
        if self.password.contains('\0') || self.password.len() > PASSWORD_MOST {
            return Err(
                "has a password with a NUL, or one of more than 1023 bytes, which PgBouncer does not read; set another",
            );
        }
        let hash = self.password.strip_prefix("md5").unwrap_or_default();
        let is_hash = hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_hash || self.password.starts_with("SCRAM-SHA-256$") {
            return Err("has a password that PgBouncer takes for the hash of one; set another");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_files_cannot_hold_is_refused_with_the_reason() {
        let database = |alias: &str, name: &str| {
            let (alias, name) = (alias.to_owned(), name.to_owned());
            Database { alias, name }.check()
        };
        assert_eq!(database("mrg_write", "it's \r x"), Ok(()));
        for (alias, name, why) in [
            ("", "x", "other characters"),
            ("a b", "x", "other characters"),
            ("pgbouncer", "x", "console"),
            ("a", "", "empty"),
            ("a", "x\ny", "line break"),
            ("a", &"x".repeat(64), "63 bytes"),
        ] {
            let refusal = database(alias, name).unwrap_err();
            assert!(refusal.contains(why), "{alias} {name}: {refusal}");
        }
        let login = |user: &str, password: &str| {
            let (user, password) = (user.to_owned(), password.to_owned());
            Login { user, password }.check()
        };
        let hash = "0123456789abcdef0123456789abcdef";
        assert_eq!(login("it's \"x\"\n", &format!("md5{hash}x")), Ok(()));
        for (user, password, why) in [
            ("mrg-pooler", "x", "pooler itself"),
            ("", "x", "empty"),
            (&"\"".repeat(64), "x", "longer"),
            ("app", &"\"".repeat(1024), "1023"),
            ("app", "a\0b", "NUL"),
            ("app", &format!("md5{hash}"), "hash"),
            ("app", "SCRAM-SHA-256$4096:x$y:z", "hash"),
        ] {
            let refusal = login(user, password).unwrap_err();
            assert!(refusal.contains(why), "{user} {password}: {refusal}");
        }
    }

    #[test]
    fn a_value_that_its_line_would_change_is_refused() {
        for value in ["", "select 1", "a = 'b' # ; c", "é\u{a0}"] {
            assert!(is_one_line(value), "{value:?}");
        }
        for value in ["a\nb", "a\rb", "\ta", " a", "a ", " ", "a\0"] {
            assert!(!is_one_line(value), "{value:?}");
        }
    }
}
