//! What `cargo xtask up --secure` writes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use anyhow::{Result, ensure};
use secured::{Credentials, Secured};
use testkit::Ports;

const PORTS: Ports = Ports { nats: 4222, mqtt: 8883, monitoring: 8222 };

#[test]
fn the_servers_own_check_accepts_each_configuration_and_secrets_are_readable_to_their_user_only()
-> Result<()> {
    let folder = tempfile::tempdir()?;
    Secured::create(folder.path())?.configure(PORTS)?;
    let other = tempfile::tempdir()?;
    Credentials::create(other.path())?.configure(PORTS)?;
    for (folder, files) in
        [(&folder, &["open.conf", "lists.conf", "accounts.conf"][..]), (&other, &["creds.conf"])]
    {
        for file in files {
            let mut check = Command::new(testkit::nats_server()?);
            let output = check.arg("-t").arg("-c").arg(folder.path().join(file)).output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success() && said.contains("is valid"), "{file}: {said}");
        }
        let password = fs::read_to_string(folder.path().join("sensor-1.password"))?;
        for entry in fs::read_dir(folder.path())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let mode = entry.metadata()?.permissions().mode() & 0o777;
            let is_public = entry.path().extension().is_some_and(|it| it == "pem");
            ensure!(is_public || mode == 0o600, "{name}: {mode:o}");
            // A program that reads the configuration cannot log in with it.
            let is_configuration = entry.path().extension().is_some_and(|it| it == "conf");
            let text = fs::read_to_string(entry.path())?;
            ensure!(!is_configuration || !text.contains(&password), "{name} has a password");
        }
    }
    Ok(())
}
