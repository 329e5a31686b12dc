//! Whether the databases of a new cluster, and their owners, can be made.

#![deny(clippy::indexing_slicing, clippy::panic)]

use crate::config::{Database, Error};
use mrg_base::{AgentRoles, check_databases, check_owner};
use mrg_postgres::Authentication;

pub(super) fn check_owners(
    databases: &[Database],
    authentication: &Authentication,
) -> Result<(), Error> {
    let rewind = authentication.rewind.as_ref();
    let agent = AgentRoles {
        superuser: &authentication.superuser.username,
        replication: &authentication.replication.username,
        rewind: rewind.map(|role| role.username.as_str()),
    };
    let refused = |field| move |source| Error::Owner { field, source };
    let names = databases.iter().map(|database| database.name.as_str());
    check_databases(names).map_err(refused("name"))?;
    for database in databases {
        check_owner(&database.owner, agent).map_err(refused("owner"))?;
    }
    Ok(())
}
