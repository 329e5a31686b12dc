//! How far etcd is known to have come, and that it went back.
//!
//! Revisions only grow, and a linearizable read that begins after a revision was seen shows it or a
//! later one. An answer that does not comes from an etcd that lost its data, was restored from a
//! backup, or is another cluster. An etcd that was lost and has come as far as the one before, under
//! the same cluster id, cannot be told from it by this.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use etcd_client::ResponseHeader;
use serde::{Deserialize, Serialize};

/// An etcd cluster, and how far it had come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The cluster's id; 0 of one that is not known yet.
    pub cluster_id: u64,
    /// A revision that it had.
    pub revision: i64,
}

impl Mark {
    /// What an answer says.
    pub(super) fn of(header: Option<&ResponseHeader>) -> Self {
        header.map_or(Self::default(), |header| Self {
            cluster_id: header.cluster_id(),
            revision: header.revision(),
        })
    }

    fn is_same_cluster(self, other: Self) -> bool {
        self.cluster_id == 0 || self.cluster_id == other.cluster_id
    }
}

/// What was known when a request was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    mark: Mark,
    /// How often etcd had gone back.
    pub resets: u64,
}

impl Asked {
    /// Whether the etcd that was known can give this answer.
    pub(super) fn leads_to(&self, answer: Mark) -> bool {
        self.mark.is_same_cluster(answer) && self.mark.revision <= answer.revision
    }
}

/// What a linearizable answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The etcd that is known. The number counts the resets so far.
    Known(u64),
    /// Another cluster answers at this endpoint, and it is not shown yet that the one before is
    /// gone.
    Stranger,
}

#[derive(Debug, Default)]
struct Known {
    mark: Mark,
    resets: u64,
    /// Endpoints at which another cluster answered last.
    strangers: BTreeSet<usize>,
}

/// Shared by all requests to one etcd.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<Known>);

impl Progress {
    fn known(&self) -> MutexGuard<'_, Known> {
        mrg_base::lock(&self.0)
    }

    /// How far it has come.
    pub(super) fn mark(&self) -> Mark {
        self.known().mark
    }

    /// What is known; to be asked for before a request is sent.
    pub(super) fn ask(&self) -> Asked {
        let known = self.known();
        Asked {
            mark: known.mark,
            resets: known.resets,
        }
    }

    /// A write, or the watch, shows that etcd has come this far; not if it went back since that was
    /// asked for.
    pub(super) fn advance(&self, resets: u64, revision: i64) {
        let mut known = self.known();
        if known.resets == resets {
            known.mark.revision = known.mark.revision.max(revision);
        }
    }

    /// What was recorded by an earlier process.
    pub(super) fn resume(&self, mark: Mark) {
        self.known().mark = mark;
    }

    /// Takes the answer to a linearizable read that was sent at `asked`, from one of so many
    /// endpoints. Where another cluster answers it is believed once more than half of them do.
    pub(super) fn answered(
        &self,
        asked: Asked,
        answer: Mark,
        endpoint: usize,
        endpoints: usize,
    ) -> Answer {
        let mut known = self.known();
        if known.mark.is_same_cluster(answer) {
            known.strangers.remove(&endpoint);
            // An answer to a question of before the last reset says nothing against it.
            if asked.resets == known.resets && answer.revision < asked.mark.revision {
                known.resets += 1;
                known.mark = answer;
            }
        } else {
            known.strangers.insert(endpoint);
            if 2 * known.strangers.len() <= endpoints {
                return Answer::Stranger;
            }
            known.strangers.clear();
            known.resets += 1;
            known.mark = answer;
        }
        known.mark = Mark {
            cluster_id: answer.cluster_id,
            revision: known.mark.revision.max(answer.revision),
        };
        Answer::Known(known.resets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(cluster_id: u64, revision: i64) -> Mark {
        Mark {
            cluster_id,
            revision,
        }
    }

    #[test]
    fn a_lower_revision_than_was_known_before_the_question_is_a_reset() {
        let progress = Progress::default();
        let first = progress.ask();
        assert_eq!(progress.answered(first, mark(1, 9), 0, 1), Answer::Known(0));
        // A question of before revision 9 was known may be answered with less.
        assert_eq!(progress.answered(first, mark(1, 7), 0, 1), Answer::Known(0));
        assert_eq!(progress.mark(), mark(1, 9));
        let asked = progress.ask();
        assert_eq!(progress.answered(asked, mark(1, 2), 0, 1), Answer::Known(1));
        assert_eq!(progress.mark(), mark(1, 2));
        // Another question of the same time finds the same etcd.
        assert_eq!(progress.answered(asked, mark(1, 3), 0, 1), Answer::Known(1));
        let asked = progress.ask();
        assert_eq!(progress.answered(asked, mark(1, 4), 0, 1), Answer::Known(1));
    }

    #[test]
    fn what_a_write_or_the_watch_showed_counts_unless_etcd_went_back_since() {
        let progress = Progress::default();
        progress.answered(progress.ask(), mark(1, 9), 0, 1);
        progress.advance(0, 20);
        let asked = progress.ask();
        assert_eq!(
            progress.answered(asked, mark(1, 15), 0, 1),
            Answer::Known(1)
        );
        progress.advance(0, 21);
        assert_eq!(progress.mark(), mark(1, 15));
    }

    #[test]
    fn another_cluster_is_believed_once_most_endpoints_answer_so() {
        let progress = Progress::default();
        let ask = |cluster, revision, endpoint| {
            progress.answered(progress.ask(), mark(cluster, revision), endpoint, 3)
        };
        assert_eq!(ask(1, 9, 0), Answer::Known(0));
        assert_eq!(ask(2, 50, 2), Answer::Stranger);
        assert_eq!(ask(2, 50, 2), Answer::Stranger);
        assert_eq!(ask(1, 9, 0), Answer::Known(0));
        assert_eq!(ask(2, 51, 1), Answer::Known(1));
        assert_eq!(ask(2, 51, 0), Answer::Known(1));
        assert_eq!(ask(1, 60, 0), Answer::Stranger);
    }

    #[test]
    fn what_an_earlier_process_recorded_counts() {
        let progress = Progress::default();
        progress.resume(mark(1, 40));
        let asked = progress.ask();
        assert_eq!(progress.answered(asked, mark(1, 2), 0, 1), Answer::Known(1));
        assert!(!asked.leads_to(mark(1, 2)));
        assert!(asked.leads_to(mark(1, 40)));
        assert!(!asked.leads_to(mark(2, 90)));
    }
}
