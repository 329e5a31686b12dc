//! Real etcd, real PostgreSQL, real agents on loopback, and bad days. Each test makes a cluster of three members of its own, keeps writing to
//! it, does something terrible, and asks for three things: nothing acknowledged is lost, one member leads, all members stream again
//! without a human.
//!
//! Needs root (PostgreSQL runs as the user `postgres`), PostgreSQL 15 from Debian and the etcd of the lab's cache; `./dev test` brings both.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Clusters take turns: two cores are too few for two of them, and time matters here.
static TURN: Mutex<()> = Mutex::new(());

const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    directory: tempfile::TempDir,
    base_port: u16,
    /// How many members may take over when all is well.
    voters: usize,
    etcd: Option<Child>,
    agents: Vec<Option<Child>>,
    _turn: std::sync::MutexGuard<'static, ()>,
}

struct Summary {
    longest_gap_ms: u64,
    acknowledged: u64,
    lost: u64,
}

fn cache() -> PathBuf {
    let home = std::env::var("HOME").unwrap_or_default();
    std::env::var_os("MRG_CACHE").map_or_else(|| Path::new(&home).join(".cache/mrg-operator"), PathBuf::from)
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come true within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]).arg(program);
    command
}

impl Cluster {
    /// Three members, streaming. `mode` is Patroni's synchronous_mode; the lease is as short as is sensible here.
    fn start(base_port: u16, mode: &str) -> Self {
        let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let directory = tempfile::Builder::new().prefix("mrg-standalone").tempdir().unwrap();
        Command::new("chmod").args(["755"]).arg(directory.path()).status().unwrap();
        // The agent must be readable for the user it runs as, wherever the build folder is.
        std::fs::copy(env!("CARGO_BIN_EXE_mrg-agent"), directory.path().join("mrg-agent")).unwrap();
        // In quorum mode every healthy standby votes; with `on`, Patroni's default of one synchronous standby holds.
        let voters = if mode == "quorum" { 2 } else { 1 };
        let mut cluster = Self { directory, base_port, voters, etcd: None, agents: vec![], _turn: turn };
        cluster.start_etcd();
        for member in 1..=3 {
            cluster.configure(member, mode);
            let agent = cluster.start_agent(member);
            cluster.agents.push(Some(agent));
        }
        cluster.wait_healthy();
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn etcd_port(&self) -> u16 {
        self.base_port
    }

    fn postgres_port(&self, member: usize) -> u16 {
        self.base_port + 10 + u16::try_from(member).unwrap()
    }

    fn rest_port(&self, member: usize) -> u16 {
        self.base_port + 20 + u16::try_from(member).unwrap()
    }

    fn start_etcd(&mut self) {
        let (client, peer) = (format!("http://127.0.0.1:{}", self.etcd_port()), format!("http://127.0.0.1:{}", self.etcd_port() + 1));
        let etcd = cache().join("lab/bin/etcd");
        let log = std::fs::File::create(self.path("etcd.log")).unwrap();
        let child = Command::new(&etcd)
            .args(["--data-dir".as_ref(), self.path("etcd").as_os_str()])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start ({error}); run `e2e/lab/dependencies etcd`", etcd.display()));
        self.etcd = Some(child);
    }

    fn configure(&self, member: usize, mode: &str) {
        let home = self.path(&format!("n{member}"));
        std::fs::create_dir(&home).unwrap();
        Command::new("chown").arg("postgres").arg(&home).status().unwrap();
        let yaml = format!(
            "scope: test
name: n{member}
restapi: {{listen: '127.0.0.1:{rest}'}}
etcd3: {{hosts: '127.0.0.1:{etcd}'}}
bootstrap:
  dcs:
    ttl: 5
    loop_wait: 1
    retry_timeout: 2
    synchronous_mode: {mode}
    postgresql: {{use_pg_rewind: true, parameters: {{max_connections: 50, shared_buffers: 16MB}}}}
postgresql:
  listen: '127.0.0.1:{postgres}'
  data_dir: {home}/data
  bin_dir: /usr/lib/postgresql/15/bin
  authentication:
    superuser: {{username: postgres, password: 'it''s secret'}}
    replication: {{username: replicator, password: secret}}
",
            rest = self.rest_port(member),
            etcd = self.etcd_port(),
            postgres = self.postgres_port(member),
            home = home.display(),
        );
        std::fs::write(self.path(&format!("n{member}.yml")), yaml).unwrap();
    }

    fn start_agent(&self, member: usize) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path(&format!("n{member}.log"))).unwrap();
        as_postgres(&self.path("mrg-agent"))
            .arg(self.path(&format!("n{member}.yml")))
            .env("MRG_LOG_TEXT", "1")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn agent_pid(&self, member: usize) -> u32 {
        self.agents[member - 1].as_ref().unwrap().id()
    }

    fn get(&self, member: usize, path: &str) -> Option<serde_json::Value> {
        let url = format!("http://127.0.0.1:{}{path}", self.rest_port(member));
        let output = Command::new("curl").args(["-s", "-m", "2", &url]).output().ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    fn etcdctl_text(&self, arguments: &[&str]) -> String {
        let endpoint = format!("http://127.0.0.1:{}", self.etcd_port());
        let output = Command::new(cache().join("lab/bin/etcdctl")).args(["--endpoints", &endpoint]).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn etcdctl(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.etcdctl_text(arguments);
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("etcdctl {arguments:?}: {text}"))
    }

    fn post(&self, member: usize, path: &str, body: &str) -> String {
        let url = format!("http://127.0.0.1:{}{path}", self.rest_port(member));
        let json = "content-type: application/json";
        let output = Command::new("curl").args(["-s", "-m", "70", "-XPOST", "-H", json, "-d", body, &url]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The one member whose REST API says that it leads.
    fn leader(&self) -> Option<usize> {
        let leads = |member: &usize| {
            let url = format!("http://127.0.0.1:{}/primary", self.rest_port(*member));
            let output = Command::new("curl").args(["-s", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}", &url]).output();
            output.is_ok_and(|output| output.stdout == b"200")
        };
        let leaders: Vec<usize> = (1..=3).filter(leads).collect();
        assert!(leaders.len() <= 1, "more than one leader: {leaders:?}");
        leaders.first().copied()
    }

    fn wait_leader(&self) -> usize {
        let mut leader = None;
        wait_until("a leader", || {
            leader = self.leader();
            leader.is_some()
        });
        leader.unwrap()
    }

    fn is_healthy(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let Some(report) = self.get(leader, "/cluster") else { return false };
        let members = report["members"].as_array().cloned().unwrap_or_default();
        let good = |member: &serde_json::Value| member["state"] == "streaming" || member["role"] == "leader";
        let voters = members.iter().filter(|member| member["role"] != "leader" && member["role"] != "replica").count();
        members.len() == 3 && members.iter().all(good) && voters == self.voters
    }

    fn wait_healthy(&self) {
        wait_until("three members that lead or stream, with every synchronous standby there can be", || self.is_healthy());
    }

    /// Writes while `fault` happens and for a while after, then until all is well again.
    fn under_load(&self, seconds: u64, fault: impl FnOnce(&Self)) -> Summary {
        let hosts = (1..=3).map(|member| format!("127.0.0.1:{}", self.postgres_port(member))).collect::<Vec<_>>().join(",");
        let writer = Path::new(env!("CARGO_BIN_EXE_mrg-agent")).with_file_name("examples").join("writer");
        let mut command = Command::new(&writer);
        command.args(["--hosts", &hosts, "--password", "it's secret", "--seconds", &seconds.to_string()]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs(2));
        fault(self);
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let summary: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("the writer said: {text}"));
        let number = |field: &str| summary[field].as_u64().unwrap();
        let summary = Summary { longest_gap_ms: number("longest_gap_ms"), acknowledged: number("acknowledged"), lost: number("lost") };
        println!("gap {} ms, {} rows acknowledged, {} lost", summary.longest_gap_ms, summary.acknowledged, summary.lost);
        assert_eq!(summary.lost, 0, "acknowledged rows were lost");
        assert!(summary.acknowledged > 50, "hardly anything was written");
        summary
    }

    fn postmaster(&self, member: usize) -> i32 {
        let file = self.path(&format!("n{member}/data/postmaster.pid"));
        std::fs::read_to_string(file).unwrap().lines().next().unwrap().trim().parse().unwrap()
    }

    fn signal(pid: i32, signal: &str) {
        Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for member in 1..=3 {
                let log = std::fs::read_to_string(self.path(&format!("n{member}.log"))).unwrap_or_default();
                let tail: Vec<&str> = log.lines().filter(|line| !line.contains("waiting for WAL")).rev().take(40).collect();
                eprintln!("--- n{member}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
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
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn pid(child: u32) -> i32 {
    i32::try_from(child).unwrap()
}

fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
fn a_killed_postmaster_costs_the_client_less_than_a_few_seconds_and_no_row() {
    let cluster = Cluster::start(21_000, "quorum");
    for _ in 0..2 {
        let old = cluster.wait_leader();
        let summary = cluster.under_load(8, |cluster| Cluster::signal(cluster.postmaster(old), "KILL"));
        assert!(summary.longest_gap_ms < 4_000, "the lease was waited for");
        cluster.wait_healthy();
    }
}

#[test]
fn a_killed_backend_is_a_crash_and_loses_no_row() {
    let cluster = Cluster::start(21_100, "quorum");
    let old = cluster.wait_leader();
    cluster.under_load(8, |cluster| {
        let postmaster = cluster.postmaster(old);
        let output = Command::new("pgrep").args(["-P", &postmaster.to_string(), "-f", "writer|postgres: .* postgres "]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let backend: i32 = text.lines().next().expect("a backend").parse().unwrap();
        Cluster::signal(backend, "KILL");
        wait_until("the whole server ends with its backend", || !is_alive(postmaster));
    });
    cluster.wait_healthy();
}

#[test]
fn a_switchover_on_request_moves_the_lead_to_the_named_member() {
    let cluster = Cluster::start(21_200, "on");
    let old = cluster.wait_leader();
    let report = cluster.get(old, "/cluster").unwrap();
    let candidate = report["members"].as_array().unwrap().iter().find(|member| member["role"] == "sync_standby").unwrap()["name"].clone();
    let candidate = candidate.as_str().unwrap().to_owned();
    let summary = cluster.under_load(8, |cluster| {
        let body = format!("{{\"leader\":\"n{old}\",\"candidate\":\"{candidate}\"}}");
        assert_eq!(cluster.post(old, "/switchover", &body), format!("Successfully switched over to \"{candidate}\""));
    });
    assert!(summary.longest_gap_ms < 4_000);
    assert_eq!(format!("n{}", cluster.wait_leader()), candidate);
    cluster.wait_healthy();
    let refused = cluster.post(old, "/switchover", &format!("{{\"leader\":\"n{old}\"}}"));
    assert_eq!(refused, "leader name does not match");
}

#[test]
fn a_killed_agent_leaves_no_writer_behind() {
    let mut cluster = Cluster::start(21_300, "quorum");
    let old = cluster.wait_leader();
    let postmaster = cluster.postmaster(old);
    cluster.under_load(14, |cluster| {
        Cluster::signal(pid(cluster.agent_pid(old)), "KILL");
        wait_until("the fence kills postgres", || !is_alive(postmaster));
        wait_until("another leader", || cluster.leader().is_some_and(|leader| leader != old));
    });
    let _ = cluster.agents[old - 1].take().map(|mut child| child.wait());
    let agent = cluster.start_agent(old);
    cluster.agents[old - 1] = Some(agent);
    cluster.wait_healthy();
}

#[test]
fn an_agent_that_is_stopped_past_its_lease_is_fenced_before_another_leads() {
    let cluster = Cluster::start(21_400, "quorum");
    let old = cluster.wait_leader();
    let postmaster = cluster.postmaster(old);
    cluster.under_load(14, |cluster| {
        Cluster::signal(pid(cluster.agent_pid(old)), "STOP");
        wait_until("another leader", || {
            let other = (1..=3)
                .filter(|member| *member != old)
                .find(|member| cluster.get(*member, "/patroni").is_some_and(|report| report["role"] == "primary"));
            assert!(other.is_none() || !is_alive(postmaster), "two writers");
            other.is_some()
        });
        Cluster::signal(pid(cluster.agent_pid(old)), "CONT");
    });
    cluster.wait_healthy();
}

#[test]
fn without_etcd_the_leader_goes_on_by_its_members_promises() {
    let mut cluster = Cluster::start(21_500, "quorum");
    let old = cluster.wait_leader();
    let mut etcd = cluster.etcd.take().unwrap();
    let summary = cluster.under_load(16, move |_| {
        etcd.kill().unwrap();
        etcd.wait().unwrap();
    });
    assert!(summary.longest_gap_ms < 3_000, "the leader was demoted");
    cluster.start_etcd();
    cluster.wait_healthy();
    assert_eq!(cluster.wait_leader(), old);
    cluster.under_load(4, |_| {});
}

#[test]
fn stock_patronictl_shows_configures_and_switches_a_running_cluster() {
    let cluster = Cluster::start(21_700, "quorum");
    let patronictl = |arguments: &[&str]| {
        let program = cache().join("patroni-4.1.5/bin/patronictl");
        let output = Command::new(&program).arg("-c").arg(cluster.path("n1.yml")).args(arguments).output();
        let output = output.unwrap_or_else(|error| panic!("{}: {error}; run `e2e/lab/dependencies patroni`", program.display()));
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "patronictl {arguments:?}: {text}");
        text
    };
    let old = cluster.wait_leader();
    let list = patronictl(&["list"]);
    assert!(list.contains("Leader") && list.matches("Quorum Standby").count() == 2 && list.matches("streaming").count() == 2, "{list}");
    let candidate = if old == 1 { 2 } else { 1 };
    let said = patronictl(&["switchover", "test", "--leader", &format!("n{old}"), "--candidate", &format!("n{candidate}"), "--force"]);
    assert!(said.contains("Successfully switched over"), "{said}");
    assert_eq!(cluster.wait_leader(), candidate);
    cluster.wait_healthy();
    let said = patronictl(&["failover", "test", "--candidate", &format!("n{old}"), "--force"]);
    assert!(said.contains("Successfully failed over"), "{said}");
    cluster.wait_healthy();
    assert!(patronictl(&["history"]).contains("no recovery target specified"));
    patronictl(&["edit-config", "--force", "-s", "postgresql.parameters.work_mem=7MB"]);
    assert!(patronictl(&["show-config"]).contains("work_mem: 7MB"));
    patronictl(&["edit-config", "--force", "-s", "postgresql.parameters.synchronous_standby_names=ANY 1 (*)"]);
    let leader = cluster.wait_leader();
    let log = cluster.path(&format!("n{leader}.log"));
    wait_until("the warning", || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("synchronous_mode: quorum is its ANY 1")));
    wait_until("the parameter is in force", || {
        let port = cluster.postgres_port(leader).to_string();
        let query = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-qAtc", "show work_mem", "postgres"];
        let output = Command::new("psql").args(query).env("PGPASSWORD", "it's secret").output().unwrap();
        output.stdout == b"7MB\n"
    });
}

#[test]
fn a_replica_whose_data_is_destroyed_is_copied_afresh() {
    let cluster = Cluster::start(21_600, "quorum");
    let leader = cluster.wait_leader();
    let victim = (1..=3).find(|member| *member != leader).unwrap();
    cluster.under_load(10, |cluster| {
        std::fs::remove_dir_all(cluster.path(&format!("n{victim}/data/global"))).unwrap();
        Cluster::signal(cluster.postmaster(victim), "KILL");
    });
    cluster.wait_healthy();
}

#[test]
fn a_leader_dead_for_longer_than_its_standbys_patience_costs_none_of_them_its_data() {
    let mut cluster = Cluster::start(21_650, "quorum");
    let old = cluster.wait_leader();
    let url = format!("http://127.0.0.1:{}/config", cluster.rest_port(old));
    let body = r#"{"ttl": 18, "loop_wait": 5, "retry_timeout": 5}"#;
    Command::new("curl").args(["-sf", "-XPATCH", "-d", body, &url]).status().unwrap();
    wait_until("a lease of the longer ttl", || {
        let lease = cluster.etcdctl(&["get", "/service/test/leader", "-w", "json"])["kvs"][0]["lease"].as_i64().unwrap_or(0);
        cluster.etcdctl(&["lease", "timetolive", &format!("{lease:x}"), "-w", "json"])["granted-ttl"] == 18
    });
    let standbys: Vec<usize> = (1..=3).filter(|member| *member != old).collect();
    let directories = |cluster: &Cluster| {
        let inode =
            |member: &usize| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(cluster.path(&format!("n{member}/data"))).unwrap());
        standbys.iter().map(inode).collect::<Vec<_>>()
    };
    let before = directories(&cluster);
    cluster.under_load(32, |cluster| {
        Cluster::signal(pid(cluster.agent_pid(old)), "KILL");
        wait_until("another leader", || cluster.leader().is_some_and(|leader| leader != old));
        assert_eq!(directories(cluster), before, "a standby gave up its data for a leader that was dead");
    });
    let _ = cluster.agents[old - 1].take().map(|mut child| child.wait());
    let agent = cluster.start_agent(old);
    cluster.agents[old - 1] = Some(agent);
    cluster.wait_healthy();
}

#[test]
fn a_changed_ttl_reaches_a_leader_that_goes_on() {
    let cluster = Cluster::start(21_800, "quorum");
    let leader = cluster.wait_leader();
    let leader_key = || cluster.etcdctl(&["get", "/service/test/leader", "-w", "json"])["kvs"][0].clone();
    let before = leader_key();
    let summary = cluster.under_load(8, |cluster| {
        let url = format!("http://127.0.0.1:{}/config", cluster.rest_port(leader));
        let body = r#"{"ttl": 9, "loop_wait": 2}"#;
        Command::new("curl").args(["-sf", "-XPATCH", "-H", "content-type: application/json", "-d", body, &url]).status().unwrap();
        wait_until("the leader key stands under another lease", || leader_key()["lease"] != before["lease"]);
    });
    let after = leader_key();
    assert_eq!(after["create_revision"], before["create_revision"], "it is the same leadership");
    let lease = format!("{:x}", after["lease"].as_i64().unwrap());
    assert_eq!(cluster.etcdctl(&["lease", "timetolive", &lease, "-w", "json"])["granted-ttl"], 9);
    assert!(summary.longest_gap_ms < 1_000, "nobody noticed");
    assert_eq!(cluster.wait_leader(), leader);
    cluster.wait_healthy();
}

#[test]
fn data_of_another_major_version_is_left_alone_until_the_right_programs_come() {
    let mut cluster = Cluster::start(21_900, "quorum");
    let leader = cluster.wait_leader();
    let victim = (1..=3).find(|member| *member != leader).unwrap();
    Cluster::signal(i32::try_from(cluster.agent_pid(victim)).unwrap(), "TERM");
    cluster.agents[victim - 1].take().unwrap().wait().unwrap();
    let version = cluster.path(&format!("n{victim}/data/PG_VERSION"));
    std::fs::write(&version, "14\n").unwrap();
    let agent = cluster.start_agent(victim);
    cluster.agents[victim - 1] = Some(agent);
    let key = format!("/service/test/members/n{victim}");
    wait_until("the member says why it does not start", || {
        let text = cluster.etcdctl_text(&["get", &key, "--print-value-only"]);
        text.contains("made by PostgreSQL 14, and the programs here are of 15")
    });
    std::fs::write(&version, "15\n").unwrap();
    cluster.wait_healthy();
}
