//! An order, its states, and how it is named in addresses. Everything from outside is parsed here.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

/// The states in which nothing changes any more (the analysis' `IsFinalState`).
pub(crate) const FINAL_STATES: [&str; 6] = [
    "completed",
    "cancelled",
    "cancelled_by_user",
    "cancelled_by_driver",
    "failed",
    "expired",
];

/// Whether a state is final.
pub(crate) fn is_final(state: &str) -> bool {
    FINAL_STATES.contains(&state)
}

/// A moment of the world's clock, in microseconds since 1970, as PostgreSQL keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub i64);

impl Micros {
    /// Now.
    pub fn now() -> Self {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Self(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// How long ago another moment was; nothing if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(
            self.0
                .saturating_sub(earlier.0)
                .try_into()
                .unwrap_or_default(),
        )
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(time) => write!(f, "{time:.6}"),
            Err(_) => write!(f, "{} µs after 1970", self.0),
        }
    }
}

/// An order's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrderId(pub Uuid);

/// Why a text is no order's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no order's id; ids are UUIDs, like 019aa1c0-7c1e-7b5a-9d5e-3f6f0a4c2b11", .0.chars().take(60).collect::<String>())]
pub struct InvalidId(String);

impl std::str::FromStr for OrderId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // The form with hyphens only: one order, one address, one cache key.
        match Uuid::try_parse(text) {
            Ok(id) if text.len() == 36 => Ok(Self(id)),
            _ => Err(InvalidId(text.to_owned())),
        }
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl OrderId {
    /// When it was made, where the id says so (UUID version 7, RFC 9562).
    pub fn made_at(self) -> Option<Micros> {
        let (seconds, nanos) = (self.0.get_version_num() == 7)
            .then(|| self.0.get_timestamp())??
            .to_unix();
        i64::try_from(seconds)
            .ok()?
            .checked_mul(1_000_000)?
            .checked_add(i64::from(nanos / 1_000))
            .map(Micros)
    }
}

/// An order as it is kept, cached and archived.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Its name.
    pub id: Uuid,
    /// Whose it is.
    pub customer: String,
    /// Its state.
    pub state: String,
    /// When it was made.
    pub created_at: Micros,
    /// When it changed last.
    pub updated_at: Micros,
    /// How often it has changed.
    pub version: i64,
    /// All else, as its writers keep it.
    pub detail: Box<RawValue>,
}

impl Order {
    /// Whether nothing about it changes any more.
    pub fn is_final(&self) -> bool {
        is_final(&self.state)
    }

    /// As callers get it.
    pub fn body(&self) -> String {
        let shown = Shown {
            id: self.id,
            customer: &self.customer,
            state: &self.state,
            created_at: self.created_at.to_string(),
            updated_at: self.updated_at.to_string(),
            version: self.version,
            detail: &self.detail,
        };
        serde_json::to_string(&shown)
            .unwrap_or_else(|error| panic!("an order has only what JSON can say: {error}"))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    id: Uuid,
    customer: &'a str,
    state: &'a str,
    created_at: String,
    updated_at: String,
    version: i64,
    detail: &'a RawValue,
}

/// A line of a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub id: Uuid,
    pub state: String,
    /// When it was made; RFC 3339.
    #[serde(serialize_with = "as_text")]
    pub created_at: Micros,
    /// Whether its detail comes from the archive.
    pub archived: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn as_text<S: serde::Serializer>(moment: &Micros, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(moment)
}

/// Where a list goes on: behind this row. Keyset pagination, so that pages neither repeat nor miss
/// rows while orders come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// When the last row's order was made.
    pub created_at: Micros,
    /// The last row's order.
    pub id: Uuid,
}

/// Why a text is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a cursor that a list has given; leave it out to begin at the newest order")]
pub(crate) struct InvalidCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1-{:x}-{}", self.created_at.0, self.id.simple())
    }
}

impl std::str::FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let mut parts = text.splitn(3, '-');
        let (Some("1"), Some(created_at), Some(id)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidCursor);
        };
        let created_at = i64::from_str_radix(created_at, 16).map_err(|_| InvalidCursor)?;
        // What PostgreSQL can say: up to the year 9999.
        if !(0..253_402_300_800_000_000).contains(&created_at) || id.len() != 32 {
            return Err(InvalidCursor);
        }
        Ok(Self {
            created_at: Micros(created_at),
            id: Uuid::try_parse(id).map_err(|_| InvalidCursor)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_with_hyphens_and_version_seven_says_when() {
        let id: OrderId = "019aa1c0-7c1e-7b5a-9d5e-3f6f0a4c2b11"
            .parse()
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            id.made_at().map(|at| at.to_string()).as_deref(),
            Some("2025-11-20T14:52:17.822000Z")
        );
        assert_eq!(
            "2f1c1a3e-0000-4000-8000-000000000000"
                .parse::<OrderId>()
                .ok()
                .and_then(OrderId::made_at),
            None
        );
        for wrong in [
            "",
            "42",
            "019aa1c07c1e7b5a9d5e3f6f0a4c2b11",
            "{019aa1c0-7c1e-7b5a-9d5e-3f6f0a4c2b11}",
            "019aa1c0-7c1e-7b5a-9d5e-3f6f0a4c2b1z",
            "' OR 1=1 --",
        ] {
            assert!(wrong.parse::<OrderId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn cursors_come_back_as_they_went_and_nothing_else_is_one() {
        let cursor = Cursor {
            created_at: Micros(1_763_667_044_510_000),
            id: Uuid::from_u128(7),
        };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for wrong in [
            "",
            "1",
            "1-",
            "1-zz-0",
            "2-1-00000000000000000000000000000007",
            "1--1-00000000000000000000000000000007",
            "1-7fffffffffffffff-00000000000000000000000000000007",
        ] {
            assert_eq!(wrong.parse::<Cursor>(), Err(InvalidCursor), "{wrong}");
        }
    }

    #[test]
    fn the_six_states_of_the_analysis_are_final() {
        assert!(FINAL_STATES.iter().all(|state| is_final(state)));
        assert!(
            ["ongoing", "assigned", "picked_up", "", "Completed"]
                .iter()
                .all(|state| !is_final(state))
        );
    }
}
