//! Keeps the agent's own roles as they were made: they are there, they may do their work, and each
//! has the password that the members have.
//!
//! A password that changes reaches the members one after the other; the leader sets it when every
//! member has it, or after the time within which a kubelet brings it. Until then, and where a member
//! gets it later, each goes on with the one before: see [`crate::credentials`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use crate::context::Context;
use crate::passwords::SETTLED_AFTER;
use crate::server::Error;
use mrg_postgres::{
    Authentication, Credentials, Session, accepts, is_scram, quote_identifier, quote_literal,
    verifier,
};
use mrg_telemetry::chain;

/// While something is wrong or changes.
const CHANGING_INTERVAL: Duration = Duration::from_secs(2);
/// As long as nothing changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
const WITHIN: Duration = Duration::from_secs(5);

/// What `pg_rewind` calls on its source, besides what every role may (PostgreSQL's manual,
/// "`pg_rewind`", "Notes").
const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
];

/// What a role is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Everything,
    Replication,
    Rewind,
}

/// A role as the server has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Found {
    login: bool,
    /// Also a superuser.
    replication: bool,
    /// `pg_authid.rolpassword`; empty for none.
    password: String,
}

/// What is done to a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    Create,
    Permit,
    SetPassword,
}

/// Whether the other members have the same passwords.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agreement {
    All,
    /// Some do not say; none says otherwise.
    Unknown,
    Others,
}

impl Agreement {
    fn of(mine: u16, others: impl IntoIterator<Item = Option<u16>>) -> Self {
        let mut agreement = Self::All;
        for theirs in others {
            match theirs {
                Some(theirs) if theirs == mine => {}
                Some(_) => return Self::Others,
                None => agreement = Self::Unknown,
            }
        }
        agreement
    }
}

/// A password that was found wrong on the server.
#[derive(Clone, Debug)]
struct Wrong {
    password: String,
    since: Instant,
    /// It was another before, in this process's time.
    rotated: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct OwnRoles {
    looked: Option<Instant>,
    /// Whether this member led then.
    led: bool,
    /// The passwords that this process had last, by role.
    had: BTreeMap<String, String>,
    wrong: BTreeMap<String, Wrong>,
    /// The last verdicts, by role: a verifier, a password, and whether they fit. To find that out
    /// takes some milliseconds.
    verdicts: BTreeMap<String, (String, String, bool)>,
    rewind_permitted: bool,
}

impl OwnRoles {
    /// Looks at the roles in the local server; if this member leads, brings them in order.
    pub(crate) async fn keep(&mut self, context: &Context, leads: bool) {
        let changing = context.credentials.is_changing();
        // A new leader looks at once: its standbys must be able to log in.
        self.looked.take_if(|_| leads && !self.led);
        self.led = leads;
        let pause = if changing || !self.wrong.is_empty() {
            CHANGING_INTERVAL
        } else {
            CHECK_INTERVAL
        };
        self.rewind_permitted &= leads;
        if self.looked.is_some_and(|at| at.elapsed() < pause) || !leads && !changing {
            return;
        }
        self.looked = Some(Instant::now());
        if let Err(error) = self.look(context, leads).await {
            tracing::warn!(error = chain(&error), "failed to keep the agent's roles");
        }
    }

    async fn look(&mut self, context: &Context, leads: bool) -> Result<(), Error> {
        let Ok(session) = context.server.roles_session().await else {
            // It starts, is full, or is away; the election says so.
            return Ok(());
        };
        let wanted = context.credentials.wanted();
        let found = find(&session, &wanted).await?;
        if context.credentials.is_changing() {
            Self::choose(context, &found);
        }
        if !leads {
            return Ok(());
        }
        let agreement = agreement(context);
        for (purpose, role) in purposes(&wanted) {
            let found = found.get(&role.username);
            let may_set = self.may_set(role, found, agreement);
            for remedy in remedies(purpose, role, found, may_set) {
                let operation = "put a role of the agent's in order";
                session
                    .execute(operation, &statement(purpose, role, remedy), WITHIN)
                    .await?;
                tracing::info!(
                    role = role.username,
                    ?remedy,
                    "a role of the agent's was not as it should be"
                );
                self.looked = None;
                self.rewind_permitted &= purpose != Purpose::Rewind;
            }
        }
        self.permit_rewind(&session, &wanted).await
    }

    /// Uses the passwords that the server takes, by its own copy of its roles: a standby's is as old
    /// as its WAL.
    fn choose(context: &Context, found: &BTreeMap<String, Found>) {
        let mut others = false;
        for role in context.credentials.changing() {
            let Some(found) = found.get(&role.username) else {
                continue;
            };
            if accepts(&found.password, &role.username, &role.password) {
                others |= context.credentials.note_accepted(&role, mrg_clock::now());
            }
        }
        if others {
            context.server.refresh_passfile();
        }
    }

    /// Whether the password that the members have may replace the one on the server.
    fn may_set(&mut self, role: &Credentials, found: Option<&Found>, agreement: Agreement) -> bool {
        let name = &role.username;
        let before = self.had.insert(name.clone(), role.password.clone());
        let rotated = before.is_some_and(|before| before != role.password);
        let Some(found) = found.filter(|_| !role.password.is_empty()) else {
            self.wrong.remove(name);
            return false;
        };
        if self.fits(role, &found.password) {
            self.wrong.remove(name);
            // The same password, stored in a way that pg_hba.conf does not admit.
            return !is_scram(&found.password);
        }
        let wrong = self.wrong.entry(name.clone()).or_insert_with(|| Wrong {
            password: role.password.clone(),
            since: Instant::now(),
            rotated,
        });
        if wrong.password != role.password {
            *wrong = Wrong {
                password: role.password.clone(),
                since: Instant::now(),
                rotated: true,
            };
        }
        wrong.rotated |= rotated;
        let settled = wrong.since.elapsed() >= SETTLED_AFTER;
        match agreement {
            Agreement::All => true,
            Agreement::Unknown => settled,
            // One of two files is old, and which of them is not known.
            Agreement::Others => settled && wrong.rotated,
        }
    }

    fn fits(&mut self, role: &Credentials, stored: &str) -> bool {
        if let Some((verifier, password, fits)) = self.verdicts.get(&role.username)
            && verifier == stored
            && *password == role.password
        {
            return *fits;
        }
        let fits = accepts(stored, &role.username, &role.password);
        let verdict = (stored.to_owned(), role.password.clone(), fits);
        self.verdicts.insert(role.username.clone(), verdict);
        fits
    }

    /// Lets the role for `pg_rewind` read files, once in each leadership.
    async fn permit_rewind(
        &mut self,
        session: &Session,
        wanted: &Authentication,
    ) -> Result<(), Error> {
        let Some(rewind) = wanted.rewind.as_ref().filter(|_| !self.rewind_permitted) else {
            return Ok(());
        };
        session
            .execute("let pg_rewind read files", &grants(rewind), WITHIN)
            .await?;
        self.rewind_permitted = true;
        Ok(())
    }
}

fn purposes(wanted: &Authentication) -> impl Iterator<Item = (Purpose, &Credentials)> {
    let same = |role: &&Credentials| role.username != wanted.superuser.username;
    [
        Some((Purpose::Everything, &wanted.superuser)),
        Some((Purpose::Replication, &wanted.replication)).filter(|(_, role)| same(role)),
        wanted
            .rewind
            .as_ref()
            .filter(same)
            .map(|role| (Purpose::Rewind, role)),
    ]
    .into_iter()
    .flatten()
}

async fn find(
    session: &Session,
    wanted: &Authentication,
) -> Result<BTreeMap<String, Found>, Error> {
    let names: Vec<String> = wanted
        .roles()
        .map(|role| quote_literal(&role.username))
        .collect();
    let sql = format!(
        "SELECT coalesce(json_object_agg(rolname, json_build_object('login', rolcanlogin, 'replication', rolreplication OR rolsuper, \
           'password', coalesce(rolpassword, ''))), '{{}}')::text FROM pg_catalog.pg_authid WHERE rolname IN ({})",
        names.join(", ")
    );
    let found = session.texts("find the agent's roles", &sql).await?;
    let text = found.first().map_or("{}", String::as_str);
    serde_json::from_str(text).map_err(|_| Error::state("the server's roles cannot be read"))
}

fn agreement(context: &Context) -> Agreement {
    let status = context.status();
    let me = &context.config.name;
    let mine = context
        .credentials
        .fingerprint(context.config.scope.as_str());
    let others = status.snapshot.members().filter(|(name, _)| *name != me);
    Agreement::of(mine, others.map(|(_, data)| data.passwords))
}

/// What is to be done to a role, in order.
fn remedies(
    purpose: Purpose,
    role: &Credentials,
    found: Option<&Found>,
    may_set: bool,
) -> Vec<Remedy> {
    let Some(found) = found else {
        return vec![Remedy::Create];
    };
    let permitted = found.login && (purpose != Purpose::Replication || found.replication);
    let mut remedies = Vec::new();
    if !permitted {
        remedies.push(Remedy::Permit);
    }
    if may_set && !role.password.is_empty() {
        remedies.push(Remedy::SetPassword);
    }
    remedies
}

fn statement(purpose: Purpose, role: &Credentials, remedy: Remedy) -> String {
    let name = quote_identifier(&role.username);
    let options = match purpose {
        Purpose::Everything => "LOGIN SUPERUSER",
        Purpose::Replication => "LOGIN REPLICATION",
        Purpose::Rewind => "LOGIN",
    };
    let password = if role.password.is_empty() {
        String::new()
    } else {
        format!(" PASSWORD {}", quote_literal(&verifier(&role.password)))
    };
    match remedy {
        Remedy::Create => format!("CREATE ROLE {name} {options}{password}"),
        Remedy::Permit => format!("ALTER ROLE {name} {options}"),
        Remedy::SetPassword => format!("ALTER ROLE {name}{password}"),
    }
}

/// Lets a role be `pg_rewind`'s on its source. From PostgreSQL 15 on it may write the checkpoint
/// before a rewind, too; before that only the superuser may.
fn grants(rewind: &Credentials) -> String {
    let name = quote_identifier(&rewind.username);
    let functions = REWIND_FUNCTIONS.map(|function| format!("pg_catalog.{function}"));
    // As a literal: a name may have any dollar quote in it.
    let checkpoint = quote_literal(&format!(
        "BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'pg_checkpoint') THEN
           EXECUTE pg_catalog.format('GRANT pg_checkpoint TO %I', {}); END IF; END",
        quote_literal(&rewind.username)
    ));
    format!(
        "GRANT EXECUTE ON FUNCTION {} TO {name}; DO {checkpoint}",
        functions.join(", ")
    )
}

/// What makes the roles of a new cluster, besides the superuser, that initdb has made.
pub(crate) fn creating(wanted: &Authentication) -> Vec<String> {
    let roles = purposes(wanted).filter(|(purpose, _)| *purpose != Purpose::Everything);
    roles
        .map(|(purpose, role)| statement(purpose, role, Remedy::Create))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(username: &str) -> Credentials {
        Credentials {
            username: username.to_owned(),
            password: "it's \\ secret".to_owned(),
        }
    }

    fn found(login: bool, replication: bool) -> Found {
        Found {
            login,
            replication,
            password: String::new(),
        }
    }

    #[test]
    fn a_role_gets_what_it_lacks_and_no_more() {
        use Purpose::{Everything, Replication, Rewind};
        use Remedy::{Create, Permit, SetPassword};
        for (purpose, there, may_set, expected) in [
            (Replication, None, false, vec![Create]),
            (Replication, Some(found(true, true)), false, vec![]),
            (Replication, Some(found(true, false)), false, vec![Permit]),
            (
                Replication,
                Some(found(false, true)),
                true,
                vec![Permit, SetPassword],
            ),
            (Rewind, Some(found(true, false)), false, vec![]),
            (Everything, Some(found(true, true)), true, vec![SetPassword]),
        ] {
            let remedies = remedies(purpose, &role("r"), there.as_ref(), may_set);
            assert_eq!(remedies, expected, "{purpose:?} {there:?} {may_set}");
        }
    }

    #[test]
    fn no_statement_has_the_password_in_it() {
        for remedy in [Remedy::Create, Remedy::Permit, Remedy::SetPassword] {
            let sql = statement(Purpose::Replication, &role("a\"b"), remedy);
            assert!(sql.contains("ROLE \"a\"\"b\""), "{sql}");
            assert!(!sql.contains("secret"), "{sql}");
            let has_verifier = sql.contains("PASSWORD 'SCRAM-SHA-256$");
            assert_eq!(has_verifier, remedy != Remedy::Permit, "{sql}");
        }
        let nameless = Credentials {
            password: String::new(),
            ..role("a")
        };
        let sql = statement(Purpose::Rewind, &nameless, Remedy::Create);
        assert_eq!(sql, "CREATE ROLE \"a\" LOGIN");
    }

    #[test]
    fn a_name_cannot_end_the_block_that_it_stands_in() {
        let sql = grants(&role("a$$; SELECT 'b\""));
        let (grant, block) = sql.split_once("; DO ").unwrap();
        assert!(grant.ends_with("TO \"a$$; SELECT 'b\"\"\""), "{grant}");
        let block = block
            .strip_prefix('\'')
            .and_then(|block| block.strip_suffix('\''));
        let statements = block.unwrap().replace("''", "'");
        assert!(
            statements.contains("%I', 'a$$; SELECT ''b\"')"),
            "{statements}"
        );
    }

    #[test]
    fn members_agree_only_if_each_says_so() {
        assert_eq!(Agreement::of(7, []), Agreement::All);
        assert_eq!(Agreement::of(7, [Some(7), Some(7)]), Agreement::All);
        assert_eq!(Agreement::of(7, [Some(7), None]), Agreement::Unknown);
        assert_eq!(Agreement::of(7, [None, Some(8)]), Agreement::Others);
    }

    #[test]
    fn a_wrong_password_is_replaced_once_the_members_agree_on_another() {
        let mut roles = OwnRoles::default();
        let stored = |password: &str| Found {
            password: verifier(password),
            ..found(true, true)
        };
        let right = stored(&role("r").password);
        assert!(!roles.may_set(&role("r"), Some(&right), Agreement::All));
        let wrong = stored("another");
        assert!(!roles.may_set(&role("r"), Some(&wrong), Agreement::Others));
        assert!(!roles.may_set(&role("r"), Some(&wrong), Agreement::Unknown));
        assert!(roles.may_set(&role("r"), Some(&wrong), Agreement::All));
        let none = found(true, true);
        assert!(roles.may_set(&role("r"), Some(&none), Agreement::All));
        let without = Credentials {
            password: String::new(),
            ..role("r")
        };
        assert!(!roles.may_set(&without, Some(&wrong), Agreement::All));
    }
}
