//! The lab from outside: faults of nodes, containers and the control plane, by `e2e/lab/lab` and
//! containerd's client. What breaks something returns a guard that repairs it when it is dropped,
//! so that a test that fails half-way leaves the lab usable for the next.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use kube::{Api, Client, ResourceExt};

/// Where the lab's containerds listen, by node.
const SOCKETS: &str = "/run/mrg-lab";

/// A lab that is up, with the operator in it.
#[derive(Clone)]
pub struct Lab {
    pub(crate) client: Client,
    root: PathBuf,
}

/// Which direction of a node's traffic is cut.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// Both.
    BothWays,
    /// Nothing reaches the node.
    Inwards,
    /// Nothing leaves the node.
    Outwards,
}

impl Lab {
    /// Connects by the kubeconfig that `lab enter` sets.
    ///
    /// # Errors
    /// Outside of `lab enter`, or if the API server does not answer.
    pub async fn connect() -> anyhow::Result<Self> {
        anyhow::ensure!(
            std::env::var_os("KUBECONFIG").is_some_and(|path| Path::new(&path).exists()),
            "these tests need the lab: start them by e2e/run [NAME...]"
        );
        // An error means that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::try_default().await?;
        client
            .apiserver_version()
            .await
            .context("unable to reach the lab's API server")?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        Ok(Self {
            client,
            root: root.canonicalize()?,
        })
    }

    /// A program among the crate's examples, as `e2e/lab/image` builds them.
    pub(crate) fn example(&self, name: &str) -> PathBuf {
        self.target().join("lab/examples").join(name)
    }

    /// Cargo's target folder.
    pub(crate) fn target(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| self.root.join("target"), |path| self.root.join(path))
    }

    /// The Deployments where the operator is installed.
    pub fn operator(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), "mrg-system")
    }

    /// Deletes all that is in a volume, past those who have it mounted.
    ///
    /// # Errors
    /// If it is not one of the lab's.
    pub async fn empty_volume(&self, name: &str) -> anyhow::Result<()> {
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let spec = volumes.get(name).await?.spec.unwrap_or_default();
        let local = spec
            .local
            .with_context(|| format!("{name} is not a local volume"))?;
        empty(Path::new(&local.path)).with_context(|| format!("unable to empty {}", local.path))
    }

    /// Takes the node's cable out. Not before the guard is dropped does the node get it back.
    ///
    /// # Errors
    /// If the lab refuses.
    pub fn cut(&self, node: &str, cut: Cut) -> anyhow::Result<Cutoff> {
        let guard = Cutoff {
            lab: self.clone(),
            node: node.to_owned(),
        };
        match cut {
            Cut::BothWays => self.command(&["cut", node])?,
            Cut::Inwards => self.command(&["cut", node, "--one-way", "in"])?,
            Cut::Outwards => self.command(&["cut", node, "--one-way", "out"])?,
        }
        Ok(guard)
    }

    /// Kills API server, controller manager and scheduler. They are back when the guard is dropped.
    ///
    /// # Errors
    /// If the lab refuses.
    pub fn stop_control_plane(&self) -> anyhow::Result<NoControlPlane> {
        let guard = NoControlPlane { lab: self.clone() };
        self.command(&["stop-control-plane"])?;
        Ok(guard)
    }

    /// Kills the pod's first container with SIGKILL, past the kubelet and the API server.
    ///
    /// # Errors
    /// If the container does not run.
    pub fn kill_container(&self, pod: &Pod) -> anyhow::Result<()> {
        let (node, container) = container(pod)?;
        let said = containerd(&node)
            .args(["task", "kill", "--signal", "SIGKILL", &container])
            .output()?;
        anyhow::ensure!(
            said.status.success(),
            "unable to kill the container of {}: {}",
            pod.name_any(),
            String::from_utf8_lossy(&said.stderr)
        );
        Ok(())
    }

    /// Stops the first process of the pod's first container with SIGSTOP. It goes on when the guard
    /// is dropped.
    ///
    /// # Errors
    /// If the container does not run.
    pub fn stop_process(&self, pod: &Pod) -> anyhow::Result<Stopped> {
        let (node, container) = container(pod)?;
        let tasks = containerd(&node).args(["task", "ls"]).output()?.stdout;
        let tasks = String::from_utf8(tasks)?;
        let pid_of = |line: &str| {
            let (task, rest) = line.split_once(' ')?;
            (task == container).then(|| rest.split_whitespace().next()?.parse().ok())?
        };
        let pid = tasks
            .lines()
            .find_map(pid_of)
            .with_context(|| format!("{} has no task", pod.name_any()))?;
        signal("STOP", pid)?;
        Ok(Stopped { pid })
    }

    fn command(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let said = Command::new(self.root.join("e2e/lab/lab"))
            .args(arguments)
            .stdin(Stdio::null())
            // What it starts would keep a pipe open.
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .status()?;
        anyhow::ensure!(said.success(), "lab {}: {said}", arguments.join(" "));
        Ok(())
    }

    fn repair(&self, arguments: &[&str]) {
        if let Err(error) = self.command(arguments) {
            eprintln!("    unable to repair the lab: {error:#}");
        }
    }
}

/// A node that is cut off until this is dropped.
pub struct Cutoff {
    lab: Lab,
    node: String,
}

impl Drop for Cutoff {
    fn drop(&mut self) {
        self.lab.repair(&["heal", &self.node]);
    }
}

/// The lab's control plane is gone until this is dropped.
pub struct NoControlPlane {
    lab: Lab,
}

impl Drop for NoControlPlane {
    fn drop(&mut self) {
        self.lab.repair(&["start-control-plane"]);
    }
}

/// A process that stands still until this is dropped.
pub struct Stopped {
    pid: u32,
}

impl Stopped {
    /// Whether a child of the process runs this command.
    ///
    /// # Errors
    /// If processes cannot be listed.
    pub fn has_child(&self, command: &str) -> anyhow::Result<bool> {
        let found = Command::new("pgrep")
            .args(["-P", &self.pid.to_string(), "-f", command])
            .stdout(Stdio::null())
            .status()?;
        Ok(found.success())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Err(error) = signal("CONT", self.pid) {
            eprintln!("    unable to let {} go on: {error:#}", self.pid);
        }
    }
}

fn signal(name: &str, pid: u32) -> anyhow::Result<()> {
    let sent = Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .status()?;
    anyhow::ensure!(sent.success(), "kill -{name} {pid}: {sent}");
    Ok(())
}

fn containerd(node: &str) -> Command {
    let mut command = Command::new("ctr");
    command.args(["-a", &format!("{SOCKETS}/{node}/containerd.sock")]);
    command.args(["-n", "k8s.io"]);
    command
}

/// The node, and the name of the pod's first container in its containerd.
fn container(pod: &Pod) -> anyhow::Result<(String, String)> {
    let found = || {
        let node = pod.spec.as_ref()?.node_name.clone()?;
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        let id = statuses.first()?.container_id.as_deref()?;
        Some((node, id.strip_prefix("containerd://")?.to_owned()))
    };
    found().with_context(|| format!("{} has no running container", pod.name_any()))
}

/// Deletes what is in a folder, and not the folder, which is mounted.
fn empty(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
