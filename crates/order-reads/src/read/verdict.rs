//! What an answer of a place is worth: pure functions of the answer and its age.

use std::sync::Arc;
use std::time::Duration;

use super::answer::{Answer, Found, Kind, Source};
use crate::cache::Copy;
use crate::database::Place;
use crate::order::Micros;

/// What the cache has to say.
pub(super) enum Cached {
    /// A copy that answers.
    Good(Found),
    /// A copy that is or may be too old: for when all else fails.
    Doubtful(Found),
    Nothing,
}

/// What a standby has to say.
pub(super) enum Replica {
    /// An order that has ended: nothing newer can be known of it.
    Final(Found),
    /// One under way, as a standby with a known small lag sees it.
    Active(Found),
    /// It is archived.
    Archived(String),
    /// A standby with a known small lag has no such order, and it would have it were it not younger
    /// than this.
    Missing { lag: Duration },
    /// An answer that is not to be trusted, or none.
    Nothing {
        doubtful: Option<Found>,
        why: String,
    },
}

pub(super) fn is_recent(staleness: Option<Micros>, maximum: Duration) -> bool {
    staleness.is_some_and(|age| u128::from(age.0.unsigned_abs()) <= maximum.as_micros())
}

/// What an order is to one who asked for this kind.
pub(super) fn of_kind(kind: Kind, found: Found) -> Answer {
    match (kind, found.order.is_final()) {
        (Kind::Active, true) => Answer::IsFinal,
        (Kind::History, false) => Answer::IsActive,
        _ => Answer::Found(found),
    }
}

/// What a copy is worth. One of an order that has ended is as good as any. One of an order under
/// way must be young, and from a time since which every change was received.
pub(super) fn judge(
    copy: Copy,
    now: Micros,
    received_since: Option<Micros>,
    fresh: Duration,
) -> Cached {
    let age = now.since(copy.at);
    let received = received_since.is_some_and(|since| copy.at >= since);
    let is_final = copy.order.is_final();
    let found = Found {
        source: Source::Cache,
        staleness: Some(Micros(i64::try_from(age.as_micros()).unwrap_or(i64::MAX))),
        order: Arc::new(copy.order),
    };
    if is_final || (received && age <= fresh) {
        Cached::Good(found)
    } else {
        Cached::Doubtful(found)
    }
}

/// What a standby's answer is worth.
pub(super) fn weigh(
    place: Place,
    source: Source,
    staleness: Option<Micros>,
    maximum: Duration,
) -> Replica {
    let recent = is_recent(staleness, maximum);
    let lag = staleness.map_or(Duration::MAX, |age| {
        Duration::from_micros(age.0.unsigned_abs())
    });
    let of = |order| Found {
        order: Arc::new(order),
        source,
        staleness,
    };
    match place {
        Place::Here(order) if recent && order.is_final() => Replica::Final(of(order)),
        Place::Here(order) if recent => Replica::Active(of(order)),
        Place::Archived(part) => Replica::Archived(part),
        Place::Missing if recent => Replica::Missing { lag },
        Place::Here(order) => Replica::Nothing {
            doubtful: Some(of(order)),
            why: "the standby lags too far, or nobody knows how far".into(),
        },
        Place::Missing => Replica::Nothing {
            doubtful: None,
            why: "the standby lags too far, or nobody knows how far".into(),
        },
    }
}

/// Of two doubtful views the one of the newer version.
pub(super) fn younger(one: Option<Found>, other: Option<Found>) -> Option<Found> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.order.version >= one.order.version {
            other
        } else {
            one
        }),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::order::Order;

    fn order(state: &str, version: i64) -> Order {
        let id = uuid::Uuid::from_u128(1);
        Order {
            id,
            customer: "c".into(),
            state: state.into(),
            created_at: Micros(1),
            updated_at: Micros(1),
            version,
            detail: RawValue::NULL.to_owned(),
        }
    }

    #[test]
    fn a_copy_of_an_active_order_answers_only_while_changes_are_received_and_it_is_young() {
        let fresh = Duration::from_secs(30);
        let worth = |state: &str, at: i64, received: Option<i64>| {
            let copy = Copy {
                at: Micros(at * 1_000_000),
                order: order(state, 1),
            };
            matches!(
                judge(
                    copy,
                    Micros(100_000_000),
                    received.map(|since| Micros(since * 1_000_000)),
                    fresh
                ),
                Cached::Good(_)
            )
        };
        assert!(worth("ongoing", 90, Some(10)));
        assert!(
            !worth("ongoing", 69, Some(10)),
            "older than fresh copies are"
        );
        assert!(
            !worth("ongoing", 90, Some(95)),
            "a change may have been missed"
        );
        assert!(!worth("ongoing", 90, None), "no changes are received");
        assert!(
            worth("completed", 1, None),
            "what has ended does not change"
        );
    }

    #[test]
    fn a_standby_counts_only_with_a_known_small_lag() {
        let maximum = Duration::from_secs(5);
        let lag = |seconds: i64| Some(Micros(seconds * 1_000_000));
        assert!(matches!(
            weigh(
                Place::Here(order("completed", 2)),
                Source::Replica,
                lag(5),
                maximum
            ),
            Replica::Final(_)
        ));
        assert!(matches!(
            weigh(
                Place::Here(order("ongoing", 2)),
                Source::Replica,
                lag(1),
                maximum
            ),
            Replica::Active(_)
        ));
        assert!(matches!(
            weigh(
                Place::Here(order("completed", 2)),
                Source::Replica,
                lag(6),
                maximum
            ),
            Replica::Nothing {
                doubtful: Some(_),
                ..
            }
        ));
        assert!(matches!(
            weigh(
                Place::Here(order("completed", 2)),
                Source::Replica,
                None,
                maximum
            ),
            Replica::Nothing {
                doubtful: Some(_),
                ..
            }
        ));
        assert!(
            matches!(
                weigh(Place::Missing, Source::Replica, None, maximum),
                Replica::Nothing { doubtful: None, .. }
            ),
            "unknown is a value"
        );
        assert!(
            matches!(
                weigh(Place::Archived("p".into()), Source::Replica, None, maximum),
                Replica::Archived(_)
            ),
            "what is archived stays there"
        );
    }

    #[test]
    fn who_asks_for_the_other_kind_is_told_so() {
        let found = |state: &str| Found {
            order: Arc::new(order(state, 1)),
            source: Source::Cache,
            staleness: None,
        };
        assert!(matches!(
            of_kind(Kind::Active, found("failed")),
            Answer::IsFinal
        ));
        assert!(matches!(
            of_kind(Kind::History, found("assigned")),
            Answer::IsActive
        ));
        assert!(matches!(
            of_kind(Kind::Auto, found("assigned")),
            Answer::Found(_)
        ));
        assert!(matches!(
            of_kind(Kind::History, found("expired")),
            Answer::Found(_)
        ));
    }
}
