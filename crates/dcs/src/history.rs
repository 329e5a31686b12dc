//! The lines of `history`: a timeline is reserved before the promotion that begins it, and told in
//! PostgreSQL's own words afterwards.

use crate::wire::{HistoryLine, PROMOTION_UNDER_WAY};
use mrg_base::{Lsn, MemberName, Position, Timeline};

/// The timeline that begins where the last line ends.
pub(crate) fn next_timeline(lines: &[HistoryLine]) -> Option<Timeline> {
    lines.last().map(HistoryLine::next_timeline)
}

/// The lines that reserve the timeline after this position for `me`. `time` is ISO 8601.
pub(crate) fn reserved(
    known: &[HistoryLine],
    after: Position,
    me: &MemberName,
    time: &str,
) -> Vec<HistoryLine> {
    let earlier = known
        .iter()
        .filter(|line| line.timeline < after.timeline.0)
        .cloned();
    let line = HistoryLine {
        timeline: after.timeline.0,
        ended_at: after.flushed.0,
        reason: PROMOTION_UNDER_WAY.to_owned(),
        time: time.to_owned(),
        leader: me.to_string(),
    };
    earlier.chain([line]).collect()
}

/// The lines of PostgreSQL's history file, the text of `pg_wal/<timeline>.history`; what is `known`
/// of a timeline stays as it was written when that began. `time` is ISO 8601.
pub(crate) fn told(
    file: &str,
    known: &[HistoryLine],
    me: &MemberName,
    time: &str,
) -> Vec<HistoryLine> {
    let line = |text: &str| {
        let mut fields = text.splitn(3, '\t');
        let timeline: u32 = fields.next()?.trim().parse().ok()?;
        let ended_at: Lsn = fields.next()?.trim().parse().ok()?;
        let reason = fields.next().unwrap_or_default().to_owned();
        let old = known
            .iter()
            .find(|line| line.timeline == timeline && line.reason != PROMOTION_UNDER_WAY);
        Some(old.cloned().unwrap_or_else(|| HistoryLine {
            timeline,
            ended_at: ended_at.0,
            reason,
            time: time.to_owned(),
            leader: me.to_string(),
        }))
    };
    file.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_timeline_is_told_by_its_file_and_told_ones_stay() {
        let me = |text: &str| MemberName::new(text).unwrap();
        let first = told("1\t0/100\tno recovery target\n", &[], &me("a"), "t1");
        assert_eq!(next_timeline(&first), Some(Timeline(2)));
        let after = Position {
            timeline: Timeline(2),
            flushed: Lsn(512),
        };
        let lines = reserved(&first, after, &me("b"), "t2");
        assert_eq!(next_timeline(&lines), Some(Timeline(3)));
        assert_eq!((&lines[0], lines[1].ended_at), (&first[0], 512));
        assert_eq!(lines[1].reason, PROMOTION_UNDER_WAY);
        // A reservation from which nothing came is replaced by the next.
        let again = reserved(&lines, after, &me("c"), "t3");
        assert_eq!((again.len(), again[1].leader.as_str()), (2, "c"));

        let file = "1\t0/100\tno recovery target\n\n2\t0/220\tno recovery target\n";
        let lines = told(file, &again, &me("c"), "t4");
        let (kept, new) = (&lines[0], &lines[1]);
        assert_eq!((kept.leader.as_str(), kept.time.as_str()), ("a", "t1"));
        assert_eq!((new.leader.as_str(), new.ended_at), ("c", 0x220));
        assert_eq!(new.reason, "no recovery target");
    }
}
