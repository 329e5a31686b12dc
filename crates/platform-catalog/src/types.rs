//! The words of the catalog.

use mrg_base::Millis;

/// Where in the analysis a value stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// The chapter on each service.
    Services,
    /// The chapter on order details.
    OrderDetail,
    /// The matrix of impacts.
    Matrix,
    /// The chapter on the blast radius.
    BlastRadius,
    /// The chapter on objectives.
    Objectives,
    /// The audit of the code.
    Audit,
    /// The chapter on providers outside.
    Externals,
    /// The database's chapter.
    Database,
    /// The chapter on mitigation.
    Mitigation,
    /// The chapter on alerts.
    Alerting,
    /// The chapter on incidents.
    Incidents,
    /// The reference of health checks.
    HealthChecks,
    /// Nowhere: this project's estimate.
    Estimate,
}

impl Section {
    /// Its heading.
    pub const fn heading(self) -> &'static str {
        match self {
            Self::Services => "Analisis SPOF Level Service",
            Self::OrderDetail => "SPOF Level Arsitektur - Optimasi Order Detail",
            Self::Matrix => "Matriks Dampak SPOF",
            Self::BlastRadius => "Analisis Blast Radius",
            Self::Objectives => "Objektif RTO dan RPO",
            Self::Audit => "Checklist Audit Kode",
            Self::Externals => "SPOF Dependensi Eksternal",
            Self::Database => "Arsitektur High Availability Database",
            Self::Mitigation => "Strategi Mitigasi",
            Self::Alerting => "Monitoring dan Alerting",
            Self::Incidents => "Respons Insiden",
            Self::HealthChecks => "Referensi Implementasi Health Check",
            Self::Estimate => "(an estimate of this project)",
        }
    }
}

/// A value and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cited<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub section: Section,
}

/// A value of a section.
pub(super) const fn cited<T>(section: Section, value: T) -> Cited<T> {
    Cited { value, section }
}

/// How much depends on a service. From it follow replicas, priority, who is told how soon, and the
/// turn in a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Customers cannot order or pay without it.
    P0,
    /// Much is worse without it.
    P1,
    /// It can be away for a while.
    P2,
}

/// When people act, counted from the alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Somebody is told.
    pub told: Millis,
    /// Pods, then database, cache and broker are looked at.
    pub assessed: Millis,
    /// Those who are concerned know.
    pub communicated: Millis,
    /// A way around, a fallback or a rollback is in place.
    pub worked_around: Millis,
}

impl Tier {
    /// All, the most important first.
    pub const ALL: [Self; 3] = [Self::P0, Self::P1, Self::P2];

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::P0 => "P0",
            Self::P1 => "P1",
            Self::P2 => "P2",
        }
    }

    /// Pods at least: "2-3+ replica".
    pub const fn min_replicas(self) -> Cited<i32> {
        cited(
            Section::Mitigation,
            match self {
                Self::P0 => 3,
                Self::P1 | Self::P2 => 2,
            },
        )
    }

    /// How soon people act.
    pub const fn response(self) -> Cited<Response> {
        cited(
            Section::Incidents,
            match self {
                Self::P0 => response(1, 3, 5, 10),
                Self::P1 => response(5, 10, 15, 15),
                Self::P2 => response(60, 60, 60, 24 * 60),
            },
        )
    }
}

const fn response(told: u64, assessed: u64, communicated: u64, worked_around: u64) -> Response {
    Response {
        told: Millis::seconds(60 * told),
        assessed: Millis::seconds(60 * assessed),
        communicated: Millis::seconds(60 * communicated),
        worked_around: Millis::seconds(60 * worked_around),
    }
}

/// How bad it is when a service is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// "KRITIKAL".
    Critical,
    /// "TINGGI".
    High,
    /// "SEDANG".
    Medium,
}

/// What it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Business {
    /// "PARAH".
    Severe,
    /// "TINGGI".
    High,
    /// "SEDANG".
    Medium,
    /// "RENDAH".
    Low,
}

/// What may be lost, and for how long something may be away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Objective {
    /// The longest time away.
    pub rto: Millis,
    /// The longest time whose data may be lost; `None`: it keeps none, or none is named.
    pub rpo: Option<Millis>,
}

/// How long a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout {
    /// One attempt.
    pub attempt: Millis,
    /// All of them.
    pub total: Millis,
}

/// Whom a service calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Another of the ten.
    Service(&'static str),
    /// Others' systems, in the order of preference.
    Externals(&'static [&'static str]),
}

/// What a service gets when nobody answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// An error that says why.
    Error,
    /// The request is kept and sent later; one that may have been processed is left to people.
    Queue,
    /// The last good answer, no older than this.
    Stale(Millis),
    /// Always this answer; JSON.
    Static(&'static str),
}

/// One thing that a service calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The dependency's name.
    pub name: &'static str,
    /// Whom.
    pub to: Target,
    /// What there is when nobody answers, and where that is asked for.
    pub fallback: Cited<Fallback>,
    /// A payment or the like: the provider that served the first request about an order serves the
    /// later ones, too.
    pub pinned: bool,
    /// The called one calls back; nothing waits for it at the start.
    pub back: bool,
}

/// One of the ten.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// As Kubernetes and the repositories name it.
    pub name: &'static str,
    /// As people do.
    pub title: &'static str,
    /// How much depends on it.
    pub tier: Cited<Tier>,
    /// How bad it is.
    pub severity: Cited<Severity>,
    /// What happens without it, in the analysis' words.
    pub impact: Cited<&'static str>,
    /// Which flows are hit, in the analysis' words.
    pub flows: Cited<&'static str>,
    /// After how long it is to be back, by the matrix.
    pub recovery: Cited<Millis>,
    /// What it costs.
    pub business: Cited<Business>,
    /// How long its calls may take.
    pub timeout: Cited<Timeout>,
    /// How often it tries.
    pub attempts: Cited<u32>,
    /// Its objective.
    pub objective: Cited<Objective>,
    /// Customers' requests reach it directly.
    pub entry: bool,
    /// What of the infrastructure it uses, and what becomes of it without.
    pub uses: &'static [(&'static str, crate::blast_radius::Coupling)],
    /// Whom it calls.
    pub calls: &'static [Call],
}
