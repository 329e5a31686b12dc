//! `mrg-orders`, and what it answers.

use std::time::Duration;

use super::processes::Running;

pub(crate) struct Service {
    pub base: String,
    pub client: reqwest::Client,
    pub(super) _process: Running,
}

/// An answer, as far as tests ask.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub source: String,
    pub staleness: String,
    pub body: serde_json::Value,
}

impl Service {
    pub(crate) async fn get(&self, path: &str) -> Answer {
        let answer = self
            .client
            .get(format!("{}{path}", self.base))
            .timeout(Duration::from_secs(10))
            .send()
            .await
            .unwrap();
        let header = |name: &str| {
            answer
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
                .unwrap_or_default()
        };
        let (status, source, staleness) = (
            answer.status().as_u16(),
            header("order-source"),
            header("order-staleness"),
        );
        Answer {
            status,
            source,
            staleness,
            body: answer.json().await.unwrap_or_default(),
        }
    }

    /// Status, source and state in one line.
    pub(crate) async fn line(&self, path: &str) -> String {
        let answer = self.get(path).await;
        format!(
            "{} {} {}",
            answer.status,
            answer.source,
            answer.body["state"].as_str().unwrap_or_default()
        )
    }

    pub(crate) async fn metric(&self, name: &str) -> f64 {
        self.sample(name).await.parse().unwrap()
    }

    pub(crate) async fn count(&self, name: &str) -> u64 {
        self.sample(name).await.parse().unwrap()
    }

    async fn sample(&self, name: &str) -> String {
        let page = self
            .client
            .get(format!("{}/metrics", self.base))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let line = page
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("{name} is not in {page}"));
        line.rsplit(' ').next().unwrap().to_owned()
    }
}
