//! Compares a configuration with what this agent supports of Patroni's settings. Pure.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

use super::parameters::{CodeSource, of_file, of_store};
use super::patroni_keys::{Place, Refusal, Support};
use mrg_dcs::tags::truth;

/// What is found about one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its path, or its environment variable.
    pub setting: String,
    /// What happens to it, and what to do.
    pub why: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.why)
    }
}

/// What does not have the effect that its author expects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Audit {
    /// To ignore these would cost data or protection.
    pub refused: Vec<Finding>,
    /// These execute or load code and are not taken from etcd.
    pub executing: Vec<Finding>,
    /// These have no effect.
    pub ignored: Vec<Finding>,
}

/// How many settings of each kind are named; the rest is a number. All of it stands in the member
/// key.
const NAMED_MOST: usize = 50;
/// How much of a name from outside is shown, and how long one may be to be likened to others;
/// bytes.
const NAME_MOST: usize = 100;

/// Where the file has the dynamic configuration of a new cluster.
pub(crate) const BOOTSTRAP_DCS: &str = "bootstrap.dcs";
const PARAMETERS: &str = "postgresql.parameters";

/// Audits the content of a member's file and the `PATRONI_*` environment. `read` are the variables
/// that have an effect.
pub(super) fn file(
    file: &Map<String, Value>,
    environment: &BTreeMap<String, String>,
    read: &[&str],
    code: CodeSource,
) -> Audit {
    let mut audit = Audit::default();
    let walk = Walk {
        shown: "",
        methods: &methods(file),
        code,
    };
    walk.section(&mut audit, Place::File, "", file);
    for (variable, value) in environment {
        if !read.contains(&variable.as_str()) && !value.is_empty() {
            audit.variable(variable, value);
        }
    }
    audit
}

/// Audits a dynamic configuration, or a patch to it.
pub(crate) fn dynamic(config: &Map<String, Value>, code: CodeSource) -> Audit {
    let mut audit = Audit::default();
    let walk = Walk {
        shown: "",
        methods: &[],
        code,
    };
    walk.section(&mut audit, Place::Dynamic, "", config);
    shorten(&mut audit.refused);
    shorten(&mut audit.executing);
    shorten(&mut audit.ignored);
    audit
}

/// Names so many and counts the others.
fn shorten(found: &mut Vec<Finding>) {
    let more = found.len().saturating_sub(NAMED_MOST);
    if more > 0 {
        found.truncate(NAMED_MOST);
        found.push(Finding {
            setting: "…".to_owned(),
            why: format!("and {more} more settings like these"),
        });
    }
}

/// The beginning of a name from outside.
fn beginning(name: String) -> String {
    match name.char_indices().find(|(at, _)| *at >= NAME_MOST) {
        Some((at, _)) => format!("{}…", name.get(..at).unwrap_or_default()),
        None => name,
    }
}

/// Sections of `postgresql` and `bootstrap` that are named by settings which are refused themselves.
fn methods(file: &Map<String, Value>) -> Vec<String> {
    let setting = |section: &str, name: &str| file.get(section)?.get(name);
    let named = [
        setting("postgresql", "create_replica_methods").map(|names| ("postgresql", names)),
        setting("postgresql", "create_replica_method").map(|names| ("postgresql", names)),
        setting("bootstrap", "method").map(|name| ("bootstrap", name)),
    ];
    named
        .into_iter()
        .flatten()
        .flat_map(|(section, names)| {
            words(names)
                .into_iter()
                .map(move |name| format!("{section}.{name}"))
        })
        .collect()
}

/// What is the same for every setting of a place.
struct Walk<'a> {
    /// Stands before each path in what is said.
    shown: &'a str,
    methods: &'a [String],
    code: CodeSource,
}

impl Walk<'_> {
    /// `path` is that in the tables.
    fn section(&self, audit: &mut Audit, place: Place, path: &str, section: &Map<String, Value>) {
        for (name, value) in section {
            self.setting(audit, place, &join(path, name), value);
        }
    }

    fn setting(&self, audit: &mut Audit, place: Place, path: &str, value: &Value) {
        let setting = join(self.shown, path);
        if place == Place::File && path == BOOTSTRAP_DCS {
            if let Value::Object(dcs) = value {
                let walk = Walk {
                    shown: BOOTSTRAP_DCS,
                    methods: self.methods,
                    code: self.code,
                };
                walk.section(audit, Place::Dynamic, "", dcs);
            }
        } else if place.is_section(path) {
            match value {
                Value::Object(inner) => self.section(audit, place, path, inner),
                Value::Null => {}
                _ => audit.ignore(setting, "it is not a section with settings".to_owned()),
            }
        } else if path == PARAMETERS {
            if let Value::Object(values) = value {
                self.parameters(audit, place, values);
            }
        } else if let Some(key) = place.row(path) {
            audit.judge(setting, key.support, value);
        } else if !self.methods.iter().any(|method| method == path) {
            // Likening takes time, and the names may be any number.
            let name = path.rsplit('.').next().unwrap_or(path);
            let likened = audit.ignored.len() < NAMED_MOST && name.len() <= NAME_MOST;
            let why = unknown(place, path, likened);
            audit.ignore(beginning(setting), why);
        }
    }

    /// Names and commands; PostgreSQL itself judges the values.
    fn parameters(&self, audit: &mut Audit, place: Place, values: &Map<String, Value>) {
        let (_, untaken) = match place {
            Place::File => of_file(values),
            Place::Dynamic => of_store(values, self.code),
        };
        for (name, why) in untaken {
            let found = Finding {
                setting: join(self.shown, &join(PARAMETERS, &name)),
                why: why.to_string(),
            };
            if why.executes() {
                audit.executing.push(found);
            } else if place == Place::Dynamic && self.shown.is_empty() {
                audit.refused.push(found);
            } else {
                // As for a wrong value: the others are in force.
                audit.ignored.push(found);
            }
        }
    }
}

fn join(before: &str, after: &str) -> String {
    if before.is_empty() || after.is_empty() {
        format!("{before}{after}")
    } else {
        format!("{before}.{after}")
    }
}

impl Audit {
    fn ignore(&mut self, setting: String, why: String) {
        self.ignored.push(Finding { setting, why });
    }

    fn judge(&mut self, setting: String, support: Support, value: &Value) {
        match support {
            Support::Done(_) => {}
            Support::Harmless { instead, unless } => {
                if !value.is_null() && !are_all_of(unless, value) {
                    self.ignore(setting, format!("it has no effect; {instead}"));
                }
            }
            Support::Refused(refusal) => {
                if !is_off(value) && !are_all_of(refusal.unless, value) {
                    let why = refusal.sentence(value);
                    self.refused.push(Finding { setting, why });
                }
            }
        }
    }

    /// A variable that is not read: as bad as the setting that it stands for.
    fn variable(&mut self, variable: &str, value: &str) {
        let Some(name) = variable.strip_prefix("PATRONI_") else {
            return;
        };
        if name.starts_with("CTL_") || is_service_link(name, value) {
            return;
        }
        let of_section = |path: &str| {
            let stem = variable_of(path);
            name == stem
                || name
                    .strip_prefix(&stem)
                    .is_some_and(|rest| rest.starts_with('_'))
        };
        let row = Place::File
            .keys()
            .filter(|key| of_section(key.path))
            .max_by_key(|key| key.path.len());
        let support = row.map(|key| key.support);
        if let Some(support @ (Support::Refused(_) | Support::Harmless { .. })) = support {
            self.judge(variable.to_owned(), support, &Value::from(value));
        } else {
            let why = "the agent does not read this variable; set it in the file";
            self.ignore(variable.to_owned(), why.to_owned());
        }
    }
}

/// Whether Kubernetes has set a variable for a Service whose name begins with `patroni`.
fn is_service_link(name: &str, value: &str) -> bool {
    let of_service = ["_SERVICE_HOST", "_SERVICE_PORT", "_TCP", "_UDP"];
    of_service.iter().any(|part| name.contains(part)) || value.starts_with("tcp://")
}

/// The part of a variable's name after `PATRONI_` that stands for a path.
fn variable_of(path: &str) -> String {
    let path = path
        .strip_prefix("postgresql.authentication.")
        .unwrap_or(path);
    let path = path.replace("postgresql.bin_name", "postgresql.bin");
    path.replace('.', "_").to_uppercase()
}

impl Refusal {
    fn sentence(&self, value: &Value) -> String {
        let Self { why, instead, .. } = self;
        // Only values that are words of Patroni's own; others may be secrets.
        let value = match (self.unless, value) {
            ([], _) => String::new(),
            (_, value) => format!("`{}`: ", words(value).join(", ")),
        };
        format!("{value}not supported by mrg-agent: {why}; {instead}")
    }
}

/// Whether every text in a value is one of these; `true` stands for each of its spellings.
fn are_all_of(unless: &[&str], value: &Value) -> bool {
    let words = words(value);
    let meant = |word: &String| {
        let is_true = truth(&Value::from(word.as_str())) == Some(true);
        let same = |other: &&str| word.eq_ignore_ascii_case(other) || is_true && *other == "true";
        unless.iter().any(same)
    };
    !words.is_empty() && words.iter().all(meant)
}

/// Whether a value switches a thing off.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) if text.trim().is_empty() => true,
        Value::Array(values) => values.iter().all(is_off),
        Value::Object(map) => map.values().all(is_off),
        value => truth(value) == Some(false),
    }
}

/// The texts in a value: itself, or those of a list.
fn words(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Bool(_) | Value::Number(_) => vec![value.to_string()],
        Value::Array(values) => values.iter().flat_map(words).collect(),
        Value::Object(_) | Value::Null => Vec::new(),
    }
}

/// What is said of a setting that no row is about.
fn unknown(place: Place, path: &str, likened: bool) -> String {
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    let elsewhere = match place {
        Place::File => Place::Dynamic.row(path).map(|_| join(BOOTSTRAP_DCS, path)),
        Place::Dynamic => Place::File.row(path).map(|_| format!("{path} in the file")),
    };
    let likest = || nearest(place, section, name);
    let meant = elsewhere.or_else(|| likened.then(likest).flatten());
    let hint = meant.map_or(String::new(), |meant| format!("; did you mean {meant}?"));
    format!("neither mrg-agent nor Patroni knows this setting, and it has no effect{hint}")
}

/// The setting of the section whose name is most like this one, if any is like it.
fn nearest(place: Place, section: &str, name: &str) -> Option<String> {
    let within = |path: &'static str| {
        let rest = match section {
            "" => path,
            section => path.strip_prefix(section)?.strip_prefix('.')?,
        };
        rest.split('.').next().filter(|name| *name != "*")
    };
    let siblings = place.keys().filter_map(|key| within(key.path));
    let (distance, nearest) = siblings
        .map(|sibling| (distance(sibling, name), sibling))
        .min()?;
    (distance <= 2.max(name.len() / 4)).then(|| join(section, nearest))
}

/// How many letters must be changed, added or removed (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (i, letter) in one.chars().enumerate() {
        let mut before = i + 1;
        let mut next = vec![before];
        for (pair, with) in row.windows(2).zip(other.chars()) {
            let &[diagonal, above] = pair else { continue };
            before = (diagonal + usize::from(letter != with))
                .min(above + 1)
                .min(before + 1);
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
