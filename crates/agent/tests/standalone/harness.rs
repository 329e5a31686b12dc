//! A cluster of three on loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::seat::Seat;

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const SUPERUSER_PASSWORD: &str = "it's secret";
/// With everything that a grammar on its way could take for something else.
pub(crate) const REPLICATION_PASSWORD: &str = r#"repl's \ "pass": #1"#;
pub(crate) const REWIND_PASSWORD: &str = "rewind: pass";

pub(crate) struct Cluster {
    pub directory: tempfile::TempDir,
    /// How many members may take over when all is well.
    pub voters: usize,
    pub etcd: Option<Child>,
    pub agents: Vec<Option<Child>>,
    /// The address that all members listen on.
    host: IpAddr,
    seat: Seat,
}

/// Changes a member's file before its first start; given are the member's home and the file.
type Edit<'a> = &'a dyn Fn(&Path, String) -> String;

fn unchanged(_: &Path, file: String) -> String {
    file
}

pub(crate) struct Summary {
    pub longest_gap_ms: u64,
    pub acknowledged: u64,
    pub lost: u64,
}

pub(crate) fn cache() -> PathBuf {
    let home = std::env::var("HOME").unwrap_or_default();
    std::env::var_os("MRG_CACHE").map_or_else(
        || Path::new(&home).join(".cache/mrg-operator"),
        PathBuf::from,
    )
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(
            Instant::now() < deadline,
            "{what} did not come true within {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            "postgres",
            "--regid",
            "postgres",
            "--clear-groups",
        ])
        .arg(program);
    command
}

impl Cluster {
    /// Three members, streaming. `mode` is Patroni's `synchronous_mode`; the lease is as short as is
    /// sensible here.
    pub(crate) fn start(mode: &str) -> Self {
        Self::start_with(mode, &unchanged)
    }

    /// The same, while no other cluster runs.
    pub(crate) fn start_alone(mode: &str) -> Self {
        Self::start_in(Seat::alone(), Ipv4Addr::LOCALHOST.into(), mode, &unchanged)
    }

    /// The same, with files of the members that are changed before the first start.
    pub(crate) fn start_with(mode: &str, edit: Edit<'_>) -> Self {
        Self::start_in(Seat::shared(), Ipv4Addr::LOCALHOST.into(), mode, edit)
    }

    /// The same, with members that have IPv6 addresses only.
    pub(crate) fn start_on_ipv6(mode: &str) -> Self {
        Self::start_in(Seat::shared(), Ipv6Addr::LOCALHOST.into(), mode, &unchanged)
    }

    fn start_in(seat: Seat, host: IpAddr, mode: &str, edit: Edit<'_>) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("mrg-standalone")
            .tempdir()
            .unwrap();
        Command::new("chmod")
            .args(["755"])
            .arg(directory.path())
            .status()
            .unwrap();
        // The agent must be readable for the user it runs as, wherever the build folder is.
        std::fs::copy(
            env!("CARGO_BIN_EXE_mrg-agent"),
            directory.path().join("mrg-agent"),
        )
        .unwrap();
        // In quorum mode every healthy standby votes; with `on`, Patroni's default of one
        // synchronous standby holds.
        let voters = match mode {
            "quorum" => 2,
            "on" => 1,
            _ => 0,
        };
        let mut cluster = Self {
            directory,
            voters,
            etcd: None,
            agents: vec![],
            host,
            seat,
        };
        cluster.start_etcd();
        for member in 1..=3 {
            cluster.configure(member, mode);
            cluster.edit_file(member, |file| {
                edit(&cluster.path(&format!("n{member}")), file)
            });
            let agent = cluster.start_agent(member);
            cluster.agents.push(Some(agent));
        }
        cluster.wait_healthy();
        cluster
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn etcd_port(&self) -> u16 {
        self.seat.base_port()
    }

    pub(crate) fn postgres_port(&self, member: usize) -> u16 {
        self.seat.base_port() + 10 + u16::try_from(member).unwrap()
    }

    pub(crate) fn rest_port(&self, member: usize) -> u16 {
        self.seat.base_port() + 20 + u16::try_from(member).unwrap()
    }

    /// An address of this host, as URLs and `listen` have it.
    pub(crate) fn address(&self, port: u16) -> String {
        SocketAddr::from((self.host, port)).to_string()
    }

    fn rest_url(&self, member: usize, path: &str) -> String {
        format!("http://{}{path}", self.address(self.rest_port(member)))
    }

    /// Changes a member's file.
    pub(crate) fn edit_file(&self, member: usize, edit: impl Fn(String) -> String) {
        let path = self.path(&format!("n{member}.yml"));
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, edit(text)).unwrap();
    }

    /// Kills the leader's agent, waits until another member leads, and brings the first one back.
    pub(crate) fn replace_leader(&mut self, old: usize) {
        Self::signal(pid(self.agent_pid(old)), "KILL");
        self.agents[old - 1].take().unwrap().wait().unwrap();
        wait_until("another leader", || {
            self.leader().is_some_and(|leader| leader != old)
        });
        self.bring_back(old);
    }

    /// Starts the agent of a member again, and waits until all is well.
    pub(crate) fn bring_back(&mut self, member: usize) {
        let agent = self.start_agent(member);
        self.agents[member - 1] = Some(agent);
        self.wait_healthy();
    }

    pub(crate) fn start_etcd(&mut self) {
        self.start_etcd_with(&[]);
    }

    pub(crate) fn stop_etcd(&mut self) {
        let mut etcd = self.etcd.take().unwrap();
        etcd.kill().unwrap();
        etcd.wait().unwrap();
    }

    /// Starts etcd with more arguments, on the data that is there.
    pub(crate) fn start_etcd_with(&mut self, more: &[&str]) {
        let (client, peer) = (
            format!("http://127.0.0.1:{}", self.etcd_port()),
            format!("http://127.0.0.1:{}", self.etcd_port() + 1),
        );
        let etcd = cache().join("lab/bin/etcd");
        let log = std::fs::File::create(self.path("etcd.log")).unwrap();
        let child = Command::new(&etcd)
            .args(["--data-dir".as_ref(), self.path("etcd").as_os_str()])
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
                "--initial-cluster",
                &format!("default={peer}"),
            ])
            .args(more)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "{} does not start ({error}); run `e2e/lab/dependencies etcd`",
                    etcd.display()
                )
            });
        self.etcd = Some(child);
    }

    pub(crate) fn configure(&self, member: usize, mode: &str) {
        let home = self.path(&format!("n{member}"));
        std::fs::create_dir(&home).unwrap();
        Command::new("chown")
            .arg("postgres")
            .arg(&home)
            .status()
            .unwrap();
        let yaml = format!(
            "scope: test
name: n{member}
restapi: {{listen: '{rest}'}}
etcd3: {{hosts: '127.0.0.1:{etcd}'}}
bootstrap:
  dcs:
    ttl: 5
    loop_wait: 1
    retry_timeout: 2
    synchronous_mode: {mode}
    postgresql: {{use_pg_rewind: true, parameters: {{max_connections: 50, shared_buffers: 16MB}}}}
mrg: {{secret_directory: {home}/secret}}
postgresql:
  listen: '{postgres}'
  data_dir: {home}/data
  bin_dir: /usr/lib/postgresql/15/bin
  authentication:
    superuser: {{username: postgres, password: 'it''s secret'}}
    rewind: {{username: rewinder, password: '{REWIND_PASSWORD}'}}
",
            rest = self.address(self.rest_port(member)),
            etcd = self.etcd_port(),
            postgres = self.address(self.postgres_port(member)),
            home = home.display(),
        );
        std::fs::write(self.path(&format!("n{member}.yml")), yaml).unwrap();
    }

    pub(crate) fn start_agent(&self, member: usize) -> Child {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path(&format!("n{member}.log")))
            .unwrap();
        as_postgres(&self.path("mrg-agent"))
            .arg(self.path(&format!("n{member}.yml")))
            .env("MRG_LOG_TEXT", "1")
            .env("PATRONI_REPLICATION_PASSWORD", REPLICATION_PASSWORD)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    pub(crate) fn agent_pid(&self, member: usize) -> u32 {
        self.agents[member - 1].as_ref().unwrap().id()
    }

    pub(crate) fn get(&self, member: usize, path: &str) -> Option<serde_json::Value> {
        let url = self.rest_url(member, path);
        let output = Command::new("curl")
            .args(["-gs", "-m", "2", &url])
            .output()
            .ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    pub(crate) fn etcdctl_text(&self, arguments: &[&str]) -> String {
        let endpoint = format!("http://127.0.0.1:{}", self.etcd_port());
        let output = Command::new(cache().join("lab/bin/etcdctl"))
            .args(["--endpoints", &endpoint])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) fn etcdctl(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.etcdctl_text(arguments);
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("etcdctl {arguments:?}: {text}"))
    }

    pub(crate) fn post(&self, member: usize, path: &str, body: &str) -> String {
        let url = self.rest_url(member, path);
        let json = "content-type: application/json";
        let output = Command::new("curl")
            .args(["-gs", "-m", "70", "-XPOST", "-H", json, "-d", body, &url])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What a statement answers, as the superuser.
    pub(crate) fn sql(&self, member: usize, statement: &str) -> String {
        self.sql_as(member, "postgres", SUPERUSER_PASSWORD, statement)
    }

    /// What a statement answers, or why it fails.
    pub(crate) fn sql_as(
        &self,
        member: usize,
        user: &str,
        password: &str,
        statement: &str,
    ) -> String {
        let output = self.psql(member, user, password, statement).output();
        let output = output.unwrap();
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).trim().to_owned()
    }

    pub(crate) fn psql(
        &self,
        member: usize,
        user: &str,
        password: &str,
        statement: &str,
    ) -> Command {
        let port = self.postgres_port(member).to_string();
        let mut command = Command::new("psql");
        command
            .args(["-h", &self.host.to_string(), "-p", &port, "-U", user, "-w"])
            .args(["-qAtc", statement, "postgres"])
            .env("PGPASSWORD", password)
            .env("PGCONNECT_TIMEOUT", "10");
        command
    }

    pub(crate) fn patch_config(&self, member: usize, patch: &str) {
        let url = self.rest_url(member, "/config");
        let status = Command::new("curl")
            .args(["-gsf", "-o", "/dev/null", "-XPATCH", "-d", patch, &url])
            .status();
        assert!(status.unwrap().success(), "{patch}");
    }

    pub(crate) fn member_key(&self, name: &str) -> String {
        let key = format!("/service/test/members/{name}");
        self.etcdctl_text(&["get", "--print-value-only", &key])
    }

    pub(crate) fn log_of(&self, member: usize) -> String {
        std::fs::read_to_string(self.path(&format!("n{member}.log"))).unwrap_or_default()
    }

    /// The one member whose REST API says that it leads.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = |member: &usize| {
            let url = self.rest_url(*member, "/primary");
            let output = Command::new("curl")
                .args([
                    "-gs",
                    "-m",
                    "2",
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{http_code}",
                    &url,
                ])
                .output();
            output.is_ok_and(|output| output.stdout == b"200")
        };
        let leaders: Vec<usize> = (1..=3).filter(leads).collect();
        assert!(leaders.len() <= 1, "more than one leader: {leaders:?}");
        leaders.first().copied()
    }

    pub(crate) fn wait_leader(&self) -> usize {
        let mut leader = None;
        wait_until("a leader", || {
            leader = self.leader();
            leader.is_some()
        });
        leader.unwrap()
    }

    pub(crate) fn is_healthy(&self) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        let Some(report) = self.get(leader, "/cluster") else {
            return false;
        };
        let members = report["members"].as_array().cloned().unwrap_or_default();
        let good = |member: &serde_json::Value| {
            member["state"] == "streaming" || member["role"] == "leader"
        };
        let voters = members
            .iter()
            .filter(|member| member["role"] != "leader" && member["role"] != "replica")
            .count();
        members.len() == 3 && members.iter().all(good) && voters == self.voters
    }

    pub(crate) fn wait_healthy(&self) {
        wait_until(
            "three members that lead or stream, with every synchronous standby there can be",
            || self.is_healthy(),
        );
    }

    /// Writes while `fault` happens and for a while after, then until all is well again.
    pub(crate) fn under_load(&self, seconds: u64, fault: impl FnOnce(&Self)) -> Summary {
        let hosts = (1..=3)
            .map(|member| format!("127.0.0.1:{}", self.postgres_port(member)))
            .collect::<Vec<_>>()
            .join(",");
        let writer = Path::new(env!("CARGO_BIN_EXE_mrg-agent"))
            .with_file_name("examples")
            .join("writer");
        let mut command = Command::new(&writer);
        command.args([
            "--hosts",
            &hosts,
            "--password",
            SUPERUSER_PASSWORD,
            "--seconds",
            &seconds.to_string(),
        ]);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_secs(2));
        fault(self);
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let summary: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("the writer said: {text}"));
        let number = |field: &str| summary[field].as_u64().unwrap();
        let summary = Summary {
            longest_gap_ms: number("longest_gap_ms"),
            acknowledged: number("acknowledged"),
            lost: number("lost"),
        };
        println!(
            "gap {} ms, {} rows acknowledged, {} lost",
            summary.longest_gap_ms, summary.acknowledged, summary.lost
        );
        assert_eq!(summary.lost, 0, "acknowledged rows were lost");
        assert!(summary.acknowledged > 50, "hardly anything was written");
        summary
    }

    /// The process of a member's server. The file is not there between a crash and the next start.
    pub(crate) fn postmaster(&self, member: usize) -> i32 {
        let file = self.path(&format!("n{member}/data/postmaster.pid"));
        let mut found = None;
        wait_until("a postmaster", || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            found = text.lines().next().and_then(|pid| pid.trim().parse().ok());
            found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn signal(pid: i32, signal: &str) {
        Command::new("kill")
            .args([&format!("-{signal}"), &pid.to_string()])
            .status()
            .unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for member in 1..=3 {
                let log = std::fs::read_to_string(self.path(&format!("n{member}.log")))
                    .unwrap_or_default();
                let tail: Vec<&str> = log
                    .lines()
                    .filter(|line| !line.contains("waiting for WAL"))
                    .rev()
                    .take(40)
                    .collect();
                eprintln!(
                    "--- n{member}\n{}",
                    tail.into_iter().rev().collect::<Vec<_>>().join("\n")
                );
            }
        }
        for agent in self.agents.iter_mut().flatten() {
            Self::signal(i32::try_from(agent.id()).unwrap(), "CONT");
            // The fence follows its agent and takes postgres along.
            let _ = agent.kill();
            let _ = agent.wait();
        }
        if let Some(etcd) = &mut self.etcd {
            let _ = etcd.kill();
            let _ = etcd.wait();
        }
        // The seat's next cluster listens where this one did.
        let deadline = Instant::now() + Duration::from_secs(10);
        let ports = (1..=3).flat_map(|member| [self.postgres_port(member), self.rest_port(member)]);
        for port in ports.chain([self.etcd_port(), self.etcd_port() + 1]) {
            while TcpListener::bind((self.host, port)).is_err() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

pub(crate) fn pid(child: u32) -> i32 {
    i32::try_from(child).unwrap()
}

pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}
