//! What of a file that is read again has its effect at once, and what only at the agent's next start.

use super::AgentConfig;

impl AgentConfig {
    /// The settings that differ in another configuration of the same member and have their effect
    /// only at a start of the agent, by their path in the file. `postgresql.parameters` and
    /// `postgresql.pg_hba` are none of them.
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
            (
                "restapi.authentication",
                self.rest_credentials == new.rest_credentials,
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
            (
                "postgresql.authentication.superuser",
                own.superuser == others.superuser,
            ),
            (
                "postgresql.authentication.replication",
                own.replication == others.replication,
            ),
            ("tags", self.tags == new.tags),
            ("mrg", self.own == new.own),
        ];
        let changed = settings.into_iter().filter(|(_, same)| !same);
        changed.map(|(path, _)| path).collect()
    }
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
    fn parameters_are_reloaded_and_the_rest_is_named() {
        let old = read(FILE);
        assert!(old.needs_restart(&old).is_empty());
        let new = read(&FILE.replace("8MB", "9MB"));
        assert!(old.needs_restart(&new).is_empty());
        let new = FILE.replace("nosync: false", "nosync: true");
        let new = read(&new.replace("password: old", "password: new"));
        let expected = ["postgresql.authentication.superuser", "tags"];
        assert_eq!(old.needs_restart(&new), expected);
    }
}
