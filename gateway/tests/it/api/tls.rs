//! TCP with TLS, by a client that nobody here wrote: curl.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use qga_gateway::config::{SecretFile, TlsConfig};
use qga_gateway::server::Tls;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::process::Command;

use super::agent::Agent;
use super::client::Target;
use super::gateway::Gateway;

/// Somebody who signs certificates, and a place for them.
struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "a CA of the tests");
        let certificate = params.self_signed(&key).unwrap();
        fs::write(dir.path().join("ca.pem"), certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `NAME.pem` and `NAME.key`.
    fn sign(&self, name: &str, common: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        let file = self.path(&format!("{name}.key"));
        fs::write(&file, key.serialize_pem()).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn config(&self, more: &str) -> String {
        let (certificate, key) = (self.path("server.pem"), self.path("server.key"));
        format!("[listen.tls]\ncertificate = {certificate:?}\nkey = {key:?}\n{more}\n")
    }

    async fn gateway(&self, tls: &str, more: &str) -> Gateway {
        self.sign("server", "localhost");
        // The tables of the harness come behind these.
        Gateway::configured(Agent::default(), &format!("{more}\n{}", self.config(tls))).await
    }

    /// What curl prints for this URL path, and whether it is content.
    async fn curl(&self, gateway: &Gateway, path: &str, more: &[&str]) -> (bool, String) {
        let Target::Tcp(address) = gateway.tcp else { panic!("TCP") };
        let url = format!("https://localhost:{}{path}", address.port());
        let resolve = format!("localhost:{}:{}", address.port(), address.ip());
        let ca = self.path("ca.pem");
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "20", "--resolve", &resolve, "--cacert"])
            .arg(&ca)
            .args(["-w", "\n%{http_code}"])
            .args(more)
            .arg(&url)
            .output()
            .await
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.success(), text + &String::from_utf8(output.stderr).unwrap())
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_tcp_over_tls_and_plain_http_is_not_spoken() {
    let authority = Authority::new();
    let gateway = authority.gateway("", "").await;
    let bearer = format!("Authorization: Bearer {}", gateway.token);
    let (ok, said) = authority.curl(&gateway, "/vms", &["-H", &bearer]).await;
    assert!(ok && said.ends_with("200"), "{said}");
    let (ok, said) = authority.curl(&gateway, "/vms", &[]).await;
    assert!(ok && said.ends_with("401"), "{said}");
    for version in ["--tlsv1.2", "--tlsv1.3"] {
        let (ok, said) = authority.curl(&gateway, "/livez", &[version]).await;
        assert!(ok && said.ends_with("200"), "{said}");
    }
    let (ok, said) = authority.curl(&gateway, "/livez", &["--tls-max", "1.1"]).await;
    assert!(!ok, "{said}");
    let Target::Tcp(address) = gateway.tcp else { panic!("TCP") };
    let url = format!("http://{address}/livez");
    let plain = Command::new("curl").args(["-s", &url]).status().await.unwrap();
    assert!(!plain.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_certificate_is_a_principal_and_a_strangers_is_refused() {
    let authority = Authority::new();
    let ca = format!("client_ca = {:?}", authority.path("ca.pem"));
    let grant = "[[grant]]\nto = [\"cert:backup.example\"]\nrights = [\"observe\"]\n\
                 vms = [\"absent\"]";
    let gateway = authority.gateway(&ca, grant).await;
    authority.sign("client", "backup.example");
    let (cert, key) = (authority.path("client.pem"), authority.path("client.key"));
    let with = ["--cert", text(&cert), "--key", text(&key)];
    let (ok, said) = authority.curl(&gateway, "/vms", &with).await;
    assert!(ok && said.contains("\"absent\"") && !said.contains("\"vm\""), "{said}");
    // A token outdoes it, a wrong one too.
    let both = [&with[..], &["-H", "Authorization: Bearer wrong"]].concat();
    let (ok, said) = authority.curl(&gateway, "/vms", &both).await;
    assert!(ok && said.ends_with("401"), "{said}");
    // Without one, it is as if there was none to have.
    let (ok, said) = authority.curl(&gateway, "/vms", &[]).await;
    assert!(ok && said.ends_with("401"), "{said}");
    let stranger = Authority::new();
    stranger.sign("client", "backup.example");
    let (cert, key) = (stranger.path("client.pem"), stranger.path("client.key"));
    let with = ["--cert", text(&cert), "--key", text(&key)];
    let (ok, said) = authority.curl(&gateway, "/vms", &with).await;
    assert!(!ok, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_certificate_is_required_nobody_speaks_without() {
    let authority = Authority::new();
    let ca = authority.path("ca.pem");
    let more = format!("client_ca = {ca:?}\nclient_certificate_required = true");
    let gateway = authority.gateway(&more, "").await;
    let (ok, said) = authority.curl(&gateway, "/livez", &[]).await;
    assert!(!ok, "{said}");
    authority.sign("client", "any");
    let (cert, key) = (authority.path("client.pem"), authority.path("client.key"));
    let with = ["--cert", text(&cert), "--key", text(&key)];
    let (ok, said) = authority.curl(&gateway, "/livez", &with).await;
    assert!(ok && said.ends_with("200"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_taken_over_without_a_restart_or_left_as_they_were() {
    let authority = Authority::new();
    let gateway = authority.gateway("", "").await;
    let tls = gateway.tls.clone().unwrap();
    let (ok, said) = authority.curl(&gateway, "/livez", &[]).await;
    assert!(ok, "{said}");
    // Another authority's certificate takes its place.
    let other = Authority::new();
    other.sign("server", "localhost");
    let good = fs::read(authority.path("server.pem")).unwrap();
    fs::copy(other.path("server.pem"), authority.path("server.pem")).unwrap();
    let error = tls.reload().unwrap_err().to_string();
    assert!(error.contains("server.pem"), "the key is not its: {error}");
    let (ok, said) = authority.curl(&gateway, "/livez", &[]).await;
    assert!(ok, "{said}");
    assert_ne!(fs::read(authority.path("server.pem")).unwrap(), good);
    fs::copy(other.path("server.key"), authority.path("server.key")).unwrap();
    tls.reload().unwrap();
    let (ok, _) = authority.curl(&gateway, "/livez", &[]).await;
    assert!(!ok, "nobody here knows who signed it");
    let (ok, said) = other.curl(&gateway, "/livez", &[]).await;
    assert!(ok, "{said}");
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_name() {
    let authority = Authority::new();
    authority.sign("server", "localhost");
    let files = |certificate: &str, key: &str| TlsConfig {
        certificate: SecretFile::Path(authority.path(certificate)),
        key: SecretFile::Path(authority.path(key)),
        client_ca: None,
        client_certificate_required: false,
    };
    let said = |files: &TlsConfig| Tls::load(files).unwrap_err().to_string();
    assert!(said(&files("none.pem", "server.key")).contains("none.pem: "));
    assert!(said(&files("server.key", "server.key")).contains("holds no certificate"));
    assert!(said(&files("server.pem", "server.pem")).contains("server.pem: "));
    let key = authority.path("server.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(said(&files("server.pem", "server.key")).contains("can read this private key"));
}
