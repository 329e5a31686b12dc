//! What this agent does with each setting of Patroni 4.1. The lists in docs/patroni.md are generated
//! from these tables, and [`super::audit`] compares a configuration with them.

#![deny(clippy::indexing_slicing, clippy::panic)]

mod dynamic;
mod file;
mod postgresql;

/// What this agent does with a setting.
#[derive(Clone, Copy, Debug)]
pub enum Support {
    /// It is read and has its effect. The note says how that differs from Patroni; empty if it does
    /// not.
    Done(&'static str),
    /// It has no effect, which costs neither data nor protection.
    Harmless {
        /// What happens instead.
        instead: &'static str,
        /// Values that ask for what happens anyway. Null always does.
        unless: &'static [&'static str],
    },
    /// To ignore it would cost data or protection, so a configuration with it is refused.
    Refused(Refusal),
}

/// Why a setting is refused.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    /// What is not supported.
    pub why: &'static str,
    /// What to do instead.
    pub instead: &'static str,
    /// Values that ask for what happens anyway. Empty, null and false ones always do.
    pub unless: &'static [&'static str],
}

/// A row of the tables. A row without rows below it covers everything below it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The path from the top of the file or of the dynamic configuration, with dots. `*` at its end
    /// is any name.
    pub path: &'static str,
    /// What is done with it.
    pub support: Support,
}

/// Where a setting is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file of a member.
    File,
    /// The dynamic configuration: the `config` key in etcd, and `bootstrap.dcs`.
    Dynamic,
}

impl Place {
    /// The rows for this place.
    pub fn keys(self) -> impl Iterator<Item = &'static Key> + Clone {
        let own = match self {
            Self::File => file::KEYS,
            Self::Dynamic => dynamic::KEYS,
        };
        own.iter().chain(postgresql::KEYS)
    }

    /// The row of exactly this path.
    pub fn row(self, path: &str) -> Option<&'static Key> {
        let any = path
            .rsplit_once('.')
            .map(|(section, _)| format!("{section}.*"));
        self.keys()
            .find(|key| key.path == path)
            .or_else(|| self.keys().find(|key| Some(key.path) == any.as_deref()))
    }

    /// Whether rows are below this path.
    pub fn is_section(self, path: &str) -> bool {
        let below = |key: &Key| {
            key.path
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        self.keys().any(below)
    }
}

const fn done(path: &'static str) -> Key {
    noted(path, "")
}

const fn noted(path: &'static str, note: &'static str) -> Key {
    Key {
        path,
        support: Support::Done(note),
    }
}

const fn harmless(path: &'static str, instead: &'static str) -> Key {
    harmless_unless(path, &[], instead)
}

const fn harmless_unless(
    path: &'static str,
    unless: &'static [&'static str],
    instead: &'static str,
) -> Key {
    Key {
        path,
        support: Support::Harmless { instead, unless },
    }
}

const fn refused(path: &'static str, why: &'static str, instead: &'static str) -> Key {
    refused_unless(path, &[], why, instead)
}

const fn refused_unless(
    path: &'static str,
    unless: &'static [&'static str],
    why: &'static str,
    instead: &'static str,
) -> Key {
    Key {
        path,
        support: Support::Refused(Refusal {
            why,
            instead,
            unless,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every path of Patroni's own schema (`validator.py`) and of its documentation.
    const SCHEMA: &str = include_str!("schema.txt");

    fn is_covered(place: Place, path: &str) -> bool {
        if place.row(path).is_some() || place.is_section(path) {
            return true;
        }
        let above = path.rsplit_once('.').map(|(above, _)| above);
        above.is_some_and(|above| {
            !place.is_section(above) && (place.row(above).is_some() || is_covered(place, above))
        })
    }

    #[test]
    fn every_setting_of_patroni_has_a_row() {
        let mut missing = Vec::new();
        let mut count = 0;
        for path in SCHEMA.lines().filter(|line| !line.starts_with('#')) {
            count += 1;
            let (place, within) = match path.strip_prefix("bootstrap.dcs.") {
                Some(within) => (Place::Dynamic, within),
                None => (Place::File, path),
            };
            if !is_covered(place, within) {
                missing.push(path);
            }
        }
        assert!(missing.is_empty(), "no row for {missing:?}");
        assert!(count > 200, "only {count} paths");
    }

    #[test]
    fn no_setting_has_two_rows() {
        for place in [Place::File, Place::Dynamic] {
            let mut paths: Vec<&str> = place.keys().map(|key| key.path).collect();
            let all = paths.len();
            paths.sort_unstable();
            paths.dedup();
            assert_eq!(paths.len(), all, "{place:?}");
        }
    }

    #[test]
    fn every_reason_says_something() {
        for key in Place::File.keys().chain(Place::Dynamic.keys()) {
            match key.support {
                Support::Done(_) => {}
                Support::Harmless { instead, .. } => assert!(!instead.is_empty(), "{}", key.path),
                Support::Refused(refusal) => {
                    let said = !refusal.why.is_empty() && !refusal.instead.is_empty();
                    assert!(said, "{}", key.path);
                }
            }
        }
    }
}
