//! The passwords of the agent's own roles and of the REST API, which may change while it runs: in a
//! mounted Secret, or in the file when it is read again.
//!
//! A change reaches the members and the server one after the other. Until the server takes the new
//! password of a role, this member goes on with the one before; and requests among members are
//! accepted and made with both for a while.

use std::sync::Mutex;

use crate::config::{AgentConfig, Mounted};
use mrg_base::{Millis, Moment, lock};
use mrg_dcs::poolers::fingerprint;
use mrg_postgres::{Authentication, Credentials};

/// So long another member, or the server, may still have the password before the current one: a
/// kubelet brings a change of a Secret within two minutes.
const FORMER_COUNTS_FOR: Millis = Millis::seconds(300);

/// A role of the agent's in the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// For everything local.
    Superuser,
    /// For streaming and base backups.
    Replication,
    /// For `pg_rewind`: the superuser, if no role is configured for it.
    Rewind,
}

/// A role's credentials, with those before them.
#[derive(Clone, Debug)]
struct Rotating {
    current: Credentials,
    /// Those before, and since when they are.
    former: Option<(Credentials, Moment)>,
    /// Whether those before are in use, because the server is not known to take the current ones.
    uses_former: bool,
}

impl Rotating {
    fn new(current: Credentials) -> Self {
        Self {
            current,
            former: None,
            uses_former: false,
        }
    }

    /// Whether these are other credentials than the current ones.
    fn replace(&mut self, new: &Credentials, now: Moment) -> bool {
        if self.current == *new {
            return false;
        }
        let in_use = self.in_use().clone();
        self.uses_former = in_use != *new;
        self.former = Some((in_use, now));
        self.current = new.clone();
        true
    }

    fn in_use(&self) -> &Credentials {
        match &self.former {
            Some((former, _)) if self.uses_former => former,
            _ => &self.current,
        }
    }

    /// Those before, while they count.
    fn former(&self, now: Moment) -> Option<&Credentials> {
        let (former, since) = self.former.as_ref()?;
        (now.since(*since) < FORMER_COUNTS_FOR).then_some(former)
    }
}

struct Known {
    superuser: Rotating,
    replication: Rotating,
    rewind: Option<Rotating>,
    rest: Option<Rotating>,
}

impl Known {
    fn role(&mut self, role: Role) -> &mut Rotating {
        match role {
            Role::Superuser => &mut self.superuser,
            Role::Replication => &mut self.replication,
            Role::Rewind => self.rewind.as_mut().unwrap_or(&mut self.superuser),
        }
    }

    fn roles(&mut self) -> impl Iterator<Item = &mut Rotating> {
        [&mut self.superuser, &mut self.replication]
            .into_iter()
            .chain(&mut self.rewind)
    }

    fn replace_rest(&mut self, new: Option<&Credentials>, now: Moment) -> bool {
        match (&mut self.rest, new) {
            (Some(rest), Some(new)) => {
                let changes = rest.replace(new, now);
                // Each request says by itself whether it is accepted.
                rest.uses_former = false;
                changes
            }
            (None, None) => false,
            (rest, new) => {
                *rest = new.cloned().map(Rotating::new);
                true
            }
        }
    }
}

/// See the module.
pub(crate) struct OwnCredentials(Mutex<Known>);

impl OwnCredentials {
    /// Those that the configuration has.
    pub(crate) fn new(config: &AgentConfig) -> Self {
        let Authentication {
            superuser,
            replication,
            rewind,
        } = config.authentication.clone();
        Self(Mutex::new(Known {
            superuser: Rotating::new(superuser),
            replication: Rotating::new(replication),
            rewind: rewind.map(Rotating::new),
            rest: config.rest_credentials.clone().map(Rotating::new),
        }))
    }

    /// Those of the REST API, for tests of what uses no others.
    #[cfg(test)]
    pub(crate) fn of_rest(rest: Option<Credentials>) -> std::sync::Arc<Self> {
        let unused = || {
            Rotating::new(Credentials {
                username: "unused".to_owned(),
                password: String::new(),
            })
        };
        std::sync::Arc::new(Self(Mutex::new(Known {
            superuser: unused(),
            replication: unused(),
            rewind: None,
            rest: rest.map(Rotating::new),
        })))
    }

    fn with<R>(&self, act: impl FnOnce(&mut Known) -> R) -> R {
        act(&mut lock(&self.0))
    }

    /// Takes over other passwords of the same roles, and other credentials of the REST API. Gives
    /// whose are new; names of roles do not change while the agent runs.
    pub(crate) fn replace(
        &self,
        authentication: &Authentication,
        rest: Option<&Credentials>,
        now: Moment,
    ) -> Vec<String> {
        self.with(|known| {
            let mut changed = Vec::new();
            for (role, new) in known.roles().zip(authentication.roles()) {
                let same_role = role.current.username == new.username;
                if same_role && role.replace(new, now) {
                    changed.push(new.username.clone());
                }
            }
            if known.replace_rest(rest, now) {
                changed.push("the REST API".to_owned());
            }
            changed
        })
    }

    /// Takes over the passwords of a mounted Secret, where they are others than the last ones.
    pub(crate) fn read_mounted(&self, mounted: &Mounted, now: Moment) -> Vec<String> {
        let mut authentication = self.wanted();
        let mut rest = self.with(|known| Some(known.rest.as_ref()?.current.clone()));
        mounted.fill(&mut authentication, rest.as_mut());
        self.replace(&authentication, rest.as_ref(), now)
    }

    /// What each role should log in with.
    pub(crate) fn wanted(&self) -> Authentication {
        self.with(|known| Authentication {
            superuser: known.superuser.current.clone(),
            replication: known.replication.current.clone(),
            rewind: known.rewind.as_ref().map(|role| role.current.clone()),
        })
    }

    /// What each role logs in with now.
    pub(crate) fn in_use(&self) -> Vec<Credentials> {
        self.with(|known| known.roles().map(|role| role.in_use().clone()).collect())
    }

    /// What a role may log in with, the likelier first.
    pub(crate) fn candidates(&self, role: Role) -> Vec<Credentials> {
        self.with(|known| {
            let role = known.role(role);
            let in_use = role.in_use().clone();
            let others = std::iter::once(&role.current)
                .chain(role.former.iter().map(|(former, _)| former))
                .filter(|other| **other != in_use)
                .cloned();
            std::iter::once(in_use.clone()).chain(others).collect()
        })
    }

    /// What the roles whose password changes may log in with: the current ones, and those before.
    pub(crate) fn changing(&self) -> Vec<Credentials> {
        self.with(|known| {
            let both = |role: &mut Rotating| {
                let (former, _) = role.former.clone()?;
                Some([role.current.clone(), former])
            };
            known.roles().filter_map(both).flatten().collect()
        })
    }

    /// Whether a role has a password before the current one that may still be needed.
    pub(crate) fn is_changing(&self) -> bool {
        self.with(|known| known.roles().any(|role| role.former.is_some()))
    }

    /// The server takes these: they are used from now on. Gives whether others were.
    pub(crate) fn note_accepted(&self, accepted: &Credentials, now: Moment) -> bool {
        self.with(|known| {
            let Some(role) = known
                .roles()
                .find(|role| role.current.username == accepted.username)
            else {
                return false;
            };
            let before = role.in_use().clone();
            role.uses_former = role.current != *accepted;
            if !role.uses_former && role.former(now).is_none() {
                role.former = None;
            }
            before != *role.in_use()
        })
    }

    /// A login with what is in use failed, for this reason or another: the other one is next, if
    /// there is one. Gives whether that is so.
    pub(crate) fn note_failed(&self, role: Role) -> bool {
        self.with(|known| {
            let role = known.role(role);
            let changes = role.former.is_some();
            role.uses_former ^= changes;
            changes
        })
    }

    /// What a client of the REST API shows, and what it may show instead while that changes; nothing
    /// if it needs no credentials.
    pub(crate) fn rest(&self, now: Moment) -> Option<(Credentials, Option<Credentials>)> {
        self.with(|known| {
            let rest = known.rest.as_ref()?;
            Some((rest.current.clone(), rest.former(now).cloned()))
        })
    }

    /// Tells whether two members have the same passwords; see [`fingerprint`].
    pub(crate) fn fingerprint(&self, scope: &str) -> u16 {
        let passwords = self.with(|known| {
            let passwords = known.roles().map(|role| role.current.password.clone());
            passwords.collect::<Vec<_>>().join("\n")
        });
        fingerprint(scope, "members", &passwords)
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
restapi: {listen: '127.0.0.1:8008', authentication: {username: mrg, password: rest-1}}
etcd3: {host: '127.0.0.1:2379'}
postgresql:
  listen: 127.0.0.1:5432
  data_dir: /data/pg
  authentication:
    superuser: {username: postgres, password: super-1}
    replication: {username: replicator, password: repl-1}
";

    fn read(text: &str) -> AgentConfig {
        AgentConfig::parse(text, Path::new("patroni.yml"), &BTreeMap::new()).unwrap()
    }

    fn replace(own: &OwnCredentials, text: &str, at: u64) -> Vec<String> {
        let new = read(text);
        own.replace(
            &new.authentication,
            new.rest_credentials.as_ref(),
            Moment(at),
        )
    }

    fn passwords(credentials: &[Credentials]) -> Vec<&str> {
        credentials
            .iter()
            .map(|one| one.password.as_str())
            .collect()
    }

    fn replicator(password: &str) -> Credentials {
        Credentials {
            username: "replicator".to_owned(),
            password: password.to_owned(),
        }
    }

    #[test]
    fn a_member_goes_on_with_the_former_password_until_the_server_takes_the_new_one() {
        let own = OwnCredentials::new(&read(FILE));
        assert!(!own.is_changing() && !own.note_failed(Role::Replication));
        let new = FILE.replace("repl-1", "repl-2");
        assert_eq!(replace(&own, &new, 1), ["replicator"]);
        assert!(replace(&own, &new, 2).is_empty());
        assert_eq!(own.wanted().replication.password, "repl-2");
        assert_eq!(passwords(&own.in_use()), ["super-1", "repl-1"]);
        assert_eq!(
            passwords(&own.candidates(Role::Replication)),
            ["repl-1", "repl-2"]
        );
        assert!(own.note_accepted(&replicator("repl-2"), Moment(3)));
        assert_eq!(passwords(&own.in_use()), ["super-1", "repl-2"]);
        assert!(!own.note_accepted(&replicator("repl-2"), Moment(4)));
        let later = Moment(4) + FORMER_COUNTS_FOR;
        own.note_accepted(&replicator("repl-2"), later);
        assert_eq!(passwords(&own.candidates(Role::Replication)), ["repl-2"]);
    }

    #[test]
    fn a_login_that_fails_while_a_password_changes_is_tried_with_the_other_one() {
        let own = OwnCredentials::new(&read(FILE));
        replace(&own, &FILE.replace("super-1", "super-2"), 1);
        for expected in ["super-2", "super-1", "super-2"] {
            // Without a role for it the superuser rewinds.
            assert!(own.note_failed(Role::Rewind));
            assert_eq!(own.in_use()[0].password, expected);
        }
    }

    #[test]
    fn the_rest_api_accepts_the_former_password_for_a_while() {
        let own = OwnCredentials::new(&read(FILE));
        replace(&own, &FILE.replace("rest-1", "rest-2"), 1);
        let (current, former) = own.rest(Moment(2)).unwrap();
        assert_eq!(passwords(&[current, former.unwrap()]), ["rest-2", "rest-1"]);
        let (current, former) = own.rest(Moment(1) + FORMER_COUNTS_FOR).unwrap();
        assert_eq!((current.password.as_str(), former), ("rest-2", None));
        replace(&own, &FILE.replace("rest-1", "rest-3"), 3);
        let (_, former) = own.rest(Moment(4)).unwrap();
        assert_eq!(former.unwrap().password, "rest-2");
        let open = FILE.replace(", authentication: {username: mrg, password: rest-1}", "");
        replace(&own, &open, 5);
        assert_eq!(own.rest(Moment(5)), None);
    }

    #[test]
    fn what_is_mounted_is_taken_over_when_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        let own = OwnCredentials::new(&read(FILE));
        let mounted = Mounted::new(Some(directory.path().to_owned()));
        assert!(own.read_mounted(&mounted, Moment(1)).is_empty());
        write("replication-password", "repl-2\n");
        write("rest-password", "rest-2");
        assert_eq!(
            own.read_mounted(&mounted, Moment(2)),
            ["replicator", "the REST API"]
        );
        assert!(own.read_mounted(&mounted, Moment(3)).is_empty());
        write("replication-password", "");
        write("superuser-password", "two\nlines");
        assert!(own.read_mounted(&mounted, Moment(4)).is_empty());
        assert_eq!(own.wanted().replication.password, "repl-2");
    }

    #[test]
    fn members_with_the_same_passwords_have_the_same_fingerprint() {
        let own = |text: &str| OwnCredentials::new(&read(text)).fingerprint("demo");
        assert_eq!(own(FILE), own(&FILE.replace("rest-1", "rest-2")));
        assert_ne!(own(FILE), own(&FILE.replace("repl-1", "repl-2")));
    }
}
