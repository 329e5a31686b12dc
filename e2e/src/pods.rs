//! Commands in pods, and what pods say.

use std::fmt::Write as _;

use anyhow::Context;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachParams, LogParams};
use kube::{Api, ResourceExt};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How long a line of a log may be in a failure's message.
const LINE_LENGTH: usize = 300;

/// What a command printed.
pub(crate) struct Printed {
    pub(crate) output: String,
    pub(crate) errors: String,
}

/// Runs a command in a container and returns what it printed.
///
/// # Errors
/// If it ends with anything but 0; with what it printed.
pub(crate) async fn execute(
    pods: &Api<Pod>,
    pod: &str,
    container: &str,
    command: &[&str],
) -> anyhow::Result<Printed> {
    let what = || format!("`{}` in {pod}", command.join(" "));
    let parameters = AttachParams::default().container(container);
    let mut process = pods
        .exec(pod, command.iter().copied(), &parameters)
        .await
        .with_context(what)?;
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let status = process.take_status();
    let (output, errors) = tokio::try_join!(read(stdout), read(stderr)).with_context(what)?;
    let status = match status {
        Some(status) => status.await.unwrap_or_default(),
        None => Status::default(),
    };
    let reason = status.message.unwrap_or_default();
    anyhow::ensure!(
        status.status.as_deref() == Some("Success"),
        "{}: {reason} {output}{errors}",
        what()
    );
    Ok(Printed { output, errors })
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A line about the pod: its node, its phase and its containers.
pub(crate) fn summary(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let mut line = format!(
        "{} on {} {}",
        pod.name_any(),
        node.as_deref().unwrap_or("no node"),
        status.phase.as_deref().unwrap_or("Unknown")
    );
    if pod.metadata.deletion_timestamp.is_some() {
        line.push_str(" (being deleted)");
    }
    let containers = status.container_statuses.unwrap_or_default();
    for container in status
        .init_container_statuses
        .unwrap_or_default()
        .iter()
        .chain(&containers)
    {
        let _ = write!(line, ", {}", state(container));
    }
    line
}

fn state(container: &ContainerStatus) -> String {
    let state = container.state.clone().unwrap_or_default();
    let words = match (state.running, state.waiting, state.terminated) {
        (Some(_), ..) if container.ready => "ready".to_owned(),
        (Some(_), ..) => "running, not ready".to_owned(),
        (_, Some(waiting), _) => waiting.reason.unwrap_or_else(|| "waiting".to_owned()),
        (.., Some(terminated)) => format!("ended with {}", terminated.exit_code),
        _ => "unknown".to_owned(),
    };
    match container.restart_count {
        0 => format!("{}: {words}", container.name),
        restarts => format!("{}: {words}, {restarts} restarts", container.name),
    }
}

/// The logs of the pod's containers, by the container's name; those that were started again with
/// the log of the time before in front.
pub(crate) async fn logs(pods: &Api<Pod>, pod: &Pod) -> Vec<(String, String)> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut logs = Vec::new();
    for container in containers {
        let mut text = String::new();
        for previous in [true, false] {
            let parameters = LogParams {
                container: Some(container.name.clone()),
                tail_lines: Some(2_000),
                previous,
                ..LogParams::default()
            };
            text.push_str(
                &pods
                    .logs(&pod.name_any(), &parameters)
                    .await
                    .unwrap_or_default(),
            );
        }
        logs.push((container.name.clone(), text));
    }
    logs
}

/// The last lines of a log that are the program's own, cut to a length that can be read.
pub(crate) fn last_lines(log: &str, count: usize) -> Vec<String> {
    let mut lines: Vec<String> = log
        .lines()
        .rev()
        .filter(|line| line.starts_with('{'))
        .take(count)
        .map(|line| line.chars().take(LINE_LENGTH).collect())
        .collect();
    lines.reverse();
    lines
}
