//! Waiting for what comes true later.

use std::time::{Duration, Instant};

/// Between two looks: often enough to measure seconds, seldom enough to leave two cores to the lab.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// Whole seconds, as a deadline.
pub const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Looks again and again until `look` succeeds, and returns what it found. An error of `look` is
/// what it saw instead.
///
/// # Errors
/// After `within`, with what was awaited and what was seen last.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        // An API server that is gone may keep a request waiting.
        let seen = match tokio::time::timeout(seconds(10).max(within), look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(seen)) => format!("{seen:#}"),
            Err(_) => "no answer".to_owned(),
        };
        anyhow::ensure!(
            began.elapsed() < within,
            "{what}: not within {} s; last seen: {seen}",
            within.as_secs()
        );
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_that_comes_true_returns_what_was_found() {
        let mut looks = 0;
        let found = eventually("three looks", seconds(10), async || {
            looks += 1;
            anyhow::ensure!(looks == 3, "{looks} looks");
            Ok(looks)
        });
        assert_eq!(found.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_condition_that_does_not_come_true_says_what_was_seen_last() {
        let never = eventually::<()>("a leader", seconds(0), async || {
            anyhow::bail!("Ready=NoLeader")
        });
        assert_eq!(
            never.await.unwrap_err().to_string(),
            "a leader: not within 0 s; last seen: Ready=NoLeader"
        );
    }
}
