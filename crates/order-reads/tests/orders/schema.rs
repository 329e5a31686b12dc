//! The schema is applied as the owner of the database; a superuser creates the roles elsewhere.

use tokio_postgres::Client;

use crate::harness::{World, connect};

/// Keeps who changed what in the database of the orders, whatever a session's settings.
const AUDIT: &str = "CREATE SCHEMA audit;
    CREATE TABLE audit.changes (login text, tag text);
    GRANT USAGE ON SCHEMA audit TO PUBLIC;
    GRANT INSERT ON audit.changes TO PUBLIC;
    CREATE FUNCTION audit.keep() RETURNS event_trigger LANGUAGE plpgsql AS
      $$ BEGIN INSERT INTO audit.changes VALUES (session_user, tg_tag); END $$;
    CREATE EVENT TRIGGER audit ON ddl_command_end EXECUTE FUNCTION audit.keep();
    ALTER EVENT TRIGGER audit ENABLE ALWAYS";

async fn texts(client: &Client, sql: &str) -> Vec<String> {
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The tables and functions of the schema that do not belong to `app`.
async fn of_others(client: &Client) -> Vec<String> {
    let sql = "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relowner <> 'app'::regrole
               UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proowner <> 'app'::regrole";
    texts(client, sql).await
}

/// What a version that applied the whole schema as a superuser left.
async fn as_a_superuser_made_it(superuser: &Client) {
    let all = "ALTER TABLE public.orders OWNER TO postgres; ALTER TABLE public.orders_archived OWNER TO postgres;
        ALTER FUNCTION public.orders_before_update() OWNER TO postgres; ALTER FUNCTION public.orders_changed() OWNER TO postgres";
    superuser.batch_execute(all).await.unwrap();
}

#[tokio::test]
async fn code_of_the_databases_owner_never_runs_as_a_superuser() {
    let world = World::start().await;
    let superuser = connect("postgres", world.primary_port).await;
    let owner = connect("app", world.primary_port).await;
    let trap = |kind: &str| {
        format!(
            "CREATE FUNCTION trap.format(text, {kind}) RETURNS text LANGUAGE plpgsql AS \
             $$ BEGIN INSERT INTO trap.caught VALUES (session_user); RETURN pg_catalog.format($1, $2); END $$;"
        )
    };
    owner
        .batch_execute(&format!(
            "CREATE SCHEMA trap; CREATE TABLE trap.caught (login text); {} {}
             ALTER DATABASE orders SET search_path = trap, pg_catalog, public;
             ALTER DATABASE orders SET default_transaction_read_only = on",
            trap("text"),
            trap("name")
        ))
        .await
        .unwrap();
    superuser.batch_execute(AUDIT).await.unwrap();
    assert_eq!(world.schema("app", Some("postgres")), Ok(()));
    assert_eq!(
        texts(&superuser, "SELECT DISTINCT login FROM audit.changes").await,
        ["app"],
        "only its owner changes the database"
    );
    let caught = texts(&superuser, "SELECT login FROM trap.caught").await;
    assert!(caught.is_empty(), "the trap was called by {caught:?}");
}

#[tokio::test]
async fn what_a_superuser_made_is_handed_over_and_nothing_else_is_done_as_a_superuser() {
    let world = World::start().await;
    let superuser = connect("postgres", world.primary_port).await;
    as_a_superuser_made_it(&superuser).await;
    superuser
        .batch_execute(
            "CREATE TABLE public.ledger (); CREATE FUNCTION public.orders_changed(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        )
        .await
        .unwrap();
    superuser.batch_execute(AUDIT).await.unwrap();
    // An event trigger of a superuser's, with a function that the database's owner may replace.
    superuser
        .batch_execute(
            "CREATE FUNCTION audit.note() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
             CREATE EVENT TRIGGER note ON ddl_command_start EXECUTE FUNCTION audit.note();
             ALTER EVENT TRIGGER note DISABLE; GRANT CREATE ON SCHEMA audit TO app; ALTER FUNCTION audit.note() OWNER TO app;",
        )
        .await
        .unwrap();
    connect("app", world.primary_port)
        .await
        .batch_execute(
            "CREATE OR REPLACE FUNCTION audit.note() RETURNS event_trigger LANGUAGE plpgsql AS
             $$ BEGIN IF session_user = 'postgres' THEN ALTER ROLE app SUPERUSER; END IF; END $$",
        )
        .await
        .unwrap();
    superuser
        .batch_execute("ALTER EVENT TRIGGER note ENABLE; TRUNCATE audit.changes")
        .await
        .unwrap();

    let refused = world.schema("app", None).unwrap_err();
    for part in [
        "public.orders belongs to `postgres`",
        "set ORDERS_ROLES_DSN to a superuser's login",
        "ALTER TABLE public.orders OWNER TO \"app\";",
        "ALTER FUNCTION public.orders_changed() OWNER TO \"app\";",
    ] {
        assert!(refused.contains(part), "{part} is not in {refused}");
    }

    assert_eq!(world.schema("app", Some("postgres")), Ok(()));
    let mut left = of_others(&superuser).await;
    left.sort_unstable();
    assert_eq!(left, ["ledger", "orders_changed"], "these are not ours");
    let of_superuser = "SELECT tag FROM audit.changes WHERE login = 'postgres' ORDER BY tag";
    assert_eq!(
        texts(&superuser, of_superuser).await,
        [
            "ALTER FUNCTION",
            "ALTER FUNCTION",
            "ALTER TABLE",
            "ALTER TABLE"
        ]
    );
    let promoted = "SELECT rolname::text FROM pg_roles WHERE rolname = 'app' AND rolsuper";
    assert!(texts(&superuser, promoted).await.is_empty());
    superuser
        .batch_execute("DROP EVENT TRIGGER note; TRUNCATE audit.changes")
        .await
        .unwrap();

    // Grants and triggers still hold, and the next run needs no superuser in the database.
    let allowed =
        "SELECT 'yes' WHERE has_table_privilege('mrg_orders_active', 'public.orders', 'SELECT')
         AND has_table_privilege('mrg_orders_archiver', 'public.orders_archived', 'INSERT')
         AND NOT has_table_privilege('mrg_orders_active', 'public.orders', 'UPDATE')";
    assert_eq!(texts(&superuser, allowed).await, ["yes"]);
    assert_eq!(world.schema("app", Some("postgres")), Ok(()));
    assert_eq!(world.schema("app", None), Ok(()));
    assert!(texts(&superuser, of_superuser).await.is_empty());
}

#[tokio::test]
async fn without_a_login_that_creates_roles_the_refusal_has_the_statements() {
    let world = World::start().await;
    let superuser = connect("postgres", world.primary_port).await;
    superuser
        .batch_execute("DROP OWNED BY mrg_orders_history, mrg_orders_archiver; DROP ROLE mrg_orders_history, mrg_orders_archiver")
        .await
        .unwrap();
    let refused = world.schema("app", None).unwrap_err();
    let (_, statements) = refused
        .split_once("have a superuser run: ")
        .unwrap_or_else(|| panic!("{refused}"));
    assert!(
        statements.starts_with("CREATE ROLE mrg_orders_history LOGIN; ALTER ROLE "),
        "{refused}"
    );
    superuser
        .batch_execute(statements.lines().next().unwrap())
        .await
        .unwrap();
    assert_eq!(world.schema("app", None), Ok(()));
    let settings = "SELECT rolname::text FROM pg_roles WHERE 'statement_timeout=2s' = ANY (rolconfig) ORDER BY 1";
    assert_eq!(
        texts(&superuser, settings).await,
        ["mrg_orders_active", "mrg_orders_history"]
    );
}

#[tokio::test]
async fn logins_with_too_many_or_too_few_rights_are_refused_with_the_next_step() {
    let world = World::start().await;
    let superuser = connect("postgres", world.primary_port).await;
    superuser
        .batch_execute("CREATE ROLE stranger LOGIN CREATEROLE")
        .await
        .unwrap();
    let refused = world.schema("postgres", Some("postgres")).unwrap_err();
    assert!(
        refused.contains("`postgres`, a superuser") && refused.contains("its owner is `app`"),
        "{refused}"
    );
    let refused = world.schema("stranger", None).unwrap_err();
    assert!(
        refused.contains("log in as its owner, `app`")
            && refused.contains("GRANT CREATE ON SCHEMA public TO \"stranger\";"),
        "{refused}"
    );
    superuser
        .batch_execute("GRANT CREATE ON SCHEMA public TO stranger")
        .await
        .unwrap();
    let refused = world.schema("stranger", Some("postgres")).unwrap_err();
    assert!(
        refused.contains("public.orders belongs to `app`")
            && refused.contains("log in as that role"),
        "what no superuser made is not taken away: {refused}"
    );

    // A login that creates roles and is no superuser's does all but the handing over.
    assert_eq!(world.schema("app", Some("stranger")), Ok(()));
    as_a_superuser_made_it(&superuser).await;
    let refused = world.schema("app", Some("stranger")).unwrap_err();
    assert!(
        refused.contains("set ORDERS_ROLES_DSN to a superuser's login"),
        "{refused}"
    );
    superuser
        .batch_execute("DROP SCHEMA public CASCADE")
        .await
        .unwrap();
    let refused = world.schema("app", None).unwrap_err();
    assert!(
        refused.contains("CREATE SCHEMA public AUTHORIZATION \"app\";"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_superuser_is_not_sent_into_the_database_of_the_orders() {
    let world = World::start().await;
    let both = World::dsn("postgres", world.primary_port);
    let refused = World::schema_by(&World::dsn("app", world.primary_port), Some(&both));
    let refused = refused.unwrap_err();
    assert!(
        refused.contains("ORDERS_ROLES_DSN leads to `orders`")
            && refused.contains("such as postgres"),
        "{refused}"
    );
}
