//! When a breaker opens, for how long, and what it lets through after that.

use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use mrg_base::Millis;

/// A share above 0 and at most 1, to six decimals. Kept as an integer, so that comparing is exact
/// and settings can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Ratio(u32);

/// The number is no share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InvalidRatio(f64);

impl fmt::Display for InvalidRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is no share: give a number above 0 and at most 1, such as 0.5",
            self.0
        )
    }
}

impl std::error::Error for InvalidRatio {}

impl Ratio {
    const ONE: u32 = 1_000_000;

    /// One half.
    pub const HALF: Self = Self(Self::ONE / 2);

    /// Whether `part` of `whole` is at least this share. Nothing of nothing is not.
    pub fn is_reached(self, part: u32, whole: u32) -> bool {
        whole > 0 && u64::from(part) * u64::from(Self::ONE) >= u64::from(whole) * u64::from(self.0)
    }
}

impl TryFrom<f64> for Ratio {
    type Error = InvalidRatio;

    fn try_from(number: f64) -> Result<Self, InvalidRatio> {
        let parts = (number * f64::from(Self::ONE)).round();
        // A NaN is in no range.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range was checked"
        )]
        if (1.0..=f64::from(Self::ONE)).contains(&parts) {
            Ok(Self(parts as u32))
        } else {
            Err(InvalidRatio(number))
        }
    }
}

impl From<Ratio> for f64 {
    fn from(ratio: Ratio) -> f64 {
        Self::from(ratio.0) / Self::from(Ratio::ONE)
    }
}

/// The settings of one breaker. The defaults are the analysis' `tpg-bbd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// How many requests a half-open breaker lets through, and how many successes in a row close it
    /// (gobreaker's `MaxRequests`).
    pub max_requests: NonZeroU32,
    /// How long a closed breaker counts before its counts are reset; zero: they never are (gobreaker's
    /// `Interval`).
    pub interval: Millis,
    /// The window rolls in steps of this length instead (gobreaker's `BucketPeriod`); zero: fixed
    /// windows.
    pub bucket: Millis,
    /// How long it stays open (gobreaker's `Timeout`). Zero is gobreaker's default, 60 s.
    pub timeout: Millis,
    /// It opens no earlier than after so many valid requests, those that were excluded not counted.
    pub min_requests: u32,
    /// It opens when this share of them failed.
    pub failure_ratio: Ratio,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_requests: NonZeroU32::MIN.saturating_add(2),
            interval: Millis::seconds(60),
            bucket: Millis(0),
            timeout: Millis::seconds(30),
            min_requests: 10,
            failure_ratio: Ratio::HALF,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_a_share() {
        for wrong in [0.0, -0.1, 1.000_001, f64::NAN, f64::INFINITY, 1e-9] {
            assert!(Ratio::try_from(wrong).is_err(), "{wrong}");
        }
        let third = Ratio::try_from(0.3).unwrap();
        assert!(third.is_reached(3, 10) && !third.is_reached(2, 10) && !third.is_reached(0, 0));
        assert!(Ratio::try_from(1.0).unwrap().is_reached(u32::MAX, u32::MAX));
    }
}
