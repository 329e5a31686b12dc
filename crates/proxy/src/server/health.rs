//! Active health checks of providers.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::body::Sent;
use crate::client::attempt::attempt;
use crate::head::Head;
use crate::routes::route::Route;
use crate::routes::table::RouteTable;
use mrg_base::lock;
use mrg_policy::{Ended, HealthCheck};

/// Checks the providers of a table. Dropping what is returned ends the checks.
pub(crate) fn check(table: &RouteTable, changes: &watch::Sender<u64>) -> JoinSet<()> {
    let mut checks = JoinSet::new();
    for route in &table.routes {
        for (index, provider) in route.spec.providers.iter().enumerate() {
            if let Some(check) = &provider.health_check {
                checks.spawn(check_provider(
                    route.clone(),
                    index,
                    check.clone(),
                    changes.clone(),
                ));
            } else {
                lock(&route.shared.order).checked(index, true);
            }
        }
    }
    checks
}

async fn check_provider(
    route: Arc<Route>,
    index: usize,
    check: HealthCheck,
    changes: watch::Sender<u64>,
) {
    let Some(target) = route.targets.get(index) else {
        return;
    };
    let Some(path) = target.health_path.clone() else {
        return;
    };
    let head = Head {
        method: Method::GET,
        path,
        headers: HeaderMap::new(),
        grpc: false,
    };
    let mut contrary = 0;
    loop {
        let (ended, _) = attempt(
            &route,
            target,
            &head,
            &Sent::Empty,
            check.timeout.0.duration(),
        )
        .await;
        let well = matches!(ended, Ended::Status(..500));
        let known_well = !lock(&route.shared.order).is_unhealthy(index);
        contrary = if well == known_well { 0 } else { contrary + 1 };
        if contrary >= check.threshold {
            contrary = 0;
            tracing::info!(provider = target.provider.label, well, "health check");
            lock(&route.shared.order).checked(index, well);
            changes.send_modify(|count| *count += 1);
        }
        // Pods that start together must not check together.
        tokio::time::sleep(
            check
                .interval
                .0
                .duration()
                .mul_f64(0.9 + 0.2 * rand::random::<f64>())
                .max(Duration::from_millis(50)),
        )
        .await;
    }
}
