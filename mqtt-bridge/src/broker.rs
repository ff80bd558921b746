//! The flags that say where the MQTT broker is, and how to log in.

use anyhow::{Context, Result, bail};
use common::explain_tls;
use percent_encoding::percent_decode_str;
use rumqttc::{ConnectReturnCode, ConnectionError, MqttOptions};
use url::Url;

use crate::tls;

const DEFAULT_BROKER: &str = "mqtt://localhost:1883";
const EXPECTED: &str = "expected mqtt://HOST:PORT or mqtts://HOST:PORT";

/// Flags of a program that speaks MQTT.
#[derive(clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct MqttArgs {
    /// MQTT broker
    #[arg(
        long,
        env = "MQTT_URL",
        hide_env_values = true,
        default_value = DEFAULT_BROKER,
        value_name = "URL"
    )]
    broker: String,
    /// User name
    #[arg(long, env = "MQTT_USER", hide_env_values = true)]
    user: Option<String>,
    /// Password
    #[arg(long, env = "MQTT_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// Certificate authority that signed the broker's certificate, if the system does not know it
    #[arg(long, env = "MQTT_CA", hide_env_values = true, value_name = "FILE")]
    tlsca: Option<String>,
    /// Client certificate (X.509 v3)
    #[arg(
        long,
        env = "MQTT_CERT",
        hide_env_values = true,
        value_name = "FILE",
        requires = "tlskey"
    )]
    tlscert: Option<String>,
    /// Private key of the client certificate
    #[arg(
        long,
        env = "MQTT_KEY",
        hide_env_values = true,
        value_name = "FILE",
        requires = "tlscert"
    )]
    tlskey: Option<String>,
}

impl MqttArgs {
    /// Returns the client library's options for a client with this id.
    ///
    /// # Errors
    ///
    /// If the address is malformed. The error does not repeat it, as it may contain a password.
    pub fn options(&self, client_id: &str) -> Result<MqttOptions> {
        // An environment variable that is set and empty counts as not set.
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let text = match self.broker.trim() {
            "" => DEFAULT_BROKER,
            text => text,
        };
        let text = if text.contains("://") { text.to_owned() } else { format!("mqtt://{text}") };
        let url = Url::parse(&text)
            .map_err(|error| anyhow::anyhow!("malformed broker URL: {error}; {EXPECTED}"))?;
        let (is_tls, usual_port) = match url.scheme() {
            "mqtt" => (false, 1883),
            "mqtts" => (true, 8883),
            _ => bail!("malformed broker URL: neither mqtt:// nor mqtts://; {EXPECTED}"),
        };
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.with_context(|| format!("malformed broker URL: no host; {EXPECTED}"))?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            bail!("malformed broker URL: something follows the port; {EXPECTED}");
        }
        let port = url.port().unwrap_or(usual_port);
        let mut options = MqttOptions::new(client_id, host, port);
        let [authority, certificate, key] = [&self.tlsca, &self.tlscert, &self.tlskey].map(given);
        if !is_tls && (authority.is_some() || certificate.is_some()) {
            bail!("--tlsca and --tlscert are for mqtts://: without it, nothing is encrypted");
        }
        if is_tls {
            let client = certificate.as_deref().zip(key.as_deref());
            options.set_transport(tls::transport(authority.as_deref(), client)?);
        }
        // The broker has a limit for what it delivers. A lower one here would cut the connection, get
        // the same message again, and so on for ever.
        options.set_max_packet_size(usize::MAX, usize::MAX);
        let decode = |text: &str| {
            let text = percent_decode_str(text).decode_utf8();
            text.map(String::from).context("malformed broker URL: user or password is not UTF-8")
        };
        let user = match url.username() {
            "" => given(&self.user),
            user => Some(decode(user)?),
        };
        let password = match url.password() {
            None => given(&self.password),
            Some(password) => Some(decode(password)?),
        };
        match (user, password) {
            (Some(user), password) => {
                options.set_credentials(user, password.unwrap_or_default());
            }
            (None, Some(_)) => bail!("a password without a user: give one with --user"),
            (None, None) => {}
        }
        Ok(options)
    }
}

/// Says why there is no connection, and what to do about it.
#[must_use]
pub fn explain(error: &ConnectionError) -> String {
    use ConnectReturnCode::{BadUserNamePassword, NotAuthorized};
    if let Some(why) = explain_tls(error) {
        return why;
    }
    match error {
        ConnectionError::ConnectionRefused(NotAuthorized | BadUserNamePassword) => {
            "user or password not accepted; check --user and --password".into()
        }
        ConnectionError::ConnectionRefused(code) => {
            format!("the broker refuses it ({code:?}); check its log")
        }
        ConnectionError::Io(error) => format!(
            "{error}; start a server with `cargo xtask up` or `docker compose up -d`, or name another with --broker"
        ),
        ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout => {
            "no answer in time; check --broker, the network and the broker's health".into()
        }
        ConnectionError::MqttState(_) | ConnectionError::NotConnAck(_) => {
            format!("what listens there does not speak MQTT ({error}); check --broker")
        }
        ConnectionError::Tls(error) => {
            format!("TLS failed ({error}); check --tlsca, --tlscert and --tlskey")
        }
        ConnectionError::RequestsDone => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(broker: &str) -> MqttArgs {
        MqttArgs {
            broker: broker.into(),
            user: Some("flag".into()),
            password: Some("secret".into()),
            tlsca: None,
            tlscert: None,
            tlskey: None,
        }
    }

    #[test]
    fn an_address_says_where_and_who() -> Result<()> {
        for (text, host, port) in [
            ("mqtt://localhost", "localhost", 1883),
            ("mqtt://10.0.0.1:1884/", "10.0.0.1", 1884),
            ("mqtt://[::1]:1883", "[::1]", 1883),
            ("localhost:1883", "localhost", 1883),
            ("mqtts://localhost", "localhost", 8883),
            ("", "localhost", 1883),
        ] {
            let options = args(text).options("id")?;
            assert_eq!(options.broker_address(), (host.into(), port), "{text}");
        }
        let login = args("mqtt://me:p%40ss@localhost").options("id")?.credentials();
        let login = login.context("no credentials")?;
        assert_eq!((&*login.username, &*login.password), ("me", "p@ss"));
        let login = args("mqtt://localhost").options("id")?.credentials();
        let login = login.context("no credentials")?;
        assert_eq!((&*login.username, &*login.password), ("flag", "secret"));
        Ok(())
    }

    #[test]
    fn a_malformed_address_is_refused_and_not_repeated() {
        for text in [
            "mqtt://",
            "nats://me:hidden@localhost",
            "mqtts://me:hidden@localhost/topic",
            "mqtt://me:hidden@localhost:port",
            "mqtt://me:hidden@localhost/topic",
        ] {
            let error = args(text).options("id").err().map(|error| format!("{error:#}"));
            assert!(error.is_some_and(|error| !error.contains("hidden")), "{text}");
        }
    }
}
