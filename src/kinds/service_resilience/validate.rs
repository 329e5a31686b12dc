//! What the API server cannot check by itself: values that contradict each other, and the file that
//! follows from the rest.

use jiff::Timestamp;
use kube::ResourceExt;

use crate::checksum::checksum;
use mrg_api::ServiceResilience;
use mrg_api::service_resilience::ServiceResilienceSpec;
use mrg_policy::{Checked, Config, Problem, Problems};

/// The name under which a workload's requests are queued, in place of its own: the version of a
/// service that is tried out queues for the service.
pub const WORKLOAD: &str = "mrg.bluebird.id/workload";

/// A spec that can be done.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The object's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
    /// The spec.
    pub spec: ServiceResilienceSpec,
    /// The proxy's file.
    pub file: String,
    /// Its hash, by which proxies acknowledge it.
    pub hash: String,
}

impl Desired {
    /// ConfigMap and Secret of the proxies.
    pub fn file_name(&self) -> String {
        format!("{}-proxy", self.name)
    }
}

/// The proxy's file for a spec.
fn config(name: &str, spec: &ServiceResilienceSpec, now: Timestamp) -> Config {
    // What is over would only be refused or ignored by everybody who reads it.
    let lasts = |text: &str| text.parse::<Timestamp>().map_or(true, |until| until > now);
    Config {
        workload: name.to_owned(),
        dependencies: spec.dependencies.clone(),
        overrides: spec
            .overrides
            .iter()
            .filter(|forced| lasts(&forced.until))
            .cloned()
            .collect(),
        inbound: spec.inbound.clone(),
    }
}

/// Checks a spec.
///
/// # Errors
/// Everything that is wrong with it.
pub fn validate(object: &ServiceResilience, now: Timestamp) -> Result<Desired, Problems> {
    let name = object.name_any();
    let workload = object
        .annotations()
        .get(WORKLOAD)
        .unwrap_or(&object.spec.target_ref.name);
    let config = config(workload, &object.spec, now);
    let file = serde_json::to_string_pretty(&config).map_err(|error| {
        Problems(vec![Problem {
            field: "spec".to_owned(),
            message: format!("has no words: {error}"),
        }])
    })?;
    let unparsed = object
        .spec
        .overrides
        .iter()
        .enumerate()
        .filter(|(_, forced)| forced.until.parse::<Timestamp>().is_err());
    let mut problems: Vec<Problem> = unparsed
        .map(|(index, forced)| not_a_moment(index, &forced.until))
        .collect();
    if let Err(more) = Checked::try_from(config) {
        problems.extend(more.0);
    }
    for problem in &mut problems {
        problem.field.insert_str(0, "spec.");
    }
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    let hash = checksum(&file, 8);
    Ok(Desired {
        namespace: object.namespace().unwrap_or_default(),
        uid: object.uid().unwrap_or_default(),
        spec: object.spec.clone(),
        name,
        file,
        hash,
    })
}

fn not_a_moment(index: usize, text: &str) -> Problem {
    Problem {
        field: format!("overrides[{index}].until"),
        message: format!("`{text}` is no moment: write it as 2026-11-22T18:00:00Z"),
    }
}

/// What is wrong with a spec that somebody applies just now: in addition, overrides that are over
/// before they begin.
pub fn refuse(
    new: &ServiceResilience,
    old: Option<&ServiceResilience>,
    now: Timestamp,
) -> Vec<Problem> {
    let mut problems = validate(new, now)
        .err()
        .map(|problems| problems.0)
        .unwrap_or_default();
    for (index, forced) in new.spec.overrides.iter().enumerate() {
        let known = old.is_some_and(|old| old.spec.overrides.contains(forced));
        if !known
            && forced
                .until
                .parse::<Timestamp>()
                .is_ok_and(|until| until <= now)
        {
            let message = format!(
                "{} is in the past: nothing would be forced; give a later moment, or take the override out",
                forced.until
            );
            problems.push(Problem {
                field: format!("spec.overrides[{index}].until"),
                message,
            });
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_are_right() {
        let text = include_str!("../../../examples/resilience.yaml");
        let objects: Vec<ServiceResilience> = text
            .split("\n---\n")
            .map(|part| serde_saphyr::from_str(part).unwrap())
            .collect();
        assert_eq!(objects.len(), 3);
        for object in objects {
            assert_eq!(
                validate(&object, Timestamp::UNIX_EPOCH).map(|_| ()),
                Ok(()),
                "{}",
                object.name_any()
            );
        }
    }
}
