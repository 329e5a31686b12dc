//! The keys of a cluster, and where they are.

use mrg_base::{MemberName, Scope};

/// Patroni's default for `namespace`; the operator's clusters never have another.
pub const NAMESPACE: &str = "service";

/// A key of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `leader`: the leader's name, under its lease. Who owns it leads.
    Leader,
    /// `initialize`: the system identifier, or a claim under the lease of the bootstrapping member.
    Initialize,
    /// `config`: the dynamic configuration.
    Config,
    /// `sync`: which members may take over without losing an acknowledged commit.
    Sync,
    /// `failover`: a request to hand over, or `{}`.
    Failover,
    /// `failsafe`: the members whose promises a leader needs when etcd does not answer.
    Failsafe,
    /// `history`: one line for each timeline that ended.
    History,
    /// `status`: the leader's position.
    Status,
    /// `members/<name>`: what a member publishes about itself, under its lease.
    Member(MemberName),
    /// `/mrg/<scope>/pause`: a leader is about to hand over; under its lease.
    Pause,
    /// `/mrg/<scope>/poolers/<pod>`: what a pooler publishes about itself, under its lease.
    Pooler(String),
}

/// Names under Patroni's prefix that stand for exactly one key.
const SINGLE: [(&str, Key); 8] = [
    ("leader", Key::Leader),
    ("initialize", Key::Initialize),
    ("config", Key::Config),
    ("sync", Key::Sync),
    ("failover", Key::Failover),
    ("failsafe", Key::Failsafe),
    ("history", Key::History),
    ("status", Key::Status),
];

impl Key {
    /// The key of this name under Patroni's prefix; `None` for one that is not Patroni's, or a
    /// member of a name that no member may have.
    pub fn in_cluster(name: &str) -> Option<Self> {
        if let Some(member) = name.strip_prefix("members/") {
            return MemberName::new(member).ok().map(Key::Member);
        }
        SINGLE
            .iter()
            .find(|(single, _)| *single == name)
            .map(|(_, key)| key.clone())
    }
}

/// Maps the keys of one cluster to paths in etcd.
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

    /// The prefix of the poolers' keys, with the closing slash.
    pub fn poolers(&self) -> String {
        format!("{}poolers/", self.own)
    }

    /// Where a key is.
    pub fn path(&self, key: &Key) -> String {
        let Self { prefix, own } = self;
        match key {
            Key::Leader => format!("{prefix}leader"),
            Key::Initialize => format!("{prefix}initialize"),
            Key::Config => format!("{prefix}config"),
            Key::Sync => format!("{prefix}sync"),
            Key::Failover => format!("{prefix}failover"),
            Key::Failsafe => format!("{prefix}failsafe"),
            Key::History => format!("{prefix}history"),
            Key::Status => format!("{prefix}status"),
            Key::Member(name) => format!("{prefix}members/{name}"),
            Key::Pause => format!("{own}pause"),
            Key::Pooler(pod) => format!("{own}poolers/{pod}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_patronis_and_name_their_keys_again() {
        let keys = Keys::new("/service/", &Scope::new("demo").unwrap());
        let member = Key::Member(MemberName::new("demo-0").unwrap());
        for (key, path) in [
            (Key::Leader, "/service/demo/leader"),
            (Key::Initialize, "/service/demo/initialize"),
            (Key::Config, "/service/demo/config"),
            (Key::Sync, "/service/demo/sync"),
            (Key::Failover, "/service/demo/failover"),
            (Key::Failsafe, "/service/demo/failsafe"),
            (Key::History, "/service/demo/history"),
            (Key::Status, "/service/demo/status"),
            (member, "/service/demo/members/demo-0"),
        ] {
            assert_eq!(keys.path(&key), path);
            let name = path.strip_prefix(keys.prefix()).unwrap();
            assert_eq!(Key::in_cluster(name), Some(key));
        }
        assert_eq!(keys.path(&Key::Pause), "/mrg/demo/pause");
        let pooler = Key::Pooler("w-1".to_owned());
        assert_eq!(keys.path(&pooler), "/mrg/demo/poolers/w-1");
        assert_eq!(keys.poolers(), "/mrg/demo/poolers/");
        for other in [
            "",
            "leader/",
            "members/",
            "members/no name",
            "optime/leader",
        ] {
            assert_eq!(Key::in_cluster(other), None, "{other}");
        }
    }
}
