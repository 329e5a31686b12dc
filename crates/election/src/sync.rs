//! Which standbys must confirm a commit, and who may take over: two settings in two places that
//! must never contradict each other.
//!
//! `synchronous_standby_names` ([`Names`]) says which sets of standbys acknowledge a commit;
//! `/sync` ([`Stored`]) says which sets of members may elect a leader. A failover loses nothing if
//! every electing set meets every acknowledging set. [`is_safe`] is that sentence as arithmetic,
//! and [`next_step`] only ever proposes changes that keep it true, one side at a time. (Patroni's
//! `quorum.py` states the same invariant as `quorum + numsync >= |voters ∪ sync|`.)

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::mutant::bug;
use crate::settings::{Mode, Replication};
use crate::view::WalSender;
use mrg_base::{Lsn, MemberName};

/// The name that stands for "no standby can confirm, so commits wait" (Patroni's, so that its tools
/// know it).
pub const STRICT_PLACEHOLDER: &str = "__patroni_strict_sync_replica_placeholder__";

/// `synchronous_standby_names`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Names {
    /// Empty: commits do not wait.
    #[default]
    Nobody,
    /// No standby can confirm: commits wait.
    Placeholder,
    /// `FIRST count (members)`.
    First {
        /// How many must confirm.
        count: usize,
        /// Out of whom.
        members: BTreeSet<MemberName>,
    },
    /// `ANY count (members)`.
    Any {
        /// How many must confirm.
        count: usize,
        /// Out of whom.
        members: BTreeSet<MemberName>,
    },
}

impl Names {
    /// The setting of `mode` for these members; `Nobody` if there are none.
    pub fn of(mode: Mode, count: usize, members: BTreeSet<MemberName>) -> Self {
        let count = count.min(members.len());
        match mode {
            _ if count == 0 => Names::Nobody,
            Mode::Async => Names::Nobody,
            Mode::Sync => Names::First { count, members },
            Mode::Quorum => Names::Any { count, members },
        }
    }

    /// The members named.
    pub fn members(&self) -> BTreeSet<MemberName> {
        match self {
            Names::Nobody | Names::Placeholder => BTreeSet::new(),
            Names::First { members, .. } | Names::Any { members, .. } => members.clone(),
        }
    }

    /// How many of them acknowledge a commit at least; `None` if no commit is acknowledged.
    fn acknowledging(&self) -> Option<usize> {
        match self {
            Names::Nobody => Some(0),
            Names::Placeholder => None,
            Names::First { count, .. } | Names::Any { count, .. } => Some(*count),
        }
    }

    /// Reads what [`fmt::Display`] writes; `None` for anything else, which was set by hand.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Some(Names::Nobody);
        }
        let (method, rest) = text.split_once(' ')?;
        let (count, list) = rest.trim().split_once('(')?;
        let count: usize = count.trim().parse().ok()?;
        let list = list.trim().strip_suffix(')')?;
        let names: Vec<&str> = list
            .split(',')
            .map(|name| name.trim().trim_matches('"'))
            .collect();
        if names == [STRICT_PLACEHOLDER] {
            return Some(Names::Placeholder);
        }
        let members = names
            .into_iter()
            .map(|name| MemberName::new(name).ok())
            .collect::<Option<BTreeSet<_>>>()?;
        match method {
            "FIRST" => Some(Names::First { count, members }),
            "ANY" => Some(Names::Any { count, members }),
            _ => None,
        }
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (method, count, members) = match self {
            Names::Nobody => return Ok(()),
            Names::Placeholder => return write!(f, "FIRST 1 (\"{STRICT_PLACEHOLDER}\")"),
            Names::First { count, members } => ("FIRST", count, members),
            Names::Any { count, members } => ("ANY", count, members),
        };
        let quoted: Vec<String> = members.iter().map(|name| format!("\"{name}\"")).collect();
        write!(f, "{method} {count} ({})", quoted.join(","))
    }
}

/// `/sync`: who may take over, and with how many votes of others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stored {
    /// The leader that wrote it; it has every acknowledged commit.
    pub leader: MemberName,
    /// Who may take over.
    pub voters: BTreeSet<MemberName>,
    /// How many voters besides the candidate must have answered.
    pub quorum: usize,
}

impl Stored {
    /// Only the leader itself may take over.
    pub fn only(leader: MemberName) -> Self {
        Self {
            leader,
            voters: BTreeSet::new(),
            quorum: 0,
        }
    }
}

/// The fewest votes besides the candidate's own with which an election among `voters` surely meets
/// every acknowledged commit under `names`; `None` if no number of votes is enough.
fn required_votes(voters: &BTreeSet<MemberName>, names: &Names) -> Option<usize> {
    let Some(count) = names.acknowledging() else {
        return Some(0);
    };
    // An acknowledging set may consist of members that have no vote; only the rest of it can be
    // met.
    let without_vote = names.members().difference(voters).count();
    let met = count.saturating_sub(without_vote);
    if met == 0 && !voters.is_empty() {
        return None;
    }
    Some(voters.len().saturating_sub(met))
}

/// Whether no election that `stored` permits can miss a commit that `names` acknowledges.
pub fn is_safe(stored: &Stored, names: &Names) -> bool {
    stored.voters.is_empty()
        || required_votes(&stored.voters, names).is_some_and(|votes| stored.quorum >= votes)
}

/// What has to be done next on the way to the wanted state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Write `/sync` so that the names can be changed.
    Narrow(Stored),
    /// Change the names.
    Names(Names),
    /// Write `/sync` to what the names now guarantee.
    Widen(Stored),
}

/// What the leader sees of its standbys.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// The leader.
    pub me: &'a MemberName,
    /// The settings.
    pub replication: Replication,
    /// WAL senders of members that may be synchronous.
    pub senders: &'a BTreeMap<MemberName, WalSender>,
    /// The names in force.
    pub names: &'a Names,
    /// `/sync` as stored.
    pub stored: &'a Stored,
    /// Where the primary was when the names in force took effect.
    pub names_set_at: Lsn,
    /// Whether named standbys that are not connected yet are waited for (just after a promotion).
    pub patient: bool,
}

/// The names that the settings ask for, given who streams.
fn wanted_names(situation: &Situation<'_>) -> Names {
    let Replication {
        mode,
        count,
        strict,
    } = situation.replication;
    let streaming: BTreeSet<MemberName> = situation
        .senders
        .iter()
        .filter(|(_, sender)| sender.streaming)
        .map(|(name, _)| name.clone())
        .collect();
    let named = situation.names.members();
    if situation.patient && !named.is_empty() && !named.is_subset(&streaming) {
        return situation.names.clone();
    }
    let members = match mode {
        Mode::Async => BTreeSet::new(),
        Mode::Quorum => streaming,
        Mode::Sync => chosen(situation, &streaming, count),
    };
    match Names::of(mode, count, members) {
        Names::Nobody if mode != Mode::Async && strict => Names::Placeholder,
        // Too few standbys in a strict mode: ask for the full count, and PostgreSQL makes commits
        // wait.
        Names::First { members, .. } if strict => Names::First { count, members },
        Names::Any { members, .. } if strict => Names::Any { count, members },
        names => names,
    }
}

/// The `count` standbys of a priority mode: those that are synchronous already, then the most
/// advanced.
fn chosen(
    situation: &Situation<'_>,
    streaming: &BTreeSet<MemberName>,
    count: usize,
) -> BTreeSet<MemberName> {
    let mut ranked: Vec<&MemberName> = streaming.iter().collect();
    let named = situation.names.members();
    ranked.sort_by_key(|name| {
        let flushed = situation
            .senders
            .get(*name)
            .map_or(Lsn(0), |sender| sender.flushed);
        (
            !named.contains(*name),
            std::cmp::Reverse(flushed),
            (*name).clone(),
        )
    });
    ranked.into_iter().take(count).cloned().collect()
}

/// The next change, if any is due. Every proposal keeps [`is_safe`] true, with the old names and
/// with the new ones.
pub fn next_step(situation: &Situation<'_>) -> Option<Step> {
    let Situation {
        me, names, stored, ..
    } = *situation;
    if stored.leader != *me || !is_safe(stored, names) {
        return Some(Step::Narrow(Stored::only(me.clone())));
    }
    let wanted = wanted_names(situation);
    if wanted != *names {
        if bug!(WidensBeforeNames) {
            let widened = guaranteed(situation, &wanted);
            if widened != *stored {
                return Some(Step::Widen(widened));
            }
        }
        if is_safe(stored, &wanted) || bug!(NamesBeforeNarrowing) {
            return Some(Step::Names(wanted));
        }
        return Some(Step::Narrow(between(me, stored, names, &wanted)));
    }
    let target = guaranteed(situation, names);
    (target != *stored).then_some(Step::Widen(target))
}

/// A `/sync` that is safe under both settings of the names.
fn between(me: &MemberName, stored: &Stored, names: &Names, wanted: &Names) -> Stored {
    let both = |voters: BTreeSet<MemberName>| {
        let quorum = required_votes(&voters, names)?
            .max(required_votes(&voters, wanted)?)
            .max(stored.quorum.min(voters.len()));
        (quorum < voters.len()).then(|| Stored {
            leader: me.clone(),
            voters,
            quorum,
        })
    };
    let wider: BTreeSet<MemberName> = stored.voters.union(&wanted.members()).cloned().collect();
    let narrower: BTreeSet<MemberName> = stored
        .voters
        .intersection(&wanted.members())
        .cloned()
        .collect();
    // A wider set that needs so many votes that each election still contains an old one is a
    // narrowing, too.
    let contains_old = |new: &Stored| {
        let added = new.voters.difference(&stored.voters).count();
        new.quorum >= stored.quorum + added
    };
    both(wider)
        .filter(contains_old)
        .or_else(|| both(narrower))
        .unwrap_or_else(|| Stored::only(me.clone()))
}

/// What the names in force guarantee for the standbys that have everything from before they took
/// effect.
fn guaranteed(situation: &Situation<'_>, names: &Names) -> Stored {
    let caught_up = |name: &MemberName| {
        let sender = situation.senders.get(name);
        sender.is_some_and(|sender| {
            bug!(WidensToLaggards) || sender.streaming && sender.flushed >= situation.names_set_at
        })
    };
    let kept = &situation.stored.voters;
    let voters: BTreeSet<MemberName> = names
        .members()
        .into_iter()
        .filter(|name| kept.contains(name) || caught_up(name))
        .collect();
    let all_caught_up = voters.iter().all(caught_up);
    match required_votes(&voters, names) {
        Some(_) if !all_caught_up => situation.stored.clone(),
        Some(quorum) if quorum < voters.len() => Stored {
            leader: situation.me.clone(),
            voters,
            quorum,
        },
        _ => Stored::only(situation.me.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<MemberName> {
        names
            .iter()
            .map(|name| MemberName::new(name).unwrap())
            .collect()
    }

    fn stored(voters: &[&str], quorum: usize) -> Stored {
        Stored {
            leader: MemberName::new("a").unwrap(),
            voters: set(voters),
            quorum,
        }
    }

    /// Brute force: does every electing set meet every acknowledging set?
    fn meets(stored: &Stored, names: &Names) -> bool {
        let voters: Vec<_> = stored.voters.iter().cloned().collect();
        let named: Vec<_> = names.members().into_iter().collect();
        let Some(count) = names.acknowledging() else {
            return true;
        };
        let subsets = |items: &[MemberName], size: usize| -> Vec<BTreeSet<MemberName>> {
            (0..1u32 << items.len())
                .filter(|bits| bits.count_ones() as usize == size)
                .map(|bits| {
                    items
                        .iter()
                        .enumerate()
                        .filter(|(i, _)| bits >> i & 1 == 1)
                        .map(|(_, m)| m.clone())
                        .collect()
                })
                .collect()
        };
        let electing = subsets(&voters, stored.quorum + 1);
        let acknowledging = subsets(&named, count);
        electing
            .iter()
            .all(|e| acknowledging.iter().all(|a| !e.is_disjoint(a)))
    }

    fn all_names() -> Vec<Names> {
        let universe = ["b", "c", "d"];
        let mut all = vec![Names::Nobody, Names::Placeholder];
        for bits in 1..8usize {
            let members: Vec<&str> = (0..3)
                .filter(|i| bits >> i & 1 == 1)
                .map(|i| universe[i])
                .collect();
            for count in 1..=members.len() {
                all.push(Names::Any {
                    count,
                    members: set(&members),
                });
                all.push(Names::First {
                    count,
                    members: set(&members),
                });
            }
        }
        all
    }

    fn all_stored() -> Vec<Stored> {
        let universe = ["b", "c", "d"];
        let mut all = Vec::new();
        for bits in 0..8usize {
            let voters: Vec<&str> = (0..3)
                .filter(|i| bits >> i & 1 == 1)
                .map(|i| universe[i])
                .collect();
            for quorum in 0..=voters.len() {
                all.push(stored(&voters, quorum));
            }
        }
        all
    }

    #[test]
    fn the_arithmetic_agrees_with_counting_the_sets() {
        for names in all_names() {
            for stored in all_stored() {
                if is_safe(&stored, &names) {
                    assert!(meets(&stored, &names), "{stored:?} with {names}");
                }
            }
        }
    }

    /// From every safe state, with every set of standbys streaming: each step keeps the state safe,
    /// and the way ends.
    #[test]
    fn every_step_from_every_state_is_safe_and_the_way_ends() {
        let universe = set(&["b", "c", "d"]);
        let me = MemberName::new("a").unwrap();
        for mode in [Mode::Async, Mode::Sync, Mode::Quorum] {
            for count in 1..=2 {
                for strict in [false, true] {
                    for bits in 0..8usize {
                        let senders: BTreeMap<MemberName, WalSender> = universe
                            .iter()
                            .enumerate()
                            .map(|(i, m)| {
                                (
                                    m.clone(),
                                    WalSender {
                                        streaming: bits >> i & 1 == 1,
                                        flushed: Lsn(10),
                                    },
                                )
                            })
                            .collect();
                        for first_names in all_names() {
                            for first_stored in all_stored()
                                .into_iter()
                                .filter(|stored| is_safe(stored, &first_names))
                            {
                                let (mut names, mut stored) =
                                    (first_names.clone(), first_stored.clone());
                                let mut steps = 0;
                                while let Some(step) = next_step(&Situation {
                                    me: &me,
                                    replication: Replication {
                                        mode,
                                        count,
                                        strict,
                                    },
                                    senders: &senders,
                                    names: &names,
                                    stored: &stored,
                                    names_set_at: Lsn(5),
                                    patient: false,
                                }) {
                                    match step {
                                        Step::Names(new) => names = new,
                                        Step::Narrow(new) | Step::Widen(new) => stored = new,
                                    }
                                    assert!(is_safe(&stored, &names), "{stored:?} with {names}");
                                    steps += 1;
                                    assert!(
                                        steps < 8,
                                        "{mode:?} {count} {strict} from {first_stored:?}, {first_names}"
                                    );
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    fn situation<'a>(
        me: &'a MemberName,
        senders: &'a BTreeMap<MemberName, WalSender>,
        names: &'a Names,
        stored: &'a Stored,
    ) -> Situation<'a> {
        let replication = Replication {
            mode: Mode::Quorum,
            count: 1,
            strict: false,
        };
        Situation {
            me,
            replication,
            senders,
            names,
            stored,
            names_set_at: Lsn(100),
            patient: false,
        }
    }

    #[test]
    fn a_standby_gets_a_vote_only_once_it_has_what_was_acknowledged_before_it_was_named() {
        let me = MemberName::new("a").unwrap();
        let names = Names::Any {
            count: 1,
            members: set(&["b"]),
        };
        let behind = BTreeMap::from([(
            MemberName::new("b").unwrap(),
            WalSender {
                streaming: true,
                flushed: Lsn(99),
            },
        )]);
        let caught_up = BTreeMap::from([(
            MemberName::new("b").unwrap(),
            WalSender {
                streaming: true,
                flushed: Lsn(100),
            },
        )]);
        let nobody = stored(&[], 0);
        assert_eq!(next_step(&situation(&me, &behind, &names, &nobody)), None);
        assert_eq!(
            next_step(&situation(&me, &caught_up, &names, &nobody)),
            Some(Step::Widen(stored(&["b"], 0)))
        );
    }

    #[test]
    fn the_last_standby_loses_its_vote_before_commits_go_on_without_it() {
        let me = MemberName::new("a").unwrap();
        let names = Names::Any {
            count: 1,
            members: set(&["b"]),
        };
        let nobody_streams = BTreeMap::new();
        let with_vote = stored(&["b"], 0);
        let step = next_step(&situation(&me, &nobody_streams, &names, &with_vote));
        assert_eq!(step, Some(Step::Narrow(stored(&[], 0))));
        let step = next_step(&situation(&me, &nobody_streams, &names, &stored(&[], 0)));
        assert_eq!(step, Some(Step::Names(Names::Nobody)));
    }

    #[test]
    fn adding_a_standby_never_leaves_the_cluster_without_a_successor() {
        let me = MemberName::new("a").unwrap();
        let sender = WalSender {
            streaming: true,
            flushed: Lsn(200),
        };
        let senders = set(&["b", "c"]).into_iter().map(|m| (m, sender)).collect();
        let names = Names::Any {
            count: 1,
            members: set(&["b"]),
        };
        let old = stored(&["b"], 0);
        assert_eq!(
            next_step(&situation(&me, &senders, &names, &old)),
            Some(Step::Narrow(stored(&["b", "c"], 1)))
        );
    }

    #[test]
    fn names_read_back_what_they_wrote_and_nothing_else() {
        for names in all_names() {
            assert_eq!(Names::parse(&names.to_string()), Some(names));
        }
        for text in [
            "*",
            "b",
            "ANY 1 (*)",
            "ANY x (b)",
            "NONE 1 (b)",
            "FIRST 1 b",
        ] {
            assert_eq!(Names::parse(text), None, "{text}");
        }
    }
}
