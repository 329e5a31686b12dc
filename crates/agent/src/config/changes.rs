//! What of a file that is read again has its effect at once, and what only at the agent's next start.

use super::AgentConfig;
use mrg_postgres::Authentication;

impl AgentConfig {
    /// The settings that differ in another configuration of the same member and have their effect
    /// only at a start of the agent, by their path in the file. `postgresql.parameters`,
    /// `postgresql.pg_hba`, passwords, `restapi.authentication` and `tags` are none of them.
    pub(crate) fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let (own, others) = (&self.authentication, &new.authentication);
        let settings = [
            ("scope", self.scope == new.scope),
            ("name", self.name == new.name),
            ("namespace", self.namespace == new.namespace),
            ("restapi.listen", self.rest_listen == new.rest_listen),
            (
                "restapi.connect_address",
                self.rest_connect == new.rest_connect,
            ),
            ("etcd3.hosts", self.etcd_endpoints == new.etcd_endpoints),
            (
                "etcd3.username and password",
                self.etcd_user == new.etcd_user,
            ),
            ("postgresql.listen", self.listen == new.listen),
            ("postgresql.connect_address", self.connect == new.connect),
            (
                "postgresql.data_dir",
                self.data_directory == new.data_directory,
            ),
            (
                "postgresql.bin_dir",
                self.bin_directory == new.bin_directory,
            ),
            ("postgresql.pgpass", self.pgpass == new.pgpass),
            (
                "postgresql.authentication.superuser.username",
                own.superuser.username == others.superuser.username,
            ),
            (
                "postgresql.authentication.replication.username",
                own.replication.username == others.replication.username,
            ),
            (
                "postgresql.authentication.rewind.username",
                rewinder(own) == rewinder(others),
            ),
            ("mrg", self.own == new.own),
        ];
        let changed = settings.into_iter().filter(|(_, same)| !same);
        changed.map(|(path, _)| path).collect()
    }
}

fn rewinder(authentication: &Authentication) -> Option<&str> {
    let rewind = authentication.rewind.as_ref();
    rewind.map(|role| role.username.as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;

    const FILE: &str = "
scope: demo
name: pg-1
restapi: {listen: '127.0.0.1:8008'}
etcd3: {host: '127.0.0.1:2379'}
postgresql:
  listen: 127.0.0.1:5432
  data_dir: /data/pg
  parameters: {work_mem: 8MB}
  authentication:
    superuser: {username: postgres, password: old}
tags: {nosync: false}
";

    fn read(text: &str) -> AgentConfig {
        AgentConfig::parse(text, Path::new("patroni.yml"), &BTreeMap::new()).unwrap()
    }

    #[test]
    fn what_is_reloaded_needs_no_restart_and_the_rest_is_named() {
        let old = read(FILE);
        assert!(old.needs_restart(&old).is_empty());
        let new = read(&FILE.replace("8MB", "9MB"));
        assert!(old.needs_restart(&new).is_empty());
        let new = FILE.replace("nosync: false", "nosync: true");
        let new = new.replace("password: old", "password: new");
        let with_rest = new.replace(
            "8008'}",
            "8008', authentication: {username: a, password: b}}",
        );
        assert!(old.needs_restart(&read(&with_rest)).is_empty());
        let new = new.replace("username: postgres", "username: admin");
        let new = new.replace("superuser:", "rewind: {username: r}\n    superuser:");
        let expected = [
            "postgresql.authentication.superuser.username",
            "postgresql.authentication.rewind.username",
        ];
        assert_eq!(old.needs_restart(&read(&new)), expected);
    }
}
