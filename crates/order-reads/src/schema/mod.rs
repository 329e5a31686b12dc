//! Brings a database to the schema, without a superuser's rights in it: triggers, functions and
//! casts of the database's owner run at most as that owner.
//!
//! Two logins share the work. The owner's makes tables, indexes, functions, triggers and grants. The
//! other one creates roles, in another database of the same server. Once, after an upgrade from a
//! version that made the tables as a superuser, the latter hands them over to the owner.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls};

use crate::options::Passwords;

mod ownership;

/// The roles, for a role that may create roles.
const ROLES: &str = include_str!("../roles.sql");
/// Tables, indexes, functions, triggers and grants, for the database's owner.
const TABLES: &str = include_str!("../schema.sql");

const OWNER_DSN: &str = "ORDERS_OWNER_DSN";
const ROLES_DSN: &str = "ORDERS_ROLES_DSN";

/// A database's owner can set defaults for every session in it, a superuser's too; these win over
/// them. `pg_temp` is named because it would be searched first. While a statement waits for a lock,
/// the transactions of services queue behind it, so it does not wait long.
const PINNED: &str =
    "-c search_path=pg_catalog,pg_temp -c default_transaction_read_only=off -c lock_timeout=5s";

/// For each address.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// With the login, for all addresses.
const LOGIN_WITHIN: Duration = Duration::from_secs(30);

/// Keeps verifiers out of the server's log. Only a superuser may say so.
const QUIET: [&str; 3] = [
    "SET log_statement = none",
    "SET log_min_error_statement = panic",
    "SET log_min_duration_statement = -1",
];

const WHERE_WE_ARE: &str = "SELECT current_user::text, current_database()::text, \
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), \
    (SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = current_database()), \
    has_schema_privilege(to_regnamespace('public'), 'CREATE')";

const WHERE_ROLES_ARE: &str = "SELECT current_database()::text, \
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)";

const MISSING_ROLES: &str = "SELECT wanted FROM unnest(ARRAY['mrg_orders_active', 'mrg_orders_history', 'mrg_orders_archiver']) wanted \
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted)";

/// Why the schema could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A connection string.
    #[error("{option} is not a connection string")]
    Dsn {
        /// The variable that holds it.
        option: &'static str,
        /// The parser's error.
        source: tokio_postgres::Error,
    },
    /// The server cannot be reached, or refuses the login.
    #[error("failed to connect to the database `{database}` by {option}")]
    Connect {
        /// The variable with the connection string.
        option: &'static str,
        /// The database; empty if it is the user's default.
        database: String,
        /// The driver's error.
        source: tokio_postgres::Error,
    },
    /// The server takes a connection and does not answer.
    #[error("the login to the database `{database}` by {option} took longer than {} s", LOGIN_WITHIN.as_secs())]
    Timeout {
        /// The variable with the connection string.
        option: &'static str,
        /// The database; empty if it is the user's default.
        database: String,
    },
    /// PostgreSQL refused a statement.
    #[error("failed to {operation}")]
    Statement {
        /// What it was to do.
        operation: String,
        /// The driver's error.
        source: tokio_postgres::Error,
    },
    /// The owner's login has a superuser's rights.
    #[error(
        "ORDERS_OWNER_DSN logs in as `{role}`, a superuser, with whose rights functions and triggers of others would run; log in as a role \
         that is none and owns the database `{database}` (its owner is `{owner}`; `ALTER DATABASE … OWNER TO …` changes that)"
    )]
    Superuser {
        /// The login.
        role: String,
        /// The database of the orders.
        database: String,
        /// The role that owns the database.
        owner: String,
    },
    /// The owner's login cannot make tables.
    #[error(
        "`{role}` of ORDERS_OWNER_DSN may not create tables in the schema public of the database `{database}`; log in as its owner, `{owner}`, \
         or have a superuser run in that database: {statement}"
    )]
    MayNotCreate {
        /// The login.
        role: String,
        /// The database of the orders.
        database: String,
        /// The role that owns the database.
        owner: String,
        /// What permits it.
        statement: String,
    },
    /// Both connection strings lead to the same database.
    #[error(
        "ORDERS_ROLES_DSN leads to `{0}`, the database of the orders, whose owner's settings and code a superuser must not meet; name \
         another database of the same server, such as postgres or template1"
    )]
    SameDatabase(String),
    /// Roles that the grants name do not exist.
    #[error(
        "the server of ORDERS_OWNER_DSN has no role {}; set ORDERS_ROLES_DSN to a login there that may create roles, or have a superuser \
         run: {statements}", .missing.join(", ")
    )]
    NoRoles {
        /// Their names.
        missing: Vec<String>,
        /// What creates them.
        statements: String,
    },
    /// Tables or functions of these names belong to roles from which nothing is taken away.
    #[error(
        "{objects}: `{role}` of ORDERS_OWNER_DSN cannot bring to the schema what belongs to others; {remedy}: {statements}"
    )]
    OwnedByOthers {
        /// What belongs to whom.
        objects: String,
        /// The login.
        role: String,
        /// Who can change it.
        remedy: &'static str,
        /// What makes the login the owner.
        statements: String,
    },
}

fn failed(operation: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Error {
    let operation = operation.into();
    move |source| Error::Statement { operation, source }
}

/// The statements, for a person to read or to run.
#[must_use]
pub fn schema_text() -> String {
    format!("{ROLES}{TABLES}")
}

/// A connection, and what moves its bytes.
struct Session {
    client: Client,
    pump: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Session {
    async fn open(option: &'static str, mut config: Config, options: &str) -> Result<Self, Error> {
        config
            .application_name("mrg-orders schema")
            .options(options)
            .connect_timeout(CONNECT_WITHIN);
        let database = || config.get_dbname().unwrap_or_default().to_owned();
        let login = tokio::time::timeout(LOGIN_WITHIN, config.connect(NoTls));
        let (client, connection) = login
            .await
            .map_err(|_| Error::Timeout {
                option,
                database: database(),
            })?
            .map_err(|source| Error::Connect {
                option,
                database: database(),
                source,
            })?;
        let pump = tokio::spawn(connection);
        Ok(Self { client, pump })
    }

    async fn run(&self, operation: &str, statements: &str) -> Result<(), Error> {
        self.client
            .batch_execute(statements)
            .await
            .map_err(failed(operation))
    }

    /// Ends the session in order, so that the server logs no lost connection.
    async fn close(self) {
        drop(self.client);
        // How it ends changes nothing any more.
        let _ = self.pump.await;
    }
}

/// Where the owner's connection leads, and as which role.
struct Target {
    role: String,
    database: String,
}

/// Makes tables, indexes, functions, triggers and grants as the owner of the database, or brings
/// them up to date.
///
/// With `roles_dsn`, a login of the same server that may create roles, in another database: creates
/// the three roles, sets the passwords that are given, and hands over to the owner what an earlier
/// version made as a superuser. Without it the roles must exist, and no password is set.
///
/// # Errors
/// If a connection cannot be used, a statement is refused, or something is missing that only another
/// role may create; the error then has the statement.
pub async fn apply_schema(
    owner_dsn: &str,
    roles_dsn: Option<&str>,
    passwords: &Passwords,
) -> Result<(), Error> {
    let owner = Session::open(OWNER_DSN, parsed(OWNER_DSN, owner_dsn)?, PINNED).await?;
    let target = target(&owner).await?;
    let superuser = match roles_dsn {
        Some(dsn) => make_roles(parsed(ROLES_DSN, dsn)?, &target, passwords).await?,
        None => None,
    };
    require_roles(&owner).await?;
    ownership::take_over(&owner, &target, superuser).await?;
    let operation = format!("apply the schema as `{}`", target.role);
    owner.run(&operation, TABLES).await?;
    owner.close().await;
    Ok(())
}

fn parsed(option: &'static str, dsn: &str) -> Result<Config, Error> {
    dsn.parse().map_err(|source| Error::Dsn { option, source })
}

/// Checks that the owner's login has the rights that are needed, and no more.
async fn target(session: &Session) -> Result<Target, Error> {
    let row = session.client.query_typed_one(WHERE_WE_ARE, &[]).await;
    let read = |row: tokio_postgres::Row| {
        Ok((
            row.try_get::<_, String>(0)?,
            row.try_get::<_, String>(1)?,
            row.try_get::<_, bool>(2)?,
            row.try_get::<_, String>(3)?,
            row.try_get::<_, Option<bool>>(4)?,
        ))
    };
    let (role, database, superuser, owner, creates) = row
        .and_then(read)
        .map_err(failed("find out where ORDERS_OWNER_DSN leads"))?;
    if superuser {
        return Err(Error::Superuser {
            role,
            database,
            owner,
        });
    }
    let name = quoted(&role);
    let statement = match creates {
        Some(true) => return Ok(Target { role, database }),
        Some(false) => format!("GRANT CREATE ON SCHEMA public TO {name};"),
        None => format!("CREATE SCHEMA public AUTHORIZATION {name};"),
    };
    Err(Error::MayNotCreate {
        role,
        database,
        owner,
        statement,
    })
}

fn quoted(name: &str) -> String {
    postgres_protocol::escape::escape_identifier(name)
}

/// Creates the roles and sets their passwords. Returns the login if it is a superuser's.
async fn make_roles(
    config: Config,
    target: &Target,
    passwords: &Passwords,
) -> Result<Option<Config>, Error> {
    let session = Session::open(ROLES_DSN, config.clone(), PINNED).await?;
    let row = session.client.query_typed_one(WHERE_ROLES_ARE, &[]).await;
    let (database, superuser): (String, bool) = row
        .and_then(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .map_err(failed("find out where ORDERS_ROLES_DSN leads"))?;
    if database == target.database {
        return Err(Error::SameDatabase(database));
    }
    session.run("create the roles", ROLES).await?;
    let all = [
        ("mrg_orders_active", &passwords.active_password),
        ("mrg_orders_history", &passwords.history_password),
        ("mrg_orders_archiver", &passwords.archiver_password),
    ];
    for quiet in QUIET {
        // A role that may only create roles goes on with the server's settings.
        let _ = session.client.batch_execute(quiet).await;
    }
    for (role, password) in all {
        let Some(password) = password else { continue };
        // Both names are plain: nothing needs quotes.
        let verifier = postgres_protocol::password::scram_sha_256(password.as_bytes());
        let statement = format!("ALTER ROLE {role} PASSWORD '{verifier}'");
        let operation = format!("set the password of {role}");
        session.run(&operation, &statement).await?;
    }
    session.close().await;
    Ok(superuser.then_some(config))
}

async fn require_roles(owner: &Session) -> Result<(), Error> {
    let rows = owner.client.query_typed(MISSING_ROLES, &[]).await;
    let missing: Vec<String> = rows
        .and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect())
        .map_err(failed("look for the roles"))?;
    if missing.is_empty() {
        return Ok(());
    }
    let statements = missing.iter().map(|role| creating(role));
    Err(Error::NoRoles {
        statements: statements.collect::<Vec<_>>().join(" "),
        missing,
    })
}

/// What creates one of the roles, with the settings that `roles.sql` gives it.
fn creating(role: &str) -> String {
    let settings = format!("ALTER ROLE {role} ");
    let lines = ROLES.lines().filter(|line| line.starts_with(&settings));
    lines.fold(format!("CREATE ROLE {role} LOGIN;"), |all, line| {
        format!("{all} {line}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_role_is_created_with_its_settings() {
        assert_eq!(
            creating("mrg_orders_history"),
            "CREATE ROLE mrg_orders_history LOGIN; ALTER ROLE mrg_orders_history SET default_transaction_read_only = on; \
             ALTER ROLE mrg_orders_history SET statement_timeout = '2s';"
        );
        assert_eq!(
            creating("mrg_orders_archiver"),
            "CREATE ROLE mrg_orders_archiver LOGIN;"
        );
    }

    #[test]
    fn what_the_owner_applies_creates_no_role() {
        for line in TABLES.lines() {
            assert!(
                !line.contains("CREATE ROLE") && !line.contains("ALTER ROLE"),
                "{line}"
            );
        }
    }
}
