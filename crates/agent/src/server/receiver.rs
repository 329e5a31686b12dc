//! Why a standby's WAL receiver does not stream, by what the server has logged.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// As much of a log as is read.
const READ_MOST: u64 = 8_192;

/// What a WAL receiver's message begins with, from PostgreSQL's `walreceiver.c` and
/// `libpqwalreceiver.c`; the messages of other processes are not about it.
const MESSAGES: &[&str] = &[
    "could not connect to the primary server",
    "could not start WAL streaming",
    "could not receive data from WAL stream",
    "could not send data to WAL stream",
    "could not receive timeline history file",
    "could not receive database system identifier",
    "could not receive the slot",
    "database system identifier differs between the primary and standby",
    "of the primary is behind recovery timeline",
    "invalid response from primary server",
    "terminating walreceiver",
    "unexpected result set after end-of-streaming",
];
/// Logged when it streams: what came before is over.
const STREAMS: &[&str] = &[
    "started streaming WAL from primary",
    "restarted WAL streaming at",
];
/// The primary does not have any more what the standby needs next.
const REMOVED: &str = "has already been removed";

/// The last failure of a WAL receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReceiverError {
    /// In PostgreSQL's words, in one line.
    pub(super) text: String,
    /// The primary does not have the WAL any more that comes next.
    pub(super) wal_removed: bool,
}

/// The last failure of a WAL receiver in the end of a server's log, unless one has streamed since.
pub(super) fn last_error(log: &str) -> Option<ReceiverError> {
    let mut last: Option<String> = None;
    let mut continues = false;
    for line in log.lines() {
        if STREAMS.iter().any(|words| line.contains(words)) {
            (last, continues) = (None, false);
        } else if let Some(message) = message_of(line) {
            (last, continues) = (Some(message.to_owned()), true);
        } else if let Some((text, more)) = last.as_mut().zip(more_of(line).filter(|_| continues)) {
            text.push_str(" | ");
            text.push_str(more);
        } else {
            continues = false;
        }
    }
    let text = last?;
    let wal_removed = text.contains(REMOVED);
    Some(ReceiverError { text, wal_removed })
}

/// The message of a line of the WAL receiver's, without what `log_line_prefix`, or a format of its own
/// (`csvlog`, `jsonlog`), puts before it.
fn message_of(line: &str) -> Option<&str> {
    let message = MESSAGES.iter().find_map(|message| line.find(message))?;
    let severity = ["FATAL:", "ERROR:"].iter();
    let severity = severity.filter_map(|word| line.find(word)).min();
    line.get(severity.unwrap_or(message)..)
}

/// The end of the log that the server's own collector writes (`logging_collector`), if it does.
pub(super) fn collected(data_directory: &Path) -> Option<String> {
    let current = std::fs::read_to_string(data_directory.join("current_logfiles")).ok()?;
    let (_, name) = current.lines().next()?.split_once(' ')?;
    let mut file = File::open(data_directory.join(name)).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(READ_MOST)))
        .ok()?;
    let mut end = Vec::new();
    file.take(READ_MOST).read_to_end(&mut end).ok()?;
    Some(String::from_utf8_lossy(&end).into_owned())
}

/// What belongs to the message before: its further lines, its detail, and its hint.
fn more_of(line: &str) -> Option<&str> {
    if let Some(more) = line.strip_prefix('\t') {
        return Some(more.trim());
    }
    let start = ["DETAIL:", "HINT:"]
        .iter()
        .find_map(|word| line.find(word))?;
    line.get(start..)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGIN: &str = r#"2026-11-27 17:00:00.000 UTC [7] FATAL:  could not connect to the primary server: connection to server at "127.0.0.1", port 5432 failed: FATAL:  password authentication failed for user "replicator""#;
    const REMOVED: &str = "2026-11-27 17:00:00.000 UTC [7] FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment 000000010000000000000003 has already been removed";

    #[test]
    fn the_last_failure_is_told_in_postgresqls_words() {
        for (log, expected) in [
            (
                LOGIN,
                "password authentication failed for user \"replicator\"",
            ),
            (
                REMOVED,
                "requested WAL segment 000000010000000000000003 has already been removed",
            ),
            (
                "FATAL:  could not start WAL streaming: ERROR:  replication slot \"n2\" does not exist\n",
                "replication slot \"n2\" does not exist",
            ),
            (
                "FATAL:  could not connect to the primary server: connection to server at \"h\", port 1 failed: Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?\n[8] LOG:  waiting for WAL to become available at 0/3000000\n\tno part of it",
                "Connection refused | Is the server running on that host and accepting TCP/IP connections?",
            ),
            (
                "x FATAL:  database system identifier differs between the primary and standby\nx DETAIL:  The primary's identifier is 1, the standby's identifier is 2.\n",
                "FATAL:  database system identifier differs between the primary and standby | DETAIL:  The primary's identifier is 1, the standby's identifier is 2.",
            ),
            // PostgreSQL 17
            (
                "FATAL:  streaming replication receiver \"n2\" could not connect to the primary server: timeout expired",
                "timeout expired",
            ),
        ] {
            let found = last_error(log).unwrap();
            assert!(found.text.ends_with(expected), "{}", found.text);
            assert!(found.text.starts_with("FATAL:"), "{}", found.text);
            assert_eq!(found.wal_removed, log == REMOVED, "{log}");
        }
    }

    #[test]
    fn the_log_of_the_collector_is_read_in_each_of_its_formats() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(collected(data.path()), None);
        std::fs::create_dir(data.path().join("log")).unwrap();
        for (format, line, start) in [
            ("stderr", LOGIN, "FATAL:"),
            (
                "csvlog",
                r#"2026-11-27 17:00:00.000 UTC,,,7,,6567,1,,,,0,FATAL,08006,"could not connect to the primary server: timeout expired",,,,,,,,,"","walreceiver",,0"#,
                "could not connect",
            ),
            (
                "jsonlog",
                r#"{"error_severity":"FATAL","message":"could not connect to the primary server: timeout expired","backend_type":"walreceiver"}"#,
                "could not connect",
            ),
        ] {
            let text = format!("{}\n{line}\n", "x".repeat(9_000));
            std::fs::write(data.path().join("log/now"), text).unwrap();
            let current = format!("{format} log/now\n");
            std::fs::write(data.path().join("current_logfiles"), current).unwrap();
            let error = last_error(&collected(data.path()).unwrap()).unwrap();
            assert!(error.text.starts_with(start), "{}", error.text);
        }
    }

    #[test]
    fn other_processes_and_what_is_over_are_no_failure() {
        let over = format!(
            "{LOGIN}\nLOG:  started streaming WAL from primary at 0/3000000 on timeline 1\n"
        );
        for log in [
            "",
            "FATAL:  password authentication failed for user \"app\"",
            "FATAL:  the database system is starting up",
            "LOG:  waiting for WAL to become available at 0/3000000",
            &over,
        ] {
            assert_eq!(last_error(log), None, "{log}");
        }
        let again = format!("{over}{REMOVED}\n");
        assert!(last_error(&again).unwrap().wal_removed);
        let later = format!("{REMOVED}\n{LOGIN}");
        assert!(!last_error(&later).unwrap().wal_removed);
    }
}
