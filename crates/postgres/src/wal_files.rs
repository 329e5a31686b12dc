//! Which timeline the end of local WAL is on, read from the names of the segment files.
//!
//! A standby whose WAL receiver has ended cannot be asked: the control file knows only the timeline
//! of the last restart point. But the receiver writes WAL of a new timeline into a file that is
//! named after it.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::path::Path;

use mrg_base::{Lsn, Timeline};
use mrg_election::Fork;

/// Timeline and start of a segment file; `None` if the name is not that of one. `size` is the size
/// of the file in bytes, which is that of every segment.
fn segment(name: &str, size: u64) -> Option<(Timeline, Lsn)> {
    let hex = |range: std::ops::Range<usize>| u32::from_str_radix(name.get(range)?, 16).ok();
    if name.len() != 24 || size == 0 {
        return None;
    }
    let (timeline, high, low) = (hex(0..8)?, hex(8..16)?, hex(16..24)?);
    let offset = u64::from(low).checked_mul(size)?;
    let start = (u64::from(high) << 32).checked_add(offset)?;
    Some((Timeline(timeline), Lsn(start)))
}

/// The highest timeline among the segments that have the byte before `end`; `None` if none has it.
pub fn timeline_at(data_directory: &Path, end: Lsn) -> Option<Timeline> {
    let last = Lsn(end.0.checked_sub(1)?);
    let timeline = |entry: std::fs::DirEntry| {
        let size = entry.metadata().ok()?.len();
        let (timeline, start) = segment(entry.file_name().to_str()?, size)?;
        let offset = last.0.checked_sub(start.0)?;
        (offset < size).then_some(timeline)
    };
    std::fs::read_dir(data_directory.join("pg_wal"))
        .ok()?
        .flatten()
        .filter_map(timeline)
        .max()
}

/// Where a timeline ended, by the newest history file; `None` if that is not known. The WAL receiver
/// fetches the file before it streams a newer timeline. Its lines are `timeline⇥end⇥reason`
/// (PostgreSQL's `timeline.c`).
pub fn fork_of(data_directory: &Path, timeline: Timeline) -> Option<Fork> {
    let wal = data_directory.join("pg_wal");
    let newer = |entry: std::fs::DirEntry| {
        let name = entry.file_name();
        let id = u32::from_str_radix(name.to_str()?.strip_suffix(".history")?, 16).ok()?;
        Some(Timeline(id)).filter(|id| *id > timeline)
    };
    let by = std::fs::read_dir(&wal)
        .ok()?
        .flatten()
        .filter_map(newer)
        .max()?;
    let text = std::fs::read_to_string(wal.join(format!("{:08X}.history", by.0))).ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let ended = words.next()?.parse() == Ok(timeline.0);
        let at = words.next()?.parse().ok()?;
        ended.then_some(Fork { by, at })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_history_says_where_a_timeline_ended() {
        let data = tempfile::tempdir().unwrap();
        let wal = data.path().join("pg_wal");
        std::fs::create_dir(&wal).unwrap();
        std::fs::write(
            wal.join("00000019.history"),
            "23\t0/59EF5C0\tno recovery target specified\n",
        )
        .unwrap();
        std::fs::write(
            wal.join("0000001A.history"),
            "23\t0/59EF5C0\tno recovery target specified\n\n25\t0/5B2EA90\tno recovery target specified\n",
        )
        .unwrap();
        assert_eq!(
            fork_of(data.path(), Timeline(25)),
            Some(Fork {
                by: Timeline(26),
                at: Lsn(0x5B2_EA90)
            })
        );
        assert_eq!(
            fork_of(data.path(), Timeline(24)),
            None,
            "a timeline that is no ancestor"
        );
        assert_eq!(
            fork_of(data.path(), Timeline(26)),
            None,
            "the newest has not ended"
        );
    }

    #[test]
    fn only_the_name_of_a_segment_is_read_as_one() {
        let size = 1 << 24;
        let second = Some((Timeline(2), Lsn(0x1_0300_0000)));
        for (name, size, expected) in [
            ("000000020000000100000003", size, second),
            ("000000020000000100000003.partial", size, None),
            ("00000002000000010000000g", size, None),
            ("00000002.history", size, None),
            ("0000000200000001000000é", size, None),
            ("000000020000000100000003", 0, None),
            ("00000002FFFFFFFFFFFFFFFF", u64::MAX, None),
        ] {
            assert_eq!(segment(name, size), expected, "{name}");
        }
    }

    #[test]
    fn the_newest_timeline_of_the_last_segment_counts() {
        let data = tempfile::tempdir().unwrap();
        let wal = data.path().join("pg_wal");
        std::fs::create_dir(&wal).unwrap();
        let size = 1 << 20;
        for name in [
            "000000010000000000000004",
            "000000010000000000000005",
            "000000030000000000000005",
            "000000040000000000000006",
            "00000003.history",
        ] {
            std::fs::File::create(wal.join(name))
                .unwrap()
                .set_len(size)
                .unwrap();
        }
        assert_eq!(
            timeline_at(data.path(), Lsn(5 * size + 7)),
            Some(Timeline(3))
        );
        assert_eq!(timeline_at(data.path(), Lsn(6 * size)), Some(Timeline(3)));
        assert_eq!(timeline_at(data.path(), Lsn(5 * size)), Some(Timeline(1)));
        assert_eq!(timeline_at(data.path(), Lsn(0)), None);
    }
}
