//! Logs: JSON lines where a machine reads them, plain text on a terminal. `RUST_LOG` filters. And
//! histograms.

use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

/// Starts logging to standard error.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    if std::io::stderr().is_terminal() || std::env::var_os("MRG_LOG_TEXT").is_some() {
        builder.init();
    } else {
        builder.json().flatten_event(true).init();
    }
}

/// An error with everything that caused it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}

/// Upper bounds; milliseconds.
const BOUNDS: [u64; 15] = [
    1, 2, 5, 10, 25, 50, 100, 200, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000,
];

/// How long answers took.
#[derive(Debug)]
pub struct Histogram {
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            micros: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Counts one answer that took this long.
    pub fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS
            .iter()
            .position(|bound| micros <= bound * 1000)
            .unwrap_or(BOUNDS.len());
        self.counts[at].fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }

    /// How many there were up to each bound, not counting those up to the bound before; and how
    /// many took longer.
    pub fn counts(&self) -> Vec<u64> {
        self.counts
            .iter()
            .map(|count| count.load(Relaxed))
            .collect()
    }

    /// Its lines in Prometheus' text format, in seconds.
    pub fn lines(&self, text: &mut String, name: &str, labels: &str) {
        let mut sum = 0;
        for (bound, count) in BOUNDS.iter().zip(&self.counts) {
            sum += count.load(Relaxed);
            let _ = writeln!(
                text,
                "{name}_bucket{{{labels},le=\"{}\"}} {sum}",
                *bound as f64 / 1e3
            );
        }
        sum += self.counts[BOUNDS.len()].load(Relaxed);
        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {sum}");
        let _ = writeln!(
            text,
            "{name}_sum{{{labels}}} {}",
            self.micros.load(Relaxed) as f64 / 1e6
        );
        let _ = writeln!(text, "{name}_count{{{labels}}} {sum}");
    }
}

/// The duration under which this share of the answers lies, between two bounds in proportion;
/// milliseconds. `None`: nothing was counted. Longer than the last bound is the last bound.
pub fn quantile(counts: &[u64], share: f64) -> Option<f64> {
    let all: u64 = counts.iter().sum();
    let rank = (all > 0).then_some(share * all as f64)?;
    let (mut below, mut lower) = (0.0, 0.0);
    for (count, bound) in counts.iter().zip(BOUNDS) {
        let (count, bound) = (*count as f64, bound as f64);
        if count > 0.0 && below + count >= rank {
            return Some(lower + (bound - lower) * (rank - below) / count);
        }
        (below, lower) = (below + count, bound);
    }
    Some(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_where_the_answers_are() {
        let histogram = Histogram::default();
        assert_eq!(quantile(&histogram.counts(), 0.99), None);
        for _ in 0..99 {
            histogram.record(Duration::from_millis(3));
        }
        histogram.record(Duration::from_millis(900));
        let of = |share| quantile(&histogram.counts(), share).unwrap_or(f64::NAN);
        assert!(
            (2.0..=5.0).contains(&of(0.5)) && (2.0..=5.0).contains(&of(0.99)),
            "{}",
            of(0.99)
        );
        assert!((500.0..=1000.0).contains(&of(0.999)), "{}", of(0.999));
        histogram.record(Duration::from_secs(300));
        assert_eq!(quantile(&histogram.counts(), 1.0), Some(30_000.0));
    }
}
