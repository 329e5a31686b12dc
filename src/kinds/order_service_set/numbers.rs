//! A platform's status as numbers. Pure.

use crate::metrics::{Sample, Series};
use kube::ResourceExt;
use mrg_api::OrderServiceSet;
use mrg_api::order_service_set::{CanaryPhase, Phase};

const UP: Series = Series {
    name: "mrg_service_up",
    help: "1 while a service of the platform serves.",
};
const PHASE: Series = Series {
    name: "mrg_rollout_phase",
    help: "1 for the phase that the trial of a service's change is in.",
};
const WEIGHT: Series = Series {
    name: "mrg_rollout_weight",
    help: "Percent of a service's traffic that its new version gets.",
};
const STORE: Series = Series {
    name: "mrg_store_up",
    help: "1 while a cache or broker answers the operator.",
};
const MET: Series = Series {
    name: "mrg_objective_met",
    help: "1 if a part was never away for longer than its objective, 0 if it was.",
};
const RISK: Series = Series {
    name: "mrg_blast_radius_percent",
    help: "The share of the platform that goes with a part, with all that contains it.",
};

const PHASES: [CanaryPhase; 5] = [
    CanaryPhase::Starting,
    CanaryPhase::Baking,
    CanaryPhase::Paused,
    CanaryPhase::Promoting,
    CanaryPhase::Aborted,
];

/// The numbers of a platform.
pub(crate) fn samples(object: &OrderServiceSet) -> Vec<Sample> {
    let Some(status) = &object.status else {
        return Vec::new();
    };
    let set = object.name_any();
    let of = |series, label, value: &str, number| Sample {
        series,
        labels: vec![("set", set.clone()), (label, value.to_owned())],
        value: number,
    };
    let mut all = Vec::new();
    for service in &status.services {
        let up = !matches!(service.phase, Phase::Down | Phase::Waiting);
        all.push(of(UP, "service", &service.name, f64::from(u8::from(up))));
        let Some(trial) = &service.canary else {
            continue;
        };
        all.push(of(
            WEIGHT,
            "service",
            &service.name,
            f64::from(trial.weight),
        ));
        for phase in PHASES {
            let mut sample = of(
                PHASE,
                "service",
                &service.name,
                f64::from(u8::from(trial.phase == phase)),
            );
            sample.labels.push(("phase", format!("{phase:?}")));
            all.push(sample);
        }
    }
    all.extend(status.stores.iter().map(|store| {
        of(
            STORE,
            "store",
            &store.name,
            f64::from(u8::from(store.answers)),
        )
    }));
    let met = status
        .objectives
        .iter()
        .filter_map(|row| Some(of(MET, "part", &row.part, f64::from(u8::from(row.met?)))));
    all.extend(met);
    all.extend(
        status
            .blast_radius
            .iter()
            .map(|row| of(RISK, "part", &row.part, f64::from(row.remaining))),
    );
    all
}
