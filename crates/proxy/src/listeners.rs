//! The ports of the proxy: one for each dependency, and one for the inbound side.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::client::{call, resend};
use crate::current::Current;
use crate::phase::Phase;
use crate::routes::route::{CurrentRoute, Route};
use crate::routes::table::RouteTable;
use crate::server::inbound::InboundHandler;
use crate::server::{health, listen};
use mrg_policy::Config;

/// A listener and what it serves.
struct Listening<T> {
    current: Current<T>,
    phase: watch::Sender<Phase>,
    task: JoinHandle<()>,
    worker: Option<JoinHandle<()>>,
}

impl<T> Listening<T> {
    /// Ends the listener: it accepts no more connections, and its tasks end once the requests under
    /// way have.
    fn end(self) -> impl Iterator<Item = JoinHandle<()>> {
        // There is no receiver if the task has ended by itself.
        let _ = self.phase.send(Phase::Stopping);
        std::iter::once(self.task).chain(self.worker)
    }
}

/// All listeners, and the health checks beside them.
#[derive(Default)]
pub(crate) struct Listeners {
    dependencies: BTreeMap<u16, Listening<Route>>,
    inbound: Option<Listening<InboundHandler>>,
    checks: JoinSet<()>,
}

/// Listens at an address.
///
/// # Errors
/// If the address is in use, or not one of this host.
pub(crate) fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bind = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(1024)
    };
    bind().with_context(|| format!("failed to listen at {address}"))
}

impl Listeners {
    /// What serves the requests to the workload; `None` if nothing does.
    pub(crate) fn inbound(&self) -> Option<Arc<InboundHandler>> {
        self.inbound
            .as_ref()
            .map(|listening| listening.current.get())
    }

    /// Binds the ports of a configuration that are not served yet.
    ///
    /// # Errors
    /// If one of them is taken.
    pub(crate) fn bind_new(
        &self,
        config: &Config,
        outbound: IpAddr,
    ) -> anyhow::Result<BTreeMap<u16, TcpListener>> {
        let mut bound = BTreeMap::new();
        for port in config
            .dependencies
            .iter()
            .map(|dependency| dependency.port)
            .filter(|port| !self.dependencies.contains_key(port))
        {
            bound.insert(port, bind(SocketAddr::new(outbound, port))?);
        }
        let known = self.inbound().map(|inbound| inbound.limits().port);
        if let Some(wanted) = config
            .inbound
            .as_ref()
            .map(|inbound| inbound.port)
            .filter(|port| Some(*port) != known)
        {
            bound.insert(
                wanted,
                bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), wanted))?,
            );
        }
        Ok(bound)
    }

    /// Serves a table; `ports` are those that [`Self::bind_new`] has bound for it. Nothing here
    /// fails.
    pub(crate) fn serve(
        &mut self,
        table: &RouteTable,
        mut ports: BTreeMap<u16, TcpListener>,
        changes: &watch::Sender<u64>,
    ) {
        let wanted: Vec<u16> = table.routes.iter().map(|route| route.spec.port).collect();
        let (kept, unwanted): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.dependencies)
                .into_iter()
                .partition(|(port, _)| wanted.contains(port));
        self.dependencies = kept;
        for listening in unwanted.into_values() {
            // The tasks end by themselves.
            drop(listening.end());
        }
        for route in &table.routes {
            let port = route.spec.port;
            if let Some(listening) = self.dependencies.get(&port) {
                listening.current.set(route.clone());
            } else if let Some(listener) = ports.remove(&port) {
                let listening = serve_dependency(route.clone(), listener, changes);
                self.dependencies.insert(port, listening);
            }
        }
        self.serve_inbound(table, ports, changes);
        // Dropping the old checks ends them.
        self.checks = health::check(table, changes);
    }

    fn serve_inbound(
        &mut self,
        table: &RouteTable,
        mut ports: BTreeMap<u16, TcpListener>,
        changes: &watch::Sender<u64>,
    ) {
        let wanted = table
            .config
            .inbound
            .clone()
            .zip(table.config.checked_inbound());
        match (wanted, &self.inbound) {
            (Some((wanted, parsed)), Some(listening))
                if listening.current.get().limits().port == wanted.port =>
            {
                let before = listening.current.get();
                if *before.limits() != wanted {
                    let handler = InboundHandler::after(&before, wanted, parsed, changes);
                    listening.current.set(Arc::new(handler));
                }
            }
            (wanted, _) => {
                if let Some(listening) = self.inbound.take() {
                    drop(listening.end());
                }
                if let Some((wanted, parsed)) = wanted
                    && let Some(listener) = ports.remove(&wanted.port)
                {
                    let handler = InboundHandler::new(wanted, parsed, changes);
                    let current = Current::new(Arc::new(handler));
                    let (phase, phases) = watch::channel(Phase::Serving);
                    let served = current.clone();
                    let serve = move |request| served.get().serve(request);
                    self.inbound = Some(Listening {
                        current,
                        phase,
                        task: tokio::spawn(listen::listen(listener, serve, phases)),
                        worker: None,
                    });
                }
            }
        }
    }

    /// Sends the workload's callers elsewhere for their next request. The workload's own calls go
    /// on.
    pub(crate) fn leave(&self) {
        if let Some(inbound) = &self.inbound {
            // There is no receiver if the task has ended by itself.
            let _ = inbound.phase.send(Phase::Leaving);
        }
    }

    /// Ends all listeners, and returns their tasks.
    pub(crate) fn end(&mut self) -> Vec<JoinHandle<()>> {
        let inbound = self.inbound.take().into_iter().flat_map(Listening::end);
        std::mem::take(&mut self.dependencies)
            .into_values()
            .flat_map(Listening::end)
            .chain(inbound)
            .collect()
    }
}

fn serve_dependency(
    route: Arc<Route>,
    listener: TcpListener,
    changes: &watch::Sender<u64>,
) -> Listening<Route> {
    let current: CurrentRoute = Current::new(route);
    let (phase, phases) = watch::channel(Phase::Serving);
    let served = current.clone();
    let serve = move |request| call::serve(served.get(), request);
    let task = tokio::spawn(listen::listen(listener, serve, phases.clone()));
    let worker = tokio::spawn(resend::work(current.clone(), changes.subscribe(), phases));
    Listening {
        current,
        phase,
        task,
        worker: Some(worker),
    }
}
