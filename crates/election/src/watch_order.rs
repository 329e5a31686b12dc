//! Which snapshot of the DCS answers which linearizable read.
//!
//! A watch delivers snapshots whenever keys change, and after every read. A snapshot answers a read
//! if it comes from a read that began after the answer was asked for. Two things wait for such an
//! answer: the [`crate::Node`], and the votes of peers: what the watch has delivered may be older
//! than what the candidate knows, and a vote against a leader that is gone delays its election.

use crate::mutant::bug;
use crate::view::Revision;

/// What happens to the order of reads and snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchInput {
    /// The node asks for a linearizable read.
    ReadWanted,
    /// A peer asks for a vote.
    VoteAsked {
        /// The answer's number.
        reply: u64,
    },
    /// A snapshot arrived.
    Arrived {
        /// Its revision.
        revision: Revision,
        /// Whether it has a leader key.
        has_leader: bool,
    },
    /// The DCS went back in time: snapshots with lower revisions are the newest from here on.
    Reset,
    /// The settings of the snapshot that was taken are in force; the node may decide by it.
    Configured {
        /// How many reads had been asked for when the snapshot's read began; 0 for one that the
        /// watch delivered by itself.
        asked: u64,
    },
}

/// What to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchOutput {
    /// Read linearizably; the snapshot carries this number, or a higher one.
    Read(u64),
    /// Take the snapshot over, apply its settings, and report [`WatchInput::Configured`].
    Take,
    /// Give the snapshot to the node as [`crate::Event::Dcs`].
    Deliver {
        /// Whether it answers the read that the node waits for.
        linearizable: bool,
    },
    /// Give this request to the node as [`crate::Event::VoteAsked`].
    Vote {
        /// The answer's number.
        reply: u64,
    },
}

/// The order of one agent's reads.
#[derive(Clone, Debug, Default)]
pub struct WatchOrder {
    /// The newest snapshot that was taken.
    newest: Revision,
    has_leader: bool,
    /// How many reads were asked for.
    reads: u64,
    /// The read that the node waits for.
    wanted: Option<u64>,
    /// Votes, by the read that each waits for.
    votes: Vec<(u64, u64)>,
}

impl WatchOrder {
    /// Takes an input, and gives what to do.
    pub fn on(&mut self, input: WatchInput) -> Vec<WatchOutput> {
        match input {
            WatchInput::ReadWanted => {
                let read = self.read();
                self.wanted = Some(self.reads);
                vec![read]
            }
            WatchInput::VoteAsked { reply } => {
                let mut outputs = vec![self.read()];
                self.votes.push((self.reads, reply));
                // Without a leader the vote is not refused whatever the read brings.
                if !self.has_leader || bug!(VotesUnread) {
                    outputs.extend(self.release(u64::MAX));
                }
                outputs
            }
            WatchInput::Arrived {
                revision,
                has_leader,
            } => {
                if revision < self.newest && !bug!(OldSnapshotTaken) {
                    return Vec::new();
                }
                self.newest = revision;
                self.has_leader = has_leader;
                vec![WatchOutput::Take]
            }
            WatchInput::Reset => {
                if !bug!(ResetUnnoticed) {
                    self.newest = Revision::default();
                    self.has_leader = false;
                }
                Vec::new()
            }
            WatchInput::Configured { asked } => {
                let linearizable = self
                    .wanted
                    .take_if(|wanted| asked >= *wanted || bug!(AnySnapshotAnswers))
                    .is_some();
                let mut outputs = vec![WatchOutput::Deliver { linearizable }];
                outputs.extend(self.release(asked));
                outputs
            }
        }
    }

    fn read(&mut self) -> WatchOutput {
        self.reads += 1;
        WatchOutput::Read(self.reads)
    }

    /// The votes that waited for this read.
    fn release(&mut self, asked: u64) -> Vec<WatchOutput> {
        let (ready, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.votes)
            .into_iter()
            .partition(|(read, _)| *read <= asked);
        if !bug!(LaterVotesDropped) {
            self.votes = waiting;
        }
        let vote = |(_, reply)| WatchOutput::Vote { reply };
        ready.into_iter().map(vote).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use WatchInput::{Arrived, Configured, ReadWanted, VoteAsked};
    use WatchOutput::{Deliver, Read, Take, Vote};

    fn arrived(revision: i64, has_leader: bool) -> WatchInput {
        Arrived {
            revision: Revision(revision),
            has_leader,
        }
    }

    /// Each input with what is done about it.
    fn expect(table: &[(WatchInput, &[WatchOutput])]) {
        let mut order = WatchOrder::default();
        for (number, (input, outputs)) in table.iter().enumerate() {
            assert_eq!(order.on(*input), *outputs, "line {number}: {input:?}");
        }
    }

    #[test]
    fn a_read_that_began_before_the_question_does_not_answer_it() {
        let answered = Deliver { linearizable: true };
        let another = Deliver {
            linearizable: false,
        };
        expect(&[
            (ReadWanted, &[Read(1)]),
            (ReadWanted, &[Read(2)]),
            (arrived(5, true), &[Take]),
            (Configured { asked: 0 }, &[another]),
            (arrived(5, true), &[Take]),
            (Configured { asked: 1 }, &[another]),
            (arrived(6, true), &[Take]),
            (Configured { asked: 2 }, &[answered]),
            (arrived(6, true), &[Take]),
            (Configured { asked: 2 }, &[another]),
        ]);
    }

    #[test]
    fn a_read_that_the_settings_asked_for_is_not_answered_by_the_snapshot_that_brought_them() {
        let another = Deliver {
            linearizable: false,
        };
        expect(&[
            (ReadWanted, &[Read(1)]),
            (arrived(5, true), &[Take]),
            (ReadWanted, &[Read(2)]),
            (Configured { asked: 1 }, &[another]),
        ]);
    }

    #[test]
    fn an_older_snapshot_is_not_taken() {
        expect(&[
            (arrived(7, true), &[Take]),
            (arrived(6, true), &[]),
            (arrived(7, true), &[Take]),
        ]);
    }

    #[test]
    fn after_a_reset_lower_revisions_are_the_newest() {
        expect(&[
            (arrived(7, true), &[Take]),
            (WatchInput::Reset, &[]),
            (arrived(2, false), &[Take]),
            (arrived(1, false), &[]),
        ]);
    }

    #[test]
    fn a_vote_waits_for_its_read_while_a_leader_is_known() {
        let other = Deliver {
            linearizable: false,
        };
        expect(&[
            (arrived(5, true), &[Take]),
            (VoteAsked { reply: 9 }, &[Read(1)]),
            (VoteAsked { reply: 10 }, &[Read(2)]),
            (arrived(5, true), &[Take]),
            (Configured { asked: 1 }, &[other, Vote { reply: 9 }]),
            (arrived(6, true), &[Take]),
            (Configured { asked: 2 }, &[other, Vote { reply: 10 }]),
        ]);
    }

    #[test]
    fn a_vote_without_a_leader_does_not_wait() {
        expect(&[
            (arrived(5, false), &[Take]),
            (VoteAsked { reply: 9 }, &[Read(1), Vote { reply: 9 }]),
        ]);
    }
}
