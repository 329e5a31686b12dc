//! What follows an attempt. One table, first match wins.

use super::Reason;
use super::call::{Ended, Processed, Request};
use super::dependency::{Dependency, OnAmbiguous, RetryOn};

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The workload gets this answer.
    Answer,
    /// The same provider is asked again.
    Retry,
    /// The next provider is asked; if there is none, the workload hears why.
    NextProvider(Reason),
    /// The workload hears why.
    GiveUp(Reason),
}

/// Where an attempt stands.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// What its request lets happen to it.
    pub request: Request,
    /// Whether its body can be sent again.
    pub body_is_whole: bool,
    /// Whether the retry's turn and budget allow another attempt at this provider.
    pub may_retry: bool,
    /// Whether there is another provider, and the request is not bound to this one.
    pub more_providers: bool,
}

/// What follows an attempt that ended like this.
#[expect(
    clippy::match_same_arms,
    reason = "the table is read in order, by whether the request was processed"
)]
pub fn next(dependency: &Dependency, attempt: Attempt, ended: Ended) -> Next {
    let retry = &dependency.retry;
    let again = |on: RetryOn| attempt.may_retry && attempt.body_is_whole && retry.on.contains(&on);
    let repeatable = attempt.request.safe || attempt.request.repeatable;
    match (ended.processed(&dependency.not_accepted), ended) {
        (Processed::No, Ended::NotConnected | Ended::Refused) if again(RetryOn::ConnectFailure) => {
            Next::Retry
        }
        (Processed::No, Ended::NotConnected) if attempt.body_is_whole => {
            Next::NextProvider(Reason::NotConnected)
        }
        (Processed::No, Ended::NotConnected) => Next::GiveUp(Reason::NotConnected),
        // The last provider's own words say more than ours.
        (Processed::No, _) if attempt.more_providers && attempt.body_is_whole => {
            Next::NextProvider(Reason::NotAccepted)
        }
        (Processed::No, _) if dependency.fallback.queue.is_some() => {
            Next::GiveUp(Reason::NotAccepted)
        }
        (Processed::No, _) => Next::Answer,

        (Processed::Answered, Ended::Status(status))
            if repeatable && retry.statuses.contains(&status) && again(RetryOn::Status) =>
        {
            Next::Retry
        }
        (Processed::Answered, Ended::Grpc(14)) if repeatable && again(RetryOn::Status) => {
            Next::Retry
        }
        (Processed::Answered, Ended::Status(500..=599))
            if attempt.request.safe && attempt.more_providers && attempt.body_is_whole =>
        {
            Next::NextProvider(Reason::NotAccepted)
        }
        (Processed::Answered, _) => Next::Answer,

        // Another provider would get the same.
        (Processed::Unknown, Ended::Malformed) => Next::GiveUp(Reason::Malformed),
        (Processed::Unknown, Ended::Reset) if repeatable && again(RetryOn::Reset) => Next::Retry,
        (Processed::Unknown, Ended::TimedOut) if repeatable && again(RetryOn::Timeout) => {
            Next::Retry
        }
        (Processed::Unknown, ended) => {
            let reason = match ended {
                Ended::TimedOut => Reason::TimedOut,
                Ended::InvalidAnswer => Reason::InvalidAnswer,
                _ => Reason::Ambiguous,
            };
            let elsewhere =
                attempt.request.safe || dependency.on_ambiguous == OnAmbiguous::Failover;
            if elsewhere && attempt.body_is_whole {
                Next::NextProvider(reason)
            } else {
                Next::GiveUp(reason)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dependency(more: &str) -> Dependency {
        let text = format!(
            r#"{{"name": "d", "port": 9000, "providers": [{{"name": "a", "url": "http://a"}}, {{"name": "b", "url": "http://b"}}] {more}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    const WRITE: Request = Request {
        safe: false,
        repeatable: false,
    };
    const KEYED: Request = Request {
        safe: false,
        repeatable: true,
    };
    const READ: Request = Request {
        safe: true,
        repeatable: true,
    };

    fn after(dependency: &Dependency, request: Request, may_retry: bool, ended: Ended) -> Next {
        next(
            dependency,
            Attempt {
                request,
                body_is_whole: true,
                may_retry,
                more_providers: true,
            },
            ended,
        )
    }

    #[test]
    fn a_write_whose_answer_did_not_come_is_never_sent_again() {
        let plain = dependency("");
        for ended in [Ended::Reset, Ended::TimedOut] {
            assert!(
                matches!(after(&plain, WRITE, true, ended), Next::GiveUp(_)),
                "{ended:?}"
            );
            assert!(
                matches!(after(&plain, KEYED, false, ended), Next::GiveUp(_)),
                "a key is good for its provider alone: {ended:?}"
            );
        }
        assert_eq!(after(&plain, KEYED, true, Ended::Reset), Next::Retry);
        assert_eq!(
            after(&plain, KEYED, true, Ended::TimedOut),
            Next::GiveUp(Reason::TimedOut),
            "not in retry.on"
        );
    }

    #[test]
    fn a_request_that_was_certainly_not_processed_goes_on() {
        let refusing = dependency(r#", "notAccepted": [503]"#);
        assert_eq!(
            after(&refusing, WRITE, true, Ended::NotConnected),
            Next::Retry
        );
        assert_eq!(
            after(&refusing, WRITE, false, Ended::NotConnected),
            Next::NextProvider(Reason::NotConnected)
        );
        assert_eq!(
            after(&refusing, WRITE, true, Ended::Status(503)),
            Next::NextProvider(Reason::NotAccepted)
        );
        assert_eq!(
            after(&refusing, WRITE, true, Ended::Status(500)),
            Next::Answer
        );
    }

    #[test]
    fn a_request_that_a_sidecar_refused_is_sent_again_or_kept_but_its_words_stand_if_nobody_else_can_help()
     {
        let alone = |more: &str| {
            let attempt = Attempt {
                request: WRITE,
                body_is_whole: true,
                may_retry: false,
                more_providers: false,
            };
            next(&dependency(more), attempt, Ended::Refused)
        };
        assert_eq!(
            after(&dependency(""), WRITE, true, Ended::Refused),
            Next::Retry
        );
        assert_eq!(
            after(&dependency(""), WRITE, false, Ended::Refused),
            Next::NextProvider(Reason::NotAccepted)
        );
        assert_eq!(
            alone(r#", "fallback": {"queue": {"idempotencyHeader": "Idempotency-Key"}}"#),
            Next::GiveUp(Reason::NotAccepted)
        );
        assert_eq!(alone(""), Next::Answer);
    }

    #[test]
    fn a_read_may_go_to_anybody() {
        let plain = dependency("");
        assert_eq!(
            after(&plain, READ, false, Ended::TimedOut),
            Next::NextProvider(Reason::TimedOut)
        );
        assert_eq!(
            after(&plain, READ, false, Ended::Status(500)),
            Next::NextProvider(Reason::NotAccepted)
        );
        assert_eq!(after(&plain, READ, true, Ended::Status(503)), Next::Retry);
        assert_eq!(after(&plain, READ, true, Ended::Status(404)), Next::Answer);
    }

    #[test]
    fn failing_over_after_an_ambiguous_end_must_be_asked_for() {
        let asked = dependency(r#", "onAmbiguous": "Failover""#);
        assert_eq!(
            after(&asked, WRITE, false, Ended::TimedOut),
            Next::NextProvider(Reason::TimedOut)
        );
    }

    #[test]
    fn a_body_that_is_gone_is_not_sent_again() {
        let attempt = Attempt {
            request: READ,
            body_is_whole: false,
            may_retry: true,
            more_providers: true,
        };
        for ended in [Ended::NotConnected, Ended::Reset, Ended::TimedOut] {
            assert!(
                matches!(next(&dependency(""), attempt, ended), Next::GiveUp(_)),
                "{ended:?}"
            );
        }
    }
}
