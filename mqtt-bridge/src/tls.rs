//! TLS for MQTT, by the library that async-nats uses for NATS.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use rumqttc::{TlsConfiguration, Transport};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// Returns a transport that trusts the certificate `authority`, or those that the system knows, and
/// shows the broker the `client` certificate, if there is one: its file and that of its key.
///
/// # Errors
///
/// If a file cannot be read, or holds something else.
pub fn transport(authority: Option<&str>, client: Option<(&str, &str)>) -> Result<Transport> {
    let mut roots = RootCertStore::empty();
    match authority {
        Some(file) => {
            for certificate in certificates("--tlsca", file)? {
                roots.add(certificate).with_context(|| format!("--tlsca {file}"))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match client {
        Some((certificate, key)) => {
            let chain = certificates("--tlscert", certificate)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| anyhow!("cannot read --tlskey {key}: {error}"))?;
            config.with_client_auth_cert(chain, key).context("--tlscert and --tlskey")?
        }
        None => config.with_no_client_auth(),
    };
    Ok(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))))
}

fn certificates(flag: &str, file: &str) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    let certificates: Vec<_> =
        certificates.map_err(|error| anyhow!("cannot read {flag} {file}: {error}"))?;
    anyhow::ensure!(!certificates.is_empty(), "{flag} {file} holds no certificate in PEM form");
    Ok(certificates)
}
