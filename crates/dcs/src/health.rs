//! How the store answers: which requests fail at present, since when, in whose words, and what of it
//! is worth a line in the log. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::store::Error;
use mrg_base::{Millis, Moment};

/// A kind of request. Each can fail while the others are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Linearizable reads.
    Read,
    /// The watch that brings changes between two reads.
    Watch,
    /// Transactions that put a key. Deletions are not counted: an etcd without space does them.
    Write,
    /// The grant of a lease.
    Grant,
    /// The renewal of a lease.
    KeepAlive,
}

impl Access {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Watch,
        Self::Write,
        Self::Grant,
        Self::KeepAlive,
    ];

    /// The label in metrics, and the key in a status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Watch => "watch",
            Self::Write => "write",
            Self::Grant => "grant",
            Self::KeepAlive => "keepalive",
        }
    }
}

/// Why a request was not done, as far as the answer tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// No connection, or one that broke.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// The alarm `NOSPACE`: the backend is full, and puts and grants are refused.
    NoSpace,
    /// The login is missing, wrong or expired.
    Unauthenticated,
    /// The user may not do this.
    PermissionDenied,
    /// The request is not acceptable: a ttl or a size out of range.
    Invalid,
    /// What the request names, a lease, does not exist: an answer like any other.
    NotFound,
    /// Anything else, such as a member of etcd without a leader.
    Other,
}

impl Failure {
    /// The label in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::NoSpace => "no_space",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission_denied",
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Other => "other",
        }
    }

    /// Whether the store understood the request and would not do it: asking again at once gives the
    /// same answer.
    pub const fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::NoSpace
                | Self::Unauthenticated
                | Self::PermissionDenied
                | Self::Invalid
                | Self::NotFound
        )
    }
}

/// A kind of request that fails at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Since when.
    pub since: Moment,
    /// Why the last one failed.
    pub failure: Failure,
    /// The same in words, the store's own last.
    pub text: String,
    /// The part of the words that does not depend on what was asked.
    cause: String,
}

/// An endpoint that failed a request which another one then answered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PassedOver {
    times: u64,
    text: String,
    cause: String,
}

/// How the store answers one of its clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    failing: BTreeMap<Access, Failing>,
    counts: BTreeMap<(Access, Failure), u64>,
    passed_over: BTreeMap<String, PassedOver>,
}

impl Health {
    /// Notes how a request ended, after its last try. Returns whether that changed anything.
    pub fn note(&mut self, now: Moment, access: Access, outcome: Result<(), &Error>) -> bool {
        let failed = outcome
            .err()
            .map(|error| (error, error.failure()))
            .filter(|(_, failure)| *failure != Failure::NotFound);
        let Some((error, failure)) = failed else {
            return self.failing.remove(&access).is_some();
        };
        *self.counts.entry((access, failure)).or_default() += 1;
        let since = self.failing.get(&access).map_or(now, |known| known.since);
        let failing = Failing {
            since,
            failure,
            text: error.words(),
            cause: error.cause(),
        };
        self.failing.insert(access, failing);
        true
    }

    /// Notes that an endpoint failed a request which another one then answered.
    pub fn note_passed_over(&mut self, endpoint: &str, error: &Error) {
        let known = self.passed_over.get(endpoint);
        let passed_over = PassedOver {
            times: known.map_or(1, |known| known.times + 1),
            text: error.words(),
            cause: error.cause(),
        };
        self.passed_over.insert(endpoint.to_owned(), passed_over);
    }

    /// What fails at present.
    pub fn failing(&self) -> impl Iterator<Item = (Access, &Failing)> {
        self.failing
            .iter()
            .map(|(access, failing)| (*access, failing))
    }

    /// Whether the last request of this kind failed.
    pub fn fails(&self, access: Access) -> bool {
        self.failing.contains_key(&access)
    }

    /// How often each kind of request failed, and why, since this process started.
    pub fn counts(&self) -> impl Iterator<Item = (Access, Failure, u64)> {
        let count =
            |(&(access, failure), &times): (&(Access, Failure), &u64)| (access, failure, times);
        self.counts.iter().map(count)
    }

    /// Its lines in Prometheus' text format: `<prefix>etcd_failing` and
    /// `<prefix>etcd_failures_total`, with these labels before their own.
    pub fn metrics(&self, prefix: &str, labels: &str) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "# HELP {prefix}etcd_failing Value is 1 if the last request of this kind to etcd failed, 0 otherwise.\n# TYPE {prefix}etcd_failing gauge"
        );
        for access in Access::ALL {
            let (request, value) = (access.name(), u8::from(self.fails(access)));
            let _ = writeln!(
                text,
                "{prefix}etcd_failing{{{labels},request=\"{request}\"}} {value}"
            );
        }
        let _ = writeln!(
            text,
            "# HELP {prefix}etcd_failures_total Requests to etcd that failed, by what was asked and why.\n# TYPE {prefix}etcd_failures_total counter"
        );
        for (access, failure, times) in self.counts() {
            let (request, kind) = (access.name(), failure.name());
            let _ = writeln!(
                text,
                "{prefix}etcd_failures_total{{{labels},request=\"{request}\",kind=\"{kind}\"}} {times}"
            );
        }
        text
    }
}

/// What is not said again within this time, and is said again after it while it lasts.
pub const REMIND_EVERY: Millis = Millis::seconds(60);

/// How many distinct causes are said within [`REMIND_EVERY`] at most.
const REMEMBERED: usize = 64;

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Requests of this kind fail.
    Failing {
        /// Which.
        access: Access,
        /// Why, in the store's own words.
        text: String,
    },
    /// They are answered again.
    Answered {
        /// Which.
        access: Access,
        /// For how long they had failed.
        after: Millis,
    },
    /// One endpoint fails, and another one answers.
    PassedOver {
        /// Why, in the store's own words.
        text: String,
    },
}

/// Which of what fails is worth a line: a new cause at once, and each again once a minute while it
/// lasts.
#[derive(Clone, Debug, Default)]
pub struct Notices {
    said: BTreeMap<(Option<Access>, String), Moment>,
    failing: BTreeMap<Access, Moment>,
    passed_over: BTreeMap<String, u64>,
}

impl Notices {
    /// The lines that are due.
    pub fn on(&mut self, now: Moment, health: &Health) -> Vec<Notice> {
        self.said.retain(|_, at| now.since(*at) < REMIND_EVERY);
        let mut notices = Vec::new();
        for (access, failing) in health.failing() {
            self.failing.insert(access, failing.since);
            if self.is_new(now, Some(access), &failing.cause) {
                let text = failing.text.clone();
                notices.push(Notice::Failing { access, text });
            }
        }
        for access in Access::ALL {
            let known = self.failing.get(&access).filter(|_| !health.fails(access));
            let Some(since) = known.copied() else {
                continue;
            };
            self.failing.remove(&access);
            self.said.retain(|(of, _), _| *of != Some(access));
            let after = now.since(since);
            notices.push(Notice::Answered { access, after });
        }
        for (endpoint, passed_over) in &health.passed_over {
            let PassedOver { times, text, cause } = passed_over;
            let known = self.passed_over.insert(endpoint.clone(), *times);
            if known != Some(*times) && self.is_new(now, None, cause) {
                notices.push(Notice::PassedOver { text: text.clone() });
            }
        }
        notices
    }

    fn is_new(&mut self, now: Moment, access: Option<Access>, cause: &str) -> bool {
        let key = (access, cause.to_owned());
        if self.said.contains_key(&key) || self.said.len() >= REMEMBERED {
            return false;
        }
        self.said.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "etcdserver: mvcc: database space exceeded";

    fn refused(operation: &'static str) -> Error {
        Error::Request {
            operation,
            endpoint: "http://a:2379".to_owned(),
            failure: Failure::NoSpace,
            refused: false,
            source: FULL.into(),
        }
    }

    fn unreachable(endpoint: &str) -> Error {
        Error::Connect {
            endpoint: endpoint.to_owned(),
            source: "Connection refused (os error 111)".into(),
        }
    }

    fn texts(notices: &[Notice]) -> Vec<String> {
        notices.iter().map(|notice| format!("{notice:?}")).collect()
    }

    #[test]
    fn the_first_failure_is_said_at_once_even_if_nothing_was_answered_before() {
        let (mut health, mut notices) = (Health::default(), Notices::default());
        let error = unreachable("http://a:2379");
        assert!(health.note(Moment(5), Access::Read, Err(&error)));
        let said = notices.on(Moment(5), &health);
        let text = "unable to reach etcd at http://a:2379: Connection refused (os error 111)";
        let expected = Notice::Failing {
            access: Access::Read,
            text: text.to_owned(),
        };
        assert_eq!(said, [expected]);
    }

    #[test]
    fn one_cause_is_said_once_a_minute_whatever_was_asked_and_its_end_once() {
        let (mut health, mut notices) = (Health::default(), Notices::default());
        let mut said = 0;
        for second in 0..150 {
            let operation = ["write status", "write the member key"][second % 2];
            let now = Moment(second as u64 * 1_000);
            health.note(now, Access::Write, Err(&refused(operation)));
            said += notices.on(now, &health).len();
        }
        assert_eq!(said, 3, "at 0, 60 and 120 s");
        assert!(health.fails(Access::Write) && !health.fails(Access::Read));
        let now = Moment(150_000);
        assert!(health.note(now, Access::Write, Ok(())));
        assert!(!health.note(now, Access::Write, Ok(())), "nothing changed");
        let answered = Notice::Answered {
            access: Access::Write,
            after: Millis::seconds(150),
        };
        assert_eq!(notices.on(now, &health), [answered]);
        assert!(notices.on(now, &health).is_empty());
    }

    #[test]
    fn another_cause_is_said_at_once_and_two_that_alternate_are_not_repeated() {
        let (mut health, mut notices) = (Health::default(), Notices::default());
        let mut said = Vec::new();
        for (second, endpoint) in ["a", "b", "a", "b", "a"].iter().enumerate() {
            let now = Moment(second as u64 * 1_000);
            health.note(now, Access::Read, Err(&unreachable(endpoint)));
            said.extend(notices.on(now, &health));
        }
        assert_eq!(said.len(), 2, "{:?}", texts(&said));
    }

    #[test]
    fn a_lease_that_is_not_found_is_an_answer() {
        let mut health = Health::default();
        health.note(Moment(0), Access::KeepAlive, Err(&unreachable("a")));
        let gone = Error::LeaseGone(mrg_election::LeaseId(7));
        assert!(health.note(Moment(1), Access::KeepAlive, Err(&gone)));
        assert!(!health.fails(Access::KeepAlive));
    }

    #[test]
    fn an_endpoint_that_is_passed_over_is_named_although_all_requests_are_answered() {
        let (mut health, mut notices) = (Health::default(), Notices::default());
        let mut said = Vec::new();
        for second in 0..30 {
            health.note_passed_over("http://b:2379", &unreachable("http://b:2379"));
            said.extend(notices.on(Moment(second * 1_000), &health));
        }
        assert_eq!(said.len(), 1, "{:?}", texts(&said));
        assert!(texts(&said)[0].contains("http://b:2379"));
        assert!(notices.on(Moment(90_000), &health).is_empty(), "it is over");
    }

    #[test]
    fn failures_are_counted_by_request_and_kind() {
        let mut health = Health::default();
        for _ in 0..2 {
            health.note(Moment(0), Access::Write, Err(&refused("write status")));
        }
        let page = health.metrics("mrg_", "name=\"n1\"");
        for line in [
            "mrg_etcd_failing{name=\"n1\",request=\"write\"} 1",
            "mrg_etcd_failing{name=\"n1\",request=\"read\"} 0",
            "mrg_etcd_failures_total{name=\"n1\",request=\"write\",kind=\"no_space\"} 2",
        ] {
            assert!(page.lines().any(|found| found == line), "{page}");
        }
    }
}
