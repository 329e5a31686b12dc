//! The upgrade from a version that made tables and functions as a superuser: their new owner could
//! not replace them.

use tokio_postgres::{Config, Row};

use super::{Error, PINNED, ROLES_DSN, Session, Target, failed, quoted};

/// Besides what is pinned everywhere, no event trigger fires, unless it is made to fire in
/// replication: its function may belong to someone else than the superuser who made it.
const NO_EVENT_TRIGGERS: &str = "-c session_replication_role=replica";

/// The tables and functions of the schema that exist, their owners, whether those are superusers,
/// and whether this session's role has an owner's rights.
const OBJECTS: &str = "SELECT kind, name, rolname::text, rolsuper, pg_has_role(owner, 'USAGE') FROM (
       SELECT 'TABLE' AS kind, 'public.' || relname AS name, relowner AS owner FROM pg_class
        WHERE relnamespace = to_regnamespace('public') AND relkind IN ('r', 'p') AND relname IN ('orders', 'orders_archived')
       UNION ALL
       SELECT 'FUNCTION', 'public.' || proname || '()', proowner FROM pg_proc
        WHERE pronamespace = to_regnamespace('public') AND prokind = 'f' AND pronargs = 0 AND proname IN ('orders_before_update', 'orders_changed')
     ) objects JOIN pg_roles ON pg_roles.oid = owner ORDER BY kind DESC, name";

/// A table or function of the schema.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Object {
    /// `TABLE` or `FUNCTION`.
    kind: String,
    /// Its name with its schema; PostgreSQL's own spelling needs no quotes for any of them.
    name: String,
    owner: String,
    /// Whether its owner is a superuser.
    of_superuser: bool,
    /// Whether the session's role may do with it what its owner may.
    ours: bool,
}

impl Object {
    fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            kind: row.try_get(0)?,
            name: row.try_get(1)?,
            owner: row.try_get(2)?,
            of_superuser: row.try_get(3)?,
            ours: row.try_get(4)?,
        })
    }

    fn hand_over(&self, role: &str) -> String {
        let Self { kind, name, .. } = self;
        format!("ALTER {kind} {name} OWNER TO {};", quoted(role))
    }
}

async fn objects(session: &Session) -> Result<Vec<Object>, Error> {
    let rows = session.client.query_typed(OBJECTS, &[]).await;
    rows.and_then(|rows| rows.iter().map(Object::read).collect())
        .map_err(failed("look for the owners of the tables"))
}

fn statements<'a>(objects: impl IntoIterator<Item = &'a Object>, role: &str) -> String {
    let all = objects.into_iter().map(|object| object.hand_over(role));
    all.collect::<Vec<_>>().join(" ")
}

/// Why what is there cannot be brought to the schema.
fn refusal(foreign: &[Object], role: &str, remedy: &'static str) -> Error {
    let belongs = |object: &Object| format!("{} belongs to `{}`", object.name, object.owner);
    Error::OwnedByOthers {
        objects: foreign.iter().map(belongs).collect::<Vec<_>>().join(", "),
        role: role.to_owned(),
        remedy,
        statements: statements(foreign, role),
    }
}

/// Makes the owner's login the owner of everything that the schema names, as far as that belongs to
/// a superuser. If it is already, which is so but for the first run after an upgrade, no superuser
/// connects to the database.
///
/// # Errors
/// If something belongs to a role that is no superuser, or no superuser's login is given.
pub(super) async fn take_over(
    owner: &Session,
    target: &Target,
    superuser: Option<Config>,
) -> Result<(), Error> {
    let mut foreign = objects(owner).await?;
    foreign.retain(|object| !object.ours);
    if foreign.is_empty() {
        return Ok(());
    }
    if foreign.iter().any(|object| !object.of_superuser) {
        let remedy = "log in as that role, or have a superuser run in this database";
        return Err(refusal(&foreign, &target.role, remedy));
    }
    let Some(mut config) = superuser else {
        let remedy =
            "set ORDERS_ROLES_DSN to a superuser's login, or have a superuser run in this database";
        return Err(refusal(&foreign, &target.role, remedy));
    };
    config.dbname(&target.database);
    let options = format!("{PINNED} {NO_EVENT_TRIGGERS}");
    let superuser = Session::open(ROLES_DSN, config, &options).await?;
    // As they are now, and within what the owner's session lacks.
    let mut handed = objects(&superuser).await?;
    handed.retain(|object| {
        object.of_superuser && foreign.iter().any(|foreign| foreign.name == object.name)
    });
    let operation = format!("hand over the tables to `{}`", target.role);
    superuser
        .run(&operation, &statements(&handed, &target.role))
        .await?;
    superuser.close().await;
    for object in &handed {
        tracing::info!(
            object = object.name,
            from = object.owner,
            to = target.role,
            "handed over: only its owner can bring it to the schema"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_of_any_name_is_quoted() {
        let object = Object {
            kind: "FUNCTION".to_owned(),
            name: "public.orders_changed()".to_owned(),
            owner: "postgres".to_owned(),
            of_superuser: true,
            ours: false,
        };
        assert_eq!(
            object.hand_over("a\"; DROP ROLE b"),
            "ALTER FUNCTION public.orders_changed() OWNER TO \"a\"\"; DROP ROLE b\";"
        );
    }
}
