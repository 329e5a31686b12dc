//! What the types alone do not refuse: values that contradict each other, and text that HTTP does
//! not allow. A configuration that passes carries what was parsed, so that nothing is parsed twice.

mod dependency;
mod inbound;

use std::fmt;
use std::ops::Deref;

use super::{Config, Dependency, OverrideSpec};
pub use dependency::{CheckedAnswer, CheckedDependency, CheckedProvider};
pub use inbound::CheckedInbound;

/// A value that cannot be, with the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The path of the field, such as `dependencies[0].timeout.attempt`.
    pub field: String,
    /// What is wrong with it, the value included, and what to write instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// All that is wrong; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if index > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A configuration that was checked, with what was parsed of it. Only these run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    config: Config,
    dependencies: Vec<CheckedDependency>,
    inbound: Option<CheckedInbound>,
}

impl Deref for Checked {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}

impl Checked {
    /// A configuration without anything to do.
    pub fn empty(workload: String) -> Self {
        Self {
            config: Config {
                workload,
                dependencies: Vec::new(),
                overrides: Vec::new(),
                inbound: None,
            },
            dependencies: Vec::new(),
            inbound: None,
        }
    }

    /// The dependencies as configured, each with what was parsed of it.
    pub fn checked_dependencies(&self) -> impl Iterator<Item = (&Dependency, &CheckedDependency)> {
        self.config.dependencies.iter().zip(&self.dependencies)
    }

    /// What was parsed of `inbound`; `None` if nothing is configured for it.
    pub fn checked_inbound(&self) -> Option<&CheckedInbound> {
        self.inbound.as_ref()
    }
}

impl TryFrom<Config> for Checked {
    type Error = Problems;

    fn try_from(config: Config) -> Result<Self, Problems> {
        let mut found = Found(Vec::new());
        let dependencies = dependency::dependencies(&mut found, &config.dependencies);
        for (index, forced) in config.overrides.iter().enumerate() {
            forced_state(&mut found, index, forced, &config.dependencies);
        }
        let inbound = config.inbound.as_ref().map(|spec| {
            let checked = inbound::inbound(&mut found, spec);
            inbound::port(&mut found, spec, &config.dependencies);
            checked
        });
        match (dependencies, inbound.transpose()) {
            (Ok(dependencies), Ok(inbound)) if found.0.is_empty() => Ok(Self {
                config,
                dependencies,
                inbound,
            }),
            _ => Err(Problems(found.0)),
        }
    }
}

fn forced_state(
    found: &mut Found,
    index: usize,
    forced: &OverrideSpec,
    dependencies: &[Dependency],
) {
    let field = |name: &str| format!("overrides[{index}].{name}");
    let Some(dependency) = dependencies
        .iter()
        .find(|dependency| dependency.name == forced.dependency)
    else {
        return found.add(
            field("dependency"),
            format!(
                "no dependency is named `{}`: name one of {}",
                forced.dependency,
                names(dependencies)
            ),
        );
    };
    let known: Vec<&str> = dependency
        .providers
        .iter()
        .map(|provider| provider.name.as_str())
        .collect();
    if let Some(wanted) = &forced.provider
        && !known.contains(&wanted.as_str())
    {
        found.add(
            field("provider"),
            format!(
                "`{}` has no provider `{wanted}`: name one of {}, or none for all",
                dependency.name,
                known.join(", ")
            ),
        );
    }
}

fn names(dependencies: &[Dependency]) -> String {
    dependencies
        .iter()
        .map(|dependency| dependency.name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

struct Found(Vec<Problem>);

/// A part could not be parsed, and the problem was added to what was [`Found`].
struct Rejected;

impl Found {
    fn add(&mut self, field: String, message: String) {
        self.0.push(Problem { field, message });
    }
}

#[cfg(test)]
mod tests;
