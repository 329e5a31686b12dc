//! What is done to the members of a cluster, and what they say of themselves.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Cluster, SUPERUSER_PASSWORD, is_alive, pid, wait_until};

impl Cluster {
    pub(crate) fn home(&self, member: usize) -> PathBuf {
        self.path(&format!("n{member}"))
    }

    pub(crate) fn data(&self, member: usize) -> PathBuf {
        self.home(member).join("data")
    }

    /// Tells one data directory from the next.
    pub(crate) fn inode(&self, member: usize) -> u64 {
        std::fs::metadata(self.data(member)).map_or(0, |data| data.ino())
    }

    /// The server that `postmaster.pid` names, if it is there.
    pub(crate) fn server(&self, member: usize) -> Option<i32> {
        let text = std::fs::read_to_string(self.data(member).join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    /// The label of the rule that decides for a member.
    pub(crate) fn reason(&self, member: usize) -> String {
        self.get(member, "/patroni")
            .and_then(|said| Some(said["reason"]["label"].as_str()?.to_owned()))
            .unwrap_or_default()
    }

    /// The two that do not lead.
    pub(crate) fn standbys(&self) -> [usize; 2] {
        let leader = self.wait_leader();
        [1, 2].map(|after| (leader - 1 + after) % 3 + 1)
    }

    /// Stops a member in order.
    pub(crate) fn stop(&mut self, member: usize) {
        let mut agent = self.agents[member - 1].take().unwrap();
        Self::signal(pid(agent.id()), "TERM");
        agent.wait().unwrap();
    }

    /// Kills a member's agent; its fence follows, and takes postgres along.
    pub(crate) fn kill(&mut self, member: usize) {
        let postmaster = self.postmaster(member);
        let mut agent = self.agents[member - 1].take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
        wait_until("the fence kills postgres", || !is_alive(postmaster));
    }

    /// Starts a member's agent again.
    pub(crate) fn run(&mut self, member: usize) {
        let agent = self.start_agent(member);
        self.agents[member - 1] = Some(agent);
    }

    /// The member that leads after another one, once it takes writes.
    pub(crate) fn wait_other_leader(&self, old: usize) -> usize {
        let mut leader = old;
        let write = "SET client_min_messages = warning; CREATE TABLE IF NOT EXISTS taken (i int);
            INSERT INTO taken VALUES (1) RETURNING 'written'";
        wait_until("another leader, which takes writes", || {
            leader = self.leader().unwrap_or(old);
            leader != old && self.sql(leader, write) == "written"
        });
        leader
    }

    /// Moves the lead to a member that may take over.
    pub(crate) fn switch_over(&self, to: usize) {
        wait_until("the switchover", || {
            let leader = self.leader();
            if let Some(leader) = leader.filter(|leader| *leader != to) {
                let body = format!(r#"{{"leader": "n{leader}", "candidate": "n{to}"}}"#);
                self.post(leader, "/switchover", &body);
            }
            leader == Some(to)
        });
    }

    /// Whether a standby streams from the leader; unlike [`Self::is_healthy`], whatever the others do.
    pub(crate) fn streams(&self, leader: usize, standby: usize) -> bool {
        let question = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'n{standby}' AND state = 'streaming'"
        );
        self.sql(leader, &question) == "1"
    }

    /// What a member has logged since its log was so long.
    pub(crate) fn log_since(&self, member: usize, length: usize) -> String {
        self.log_of(member).split_off(length)
    }

    /// A client whose session lasts until it is killed.
    pub(crate) fn sleeping_client(&self, member: usize) -> std::process::Child {
        let statement = "SELECT pg_sleep(600) /* sleeps */";
        let client = self
            .psql(member, "postgres", SUPERUSER_PASSWORD, statement)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let question = "SELECT count(*) FROM pg_stat_activity
            WHERE query LIKE '%sleeps%' AND pid <> pg_backend_pid()";
        wait_until("the client's session", || self.sql(member, question) != "0");
        client
    }

    /// Whether anything is left of a copy beside a member's data, or of what it replaced.
    pub(crate) fn has_leftovers(&self, member: usize) -> bool {
        ["data.new", "data.replaced"]
            .iter()
            .any(|name| self.home(member).join(name).exists())
    }
}

/// The processes whose parent is this one, each with its command line.
pub(crate) fn children(parent: i32) -> Vec<(i32, String)> {
    let is_child = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name, in parentheses, may have blanks.
        let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
        after.split(' ').nth(1) == Some(&parent.to_string())
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_child)
        .map(|pid| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, String::from_utf8_lossy(&words).replace('\0', " "))
        })
        .collect()
}

/// A process and all that descend from it.
pub(crate) fn family(ancestor: i32) -> Vec<i32> {
    let below = children(ancestor)
        .into_iter()
        .flat_map(|(child, _)| family(child));
    std::iter::once(ancestor).chain(below).collect()
}

/// A child of a server, by words of its title such as `walreceiver`.
pub(crate) fn server_process(postmaster: i32, words: &str) -> Option<i32> {
    children(postmaster)
        .into_iter()
        .find_map(|(pid, title)| title.contains(words).then_some(pid))
}

pub(crate) fn succeeds(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

/// Connects as a client that says who it is, and never proves it: the first byte of the answer, and
/// the connection, which keeps its place. `None` if there is no answer.
pub(crate) fn say_hello(port: u16, parameters: &[(&str, &str)]) -> Option<(u8, TcpStream)> {
    let mut body = Vec::from(196_608_u32.to_be_bytes());
    for (name, value) in parameters {
        body.extend(format!("{name}\0{value}\0").bytes());
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).unwrap();
    let mut client = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let patience = Some(Duration::from_secs(5));
    client.set_read_timeout(patience).unwrap();
    client
        .write_all(&[&length.to_be_bytes(), body.as_slice()].concat())
        .ok()?;
    let mut answer = [0];
    client.read_exact(&mut answer).ok()?;
    Some((answer[0], client))
}

/// Takes every place for a session that becomes free, until `until`, by clients of a user and a
/// database.
pub(crate) fn take_all_places(port: u16, [user, database]: [&str; 2], until: Instant) {
    let mut clients = vec![];
    while Instant::now() < until {
        match say_hello(port, &[("user", user), ("database", database)]) {
            // It is asked for a password.
            Some((b'R', client)) => clients.push(client),
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
