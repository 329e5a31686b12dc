//! What the user asked of the election.

use std::fmt;

use serde::{Deserialize, Serialize};

use mrg_base::Millis;

/// How commits are replicated before they are acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub enum Mode {
    /// Not at all: a failover may lose the last transactions.
    #[default]
    Async,
    /// To `count` named standbys (`FIRST k`), each of which may take over.
    Sync,
    /// To any `count` of all standbys (`ANY k`); a member that takes over needs the votes of enough
    /// others.
    Quorum,
}

/// Replication settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Replication {
    /// The mode.
    pub mode: Mode,
    /// How many standbys must have a commit; ignored in `Async`.
    pub count: usize,
    /// Whether commits wait when too few standbys are there, instead of going on without.
    pub strict: bool,
}

/// What to do when the leader's postgres dies and its agent lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub enum OnCrash {
    /// `Failover` if a standby that may take over was streaming, else `Restart`.
    #[default]
    Auto,
    /// Release the leader key at once.
    Failover,
    /// Recover in place.
    Restart,
}

/// Timers of the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Failover {
    /// How long the leader key outlives the last keepalive.
    pub ttl: Millis,
    /// How often the leader sends keepalives and everyone looks around when nothing happens.
    pub loop_wait: Millis,
    /// How long one request to the DCS may take.
    pub retry_timeout: Millis,
    /// In `Async`: a standby further behind than this does not take over. Bytes.
    pub maximum_lag_bytes: u64,
    /// See [`OnCrash`].
    pub on_crash: OnCrash,
    /// How long a leader's postgres may take to come up while a standby could take over; 0: none.
    pub primary_start_timeout: Millis,
    /// How long a leader's postgres may fail to let new clients in and to commit while a standby
    /// could take over; 0: for ever.
    pub unresponsive_after: Millis,
    /// Whether the leader may go on without the DCS when every member agrees.
    pub failsafe: bool,
}

impl Failover {
    /// Whether the leader is to be asked, as a client would, if it serves.
    pub fn wants_pulse(&self) -> bool {
        self.unresponsive_after > Millis(0)
    }
}

/// Everything the election depends on besides the state of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Timers.
    pub failover: Failover,
    /// Replication.
    pub replication: Replication,
    /// Nobody acts by himself; the running primary keeps its lease.
    pub paused: bool,
    /// Whether a former primary is rewound before it is copied afresh.
    pub use_rewind: bool,
    /// The cluster is to follow another one (Patroni's `standby_cluster`), which is not supported. A
    /// primary that leads goes on; no other member becomes one beside that cluster's.
    pub standby_cluster: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failover: Failover {
                ttl: Millis::seconds(10),
                loop_wait: Millis::seconds(2),
                retry_timeout: Millis::seconds(3),
                maximum_lag_bytes: 1 << 20,
                on_crash: OnCrash::Auto,
                primary_start_timeout: Millis::seconds(300),
                unresponsive_after: Millis::seconds(20),
                failsafe: true,
            },
            replication: Replication {
                mode: Mode::Async,
                count: 1,
                strict: false,
            },
            paused: false,
            use_rewind: true,
            standby_cluster: false,
        }
    }
}

/// The longest ttl. etcd grants some 285 years, and refuses what is longer.
pub const TTL_MOST: Millis = Millis::seconds(86_400);

/// Settings that would break a promise of the election.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InvalidSettings {
    /// The field at fault, by Patroni's name.
    pub field: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for InvalidSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl std::error::Error for InvalidSettings {}

impl Settings {
    /// Checks the floors (ttl 3 s, `loop_wait` 1 s, `retry_timeout` 1 s), the ceiling of the ttl
    /// ([`TTL_MOST`]), and that two failed keepalives fit into one lease.
    ///
    /// # Errors
    /// The first field that is out of range or does not fit the others, with the value to set.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        let Failover {
            ttl,
            loop_wait,
            retry_timeout,
            ..
        } = self.failover;
        let floor = |field, value: Millis, least: Millis| {
            if value < least {
                Err(InvalidSettings {
                    field,
                    message: format!("{value} is below the floor; set at least {least}"),
                })
            } else {
                Ok(())
            }
        };
        floor("ttl", ttl, Millis::seconds(3))?;
        floor("loop_wait", loop_wait, Millis::seconds(1))?;
        floor("retry_timeout", retry_timeout, Millis::seconds(1))?;
        if ttl > TTL_MOST {
            return Err(InvalidSettings {
                field: "ttl",
                message: format!(
                    "{ttl} is above the ceiling: no member would take over from a lost one for so long; set at most {TTL_MOST}"
                ),
            });
        }
        let needed = loop_wait + retry_timeout.times(2);
        if ttl < needed {
            return Err(InvalidSettings {
                field: "ttl",
                message: format!(
                    "{ttl} is shorter than loop_wait + 2 * retry_timeout = {needed}; raise ttl or lower the others"
                ),
            });
        }
        if self.replication.count == 0 {
            return Err(InvalidSettings {
                field: "synchronous_node_count",
                message: "0 standbys cannot confirm a commit; set at least 1, or turn synchronous_mode off".to_owned(),
            });
        }
        Ok(())
    }

    /// Whether commits are acknowledged only after a standby has them.
    pub fn is_synchronous(&self) -> bool {
        self.replication.mode != Mode::Async
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_legal() {
        assert_eq!(Settings::default().check(), Ok(()));
    }

    #[test]
    fn the_smallest_lease_is_three_seconds() {
        let mut settings = Settings::default();
        settings.failover.ttl = Millis::seconds(3);
        settings.failover.loop_wait = Millis::seconds(1);
        settings.failover.retry_timeout = Millis::seconds(1);
        assert_eq!(settings.check(), Ok(()));
        settings.failover.ttl = Millis(2_900);
        assert_eq!(settings.check().unwrap_err().field, "ttl");
    }

    #[test]
    fn a_ttl_above_the_ceiling_is_refused_with_the_value_to_set() {
        let mut settings = Settings::default();
        settings.failover.ttl = TTL_MOST;
        assert_eq!(settings.check(), Ok(()));
        for ttl in [Millis(TTL_MOST.0 + 1), Millis::seconds(u64::MAX)] {
            settings.failover.ttl = ttl;
            settings.failover.loop_wait = ttl;
            let refused = settings.check().unwrap_err();
            assert_eq!(refused.field, "ttl");
            assert!(refused.message.contains("at most 86400s"), "{refused}");
        }
        settings.failover.ttl = TTL_MOST;
        settings.failover.retry_timeout = Millis(u64::MAX);
        assert_eq!(settings.check().unwrap_err().field, "ttl");
    }

    #[test]
    fn a_lease_that_two_slow_requests_outlast_is_refused() {
        let mut settings = Settings::default();
        settings.failover.retry_timeout = Millis::seconds(5);
        let message = settings.check().unwrap_err().to_string();
        assert!(
            message.contains("loop_wait + 2 * retry_timeout = 12s"),
            "{message}"
        );
    }
}
