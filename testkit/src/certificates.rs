//! A certificate authority, and certificates that it signed.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use tempfile::TempDir;

/// A certificate authority, a certificate for a server on `localhost` and 127.0.0.1, and one for
/// a client. They are PEM files in a folder; the authority's key is in none of them.
#[derive(Debug)]
pub struct Certificates {
    folder: PathBuf,
    /// Removed when this value is dropped.
    _temporary: Option<TempDir>,
}

impl Certificates {
    /// Makes the authority and the certificates, in a folder that is removed when this value is
    /// dropped.
    ///
    /// # Errors
    ///
    /// If the files cannot be written.
    pub fn new() -> Result<Self> {
        Self::with(|_| ())
    }

    /// Makes the authority and the certificates in a folder that exists, and stays. Only this user
    /// may read the keys.
    ///
    /// # Errors
    ///
    /// If the files cannot be written.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        write(folder, |_| ())?;
        Ok(Self { folder: folder.to_owned(), _temporary: None })
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
        let temporary = tempfile::Builder::new().prefix("nats-certificates-").tempdir()?;
        write(temporary.path(), change)?;
        Ok(Self { folder: temporary.path().to_owned(), _temporary: Some(temporary) })
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
    /// certificate of every client. It has 20 s for a handshake: on a busy machine, the 2 s that are
    /// its default can be too short.
    #[must_use]
    pub fn server_config(&self, verify: bool) -> String {
        let quoted = |name: &str| format!("\"{}\"", self.path(name).display());
        format!(
            "tls {{ cert_file: {}, key_file: {}, ca_file: {}, verify: {verify}, timeout: 20 }}\n",
            quoted("server.pem"),
            quoted("server.key"),
            quoted("ca.pem"),
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

fn write(folder: &Path, change: impl Fn(&mut CertificateParams)) -> Result<()> {
    let mut authority = CertificateParams::new([])?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    fs::write(folder.join("ca.pem"), authority.pem())?;
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
        fs::write(folder.join(format!("{name}.pem")), certificate.pem())?;
        write_secret(&folder.join(format!("{name}.key")), &key.serialize_pem())?;
    }
    Ok(())
}

/// Writes a file that only this user may read.
///
/// # Errors
///
/// If it cannot be written.
pub fn write_secret(path: &Path, text: &str) -> Result<()> {
    // The mode is that of a new file only.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
