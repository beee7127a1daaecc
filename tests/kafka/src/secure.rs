//! A listener of a server's that lets in only who knows a password, over TLS, and to what its access rules allow.

use crate::server::Net;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The user of that listener, and what it has to know.
pub const USER: &str = "klatch";
/// The password.
pub const PASSWORD: &str = "a-password-that-nothing-shows";
/// How it is said.
pub const MECHANISM: &str = "SCRAM-SHA-512";

/// The certificate of the server in this folder, which is its own authority.
pub fn certificate(folder: &Path) -> PathBuf {
    folder.join("certificate.pem")
}

/// Makes the keys of a server that is to be at `net`'s address, and says what has to be in its configuration, beside the listener. Whoever
/// comes in by another listener is nobody, and may do everything.
///
/// # Panics
/// If there is no `openssl`.
pub fn properties(net: &Net, folder: &Path) -> Vec<(String, String)> {
    let (key, certificate, both) =
        (folder.join("key.pem"), certificate(folder), folder.join("key-and-certificate.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    openssl.args(["-days", "30", "-subj", "/CN=klatch tests", "-addext"]);
    openssl.arg(format!("subjectAltName=IP:{}", net.secure(0).ip()));
    openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    let run = openssl.output().unwrap_or_else(|e| panic!("openssl: {e}"));
    assert!(run.status.success(), "openssl: {}", String::from_utf8_lossy(&run.stderr));
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    fs::write(&both, read(&key) + &read(&certificate)).unwrap_or_else(|e| panic!("{}: {e}", both.display()));
    let listener = "listener.name.secure";
    let login = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    [
        (format!("{listener}.ssl.keystore.type"), "PEM".to_owned()),
        (format!("{listener}.ssl.keystore.location"), both.display().to_string()),
        (format!("{listener}.sasl.enabled.mechanisms"), MECHANISM.to_owned()),
        (format!("{listener}.{}.sasl.jaas.config", MECHANISM.to_lowercase()), login.to_owned()),
        (
            "authorizer.class.name".to_owned(),
            "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned(),
        ),
        ("super.users".to_owned(), "User:ANONYMOUS".to_owned()),
    ]
    .into()
}

/// What a server's storage is formatted with, for it to know the user.
pub fn format() -> [String; 2] {
    ["--add-scram".to_owned(), format!("{MECHANISM}=[name={USER},password={PASSWORD}]")]
}
