//! Plays a service of MRG, or a provider: `stand-in NAME ADDRESS`. See `server.rs` for what it can
//! be told; `FAULTS` tells it from the start.

#[allow(dead_code, reason = "the tests of the proxy use the rest")]
mod server;

use std::net::SocketAddr;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: stand-in NAME ADDRESS";
    let name = arguments.next().unwrap_or_else(|| panic!("{usage}"));
    let address: SocketAddr = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("{usage}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap_or_else(|error| panic!("{error}"));
    runtime.block_on(async move {
        let stand_in = server::StandIn::start(&name, address)
            .unwrap_or_else(|error| panic!("{address}: {error}"));
        if let Ok(faults) = std::env::var("FAULTS") {
            stand_in.fail(
                serde_json::from_str(&faults).unwrap_or_else(|error| panic!("FAULTS: {error}")),
            );
        }
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
                .unwrap_or_else(|error| panic!("{error}"));
        terminate.recv().await;
    });
}
