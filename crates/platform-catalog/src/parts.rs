//! What the services run on, who else takes part, and what customers do with all of it.

use super::types::{Business, Cited, Objective, Section, Severity, cited};
use mrg_base::Millis;

/// Something that services run on.
#[derive(Clone, Copy, Debug)]
pub struct Infrastructure {
    /// Its name.
    pub name: &'static str,
    /// As people name it.
    pub title: &'static str,
    /// Its objective.
    pub objective: Cited<Objective>,
    /// What it costs.
    pub business: Cited<Business>,
    /// What is left of its blast radius with what the analysis asks for, in percent of all, and
    /// what that is.
    pub contained: Option<Cited<(&'static str, u32)>>,
}

/// What the services run on. The analysis gives RabbitMQ two objectives, 10 and 5 minutes; the
/// stricter one stands here.
pub const INFRASTRUCTURE: [Infrastructure; 4] = [
    Infrastructure {
        name: "postgresql",
        title: "PostgreSQL Master",
        objective: cited(
            Section::Objectives,
            Objective {
                rto: Millis::seconds(300),
                rpo: Some(Millis(0)),
            },
        ),
        business: cited(Section::BlastRadius, Business::Severe),
        contained: Some(cited(Section::BlastRadius, ("failover", 5))),
    },
    Infrastructure {
        name: "redis",
        title: "Redis Cluster",
        objective: cited(
            Section::Objectives,
            Objective {
                rto: Millis::seconds(120),
                rpo: Some(Millis::seconds(300)),
            },
        ),
        business: cited(Section::BlastRadius, Business::High),
        contained: Some(cited(Section::BlastRadius, ("Sentinel", 10))),
    },
    Infrastructure {
        name: "rabbitmq",
        title: "RabbitMQ",
        objective: cited(
            Section::Objectives,
            Objective {
                rto: Millis::seconds(300),
                rpo: Some(Millis::seconds(60)),
            },
        ),
        business: cited(Section::BlastRadius, Business::Medium),
        contained: None,
    },
    Infrastructure {
        name: "kubernetes",
        title: "Kubernetes Control Plane",
        objective: cited(
            Section::Objectives,
            Objective {
                rto: Millis::seconds(600),
                rpo: None,
            },
        ),
        business: cited(Section::Estimate, Business::Medium),
        // Failover, rewiring, breakers and queues go on without it.
        contained: Some(cited(
            Section::Estimate,
            ("a data plane that does not need it", 0),
        )),
    },
];

/// The infrastructure of this name.
pub fn infrastructure(name: &str) -> Option<&'static Infrastructure> {
    INFRASTRUCTURE.iter().find(|part| part.name == name)
}

/// Somebody else's system.
#[derive(Clone, Copy, Debug)]
pub struct External {
    /// Its name.
    pub name: &'static str,
    /// As people name it.
    pub title: &'static str,
    /// How bad it is without it.
    pub severity: Cited<Severity>,
}

const fn outside(name: &'static str, title: &'static str, severity: Severity) -> External {
    External {
        name,
        title,
        severity: cited(Section::Externals, severity),
    }
}

/// Others' systems.
pub const EXTERNALS: [External; 15] = [
    outside("bbd", "Bluebird Dispatch", Severity::Critical),
    outside("partner-fleet", "Partner Fleet System", Severity::Critical),
    outside("midtrans", "Midtrans", Severity::Critical),
    outside("xendit", "Xendit", Severity::Critical),
    outside("nicepay", "Nicepay", Severity::Critical),
    outside("google-maps", "Google Maps", Severity::High),
    outside("here-maps", "HERE Maps", Severity::High),
    outside("twilio", "Twilio SMS", Severity::High),
    outside("infobip", "Infobip", Severity::High),
    outside("sendgrid", "SendGrid", Severity::Medium),
    outside("ses", "AWS SES", Severity::Medium),
    outside("fcm", "FCM Push", Severity::Medium),
    outside("apns", "APNs Push", Severity::Medium),
    outside("whatsapp", "WhatsApp API", Severity::Medium),
    External {
        name: "head-office",
        title: "Head Office",
        severity: cited(Section::Services, Severity::Medium),
    },
];

/// The external of this name.
pub fn external(name: &str) -> Option<&'static External> {
    EXTERNALS.iter().find(|part| part.name == name)
}

/// Something that customers do: its share, and what it needs: the part, the service that asks for
/// it, the loss in percent without it.
#[derive(Clone, Copy, Debug)]
pub struct FlowData {
    /// Its name.
    pub name: &'static str,
    /// Its share; percent.
    pub weight: u32,
    /// What it needs.
    pub needs: &'static [(&'static str, Option<&'static str>, u32)],
}

const OO: Option<&str> = Some("orderorchestrator");

/// The analysis gives each part's radius and not what customers do. These shares are the ones from
/// which its radii follow, all nine of the table and the Kubernetes control plane's, and nothing
/// else in them is measured: `section: Estimate` holds for each. Taxi orders are 60 of 100.
pub const FLOWS: [FlowData; 9] = [
    FlowData {
        name: "taxi booking",
        weight: 10,
        needs: TAXI_BOOKING,
    },
    FlowData {
        name: "taxi booking after a login",
        weight: 20,
        needs: TAXI_BOOKING_AFTER_LOGIN,
    },
    FlowData {
        name: "rent, delivery, shuttle booking",
        weight: 5,
        needs: OTHER_BOOKING,
    },
    FlowData {
        name: "rent, delivery, shuttle booking after a login",
        weight: 10,
        needs: OTHER_BOOKING_AFTER_LOGIN,
    },
    FlowData {
        name: "taxi completion and payment",
        weight: 20,
        needs: TAXI_COMPLETION,
    },
    FlowData {
        name: "rent, delivery, shuttle completion and payment",
        weight: 15,
        needs: OTHER_COMPLETION,
    },
    FlowData {
        name: "tracking of a taxi",
        weight: 10,
        needs: &[
            ("orderorchestrator", None, 100),
            ("taxipartnergateway", OO, 100),
            ("kubernetes", None, 30),
        ],
    },
    FlowData {
        name: "profile",
        weight: 5,
        needs: &[
            ("userservice", None, 100),
            ("authservice", None, 100),
            ("redis", None, 100),
            ("kubernetes", None, 30),
        ],
    },
    FlowData {
        name: "order history",
        weight: 5,
        needs: &[
            ("postgresql", None, 100),
            ("redis", None, 40),
            ("kubernetes", None, 30),
        ],
    },
];

type Needs = &'static [(&'static str, Option<&'static str>, u32)];

/// Carts and sessions are in Redis; without RabbitMQ an order is booked and its saga waits.
const TAXI_BOOKING: Needs = &[
    ("orderorchestrator", None, 100),
    ("sessionmanager", OO, 100),
    ("userservice", OO, 100),
    ("paymentprocessor", OO, 100),
    ("taxipartnergateway", OO, 100),
    ("redis", None, 100),
    ("rabbitmq", None, 50),
    ("configservice", OO, 10),
    ("notificationcenter", OO, 10),
    ("fds", OO, 10),
    ("kubernetes", None, 30),
];
const TAXI_BOOKING_AFTER_LOGIN: Needs = &[
    ("orderorchestrator", None, 100),
    ("sessionmanager", OO, 100),
    ("userservice", OO, 100),
    ("paymentprocessor", OO, 100),
    ("taxipartnergateway", OO, 100),
    ("authservice", None, 100),
    ("redis", None, 100),
    ("rabbitmq", None, 50),
    ("configservice", OO, 10),
    ("notificationcenter", OO, 20),
    ("fds", OO, 10),
    ("kubernetes", None, 30),
];
const OTHER_BOOKING: Needs = &[
    ("orderorchestrator", None, 100),
    ("sessionmanager", OO, 100),
    ("userservice", OO, 100),
    ("paymentprocessor", OO, 100),
    ("redis", None, 100),
    ("rabbitmq", None, 50),
    ("configservice", OO, 10),
    ("notificationcenter", OO, 10),
    ("fds", OO, 10),
    ("kubernetes", None, 30),
];
const OTHER_BOOKING_AFTER_LOGIN: Needs = &[
    ("orderorchestrator", None, 100),
    ("sessionmanager", OO, 100),
    ("userservice", OO, 100),
    ("paymentprocessor", OO, 100),
    ("authservice", None, 100),
    ("redis", None, 100),
    ("rabbitmq", None, 50),
    ("configservice", OO, 10),
    ("notificationcenter", OO, 20),
    ("fds", OO, 10),
    ("kubernetes", None, 30),
];
const TAXI_COMPLETION: Needs = &[
    ("orderorchestrator", None, 100),
    ("paymentprocessor", OO, 100),
    ("taxipartnergateway", OO, 100),
    ("rabbitmq", None, 50),
    ("notificationcenter", OO, 10),
    ("hogateway", None, 5),
    ("kubernetes", None, 30),
];
const OTHER_COMPLETION: Needs = &[
    ("orderorchestrator", None, 100),
    ("paymentprocessor", OO, 100),
    ("rabbitmq", None, 50),
    ("notificationcenter", OO, 10),
    ("hogateway", None, 5),
    ("kubernetes", None, 30),
];
