//! What of the user's configuration may reach the server's files: a file that a start would fail on
//! is never written. Pure.

use std::time::SystemTime;

use crate::config::Parameters;
use mrg_postgres::{HbaSource, check_hba_line};

/// The user's lines of `pg_hba.conf`; `None` if the configuration has none.
pub(super) type HbaLines = Option<Vec<String>>;

/// What PostgreSQL says of parameters.
pub(super) enum Verdict {
    /// It would start with them.
    Accepted,
    /// It would start with these, among them former values of others; why not with all that is asked
    /// for.
    InPart(Parameters, String),
    /// It would not start with them, for this reason.
    Refused(String),
}

impl Verdict {
    pub(super) fn refusal(&self) -> Option<String> {
        match self {
            Self::Accepted => None,
            Self::InPart(_, why) | Self::Refused(why) => Some(why.clone()),
        }
    }

    /// The verdict on `parameters` with something that is wrong besides.
    pub(super) fn because_also(self, parameters: &Parameters, why: String) -> Self {
        match self {
            Self::Accepted => Self::InPart(parameters.clone(), why),
            Self::InPart(good, first) => Self::InPart(good, format!("{first}; {why}")),
            Self::Refused(first) => Self::Refused(format!("{first}; {why}")),
        }
    }
}

/// When the files that a server reads beside the agent's were changed; `None` if they are not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Surroundings {
    pub(super) base: Option<SystemTime>,
    /// What `ALTER SYSTEM` writes.
    pub(super) auto: Option<SystemTime>,
}

/// PostgreSQL's own verdict on the user's parameters.
#[derive(Default)]
pub(super) struct Validation {
    /// What the verdict is about; `None` before the first.
    validated: Option<(Parameters, Surroundings)>,
    /// The last parameters that PostgreSQL accepted. They are in force.
    accepted: Parameters,
    /// Why PostgreSQL refuses the last ones, if it does.
    refusal: Option<String>,
}

impl Validation {
    pub(super) fn is_about(&self, parameters: &Parameters, within: &Surroundings) -> bool {
        let validated = self.validated.as_ref();
        validated.is_some_and(|(about, among)| about == parameters && among == within)
    }

    pub(super) fn accepted(&self) -> Parameters {
        self.accepted.clone()
    }

    pub(super) fn refusal(&self) -> Option<String> {
        self.refusal.clone()
    }

    /// Records a verdict. Nothing changes what is in force but parameters that a server would start
    /// with.
    pub(super) fn record(
        &mut self,
        parameters: Parameters,
        within: Surroundings,
        verdict: Verdict,
    ) {
        self.refusal = verdict.refusal();
        match verdict {
            Verdict::Accepted => self.accepted.clone_from(&parameters),
            Verdict::Refused(_) => {}
            Verdict::InPart(good, _) => self.accepted = good,
        }
        self.validated = Some((parameters, within));
    }
}

/// Which lines of `pg_hba.conf` may reach the file. A server does not start on a file with one wrong
/// line, and leaving a line out could let in what it was to keep out, so wrong lines leave the last
/// good ones in force as a whole.
#[derive(Default)]
pub(super) struct HbaValidation {
    /// The last good lines. `None` before the first verdict.
    accepted: Option<HbaLines>,
    /// Lines that were refused, and why.
    refused: Option<(HbaLines, String)>,
    /// The lines before those that were written last, until the server has confirmed the change.
    unconfirmed: Option<HbaLines>,
}

impl HbaValidation {
    pub(super) fn accepted(&self) -> Option<HbaLines> {
        self.accepted.clone()
    }

    pub(super) fn refusal(&self) -> Option<String> {
        let (_, why) = self.refused.as_ref()?;
        Some(format!("{why}; the last good lines stay in force"))
    }

    /// Checks lines. `on_disk` are those of the file that is there, which a server has started on or
    /// which came with the data. Gives the refusal if it is new.
    pub(super) fn check(
        &mut self,
        lines: HbaLines,
        source: HbaSource,
        on_disk: impl FnOnce() -> HbaLines,
    ) -> Option<String> {
        if self
            .refused
            .as_ref()
            .is_some_and(|(refused, _)| *refused == lines)
        {
            return None;
        }
        let wrong = lines
            .iter()
            .flatten()
            .find_map(|line| check_hba_line(line, source).err());
        let Some(wrong) = wrong else {
            self.accepted = Some(lines);
            self.refused = None;
            return None;
        };
        self.accepted.get_or_insert_with(on_disk);
        self.refused = Some((lines, wrong.to_string()));
        Some(wrong.to_string())
    }

    pub(super) fn note_changed_from(&mut self, lines: HbaLines) {
        self.unconfirmed = Some(lines);
    }

    /// The lines before the last change, if the server has not confirmed those after it.
    pub(super) fn take_unconfirmed(&mut self) -> Option<HbaLines> {
        self.unconfirmed.take()
    }

    /// The server itself refuses the lines that were written last; `good` are those before them.
    /// Gives the refusal.
    pub(super) fn take_back(&mut self, good: HbaLines, why: String) -> String {
        let refused = self.accepted.replace(good).unwrap_or_default();
        self.refused = Some((refused, why.clone()));
        why
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! lines {
        ($text:expr) => {
            Some(vec![$text.to_owned()])
        };
    }

    #[test]
    fn wrong_lines_leave_the_last_good_ones_in_force_and_are_reported_once() {
        let (good, wrong) = (lines!("local all all peer"), lines!("locl all all peer"));
        let mut hba = HbaValidation::default();
        assert_eq!(
            hba.check(good.clone(), HbaSource::Store, || unreachable!("a verdict")),
            None
        );
        assert!(
            hba.check(wrong.clone(), HbaSource::Store, || unreachable!("known"))
                .is_some()
        );
        assert_eq!(
            hba.check(wrong.clone(), HbaSource::Store, || unreachable!("known")),
            None
        );
        assert_eq!(hba.accepted(), Some(good.clone()));
        assert!(hba.refusal().unwrap().contains("`locl`"));
        hba.check(None, HbaSource::Store, || unreachable!("good"));
        assert_eq!((hba.accepted(), hba.refusal()), (Some(None), None));

        // A process that starts while the configuration is wrong goes on with what is on disk.
        let mut hba = HbaValidation::default();
        assert!(
            hba.check(wrong, HbaSource::Store, || good.clone())
                .is_some()
        );
        assert_eq!(hba.accepted(), Some(good));
    }

    #[test]
    fn lines_that_the_server_refuses_are_taken_back() {
        let (good, bad) = (lines!("local all all peer"), lines!("local all all bsd"));
        let mut hba = HbaValidation::default();
        hba.check(good.clone(), HbaSource::Store, || None);
        hba.check(bad.clone(), HbaSource::Store, || None);
        hba.note_changed_from(good.clone());
        let before = hba.take_unconfirmed().unwrap();
        hba.take_back(before, "line 4: no".to_owned());
        assert_eq!(hba.accepted(), Some(good));
        assert_eq!(
            hba.check(bad, HbaSource::Store, || None),
            None,
            "it is known to be refused"
        );
        assert_eq!(hba.take_unconfirmed(), None);
    }

    #[test]
    fn what_is_accepted_in_part_is_in_force_and_asked_about_once() {
        let pairs = |pairs: &[(&str, &str)]| -> Parameters {
            let pair = |(name, value): &(&str, &str)| {
                let name = mrg_base::ParameterName::new(name).unwrap();
                (name, (*value).to_owned())
            };
            pairs.iter().map(pair).collect()
        };
        let mut validation = Validation::default();
        let within = Surroundings::default();
        let first = pairs(&[("a", "1"), ("b", "1"), ("c", "1")]);
        validation.record(first, within.clone(), Verdict::Accepted);
        let asked = pairs(&[("a", "x"), ("b", "2")]);
        let good = pairs(&[("a", "1"), ("b", "2")]);
        let verdict = Verdict::InPart(good.clone(), "a = x: no".to_owned());
        validation.record(asked.clone(), within.clone(), verdict);
        assert_eq!(validation.accepted(), good);
        assert_eq!(validation.refusal().as_deref(), Some("a = x: no"));
        assert!(validation.is_about(&asked, &within));
        let altered = Surroundings {
            auto: Some(SystemTime::UNIX_EPOCH),
            ..within
        };
        assert!(
            !validation.is_about(&asked, &altered),
            "ALTER SYSTEM since then"
        );
    }
}
