//! Which reads of etcd an event of the watch answers. Pure.

/// Reads are numbered from 1, in the order in which they are sent to the watch. Every snapshot says
/// up to which number it answers them: it is at least as new as etcd was when that read was sent.
#[derive(Default)]
pub(super) struct ReadOrder {
    sent: u64,
    /// The newest read that the node waits for.
    awaited: Option<u64>,
    /// Requests for a vote by their reply number, and the read that each waits for.
    votes: Vec<(u64, u64)>,
}

impl ReadOrder {
    /// The number of a read that the node waits for, in place of those it waited for before.
    pub(super) fn next(&mut self) -> u64 {
        self.sent += 1;
        self.awaited = Some(self.sent);
        self.sent
    }

    /// The number of a read that a request for a vote waits for.
    pub(super) fn next_for_vote(&mut self, reply: u64) -> u64 {
        self.sent += 1;
        self.votes.push((reply, self.sent));
        self.sent
    }

    /// Whether a snapshot that answers the reads up to this number is the one the node waits for.
    pub(super) fn answers_node(&mut self, answered: u64) -> bool {
        self.awaited
            .take_if(|awaited| *awaited <= answered)
            .is_some()
    }

    /// The requests for a vote whose reads are answered up to this number, in their order.
    pub(super) fn take_votes(&mut self, answered: u64) -> Vec<u64> {
        let (ready, waiting) = std::mem::take(&mut self.votes)
            .into_iter()
            .partition(|(_, read)| *read <= answered);
        self.votes = waiting;
        let ready: Vec<(u64, u64)> = ready;
        ready.into_iter().map(|(reply, _)| reply).collect()
    }

    /// All requests for a vote, in their order.
    pub(super) fn take_all_votes(&mut self) -> Vec<u64> {
        self.take_votes(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_awaited_read_is_linearizable_and_only_once() {
        let mut reads = ReadOrder::default();
        assert!(!reads.answers_node(0), "nothing is awaited");
        assert_eq!((reads.next(), reads.next()), (1, 2));
        assert!(!reads.answers_node(1), "sent before the newest");
        assert!(reads.answers_node(2));
        assert!(!reads.answers_node(2), "answered already");
    }

    #[test]
    fn a_vote_waits_for_the_read_that_was_sent_after_it_was_asked_for() {
        let mut reads = ReadOrder::default();
        assert_eq!(reads.next_for_vote(11), 1);
        assert_eq!(reads.next(), 2);
        assert_eq!(reads.next_for_vote(12), 3);
        assert_eq!(reads.take_votes(0), [0; 0]);
        assert_eq!(reads.take_votes(2), [11]);
        assert_eq!(reads.take_all_votes(), [12]);
        assert_eq!(reads.take_all_votes(), [0; 0]);
    }
}
