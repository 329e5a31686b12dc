//! Settings that execute or load code, as the operator mounts them: what is in force while kubelets
//! bring a change to one member after the other. Pure.
//!
//! The dynamic configuration names the version that it goes with. Until a member's file is of that
//! version, the member keeps what it has and does not count as configured, so that all members agree
//! before the first one is restarted for a change.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::{Parameters, of_file};
use mrg_base::{Millis, Moment};

/// Kubelets bring a change within a minute or two.
const ARRIVES_WITHIN: Millis = Millis::seconds(180);

/// The content of the mounted file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) version: String,
    pub(super) parameters: Parameters,
}

impl Mounted {
    /// Reads the file's text.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct File {
            version: String,
            parameters: Map<String, Value>,
        }
        let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let (parameters, untaken) = of_file(&file.parameters);
        match untaken.first() {
            Some((name, why)) => Err(format!("{name}: {why}")),
            None => Ok(Self {
                version: file.version,
                parameters,
            }),
        }
    }
}

/// Why the file is not the one that the dynamic configuration goes with.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Difference {
    /// The version that is waited for; `None` for any that can be read.
    wanted: Option<String>,
    since: Moment,
    why: String,
}

/// The settings in force, and what they wait for.
#[derive(Default)]
pub(super) struct Executable {
    in_force: Option<Mounted>,
    difference: Option<Difference>,
}

impl Executable {
    /// Takes note of what the file says, or why it cannot be read, and of the version that the dynamic
    /// configuration goes with, if it names one. Gives the difference if it is new.
    pub(super) fn observe(
        &mut self,
        file: Result<Mounted, String>,
        wanted: Option<&str>,
        now: Moment,
    ) -> Option<String> {
        let why = match (&file, wanted) {
            (Err(why), _) => format!("the mounted settings cannot be read: {why}"),
            (Ok(file), Some(wanted)) if file.version != wanted => format!(
                "the mounted settings are of version {}, and the dynamic configuration goes with {wanted}",
                file.version
            ),
            (Ok(_), _) => {
                self.in_force = file.ok();
                self.difference = None;
                return None;
            }
        };
        let before = self.difference.take();
        let since = before
            .as_ref()
            .filter(|before| before.wanted.as_deref() == wanted)
            .map_or(now, |before| before.since);
        // At a start there is nothing else to begin with, and after that time nothing to wait for.
        if self.in_force.is_none() || now.since(since) >= ARRIVES_WITHIN {
            self.in_force = file.ok().or(self.in_force.take());
        }
        let is_new = before.is_none_or(|before| before.why != why);
        self.difference = Some(Difference {
            wanted: wanted.map(str::to_owned),
            since,
            why: why.clone(),
        });
        is_new.then_some(why)
    }

    /// The parameters in force; none before the file was read.
    pub(super) fn parameters(&self) -> Parameters {
        let in_force = self.in_force.as_ref();
        in_force.map_or_else(Parameters::new, |mounted| mounted.parameters.clone())
    }

    /// The version in force.
    pub(super) fn version(&self) -> Option<String> {
        self.in_force
            .as_ref()
            .map(|mounted| mounted.version.clone())
    }

    /// Why the file is not the one that the dynamic configuration goes with, if so.
    pub(super) fn difference(&self) -> Option<String> {
        self.difference.as_ref().map(|it| it.why.clone())
    }

    /// Whether the file may still become the one that the dynamic configuration goes with.
    pub(super) fn awaits(&self, now: Moment) -> bool {
        self.difference
            .as_ref()
            .is_some_and(|it| now.since(it.since) < ARRIVES_WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(version: &str) -> Mounted {
        let text = format!(
            r#"{{"version":"{version}","parameters":{{"Archive_Command":"cp {version}"}}}}"#
        );
        Mounted::parse(&text).unwrap()
    }

    /// What is in force after the step, and whether a change is awaited.
    type Row = (
        &'static str,
        Result<&'static str, &'static str>,
        Option<&'static str>,
        u64,
        Option<&'static str>,
        bool,
    );

    fn check(rows: &[Row]) {
        let mut executable = Executable::default();
        for (case, file, wanted, second, in_force, awaits) in rows {
            let now = Moment(0) + Millis::seconds(*second);
            let file = file.map(mounted).map_err(str::to_owned);
            executable.observe(file, *wanted, now);
            assert_eq!(executable.version().as_deref(), *in_force, "{case}");
            assert_eq!(executable.awaits(now), *awaits, "{case}");
            let command = executable.parameters().into_values().next();
            assert_eq!(
                command,
                in_force.map(|version| format!("cp {version}")),
                "{case}"
            );
        }
    }

    #[test]
    fn a_changed_file_has_its_effect_when_the_configuration_names_it() {
        check(&[
            ("at the start", Ok("a"), Some("a"), 0, Some("a"), false),
            (
                "a file that is not here yet",
                Ok("a"),
                Some("b"),
                10,
                Some("a"),
                true,
            ),
            ("it arrives", Ok("b"), Some("b"), 70, Some("b"), false),
            (
                "a file that comes first",
                Ok("c"),
                Some("b"),
                80,
                Some("b"),
                true,
            ),
            (
                "its configuration",
                Ok("c"),
                Some("c"),
                81,
                Some("c"),
                false,
            ),
            (
                "a configuration without a version",
                Ok("d"),
                None,
                90,
                Some("d"),
                false,
            ),
        ]);
    }

    #[test]
    fn the_wait_is_bounded_and_a_new_version_begins_a_new_one() {
        check(&[
            ("at the start", Ok("a"), Some("a"), 0, Some("a"), false),
            ("another one", Ok("a"), Some("b"), 10, Some("a"), true),
            ("nearly too long", Ok("a"), Some("b"), 189, Some("a"), true),
            ("a third one", Ok("x"), Some("c"), 189, Some("a"), true),
            (
                "still within its time",
                Ok("x"),
                Some("c"),
                368,
                Some("a"),
                true,
            ),
            ("too long", Ok("x"), Some("c"), 369, Some("x"), false),
        ]);
    }

    #[test]
    fn what_is_there_at_a_start_is_in_force_and_a_file_that_cannot_be_read_changes_nothing() {
        check(&[
            ("no file", Err("no such file"), Some("b"), 0, None, true),
            ("an older one", Ok("a"), Some("b"), 1, Some("a"), true),
            (
                "no file again",
                Err("no such file"),
                Some("b"),
                2,
                Some("a"),
                true,
            ),
            (
                "for too long",
                Err("no such file"),
                Some("b"),
                200,
                Some("a"),
                false,
            ),
        ]);
    }

    #[test]
    fn a_difference_is_reported_once() {
        let mut executable = Executable::default();
        let mut observe =
            |version, wanted| executable.observe(Ok(mounted(version)), Some(wanted), Moment(1));
        let said = observe("a", "b").unwrap();
        assert!(
            said.contains("version a") && said.contains("with b"),
            "{said}"
        );
        assert_eq!(observe("a", "b"), None);
        assert_eq!(observe("b", "b"), None);
        assert!(observe("b", "c").is_some());
    }

    #[test]
    fn a_file_that_is_none_is_refused() {
        for text in [
            "",
            "{}",
            r#"{"version":1,"parameters":{}}"#,
            r#"{"version":"a","parameters":{"a b":"x"}}"#,
        ] {
            assert!(Mounted::parse(text).is_err(), "{text}");
        }
    }
}
