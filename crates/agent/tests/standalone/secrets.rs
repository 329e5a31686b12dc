//! Passwords: nothing shows them, and they may change.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{
    Cluster, REPLICATION_PASSWORD, REWIND_PASSWORD, SUPERUSER_PASSWORD, wait_until,
};

/// Every password, and what a verifier begins with.
const SECRETS: [&str; 4] = [
    SUPERUSER_PASSWORD,
    REPLICATION_PASSWORD,
    REWIND_PASSWORD,
    "SCRAM-SHA-256$",
];

fn secrets_in(text: &str) -> Option<&'static str> {
    SECRETS.into_iter().find(|secret| text.contains(secret))
}

/// Which processes of a cluster show a secret in their arguments or in their environment. An agent
/// itself is given passwords in its environment; what it starts is not.
fn leaks(directory: &Path) -> BTreeSet<String> {
    let directory = directory.to_string_lossy().into_owned();
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let path = entry.path();
        let text = |name: &str| {
            let bytes = std::fs::read(path.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let link = |name: &str| {
            let target = std::fs::read_link(path.join(name)).unwrap_or_default();
            target.to_string_lossy().into_owned()
        };
        let arguments = text("cmdline");
        let is_ours = [&arguments, &link("cwd"), &link("exe")]
            .iter()
            .any(|place| place.contains(&directory));
        let is_agent = arguments.contains(".yml");
        if !is_ours || arguments.contains("--hosts") {
            continue;
        }
        if let Some(secret) = secrets_in(&arguments) {
            found.insert(format!("{arguments}: {secret} among the arguments"));
        }
        if let Some(secret) = secrets_in(&text("environ")).filter(|_| !is_agent) {
            found.insert(format!("{arguments}: {secret} in the environment"));
        }
    }
    found
}

/// Files that are not PostgreSQL's data: logs, configuration, records.
fn files(directory: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            let holds_text =
                !["etcd", "global", "base"].contains(&name.as_str()) && !name.starts_with("pg_");
            if holds_text {
                files(&path, found);
            }
        } else if !["pgpass", "mrg-agent"].contains(&name.as_str())
            && Path::new(&name)
                .extension()
                .is_none_or(|kind| kind != "yml")
            && path.is_file()
        {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            found.push((path.display().to_string(), text));
        }
    }
}

/// A role's row is locked for so long: statements about roles fail in that time.
fn lock_roles(cluster: &Cluster, leader: usize, seconds: u64) -> std::process::Child {
    let statement = format!(
        "BEGIN; LOCK TABLE pg_catalog.pg_authid IN SHARE MODE; SELECT pg_sleep({seconds}); COMMIT"
    );
    let mut psql = cluster.psql(leader, "postgres", SUPERUSER_PASSWORD, &statement);
    psql.env("PGOPTIONS", "-c lock_timeout=0")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn no_password_is_in_a_log_an_argument_a_file_or_an_inherited_environment() {
    let mut cluster = Cluster::start("quorum");
    let old = cluster.wait_leader();
    // A server that logs whatever it can, and gives up a lock soon.
    cluster.patch_config(
        old,
        r#"{"postgresql": {"parameters": {"log_statement": "all", "log_min_duration_statement": "0",
            "log_min_error_statement": "debug5", "lock_timeout": "500ms"}}}"#,
    );
    wait_until("the servers log everything", || {
        (1..=3).all(|member| cluster.sql(member, "SHOW log_statement") == "all")
    });
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = std::thread::spawn({
        let (directory, stop) = (cluster.directory.path().to_owned(), stop.clone());
        move || {
            let mut found = BTreeSet::new();
            while !stop.load(Ordering::Relaxed) {
                found.extend(leaks(&directory));
                std::thread::sleep(Duration::from_millis(20));
            }
            found
        }
    });

    // Another leader, a rewind, and a copy.
    cluster.replace_leader(old);
    let said = cluster.post(old, "/reinitialize", "");
    assert_eq!(said, "reinitialize started");
    wait_until("the copy is made", || {
        cluster.log_of(old).contains("BaseBackup")
    });
    cluster.wait_healthy();

    // A CREATE ROLE that fails: who waits for the lock first gets it next.
    let leader = cluster.wait_leader();
    let mut dropping = cluster
        .psql(
            leader,
            "postgres",
            SUPERUSER_PASSWORD,
            "BEGIN; LOCK TABLE pg_catalog.pg_authid IN SHARE ROW EXCLUSIVE MODE; DROP OWNED BY rewinder; \
             DROP ROLE rewinder; SELECT pg_sleep(2); COMMIT",
        )
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let mut locking = lock_roles(&cluster, leader, 14);
    assert!(dropping.wait().unwrap().success());
    wait_until("a statement of the agent's fails", || {
        cluster
            .log_of(leader)
            .contains("failed to keep the agent's roles")
    });
    locking.wait().unwrap();
    wait_until("the role is there again", || {
        cluster.sql(
            leader,
            "SELECT count(*) FROM pg_roles WHERE rolname = 'rewinder'",
        ) == "1"
    });

    stop.store(true, Ordering::Relaxed);
    let leaks = watcher.join().unwrap();
    assert!(leaks.is_empty(), "{leaks:#?}");
    let mut found = Vec::new();
    files(cluster.directory.path(), &mut found);
    found.push((
        "etcd".to_owned(),
        cluster.etcdctl_text(&["get", "", "--prefix"]),
    ));
    assert!(found.iter().any(|(_, text)| text.contains("lock timeout")));
    for (file, text) in found {
        let line = text.lines().find(|line| secrets_in(line).is_some());
        assert_eq!(line, None, "{file}");
    }
    for member in 1..=3 {
        let passfile = cluster.path(&format!("n{member}/data.run/pgpass"));
        let mode = std::fs::metadata(passfile).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

impl Cluster {
    /// Puts a password into the mounted Secret of a member.
    fn mount(&self, member: usize, key: &str, password: &str) {
        let directory = self.path(&format!("n{member}/secret"));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(format!("{key}-password")), password).unwrap();
    }

    fn admits(&self, member: usize, user: &str, password: &str) -> bool {
        self.sql_as(member, user, password, "SELECT 1") == "1"
    }
}

#[test]
fn passwords_that_change_in_a_mounted_secret_are_taken_up_by_members_and_server() {
    let mut cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let new = r"re'new:ed \ 2";
    let others: Vec<usize> = (1..=3).filter(|member| *member != leader).collect();
    cluster.mount(leader, "replication", new);
    cluster.mount(others[0], "replication", new);
    std::thread::sleep(Duration::from_secs(6));
    assert!(
        cluster.admits(leader, "replicator", REPLICATION_PASSWORD),
        "a member does not have the new password yet"
    );
    cluster.mount(others[1], "replication", new);
    wait_until("the server takes the new password and not the old", || {
        cluster.admits(leader, "replicator", new)
            && !cluster.admits(leader, "replicator", REPLICATION_PASSWORD)
    });
    // Every connection of a standby's is a new one, under another leader.
    let old = leader;
    cluster.replace_leader(old);
}

#[test]
fn a_password_that_was_changed_by_hand_is_an_obstacle_until_the_leader_sets_it_again() {
    let cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let standby = (1..=3).find(|member| *member != leader).unwrap();
    let mut dropping = cluster
        .psql(
            leader,
            "postgres",
            SUPERUSER_PASSWORD,
            "BEGIN; LOCK TABLE pg_catalog.pg_authid IN SHARE ROW EXCLUSIVE MODE; \
             ALTER ROLE replicator PASSWORD 'by hand'; SELECT pg_sleep(2); COMMIT",
        )
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let mut locking = lock_roles(&cluster, leader, 20);
    assert!(dropping.wait().unwrap().success());
    cluster.sql(
        leader,
        &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = 'n{standby}'"),
    );
    let name = format!("n{standby}");
    let words = "password authentication failed for user \\\"replicator\\\"";
    wait_until("the standby says why it does not stream", || {
        cluster.member_key(&name).contains(words)
    });
    let report = cluster.get(standby, "/patroni").unwrap().to_string();
    assert!(report.contains(words), "{report}");
    locking.wait().unwrap();
    cluster.wait_healthy();
    wait_until("it says so no more", || {
        !cluster.member_key(&name).contains("obstacle")
    });
    assert!(cluster.admits(leader, "replicator", REPLICATION_PASSWORD));
}
