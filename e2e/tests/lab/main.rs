//! The tests on a real Kubernetes; `e2e/run` starts them. How they are written: CONTRIBUTING.md.

mod agent_stopped;
mod claim_away;
mod containers;
mod etcd;
mod etcd_rebuild;
mod healthy;
mod laggards;
mod no_control_plane;
mod node_cut;
mod pools;
mod rolls;
mod scale;

fn main() -> std::process::ExitCode {
    mrg_e2e::runner::main(&[
        healthy::TESTS,
        containers::TESTS,
        rolls::TESTS,
        etcd::TESTS,
        etcd_rebuild::TESTS,
        scale::TESTS,
        agent_stopped::TESTS,
        pools::TESTS,
        claim_away::TESTS,
        laggards::TESTS,
        node_cut::TESTS,
        no_control_plane::TESTS,
    ])
}
