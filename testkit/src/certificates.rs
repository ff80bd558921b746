//! A certificate authority, and certificates that it signed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use tempfile::TempDir;

/// A certificate authority, a certificate for a server on `localhost` and 127.0.0.1, and one for
/// a client. They are PEM files in a folder that is removed when this value is dropped.
#[derive(Debug)]
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// Makes the authority and the certificates.
    ///
    /// # Errors
    ///
    /// If the files cannot be written.
    pub fn new() -> Result<Self> {
        Self::with(|_| ())
    }

    /// As [`new`](Self::new), with a server's certificate that has expired.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new).
    pub fn expired() -> Result<Self> {
        Self::with(|server| server.not_after = date_time_ymd(2020, 1, 1))
    }

    /// As [`new`](Self::new), with a server's certificate for another name.
    ///
    /// # Errors
    ///
    /// Those of [`new`](Self::new).
    pub fn for_another_name() -> Result<Self> {
        Self::with(|server| {
            server.subject_alt_names = CertificateParams::new(["elsewhere.example".into()])
                .map(|other| other.subject_alt_names)
                .unwrap_or_default();
        })
    }

    fn with(change: impl Fn(&mut CertificateParams)) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("nats-certificates-").tempdir()?;
        let mut authority = CertificateParams::new([])?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        fs::write(folder.path().join("ca.pem"), authority.pem())?;
        for (name, purpose) in [
            ("server", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let key = KeyPair::generate()?;
            let mut certificate = CertificateParams::new(["localhost".into(), "127.0.0.1".into()])?;
            certificate.extended_key_usages = vec![purpose];
            if name == "server" {
                change(&mut certificate);
            }
            let certificate = certificate.signed_by(&key, &authority)?;
            fs::write(folder.path().join(format!("{name}.pem")), certificate.pem())?;
            fs::write(folder.path().join(format!("{name}.key")), key.serialize_pem())?;
        }
        Ok(Self { folder })
    }

    /// The path of the authority's certificate.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The path of the client's certificate.
    #[must_use]
    pub fn client(&self) -> PathBuf {
        self.path("client.pem")
    }

    /// The path of the client's private key.
    #[must_use]
    pub fn client_key(&self) -> PathBuf {
        self.path("client.key")
    }

    /// Returns the `tls` block of a server's configuration. With `verify`, the server demands a
    /// certificate of every client.
    #[must_use]
    pub fn server_config(&self, verify: bool) -> String {
        let quoted = |name: &str| format!("\"{}\"", self.path(name).display());
        format!(
            "tls {{ cert_file: {}, key_file: {}, ca_file: {}, verify: {verify} }}\n",
            quoted("server.pem"),
            quoted("server.key"),
            quoted("ca.pem"),
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(self.folder.path()).join(name)
    }
}
