//! Where things are.

use mrg_base::{MemberName, Scope};

/// The keys of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
    own: String,
}

impl Keys {
    /// Patroni's keys live under `/<namespace>/<scope>/`, ours under `/mrg/<scope>/`.
    pub fn new(namespace: &str, scope: &Scope) -> Self {
        Self {
            prefix: format!("/{}/{scope}/", namespace.trim_matches('/')),
            own: format!("/mrg/{scope}/"),
        }
    }

    /// Patroni's prefix, with the closing slash.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The prefix of keys that Patroni does not know, with the closing slash.
    pub fn own_prefix(&self) -> &str {
        &self.own
    }

    /// `pause`, among our own: the leader is about to hand over.
    pub fn pause(&self) -> String {
        format!("{}pause", self.own)
    }

    /// `poolers/`, among our own.
    pub fn poolers(&self) -> String {
        format!("{}poolers/", self.own)
    }

    /// `poolers/<pod>`, among our own.
    pub fn pooler(&self, pod: &str) -> String {
        format!("{}poolers/{pod}", self.own)
    }

    /// A key under Patroni's prefix.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// `leader`
    pub fn leader(&self) -> String {
        self.key("leader")
    }

    /// `sync`
    pub fn sync(&self) -> String {
        self.key("sync")
    }

    /// `initialize`
    pub fn initialize(&self) -> String {
        self.key("initialize")
    }

    /// `config`
    pub fn config(&self) -> String {
        self.key("config")
    }

    /// `failover`
    pub fn failover(&self) -> String {
        self.key("failover")
    }

    /// `members/<name>`
    pub fn member(&self, name: &MemberName) -> String {
        format!("{}members/{name}", self.prefix)
    }
}
