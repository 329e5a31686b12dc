//! The ten services.

use super::types::{
    Business, Call, Cited, Fallback, Objective, Section, Service, Severity, Target, Tier, Timeout,
    cited,
};
use crate::blast_radius::Coupling::{self, Hard, Loose, Partial};
use mrg_base::Millis;

const fn minutes(minutes: u64) -> Millis {
    Millis::seconds(60 * minutes)
}

/// A bound for all attempts together.
const fn within(seconds: u64) -> Timeout {
    Timeout {
        attempt: Millis::seconds(seconds),
        total: Millis::seconds(seconds),
    }
}

/// "Waktu Recovery" of the matrix, where the chapter on objectives is silent.
const fn by_matrix(recovery: u64) -> Cited<Objective> {
    cited(
        Section::Matrix,
        Objective {
            rto: minutes(recovery),
            rpo: None,
        },
    )
}

const fn objective(rto: u64, rpo: Option<Millis>) -> Cited<Objective> {
    cited(
        Section::Objectives,
        Objective {
            rto: minutes(rto),
            rpo,
        },
    )
}

const NOTHING: Option<Millis> = None;
const NO_LOSS: Option<Millis> = Some(Millis(0));

const fn call(name: &'static str, to: Target, section: Section, fallback: Fallback) -> Call {
    Call {
        name,
        to,
        fallback: cited(section, fallback),
        pinned: false,
        back: false,
    }
}

const fn service_call(name: &'static str, section: Section, fallback: Fallback) -> Call {
    call(name, Target::Service(name), section, fallback)
}

const POSTGRES: (&str, Coupling) = ("postgresql", Hard);
/// "Performance: TERDEGRADASI": everything that is not a cart or a session goes on, with four
/// tenths less.
const REDIS: (&str, Coupling) = ("redis", Partial(40));
/// Sagas and jobs wait; the flows that need them say so.
const RABBITMQ: (&str, Coupling) = ("rabbitmq", Loose);

/// "Fallback ke strict mode vs allow-all": strict, since a fraud that is let through costs more
/// than a customer who is asked once more.
const STRICT: Fallback = Fallback::Static(r#"{"decision":"strict","source":"fallback"}"#);

/// The ten, in the analysis' order.
pub const SERVICES: [Service; 10] = [
    Service {
        name: "orderorchestrator",
        title: "Order Orchestrator",
        tier: cited(Section::Incidents, Tier::P0),
        severity: cited(Section::Matrix, Severity::Critical),
        impact: cited(Section::Matrix, "Kegagalan total order"),
        flows: cited(Section::Matrix, "Semua booking"),
        recovery: cited(Section::Matrix, minutes(5)),
        business: cited(Section::Matrix, Business::Severe),
        timeout: cited(
            Section::Audit,
            Timeout {
                attempt: Millis::seconds(2),
                total: Millis::seconds(5),
            },
        ),
        attempts: cited(Section::Audit, 3),
        objective: objective(3, NOTHING),
        entry: true,
        uses: &[POSTGRES, REDIS, RABBITMQ],
        calls: &[
            // "Buat order tanpa payment link, generate async."
            service_call("paymentprocessor", Section::Audit, Fallback::Queue),
            // "Saga timeout dengan manual intervention queue."
            service_call("taxipartnergateway", Section::Services, Fallback::Queue),
            // "Stale cache serving mode untuk emergency."
            service_call(
                "userservice",
                Section::Services,
                Fallback::Stale(minutes(60)),
            ),
            // "Last-known-good pricing fallback."
            service_call(
                "sessionmanager",
                Section::Services,
                Fallback::Stale(minutes(15)),
            ),
            // "Config cache dengan long TTL."
            service_call(
                "configservice",
                Section::Services,
                Fallback::Stale(minutes(24 * 60)),
            ),
            // "Notification queue dengan DLQ."
            service_call("notificationcenter", Section::Services, Fallback::Queue),
            service_call("fds", Section::Services, STRICT),
        ],
    },
    Service {
        name: "paymentprocessor",
        title: "Payment Processor",
        tier: cited(Section::Incidents, Tier::P0),
        severity: cited(Section::Matrix, Severity::Critical),
        impact: cited(Section::Matrix, "Tidak bisa bayar"),
        flows: cited(Section::Matrix, "Semua pembayaran"),
        recovery: cited(Section::Matrix, minutes(5)),
        business: cited(Section::Matrix, Business::Severe),
        timeout: cited(Section::Audit, within(10)),
        attempts: cited(Section::Audit, 3),
        objective: objective(3, NO_LOSS),
        entry: true,
        uses: &[POSTGRES, RABBITMQ],
        calls: &[
            Call {
                pinned: true,
                ..call(
                    "payment-gateway",
                    Target::Externals(&["midtrans", "xendit", "nicepay"]),
                    Section::Externals,
                    Fallback::Error,
                )
            },
            // "Async payment webhook dengan retry queue."
            Call {
                back: true,
                ..call(
                    "payment-callback",
                    Target::Service("orderorchestrator"),
                    Section::Services,
                    Fallback::Queue,
                )
            },
        ],
    },
    Service {
        name: "taxipartnergateway",
        title: "Taxi Partner Gateway",
        tier: cited(Section::Incidents, Tier::P0),
        severity: cited(Section::Matrix, Severity::Critical),
        impact: cited(Section::Matrix, "Tidak bisa booking taxi"),
        flows: cited(Section::Matrix, "Order taxi"),
        recovery: cited(Section::Matrix, minutes(10)),
        business: cited(Section::Matrix, Business::Severe),
        timeout: cited(Section::Audit, within(5)),
        attempts: cited(Section::Audit, 3),
        objective: objective(5, NOTHING),
        entry: false,
        uses: &[POSTGRES, RABBITMQ],
        calls: &[
            // "Order queue untuk BBD downtime."
            call(
                "tpg-bbd",
                Target::Externals(&["bbd"]),
                Section::Audit,
                Fallback::Queue,
            ),
            // "Cache lokasi kendaraan untuk grace period."
            call(
                "bbd-location",
                Target::Externals(&["bbd"]),
                Section::Services,
                Fallback::Stale(minutes(1)),
            ),
            call(
                "partner-fleet",
                Target::Externals(&["partner-fleet"]),
                Section::Externals,
                Fallback::Error,
            ),
        ],
    },
    Service {
        name: "userservice",
        title: "User Service",
        tier: cited(Section::Incidents, Tier::P1),
        severity: cited(Section::Matrix, Severity::Critical),
        impact: cited(Section::Matrix, "Profile/auth blocked"),
        flows: cited(Section::Matrix, "Semua operasi user"),
        recovery: cited(Section::Matrix, minutes(5)),
        business: cited(Section::Matrix, Business::High),
        timeout: cited(Section::Audit, within(1)),
        attempts: cited(Section::Audit, 3),
        objective: objective(3, NO_LOSS),
        entry: true,
        uses: &[POSTGRES, REDIS],
        calls: &[
            service_call("notificationcenter", Section::Services, Fallback::Error),
            service_call("fds", Section::Services, STRICT),
        ],
    },
    Service {
        name: "sessionmanager",
        title: "Session Manager",
        tier: cited(Section::Incidents, Tier::P1),
        severity: cited(Section::Matrix, Severity::High),
        impact: cited(Section::Matrix, "Tidak bisa search kendaraan"),
        flows: cited(Section::Matrix, "Booking baru"),
        recovery: cited(Section::Matrix, minutes(10)),
        business: cited(Section::Matrix, Business::High),
        timeout: cited(Section::Audit, within(2)),
        attempts: cited(Section::Audit, 3),
        objective: by_matrix(10),
        entry: true,
        uses: &[POSTGRES, REDIS],
        calls: &[
            call(
                "maps",
                Target::Externals(&["google-maps", "here-maps"]),
                Section::Externals,
                Fallback::Stale(minutes(60)),
            ),
            service_call(
                "taxipartnergateway",
                Section::Services,
                Fallback::Stale(Millis::seconds(30)),
            ),
            service_call(
                "configservice",
                Section::Services,
                Fallback::Stale(minutes(24 * 60)),
            ),
        ],
    },
    Service {
        name: "authservice",
        title: "Auth Service",
        tier: cited(Section::Incidents, Tier::P1),
        severity: cited(Section::Matrix, Severity::High),
        impact: cited(Section::Matrix, "Login baru blocked"),
        flows: cited(Section::Matrix, "Session baru"),
        recovery: cited(Section::Matrix, minutes(10)),
        business: cited(Section::Matrix, Business::Medium),
        timeout: cited(Section::Audit, within(1)),
        attempts: cited(Section::Audit, 3),
        objective: by_matrix(10),
        entry: true,
        uses: &[POSTGRES, REDIS],
        calls: &[
            service_call("userservice", Section::Services, Fallback::Error),
            service_call("fds", Section::Services, STRICT),
        ],
    },
    Service {
        name: "configservice",
        title: "Config Service",
        tier: cited(Section::Incidents, Tier::P2),
        severity: cited(Section::Matrix, Severity::High),
        impact: cited(Section::Matrix, "Update config blocked"),
        flows: cited(Section::Matrix, "Sync HO"),
        recovery: cited(Section::Matrix, minutes(15)),
        business: cited(Section::Matrix, Business::Medium),
        timeout: cited(Section::Audit, within(1)),
        attempts: cited(Section::Audit, 3),
        objective: by_matrix(15),
        entry: false,
        uses: &[POSTGRES],
        calls: &[],
    },
    Service {
        name: "notificationcenter",
        title: "Notification Center",
        tier: cited(Section::Incidents, Tier::P2),
        severity: cited(Section::Matrix, Severity::High),
        impact: cited(Section::Matrix, "Tidak ada notifikasi"),
        flows: cited(Section::Matrix, "Komunikasi"),
        recovery: cited(Section::Matrix, minutes(30)),
        business: cited(Section::Matrix, Business::Low),
        timeout: cited(Section::Audit, within(5)),
        attempts: cited(Section::Audit, 5),
        objective: by_matrix(30),
        entry: false,
        uses: &[POSTGRES, RABBITMQ],
        calls: &[
            call(
                "sms",
                Target::Externals(&["twilio", "infobip"]),
                Section::Externals,
                Fallback::Queue,
            ),
            call(
                "mail",
                Target::Externals(&["sendgrid", "ses"]),
                Section::Externals,
                Fallback::Queue,
            ),
            call(
                "push-fcm",
                Target::Externals(&["fcm"]),
                Section::Externals,
                Fallback::Queue,
            ),
            call(
                "push-apns",
                Target::Externals(&["apns"]),
                Section::Externals,
                Fallback::Queue,
            ),
            // "SMS fallback."
            call(
                "whatsapp",
                Target::Externals(&["whatsapp", "twilio"]),
                Section::Externals,
                Fallback::Queue,
            ),
        ],
    },
    Service {
        name: "fds",
        title: "FDS",
        tier: cited(Section::Incidents, Tier::P2),
        severity: cited(Section::Matrix, Severity::Medium),
        impact: cited(Section::Matrix, "Security disabled"),
        flows: cited(Section::Matrix, "Pencegahan fraud"),
        recovery: cited(Section::Matrix, minutes(30)),
        business: cited(Section::Matrix, Business::Medium),
        timeout: cited(Section::Estimate, within(1)),
        attempts: cited(Section::Estimate, 3),
        objective: by_matrix(30),
        entry: false,
        uses: &[POSTGRES, REDIS],
        calls: &[],
    },
    Service {
        name: "hogateway",
        title: "HO Gateway",
        tier: cited(Section::Incidents, Tier::P2),
        severity: cited(Section::Matrix, Severity::Medium),
        impact: cited(Section::Matrix, "Tidak ada sync HO"),
        flows: cited(Section::Matrix, "Akuntansi e-wallet"),
        recovery: cited(Section::Matrix, minutes(60)),
        business: cited(Section::Matrix, Business::Low),
        timeout: cited(Section::Estimate, within(10)),
        attempts: cited(Section::Estimate, 3),
        objective: by_matrix(60),
        entry: false,
        uses: &[POSTGRES, RABBITMQ],
        calls: &[
            // "Batch reconciliation job."
            call(
                "head-office",
                Target::Externals(&["head-office"]),
                Section::Services,
                Fallback::Queue,
            ),
            service_call(
                "configservice",
                Section::Services,
                Fallback::Stale(minutes(24 * 60)),
            ),
        ],
    },
];

/// The service of this name.
pub fn service(name: &str) -> Option<&'static Service> {
    SERVICES.iter().find(|service| service.name == name)
}
