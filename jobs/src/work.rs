//! What the jobs do: stand-ins for sending an e-mail, writing an invoice, computing a report.

use std::process;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::sleep;

use crate::job::{Kind, Task};

/// Why a job failed.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// It may succeed later: a service did not answer.
    #[error("{0}")]
    Passes(String),
    /// It can never succeed: its arguments make no sense.
    #[error("{0}")]
    Final(String),
}

#[derive(Deserialize)]
#[serde(default)]
struct Email {
    to: String,
}

impl Default for Email {
    fn default() -> Self {
        Self { to: "ann@example.com".into() }
    }
}

#[derive(Deserialize)]
#[serde(default)]
struct Invoice {
    cents: u64,
}

impl Default for Invoice {
    fn default() -> Self {
        Self { cents: 4_999 }
    }
}

#[derive(Deserialize)]
#[serde(default)]
struct Report {
    seconds: f64,
}

impl Default for Report {
    fn default() -> Self {
        Self { seconds: 8.0 }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Flaky {
    /// How many attempts fail.
    failures: Option<u32>,
    /// For so many seconds after the job was submitted, the service does not answer. Without both,
    /// every second attempt fails, by chance.
    away: Option<f64>,
}

impl Task {
    /// Does the job. `attempt` counts from 1, `age` is the time since it was submitted.
    ///
    /// # Errors
    ///
    /// Why it failed.
    pub async fn run(&self, attempt: u32, age: Duration) -> Result<(), Failure> {
        match self.kind {
            Kind::Email => {
                let Email { to } = self.args()?;
                if !to.contains('@') {
                    return Err(Failure::Final(format!("{to:?} is no address")));
                }
            }
            Kind::Invoice => {
                let Invoice { cents } = self.args()?;
                if cents == 0 {
                    return Err(Failure::Final("an invoice of nothing".into()));
                }
            }
            Kind::Report => {
                let Report { seconds } = self.args()?;
                let duration = Duration::try_from_secs_f64(seconds);
                sleep(duration.map_err(|error| Failure::Final(error.to_string()))?).await;
            }
            Kind::Flaky => {
                let Flaky { failures, away } = self.args()?;
                let is_away = match (failures, away) {
                    (Some(failures), _) => attempt <= failures,
                    (None, Some(seconds)) => age.as_secs_f64() < seconds,
                    (None, None) => rand::random(),
                };
                if is_away {
                    return Err(Failure::Passes("the service does not answer".into()));
                }
            }
            Kind::Poison => process::abort(),
            Kind::Bad => return Err(Failure::Final("it can never succeed".into())),
        }
        Ok(())
    }

    fn args<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let args = Value::Object(self.args.clone());
        serde_json::from_value(args)
            .map_err(|error| Failure::Final(format!("arguments of {}: {error}", self.kind)))
    }
}
