//! The schema is applied by a role that may do more than the database's owner.

use crate::harness::{World, connect};

#[tokio::test]
async fn functions_of_the_databases_owner_are_not_called_when_the_schema_is_applied() {
    let world = World::start().await;
    let superuser = connect("postgres", world.primary_port).await;
    superuser
        .batch_execute("CREATE ROLE app LOGIN; ALTER DATABASE postgres OWNER TO app")
        .await
        .unwrap();
    let owner = connect("app", world.primary_port).await;
    let trap = |kind: &str| {
        format!(
            "CREATE FUNCTION trap.format(text, {kind}) RETURNS text LANGUAGE plpgsql AS \
             $$ BEGIN ALTER ROLE app SUPERUSER; RETURN pg_catalog.format($1, $2); END $$;"
        )
    };
    owner
        .batch_execute(&format!(
            "CREATE SCHEMA trap; {} {} ALTER DATABASE postgres SET search_path = trap, pg_catalog, public",
            trap("text"),
            trap("name")
        ))
        .await
        .unwrap();
    world.apply_schema();
    let caught: bool = superuser
        .query_one("SELECT rolsuper FROM pg_roles WHERE rolname = 'app'", &[])
        .await
        .unwrap()
        .get(0);
    assert!(!caught, "the owner is a superuser now");
}
