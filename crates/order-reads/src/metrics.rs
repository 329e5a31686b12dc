//! Numbers for Prometheus, by the analysis' names.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::read::{Kind, Source};
use mrg_telemetry::Histogram;

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Until an answer was there, by kind.
    pub latency: [Histogram; Kind::ALL.len()],
    /// Answers by kind and where they came from.
    pub answers: [[AtomicU64; Source::ALL.len()]; Kind::ALL.len()],
    /// Questions that nobody could answer.
    pub unavailable: [AtomicU64; Kind::ALL.len()],
    /// Questions that waited for the same question's answer.
    pub shared: AtomicU64,
    /// Copies, rows and archived orders that made no sense and were passed over.
    pub malformed: AtomicU64,
    /// Copies that could not be kept.
    pub cache_writes_failed: AtomicU64,
    /// Changes that were told.
    pub changes: AtomicU64,
    /// Copies that could not be forgotten when their order changed.
    pub forget_failed: AtomicU64,
    /// Questions that found no place at the primary.
    pub bulkhead_full: AtomicU64,
    /// How old the last standby's answer was at most; microseconds. `u64::MAX`: unknown.
    pub lag: AtomicU64,
}

impl Metrics {
    /// An answer.
    pub fn answered(&self, kind: Kind, source: Option<Source>, took: Duration) {
        self.latency[kind as usize].record(took);
        match source {
            Some(source) => self.answers[kind as usize][source as usize].fetch_add(1, Relaxed),
            None => self.unavailable[kind as usize].fetch_add(1, Relaxed),
        };
    }

    /// In Prometheus' text format.
    pub fn page(&self, connections: &[(&str, usize)], listening: bool) -> String {
        let mut text = String::new();
        head(
            &mut text,
            "order_detail_latency",
            "histogram",
            "Until an answer was there; seconds.",
        );
        for kind in Kind::ALL {
            self.latency[kind as usize].lines(
                &mut text,
                "order_detail_latency",
                &format!("type=\"{}\"", kind.name()),
            );
        }
        head_rate(&mut text, self);
        self.write_answers(&mut text);
        self.write_replica_lag(&mut text);
        self.write_counters(&mut text);
        head(
            &mut text,
            "order_detail_connections",
            "gauge",
            "Connections to a pool of servers.",
        );
        for (pool, count) in connections {
            let _ = writeln!(text, "order_detail_connections{{pool=\"{pool}\"}} {count}");
        }
        head(
            &mut text,
            "order_detail_changes_heard",
            "gauge",
            "1 while changes are heard; 0: copies of active orders are not trusted.",
        );
        let _ = writeln!(text, "order_detail_changes_heard {}", u8::from(listening));
        text
    }

    fn write_answers(&self, text: &mut String) {
        head(
            text,
            "order_detail_answers_total",
            "counter",
            "Answers, by where they came from.",
        );
        for kind in Kind::ALL {
            for source in Source::ALL {
                let count = self.answers[kind as usize][source as usize].load(Relaxed);
                let _ = writeln!(
                    text,
                    "order_detail_answers_total{{type=\"{}\",source=\"{}\"}} {count}",
                    kind.name(),
                    source.name()
                );
            }
        }
        head(
            text,
            "order_detail_unavailable_total",
            "counter",
            "Questions that nobody could answer.",
        );
        for kind in Kind::ALL {
            let _ = writeln!(
                text,
                "order_detail_unavailable_total{{type=\"{}\"}} {}",
                kind.name(),
                self.unavailable[kind as usize].load(Relaxed)
            );
        }
    }

    fn write_replica_lag(&self, text: &mut String) {
        let lag = self.lag.load(Relaxed);
        head(
            text,
            "order_detail_replica_lag_seconds",
            "gauge",
            "How old the last standby's answer was at most; NaN: unknown.",
        );
        let _ = match lag {
            u64::MAX => writeln!(text, "order_detail_replica_lag_seconds NaN"),
            lag => writeln!(
                text,
                "order_detail_replica_lag_seconds {}",
                lag as f64 / 1e6
            ),
        };
    }

    fn write_counters(&self, text: &mut String) {
        for (name, help, value) in [
            (
                "shared_total",
                "Questions that waited for the same question's answer.",
                &self.shared,
            ),
            (
                "malformed_total",
                "Copies and rows that made no sense and were passed over.",
                &self.malformed,
            ),
            (
                "cache_writes_failed_total",
                "Copies that could not be kept.",
                &self.cache_writes_failed,
            ),
            (
                "changes_total",
                "Changes of orders that were told.",
                &self.changes,
            ),
            (
                "forget_failed_total",
                "Copies that could not be forgotten when their order changed.",
                &self.forget_failed,
            ),
            (
                "bulkhead_full_total",
                "Questions that found no place at the primary.",
                &self.bulkhead_full,
            ),
        ] {
            head(text, &format!("order_detail_{name}"), "counter", help);
            let _ = writeln!(text, "order_detail_{name} {}", value.load(Relaxed));
        }
    }

    /// Of all answers of a kind, the share that came from the cache.
    pub fn hit_rate(&self, kind: Kind) -> Option<f64> {
        let of = &self.answers[kind as usize];
        let all: u64 = of.iter().map(|count| count.load(Relaxed)).sum();
        (all > 0).then(|| of[Source::Cache as usize].load(Relaxed) as f64 / all as f64)
    }
}

fn head_rate(text: &mut String, metrics: &Metrics) {
    head(
        text,
        "order_detail_cache_hit_rate",
        "gauge",
        "Of all answers since the start, the share that came from the cache.",
    );
    for kind in Kind::ALL {
        if let Some(rate) = metrics.hit_rate(kind) {
            let _ = writeln!(
                text,
                "order_detail_cache_hit_rate{{type=\"{}\"}} {rate:.4}",
                kind.name()
            );
        }
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
