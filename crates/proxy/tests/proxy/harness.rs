//! The proxy's own program, and what stands around it.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::server::{Faults, StandIn};

pub(crate) fn any() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

pub(crate) fn free_port() -> u16 {
    // Ports that were just free: the kernel does not give them out again at once.
    std::net::TcpListener::bind(any())
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

pub(crate) fn upstream(name: &str) -> StandIn {
    StandIn::start(name, any()).unwrap()
}

pub(crate) struct Proxy {
    pub child: Child,
    pub directory: TempDir,
    pub admin: u16,
    pub port: u16,
    pub client: Client,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A dependency at `port` with these providers; `more` is laid over it.
pub(crate) fn dependency(port: u16, providers: &[&StandIn], more: &Value) -> Value {
    let providers: Vec<Value> = providers
        .iter()
        .enumerate()
        .map(|(index, upstream)| json!({ "name": format!("p{index}"), "url": format!("http://{}", upstream.address()) }))
        .collect();
    let mut dependency = json!({
        "name": "bbd", "port": port, "providers": providers,
        "retry": { "attempts": 1 },
        "timeout": { "connect": "200ms", "attempt": "400ms", "total": "1s" },
        "breaker": { "timeout": "300ms" },
    });
    merge(&mut dependency, more);
    dependency
}

pub(crate) fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (name, value) in more {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more.clone(),
    }
}

impl Proxy {
    pub(crate) async fn start(providers: &[&StandIn], more: Value) -> Self {
        let port = free_port();
        Self::with(
            &json!({ "workload": "tpg", "dependencies": [dependency(port, providers, &more)] }),
            port,
        )
        .await
    }

    pub(crate) async fn with(config: &Value, port: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("proxy.json"), config.to_string()).unwrap();
        std::fs::write(directory.path().join("token"), "secret\n").unwrap();
        std::fs::create_dir_all(directory.path().join("secrets/midtrans")).unwrap();
        std::fs::write(directory.path().join("secrets/midtrans/key"), "s3cr3t\n").unwrap();
        let admin = free_port();
        let mut proxy = Self {
            child: spawn(&directory, admin),
            directory,
            admin,
            port,
            client: Client::new(),
        };
        proxy.ready().await;
        proxy
    }

    pub(crate) async fn ready(&mut self) {
        let end = Instant::now() + Duration::from_secs(10);
        while self
            .client
            .get(format!("http://127.0.0.1:{}/readyz", self.admin))
            .send()
            .await
            .is_err()
        {
            assert!(
                self.child.try_wait().unwrap().is_none() && Instant::now() < end,
                "the proxy did not start"
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response {
        let mut request = self
            .client
            .request(method, format!("http://127.0.0.1:{}{path}", self.port))
            .body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path, &[], "").await
    }

    pub(crate) async fn post(&self, key: &str) -> Response {
        self.send(Method::POST, "/orders", &[("idempotency-key", key)], "{}")
            .await
    }

    pub(crate) async fn state(&self) -> Value {
        self.client
            .get(format!("http://127.0.0.1:{}/state", self.admin))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    }

    pub(crate) async fn breaker(&self, provider: usize) -> String {
        self.state().await["dependencies"][0]["providers"][provider]["state"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(crate) async fn push(&self, config: &Value) -> Response {
        let url = format!("http://127.0.0.1:{}/config", self.admin);
        self.client
            .put(url)
            .header("authorization", "Bearer secret")
            .body(config.to_string())
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn queue(&self) -> Value {
        self.state().await["dependencies"][0]["queue"].clone()
    }
}

pub(crate) fn spawn(directory: &TempDir, admin: u16) -> Child {
    Command::new(env!("CARGO_BIN_EXE_mrg-proxy"))
        .arg("run")
        .arg(directory.path().join("proxy.json"))
        .arg("--admin")
        .arg(format!("127.0.0.1:{admin}"))
        .arg("--token-file")
        .arg(directory.path().join("token"))
        .arg("--secrets")
        .arg(directory.path().join("secrets"))
        .arg("--queue-directory")
        .arg(directory.path().join("queue"))
        .env("MRG_LOG_TEXT", "1")
        .stderr(if std::env::var_os("MRG_SHOW").is_some() {
            Stdio::inherit()
        } else {
            Stdio::null()
        })
        .spawn()
        .unwrap()
}

pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < end, "never: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn status(code: u16) -> Faults {
    Faults {
        status: Some(code),
        ..Faults::default()
    }
}
